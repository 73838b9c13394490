//! The log as its readers see it: from any number on, and live
//!
//! ```text
//!   store (watch) ──▶ Feed (the newest, in memory) ──▶ Follower ──▶ SSE, a node
//!   store (list) ──────────────────────────────────────▲ for what is older
//! ```
//!
//! Readers pull, and keep nothing but a position: a slow one costs nothing, however far behind it is. One that falls out of
//! the log learns how much it has missed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use prexorcloud_content::Digest;
use prexorcloud_protocol::events::Cursor;
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Class, LOST};
use crate::{
    records::EventRecord,
    store::{LOGGED, Query, Revision, Store, StoreError, logged_key, logged_sequence},
};

/// Events that are kept in memory
const IN_MEMORY: usize = 2048;

/// Bytes of them
const IN_MEMORY_BYTES: usize = 4 * 1024 * 1024;

/// How many are taken at once
const AT_ONCE: usize = 256;

/// The pause before a storage that failed is asked again
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An event of the log
#[derive(Debug)]
pub(crate) struct LoggedEvent {
    pub(crate) sequence: u64,
    /// What only this event has, see [`Cursor`]
    pub(crate) check: u64,
    /// `None` for one of a later release
    pub(crate) class: Option<&'static Class>,
    pub(crate) record: EventRecord,
}

impl LoggedEvent {
    fn decode(key: &str, value: bytes::Bytes) -> Option<Self> {
        let sequence = logged_sequence(key)?;
        let check = check_of(&value);
        let record = EventRecord::decode(value).unwrap_or_default();
        Some(Self {
            sequence,
            check,
            class: Class::of_kind(&record.kind),
            record,
        })
    }

    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            sequence: self.sequence,
            check: self.check,
        }
    }

    /// How many events it says were never written, if that is what it is about
    pub(crate) fn lost(&self) -> Option<u64> {
        let missed = || {
            let payload: serde_json::Value = serde_json::from_str(&self.record.payload_json).ok()?;
            payload.get("missed")?.as_u64()
        };
        (self.record.kind == LOST).then(|| missed().unwrap_or(1))
    }

    /// With its type, its number and its check, as operators get it
    pub(crate) fn to_json(&self) -> String {
        let (kind, sequence, check) = (&self.record.kind, self.sequence, self.check);
        let fields = self.record.payload_json.trim_start_matches('{');
        let comma = if fields.starts_with('}') { "" } else { "," };
        format!(r#"{{"type":"{kind}","sequence":{sequence},"check":"{check:016x}"{comma}{fields}"#)
    }
}

/// What tells an event from all others: its record has the millisecond, so no other log has the same at the same number
fn check_of(record: &[u8]) -> u64 {
    let digest: [u8; 32] = Digest::of(record).into();
    let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    // 0 stands for what is not known.
    u64::from_be_bytes(*first).max(1)
}

/// What comes after a position
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Arc<LoggedEvent>>,
    /// How many between the position and the first of them are gone
    pub(crate) missed: u64,
}

#[derive(Default)]
struct Recent {
    /// Without a hole in their numbers
    events: VecDeque<Arc<LoggedEvent>>,
    bytes: usize,
}

/// The log
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    recent: Mutex<Recent>,
    latest: watch::Sender<Cursor>,
    lost: AtomicU64,
}

impl Feed {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            recent: Mutex::default(),
            latest: watch::Sender::new(Cursor::default()),
            lost: AtomicU64::new(0),
        }
    }

    /// Finds the end of the log; returns where to watch on
    pub(crate) async fn catch_up(&self) -> Result<Revision, StoreError> {
        let newest = self
            .store
            .list(Query::prefix(LOGGED).descending().limit(1))
            .await?;
        *self.recent() = Recent::default();
        let latest = newest.entries.into_iter().next();
        let latest = latest.and_then(|entry| LoggedEvent::decode(&entry.key, entry.value));
        self.latest
            .send_replace(latest.map_or_else(Cursor::default, |event| event.cursor()));
        Ok(newest.revision)
    }

    /// Follows the store until `stopping`
    pub(crate) async fn follow(self: Arc<Self>, mut from: Revision, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.watch(from) => {}
            }
            // It fell behind, or the storage failed.
            from = loop {
                match self.catch_up().await {
                    Ok(revision) => break revision,
                    Err(error) => tracing::warn!(%error, "the log of events cannot be read for now"),
                }
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(ASKED_AGAIN_AFTER) => {}
                }
            };
        }
    }

    async fn watch(&self, from: Revision) {
        let mut changes = self.store.watch(LOGGED, from);
        while let Some(Ok(change)) = changes.next().await {
            let mut recent = self.recent();
            let mut latest = None;
            for change in change.changes {
                let Some(event) = change
                    .value
                    .and_then(|value| LoggedEvent::decode(&change.key, value))
                else {
                    continue;
                };
                latest = Some(event.cursor());
                recent.push(event);
            }
            drop(recent);
            if let Some(latest) = latest {
                self.latest.send_replace(latest);
            }
        }
    }

    /// The number of the newest event
    pub(crate) fn latest(&self) -> u64 {
        self.latest.borrow().sequence
    }

    /// Where the log ends
    pub(crate) fn end(&self) -> Cursor {
        *self.latest.borrow()
    }

    /// Counts events that could not be written; whoever counts them has that written as soon as it can be
    pub(crate) fn lose(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    /// How many events could not be written since this controller started
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The check of the event with this number; `None` if it is not in the log any more
    pub(crate) async fn check_at(&self, sequence: u64) -> Result<Option<u64>, StoreError> {
        let Batch { events, missed } = self.after(sequence.saturating_sub(1), 1).await?;
        let found = events.first().filter(|_| missed == 0);
        Ok(found.map(|event| event.check))
    }

    /// The number of the oldest event that is there, or the next one if there is none
    pub(crate) async fn earliest(&self) -> Result<u64, StoreError> {
        let oldest = self.store.list(Query::prefix(LOGGED).limit(1)).await?;
        let oldest = oldest
            .entries
            .first()
            .and_then(|entry| logged_sequence(&entry.key));
        Ok(oldest.unwrap_or_else(|| self.latest().saturating_add(1)))
    }

    /// What comes after `position`, at most `limit` events
    pub(crate) async fn after(&self, position: u64, limit: usize) -> Result<Batch, StoreError> {
        if let Some(events) = self.recent().after(position, limit) {
            return Ok(Batch { events, missed: 0 });
        }
        let query = Query::prefix(LOGGED).after(logged_key(position)).limit(limit);
        let listing = self.store.list(query).await?;
        let entries = listing.entries.into_iter();
        let events: Vec<_> = entries
            .filter_map(|entry| LoggedEvent::decode(&entry.key, entry.value).map(Arc::new))
            .collect();
        let missed = events.first().map_or(0, |first| {
            first.sequence.saturating_sub(position.saturating_add(1))
        });
        Ok(Batch { events, missed })
    }

    /// Reads on from a position
    pub(crate) fn follower(self: &Arc<Self>, position: u64) -> Follower {
        Follower {
            latest: self.latest.subscribe(),
            feed: Arc::clone(self),
            position,
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn push(&mut self, event: LoggedEvent) {
        self.bytes += event.record.payload_json.len();
        self.events.push_back(Arc::new(event));
        while self.events.len() > IN_MEMORY || self.bytes > IN_MEMORY_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.record.payload_json.len();
        }
    }

    /// `None` if some of it may be elsewhere
    fn after(&self, position: u64, limit: usize) -> Option<Vec<Arc<LoggedEvent>>> {
        let (first, last) = (self.events.front()?.sequence, self.events.back()?.sequence);
        if position.saturating_add(1) < first || position > last {
            return None;
        }
        let skipped = usize::try_from(position.saturating_add(1) - first).unwrap_or(usize::MAX);
        Some(self.events.iter().skip(skipped).take(limit).cloned().collect())
    }
}

/// A reader of the log
pub(crate) struct Follower {
    feed: Arc<Feed>,
    latest: watch::Receiver<Cursor>,
    position: u64,
}

impl Follower {
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Waits for the next events. Nothing is lost when this is given up.
    pub(crate) async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if self.latest.borrow_and_update().sequence > self.position {
                let batch = self.feed.after(self.position, AT_ONCE).await?;
                if let Some(last) = batch.events.last() {
                    self.position = last.sequence;
                    return Ok(batch);
                }
            }
            if self.latest.changed().await.is_err() {
                // The controller ends.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{
        events::Event,
        store::{Expect, SqliteOptions, SqliteStore, Txn},
    };

    fn created(name: &str) -> Event {
        Event::GroupCreated {
            group_name: name.to_owned(),
        }
    }

    fn numbers(batch: &Batch) -> (u64, Vec<u64>) {
        let events = batch.events.iter();
        (batch.missed, events.map(|event| event.sequence).collect())
    }

    #[tokio::test]
    async fn an_event_is_there_if_and_only_if_its_change_is_and_numbers_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("controller.db");
        let options = SqliteOptions {
            logged_entries: 3,
            ..SqliteOptions::default()
        };
        let open = || Arc::new(SqliteStore::open(&file, &options).unwrap());
        let store = open();
        let feed = Arc::new(Feed::new(store.clone()));
        let revision = feed.catch_up().await.unwrap();
        let stopping = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&feed).follow(revision, stopping.clone()));
        let mut follower = feed.follower(feed.latest());

        let refused = Txn::new()
            .expect("a", Expect::Present)
            .put("a", "1")
            .tell(&created("no"));
        assert_eq!(store.txn(refused).await.unwrap().committed(), None);
        for name in ["one", "two", "three", "four"] {
            let change = Txn::new().put(name, "1").tell(&created(name));
            assert!(store.txn(change).await.unwrap().committed().is_some());
        }
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let batch = follower.next().await.unwrap();
            assert_eq!(batch.missed, 0);
            seen.extend(batch.events.iter().map(|event| (event.check, event.to_json())));
        }
        let names = ["one", "two", "three", "four"].into_iter().zip(1..).zip(&seen);
        for ((name, number), (check, json)) in names {
            assert_eq!(
                *json,
                format!(
                    r#"{{"type":"GROUP_CREATED","sequence":{number},"check":"{check:016x}","groupName":"{name}"}}"#
                )
            );
        }
        assert_eq!(feed.earliest().await.unwrap(), 2, "three are kept");
        stopping.cancel();
        following.await.unwrap();
        store.close().await.unwrap();
        drop((feed, follower, store));

        let store = open();
        let feed = Arc::new(Feed::new(store.clone()));
        feed.catch_up().await.unwrap();
        let last = seen.last().unwrap().0;
        assert_eq!((feed.end().sequence, feed.end().check), (4, last));
        assert_eq!(feed.check_at(4).await.unwrap(), Some(last));
        assert_eq!(feed.check_at(1).await.unwrap(), None, "it is gone");
        assert_eq!(feed.check_at(5).await.unwrap(), None, "it was never there");
        assert_eq!(numbers(&feed.after(0, 2).await.unwrap()), (1, vec![2, 3]));
        assert_eq!(numbers(&feed.after(4, 2).await.unwrap()), (0, vec![]));
        let change = Txn::new().put("five", "1").tell(&created("five"));
        let _ = store.txn(change).await.unwrap();
        assert_eq!(numbers(&feed.after(3, 9).await.unwrap()), (0, vec![4, 5]));
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_large_pushes_out_what_is_older_but_never_itself() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions {
            logged_bytes: 1000,
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open(folder.path().join("controller.db"), &options).unwrap();
        for size in [100, 2000, 400, 400] {
            let name = "x".repeat(size);
            let _ = store.txn(Txn::new().tell(&created(&name))).await.unwrap();
            let kept = store.list(Query::prefix(LOGGED)).await.unwrap().entries;
            let bytes: usize = kept.iter().map(|entry| entry.value.len()).sum();
            assert!(
                kept.len() == 1 || bytes <= 1000,
                "{} entries, {bytes} bytes",
                kept.len()
            );
            assert!(kept.last().unwrap().value.len() > size);
        }
        assert_eq!(store.count(LOGGED).await.unwrap(), 2);
    }
}
