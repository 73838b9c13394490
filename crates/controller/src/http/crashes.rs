//! `/crashes`: what ended unexpectedly, and why

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params, time},
};
use crate::{
    access::Permission,
    records::CrashRecord,
    store::{self, Query, Record as _, Stored},
};

/// Most entries of one answer
const MAX_LIMIT: usize = 500;

/// Records that are read at once: each carries the tail of a log
const PAGE: usize = 64;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Crash {
    id: String,
    instance_id: String,
    group: String,
    node: String,
    incarnation: u64,
    exit_code: i32,
    classification: String,
    cause_summary: String,
    signature: String,
    uptime_ms: i64,
    crashed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_tail: Option<Vec<String>>,
}

impl Crash {
    fn summary(record: CrashRecord) -> Self {
        Self {
            id: record.crash_id,
            instance_id: record.instance_id,
            group: record.group,
            node: record.node_id,
            incarnation: record.incarnation,
            exit_code: record.exit_code,
            classification: record.classification,
            cause_summary: record.cause,
            signature: record.signature,
            uptime_ms: record.uptime_ms,
            crashed_at: time(record.crashed_at_ms),
            log_tail: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    instance: Option<String>,
    group: Option<String>,
    node: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(filter): Params<Filter>,
) -> Result<Json<Vec<Crash>>, ApiError> {
    caller.require(Permission::CrashesView)?;
    let limit = filter.limit.unwrap_or(100).min(MAX_LIMIT);
    let wanted = |wish: &Option<String>, is: &str| wish.as_deref().is_none_or(|wish| wish == is);
    let mut crashes = Vec::new();
    let mut query = Query::prefix(CrashRecord::PREFIX).descending().limit(PAGE);
    while crashes.len() < limit {
        let page = api.store.list(query.clone()).await?.entries;
        let Some(last) = page.last() else { break };
        query = query.after(last.key.clone());
        for entry in page {
            let record = Stored::<CrashRecord>::decode(entry)?.record;
            let matches = wanted(&filter.instance, &record.instance_id)
                && wanted(&filter.group, &record.group)
                && wanted(&filter.node, &record.node_id);
            if matches && crashes.len() < limit {
                crashes.push(Crash::summary(record));
            }
        }
    }
    Ok(Json(crashes))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<Json<Crash>, ApiError> {
    caller.require(Permission::CrashesView)?;
    let unknown = || ApiError::not_found("no such crash");
    // What is no id of ours may not even be a key.
    if !id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(unknown());
    }
    let mut record = store::load::<CrashRecord>(&*api.store, &id)
        .await?
        .ok_or_else(unknown)?
        .record;
    let log_tail = std::mem::take(&mut record.log_tail);
    Ok(Json(Crash {
        log_tail: Some(log_tail),
        ..Crash::summary(record)
    }))
}
