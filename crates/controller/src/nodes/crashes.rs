//! Crash reports: stored once, however often a daemon sends them, and only then acknowledged

use std::collections::HashMap;

use prexorcloud_proto::CrashReport;
use prexorcloud_protocol::NodeId;
use sha2::{Digest as _, Sha256};

use crate::{
    crash::diagnose,
    records::{CrashRecord, CrashReportIndex},
    store::{self, Query, Record as _, Store, StoreError, Txn},
    wall_clock::now_millis,
};

/// The id of a record to come, ordered by time
pub(super) fn fresh_id() -> String {
    format!("crash-{}", uuid::Uuid::now_v7())
}

/// Adds a report to a transaction, unless it is stored already
///
/// Java daemons do not name their reports, so `crash_id` tells an attempt that is repeated from another crash.
pub(super) async fn add(
    store: &dyn Store,
    node: NodeId,
    report: &CrashReport,
    crash_id: &str,
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
    if store::load::<CrashRecord>(store, crash_id).await?.is_some() {
        return Ok(txn);
    }
    let diagnosis = diagnose(&report.log_tail, report.exit_code);
    let record = CrashRecord {
        crash_id: crash_id.to_owned(),
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

/// Deletes what is beyond `keep`, and says how much that was
///
/// The oldest go, of those nodes that have the most: a node that crashes all day pushes out its own records and nobody
/// else's.
pub(crate) async fn prune(store: &dyn Store, keep: usize) -> Result<usize, StoreError> {
    let newest_first = outlines(store).await?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for outline in &newest_first {
        *counts.entry(&outline.node_id).or_default() += 1;
    }
    let (share, mut spare) = fair_share(counts.values().copied().collect(), keep);
    let mut kept: HashMap<&str, usize> = HashMap::new();
    let mut pruned = 0;
    for outline in &newest_first {
        let of_node = kept.entry(&outline.node_id).or_default();
        if *of_node < share {
            *of_node += 1;
        } else if *of_node == share && spare > 0 {
            *of_node += 1;
            spare -= 1;
        } else {
            let mut txn = Txn::new().delete(&*outline.key);
            if !outline.report_key.is_empty() {
                txn = txn.delete(CrashReportIndex::key_of(&outline.report_key));
            }
            pruned += usize::from(store.txn(txn).await?.committed().is_some());
        }
    }
    Ok(pruned)
}

/// What has to be known of a record to delete it
struct Outline {
    key: String,
    node_id: String,
    report_key: String,
}

/// Those of all records, the newest first
async fn outlines(store: &dyn Store) -> Result<Vec<Outline>, StoreError> {
    let mut outlines: Vec<Outline> = Vec::new();
    loop {
        // Small pages: a record carries the tail of a log.
        let mut query = Query::prefix(CrashRecord::PREFIX).descending().limit(64);
        if let Some(last) = outlines.last() {
            query = query.after(&*last.key);
        }
        let page = store.list(query).await?.entries;
        if page.is_empty() {
            return Ok(outlines);
        }
        outlines.extend(page.into_iter().map(|entry| {
            let record = <CrashRecord as prost::Message>::decode(entry.value).unwrap_or_default();
            Outline {
                key: entry.key,
                node_id: record.node_id,
                report_key: record.report_key,
            }
        }));
    }
}

/// How many each may keep so that all together keep no more than `keep`, and how many of them one more
fn fair_share(mut counts: Vec<usize>, keep: usize) -> (usize, usize) {
    counts.sort_unstable();
    let (mut left, mut sharers) = (keep, counts.len());
    for count in counts {
        let share = left / sharers;
        if count > share {
            return (share, left % sharers);
        }
        left -= count;
        sharers -= 1;
    }
    (usize::MAX, 0)
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

#[cfg(test)]
mod tests {
    use super::fair_share;

    #[test]
    fn those_with_few_keep_all_and_the_others_share_the_rest() {
        for (counts, keep, expected) in [
            (vec![], 5, (usize::MAX, 0)),
            (vec![3, 2], 5, (usize::MAX, 0)),
            (vec![700, 1], 500, (499, 0)),
            (vec![4, 1, 4], 6, (2, 1)),
            (vec![1; 600], 500, (0, 500)),
            (vec![1, 1], 0, (0, 0)),
        ] {
            let kept = |share: usize, spare: usize| {
                let all: usize = counts.iter().map(|count| *count.min(&share)).sum();
                all + spare
            };
            let (share, spare) = fair_share(counts.clone(), keep);
            assert_eq!((share, spare), expected, "{counts:?}");
            assert!(kept(share, spare) <= keep.max(5));
        }
    }
}
