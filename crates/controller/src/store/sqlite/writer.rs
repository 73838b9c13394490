//! The one thread that writes: it takes every transaction that is waiting and commits them together

use std::sync::Weak;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    file::{self, store_error},
    logged::Logged,
};
use crate::store::{Change, ChangeSet, Revision, StoreError, Txn, TxnOutcome, change_log::ChangeLog};

/// Pages that may be free before the file is made smaller
const FREE_PAGES: i64 = 256;

/// Transactions in one commit; bounds how long the first of them waits for the others
const BATCH: usize = 256;

pub(super) enum Request {
    Apply {
        txn: Txn,
        reply: oneshot::Sender<Result<TxnOutcome, StoreError>>,
    },
    /// Commits something that is no entry
    Probe {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Close {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

pub(super) struct Writer {
    connection: Connection,
    revision: Revision,
    logged: Logged,
    log: Weak<ChangeLog>,
}

/// A transaction that was applied inside the open commit, with the answer to give once that is durable
struct Applied {
    reply: oneshot::Sender<Result<TxnOutcome, StoreError>>,
    outcome: TxnOutcome,
    changes: Option<ChangeSet>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        revision: Revision,
        logged: Logged,
        log: Weak<ChangeLog>,
    ) -> Self {
        Self {
            connection,
            revision,
            logged,
            log,
        }
    }

    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        while waiting.blocking_recv_many(&mut requests, BATCH) > 0 {
            let mut batch = Vec::with_capacity(requests.len());
            let mut probes = Vec::new();
            let mut closing = Vec::new();
            for request in requests.drain(..) {
                match request {
                    Request::Apply { txn, reply } if closing.is_empty() => batch.push((txn, reply)),
                    Request::Apply { reply, .. } => drop(reply.send(Err(StoreError::Closed))),
                    Request::Probe { reply } => probes.push(reply),
                    Request::Close { reply } => closing.push(reply),
                }
            }
            self.commit(batch);
            if let Err(error) = self.shrink() {
                tracing::warn!(%error, "the store's file could not be made smaller");
            }
            if !probes.is_empty() {
                let proven = self.probe();
                for reply in probes {
                    let _ = reply.send(proven.clone());
                }
            }
            if !closing.is_empty() {
                waiting.close();
                let flushed = self.flush();
                for reply in closing {
                    // Nobody may be waiting any more; the flush happened all the same.
                    let _ = reply.send(flushed.clone());
                }
                return;
            }
        }
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the store's log could not be folded into its file; the next start does it");
        }
    }

    /// Applies and commits `batch`, then answers; a caller that no longer waits changes nothing about its transaction
    fn commit(&mut self, batch: Vec<(Txn, oneshot::Sender<Result<TxnOutcome, StoreError>>)>) {
        if batch.is_empty() {
            return;
        }
        let mut replies = Vec::with_capacity(batch.len());
        let mut txns = Vec::with_capacity(batch.len());
        for (txn, reply) in batch {
            txns.push(txn);
            replies.push(reply);
        }
        match self.try_commit(txns) {
            Ok(outcomes) => {
                let mut commits = Vec::new();
                let mut answers = Vec::new();
                for (reply, (outcome, changes)) in replies.into_iter().zip(outcomes) {
                    answers.push(Applied {
                        reply,
                        outcome,
                        changes,
                    });
                }
                for applied in &mut answers {
                    commits.extend(applied.changes.take());
                }
                if let Some(last) = commits.last() {
                    self.revision = last.revision;
                }
                // The log first: whoever sees the reply can already watch the change.
                if let Some(log) = self.log.upgrade() {
                    log.append(commits);
                }
                for applied in answers {
                    let _ = applied.reply.send(Ok(applied.outcome));
                }
            }
            Err(error) => {
                tracing::error!(%error, transactions = replies.len(), "the store could not commit");
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn try_commit(&mut self, txns: Vec<Txn>) -> Result<Vec<(TxnOutcome, Option<ChangeSet>)>, StoreError> {
        let mut revision = self.revision;
        let mut logged = self.logged;
        let commit = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(store_error)?;
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            let (outcome, changes) = apply(&commit, revision, &mut logged, txn).map_err(store_error)?;
            if let Some(changes) = &changes {
                revision = changes.revision;
            }
            outcomes.push((outcome, changes));
        }
        if revision == self.revision {
            commit.rollback().map_err(store_error)?;
        } else {
            let value = i64::try_from(revision.0).unwrap_or(i64::MAX);
            commit
                .prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'revision'")
                .and_then(|mut statement| statement.execute([value]))
                .map_err(store_error)?;
            if !logged.is_same(&self.logged) {
                logged.settle(&commit).map_err(store_error)?;
            }
            commit.commit().map_err(store_error)?;
            self.logged = logged;
        }
        Ok(outcomes)
    }

    /// Commits a count beside the revision; a value that did not change would not be written
    fn probe(&mut self) -> Result<(), StoreError> {
        let commit = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(store_error)?;
        commit
            .prepare_cached(
                "INSERT INTO counters (name, value) VALUES ('probes', 1)
                 ON CONFLICT (name) DO UPDATE SET value = value + 1",
            )
            .and_then(|mut statement| statement.execute([]))
            .map_err(store_error)?;
        commit.commit().map_err(store_error)
    }

    /// Gives pages back that nothing is in, a few at a time
    fn shrink(&mut self) -> Result<(), StoreError> {
        let free: i64 = self
            .connection
            .pragma_query_value(None, "freelist_count", |row| row.get(0))
            .map_err(store_error)?;
        if free < FREE_PAGES {
            return Ok(());
        }
        let mut statement = self
            .connection
            .prepare_cached("PRAGMA incremental_vacuum(1024)")
            .map_err(store_error)?;
        let mut freed = statement.query([]).map_err(store_error)?;
        while freed.next().map_err(store_error)?.is_some() {}
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        file::settle(&self.connection).map_err(store_error)
    }
}

fn apply(
    commit: &Connection,
    current: Revision,
    logged: &mut Logged,
    txn: Txn,
) -> rusqlite::Result<(TxnOutcome, Option<ChangeSet>)> {
    for compare in txn.compares {
        let found: Option<i64> = commit
            .prepare_cached("SELECT revision FROM entries WHERE key = ?1")?
            .query_row([&compare.key], |row| row.get(0))
            .optional()?;
        let found = found.map(|revision| Revision(u64::try_from(revision).unwrap_or(0)));
        if !compare.expect.is_met_by(found) {
            return Ok((
                TxnOutcome::Conflict {
                    key: compare.key,
                    found,
                },
                None,
            ));
        }
    }
    let revision = Revision(current.0 + 1);
    let mut changes = Vec::with_capacity(txn.puts.len() + txn.deletes.len());
    for (key, value) in txn.puts {
        commit
            .prepare_cached(
                "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3",
            )?
            .execute(params![
                key,
                value.as_ref(),
                i64::try_from(revision.0).unwrap_or(i64::MAX)
            ])?;
        changes.push(Change {
            key,
            value: Some(value),
        });
    }
    for key in txn.deletes {
        let deleted = commit
            .prepare_cached("DELETE FROM entries WHERE key = ?1")?
            .execute([&key])?;
        if deleted > 0 {
            changes.push(Change { key, value: None });
        }
    }
    for value in txn.appends {
        changes.push(logged.append(commit, revision, value)?);
    }
    if changes.is_empty() {
        return Ok((TxnOutcome::Committed { revision: current }, None));
    }
    Ok((
        TxnOutcome::Committed { revision },
        Some(ChangeSet { revision, changes }),
    ))
}
