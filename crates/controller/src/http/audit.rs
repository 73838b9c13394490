//! `/admin/audit`: who did what, the newest first

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Params, time},
};
use crate::{
    access::Permission,
    records::AuditRecord,
    store::{Query, Record as _, Stored},
};

/// Entries of an answer that names no number
const USUAL: usize = 100;

/// Most entries of one answer
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
    /// The `next` of the page before
    before: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// Where the next page begins; none = this is the last
    next: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Entry {
    id: String,
    at: String,
    actor: String,
    action: String,
    target: String,
    detail: String,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(Page { limit, before }): Params<Page>,
) -> Result<Json<Entries>, ApiError> {
    caller.require(Permission::AuditView)?;
    let limit = limit.unwrap_or(USUAL);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is 1 to {MAX_LIMIT}")));
    }
    let mut query = Query::prefix(AuditRecord::PREFIX).descending().limit(limit);
    if let Some(before) = before {
        if !before
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            || before.len() > 64
        {
            return Err(ApiError::invalid("before is the next of an earlier answer"));
        }
        query = query.after(AuditRecord::key_of(&before));
    }
    let listing = api.store.list(query).await?;
    let mut entries = Vec::with_capacity(listing.entries.len());
    for entry in listing.entries {
        let AuditRecord {
            id,
            at_ms,
            actor,
            action,
            target,
            detail,
        } = Stored::decode(entry)?.record;
        entries.push(Entry {
            id,
            at: time(at_ms),
            actor,
            action,
            target,
            detail,
        });
    }
    let next = (entries.len() == limit)
        .then(|| entries.last().map(|entry| entry.id.clone()))
        .flatten();
    Ok(Json(Entries { entries, next }))
}
