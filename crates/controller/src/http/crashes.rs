//! `/crashes`: what ended unexpectedly, and why

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params, time},
    page,
};
use crate::{
    access::Permission,
    records::{CrashRecord, CrashSummary},
    store::{self, Query, Record as _, Stored},
};

/// Most entries of one answer
const MAX_LIMIT: usize = 500;

/// Summaries that are read at once
const PAGE: usize = 256;

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
    cursor: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(filter): Params<Filter>,
) -> Result<Response, ApiError> {
    caller.require(Permission::CrashesView)?;
    let limit = filter.limit.unwrap_or(100).min(MAX_LIMIT);
    let after: Option<String> = page::cursor(filter.cursor.as_deref())?;
    let after = after
        .map(|id| known_id(&id).map(CrashSummary::key_of))
        .transpose()?;
    let wanted = |wish: &Option<String>, is: &str| wish.as_deref().is_none_or(|wish| wish == is);
    let mut crashes: Vec<Crash> = Vec::new();
    let mut query = Query::prefix(CrashSummary::PREFIX).descending().limit(PAGE);
    if let Some(after) = after {
        query = query.after(after);
    }
    loop {
        let entries = api.store.list(query.clone()).await?.entries;
        let Some(last) = entries.last() else { break };
        query = query.after(last.key.clone());
        for entry in entries {
            let Some(record) = Stored::<CrashSummary>::decode(entry)?.record.crash else {
                continue;
            };
            let matches = wanted(&filter.instance, &record.instance_id)
                && wanted(&filter.group, &record.group)
                && wanted(&filter.node, &record.node_id);
            if !matches {
                continue;
            }
            if crashes.len() == limit {
                let next = crashes.last().map(|last| last.id.clone());
                return Ok(page::page(crashes, next));
            }
            crashes.push(Crash::summary(record));
        }
    }
    Ok(page::page(crashes, None))
}

/// What is no id of ours may not even be a key
fn known_id(id: &str) -> Result<&str, ApiError> {
    let is_id = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_id {
        Ok(id)
    } else {
        Err(ApiError::not_found("no such crash"))
    }
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<Json<Crash>, ApiError> {
    caller.require(Permission::CrashesView)?;
    let mut record = store::load::<CrashRecord>(&*api.store, known_id(&id)?)
        .await?
        .ok_or_else(|| ApiError::not_found("no such crash"))?
        .record;
    let log_tail = std::mem::take(&mut record.log_tail);
    Ok(Json(Crash {
        log_tail: Some(log_tail),
        ..Crash::summary(record)
    }))
}
