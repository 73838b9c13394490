//! Crash reports: stored once, however often a daemon sends them, and only then acknowledged

use std::collections::HashMap;

use prexorcloud_proto::CrashReport;
use prexorcloud_protocol::NodeId;
use sha2::{Digest as _, Sha256};

use super::starts::is_live;
use crate::{
    crash::diagnose,
    events::{self, Event},
    records::{CrashRecord, CrashReportIndex, CrashSummary, InstanceRecord, MigrationRecord},
    store::{self, Query, Record as _, Store, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// Bytes of all crash records together; nodes share them as they share the number of records
pub(crate) const KEPT_BYTES: usize = 256 * 1024 * 1024;

/// Records with their lines that are read at once
const PAGE: usize = 8;

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
    if is_of_another(store, node, report).await? {
        tracing::warn!(%node, instance = report.instance_id, "a crash report about an instance of another node is refused");
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
    let crashed = Event::InstanceCrashed {
        instance_id: record.instance_id.clone(),
        group: record.group.clone(),
        node_id: record.node_id.clone(),
        exit_code: record.exit_code,
        classification: record.classification.clone(),
        log_tail: events::tail(&record.log_tail),
        uptime_ms: record.uptime_ms,
    };
    let txn = txn
        .create(&record)
        .create(&CrashSummary::of(&record))
        .tell(&crashed);
    Ok(match report_key {
        Some(report_key) => txn.create(&CrashReportIndex {
            report_key,
            crash_id: record.crash_id,
        }),
        None => txn,
    })
}

/// Deletes what is beyond `keep` records or [`KEPT_BYTES`], and says how much that was
///
/// The oldest go, of those nodes that have the most: a node that crashes all day pushes out its own records and nobody
/// else's.
pub(crate) async fn prune(store: &dyn Store, keep: usize) -> Result<usize, StoreError> {
    prune_to(store, keep, KEPT_BYTES).await
}

async fn prune_to(store: &dyn Store, keep: usize, keep_bytes: usize) -> Result<usize, StoreError> {
    let newest_first = summaries(store).await?;
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for summary in &newest_first {
        let (records, bytes) = counts.entry(&summary.crash.node_id).or_default();
        *records += 1;
        *bytes += summary.bytes;
    }
    let (share, mut spare) = fair_share(counts.values().map(|(records, _)| *records).collect(), keep);
    let (bytes_share, _) = fair_share(counts.values().map(|(_, bytes)| *bytes).collect(), keep_bytes);
    let mut kept: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut pruned = 0;
    for summary in &newest_first {
        let (records, bytes) = kept.entry(&summary.crash.node_id).or_default();
        *bytes += summary.bytes;
        if *bytes > bytes_share {
            pruned += delete(store, &summary.crash).await?;
        } else if *records < share {
            *records += 1;
        } else if *records == share && spare > 0 {
            *records += 1;
            spare -= 1;
        } else {
            pruned += delete(store, &summary.crash).await?;
        }
    }
    Ok(pruned)
}

/// Deletes all that a node has reported
pub(super) async fn forget_node(store: &dyn Store, node: NodeId) -> Result<(), StoreError> {
    for summary in summaries(store).await? {
        if summary.crash.node_id == node.as_str() {
            delete(store, &summary.crash).await?;
        }
    }
    Ok(())
}

async fn delete(store: &dyn Store, crash: &CrashRecord) -> Result<usize, StoreError> {
    let mut txn = Txn::new()
        .delete(CrashRecord::key_of(&crash.crash_id))
        .delete(CrashSummary::key_of(&crash.crash_id));
    if !crash.report_key.is_empty() {
        txn = txn.delete(CrashReportIndex::key_of(&crash.report_key));
    }
    Ok(usize::from(store.txn(txn).await?.committed().is_some()))
}

/// What has to be known of a record to delete it
struct Summary {
    crash: CrashRecord,
    bytes: usize,
}

/// Those of all records, the newest first
async fn summaries(store: &dyn Store) -> Result<Vec<Summary>, StoreError> {
    let listing = store
        .list(Query::prefix(CrashSummary::PREFIX).descending())
        .await?;
    let decoded = listing.entries.into_iter().map(Stored::<CrashSummary>::decode);
    let summaries = decoded.filter_map(|decoded| match decoded {
        Ok(Stored { record, .. }) => Some(Ok(Summary {
            crash: record.crash?,
            bytes: usize::try_from(record.bytes).unwrap_or(usize::MAX),
        })),
        Err(error) => Some(Err(error)),
    });
    summaries.collect()
}

/// Gives records of a release that wrote no summaries theirs, once
pub(crate) async fn summarise_all(store: &dyn Store) -> Result<(), StoreError> {
    const NAME: &str = "crash-summaries";
    if store::load::<MigrationRecord>(store, NAME).await?.is_some() {
        return Ok(());
    }
    let mut query = Query::prefix(CrashRecord::PREFIX).limit(PAGE);
    loop {
        let page = store.list(query.clone()).await?.entries;
        let Some(last) = page.last() else { break };
        query = query.after(last.key.clone());
        let mut txn = Txn::new();
        for entry in page {
            txn = txn.put_record(&CrashSummary::of(&Stored::<CrashRecord>::decode(entry)?.record));
        }
        // A put without a condition cannot conflict.
        let _ = store.txn(txn).await?;
    }
    let done = MigrationRecord {
        name: NAME.to_owned(),
        done_at_ms: now_millis(),
    };
    let _ = store.txn(Txn::new().put_record(&done)).await?;
    Ok(())
}

/// Whether a report is about an instance that another node runs: about the very start that is recorded there
async fn is_of_another(store: &dyn Store, node: NodeId, report: &CrashReport) -> Result<bool, StoreError> {
    let Some(Stored { record, .. }) = store::load::<InstanceRecord>(store, &report.instance_id).await? else {
        return Ok(false);
    };
    let incarnation = record.start.as_ref().map_or(0, |start| start.incarnation);
    let is_that_start = match report.incarnation {
        0 => is_live(&record),
        given => given == incarnation,
    };
    Ok(record.node_id != node.as_str() && is_that_start)
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
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::{SqliteOptions, SqliteStore};

    async fn report(store: &dyn Store, node: &str, line: &str) -> String {
        let report = CrashReport {
            instance_id: "lobby-1".into(),
            log_tail: vec![line.to_owned()],
            ..CrashReport::default()
        };
        let id = fresh_id();
        let txn = add(store, node.parse().unwrap(), &report, &id, Txn::new()).await;
        let _ = store.txn(txn.unwrap()).await.unwrap();
        id
    }

    #[tokio::test]
    async fn large_reports_of_one_node_push_out_its_own_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default());
        let store = store.unwrap();
        let quiet = report(&store, "node-2", "short").await;
        let mut loud = Vec::new();
        for _ in 0..10 {
            loud.push(report(&store, "node-1", &"x".repeat(100_000)).await);
        }
        assert_eq!(prune_to(&store, 500, 350_000).await, Ok(7));
        loud.drain(..7);
        loud.push(quiet);
        loud.sort();
        let ids = |entries: Vec<store::Entry>| {
            let ids = entries
                .into_iter()
                .filter_map(|entry| Some(entry.key.split_once('/')?.1.to_owned()));
            ids.collect::<Vec<_>>()
        };
        for prefix in [CrashRecord::PREFIX, CrashSummary::PREFIX] {
            let kept = store.list(Query::prefix(prefix)).await.unwrap().entries;
            assert_eq!(ids(kept), loud, "{prefix}");
        }
    }

    #[tokio::test]
    async fn records_of_a_release_without_summaries_get_theirs_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default());
        let store = store.unwrap();
        let ids: Vec<_> = (0..2 * PAGE + 1)
            .map(|number| format!("crash-{number:02}"))
            .collect();
        for id in &ids {
            let record = CrashRecord {
                crash_id: id.clone(),
                log_tail: vec!["a line".into()],
                ..CrashRecord::default()
            };
            let _ = store.txn(Txn::new().create(&record)).await.unwrap();
        }
        summarise_all(&store).await.unwrap();
        let found = summaries(&store).await.unwrap();
        assert_eq!(found.len(), ids.len());
        assert!(found.iter().all(|summary| summary.crash.log_tail.is_empty()));
        let before = store.list(Query::prefix("")).await.unwrap().revision;
        summarise_all(&store).await.unwrap();
        assert_eq!(store.list(Query::prefix("")).await.unwrap().revision, before);
    }

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
