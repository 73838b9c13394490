//! Who did what: records that are written in the same transaction as the deed

use crate::{
    records::AuditRecord,
    store::{Query, Record as _, Store, StoreError, Txn},
    wall_clock::now_millis,
};

/// Entries that are kept; the oldest go first
pub const KEPT: usize = 10_000;

/// Longest detail in characters; it may quote a peer
const MAX_TEXT_CHARS: usize = 256;

/// An entry about now
#[must_use]
pub fn entry(actor: &str, action: &str, target: &str, detail: &str) -> AuditRecord {
    let short = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect();
    AuditRecord {
        id: uuid::Uuid::now_v7().to_string(),
        at_ms: now_millis(),
        actor: short(actor),
        action: action.to_owned(),
        target: short(target),
        detail: short(detail),
    }
}

/// Deletes what is beyond [`KEPT`]; says how many
///
/// # Errors
/// [`StoreError`] when the storage fails.
pub async fn prune(store: &dyn Store) -> Result<usize, StoreError> {
    let newest_kept = store
        .list(Query::prefix(AuditRecord::PREFIX).descending().limit(KEPT))
        .await?;
    let Some(oldest_kept) = newest_kept
        .entries
        .last()
        .filter(|_| newest_kept.entries.len() == KEPT)
    else {
        return Ok(0);
    };
    let mut pruned = 0;
    loop {
        let beyond = Query::prefix(AuditRecord::PREFIX)
            .descending()
            .after(&oldest_kept.key)
            .limit(Txn::MAX_OPERATIONS);
        let old = store.list(beyond).await?.entries;
        if old.is_empty() {
            return Ok(pruned);
        }
        pruned += old.len();
        let txn = old
            .into_iter()
            .fold(Txn::new(), |txn, entry| txn.delete(entry.key));
        // Unconditional deletes cannot conflict.
        let _ = store.txn(txn).await?;
    }
}
