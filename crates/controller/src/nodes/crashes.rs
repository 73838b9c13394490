//! Crash reports: stored once, however often a daemon sends them, and only then acknowledged

use prexorcloud_proto::CrashReport;
use prexorcloud_protocol::NodeId;
use sha2::{Digest as _, Sha256};

use crate::{
    crash::diagnose,
    records::{CrashRecord, CrashReportIndex},
    store::{self, Query, Record as _, Store, StoreError, Txn},
    wall_clock::now_millis,
};

/// Adds a report to a transaction, unless it is stored already
pub(super) async fn add(
    store: &dyn Store,
    node: NodeId,
    report: &CrashReport,
    txn: Txn,
) -> Result<Txn, StoreError> {
    let report_key = report_key(node.as_str(), &report.report_id);
    if let Some(report_key) = &report_key
        && store::load::<CrashReportIndex>(store, report_key)
            .await?
            .is_some()
    {
        return Ok(txn);
    }
    let diagnosis = diagnose(&report.log_tail, report.exit_code);
    let record = CrashRecord {
        crash_id: format!("crash-{}", uuid::Uuid::now_v7()),
        instance_id: report.instance_id.clone(),
        group: report.group.clone(),
        node_id: node.to_string(),
        incarnation: report.incarnation,
        exit_code: report.exit_code,
        classification: diagnosis.classification.to_owned(),
        cause: diagnosis.cause,
        signature: diagnosis.signature,
        log_tail: report.log_tail.clone(),
        uptime_ms: report.uptime_ms,
        crashed_at_ms: now_millis(),
        report_key: report_key.clone().unwrap_or_default(),
    };
    let txn = txn.create(&record);
    Ok(match report_key {
        Some(report_key) => txn.create(&CrashReportIndex {
            report_key,
            crash_id: record.crash_id,
        }),
        None => txn,
    })
}

/// Deletes the oldest records beyond `keep`; says how many
pub(crate) async fn prune(store: &dyn Store, keep: usize) -> Result<usize, StoreError> {
    let mut kept = 0;
    let mut after: Option<String> = None;
    let mut pruned = 0;
    loop {
        // Small pages: a record carries the tail of a log.
        let mut query = Query::prefix(CrashRecord::PREFIX).descending().limit(64);
        if let Some(after) = &after {
            query = query.after(after);
        }
        let page = store.list(query).await?.entries;
        let Some(last) = page.last() else {
            return Ok(pruned);
        };
        after = Some(last.key.clone());
        for entry in page {
            if kept < keep {
                kept += 1;
                continue;
            }
            let mut txn = Txn::new().delete(entry.key);
            let record = <CrashRecord as prost::Message>::decode(entry.value).unwrap_or_default();
            if !record.report_key.is_empty() {
                txn = txn.delete(CrashReportIndex::key_of(&record.report_key));
            }
            pruned += usize::from(store.txn(txn).await?.committed().is_some());
        }
    }
}

/// Report ids are chosen by daemons, so they are hashed, and belong to their node
fn report_key(node: &str, report_id: &str) -> Option<String> {
    if report_id.is_empty() {
        return None;
    }
    let digest = Sha256::new()
        .chain_update(node)
        .chain_update([0])
        .chain_update(report_id)
        .finalize();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
