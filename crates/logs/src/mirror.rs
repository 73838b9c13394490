//! The queue between those who log and the one who takes
//!
//! Whoever logs never waits for the other side: where the queue is full, an event is counted instead of being made into a
//! record, which costs next to nothing. So a flood of records is cheapest where it is greatest. An eighth of the queue is for
//! warnings and errors alone, which a flood of the rest therefore does not keep out.
//!
//! Every event that should be mirrored gets a number, also one that is dropped: whoever sees a number after another one knows
//! how many are missing in between, wherever they were lost.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::Record;

/// Records that wait at most
pub const MOST_RECORDS: usize = 8_192;

/// Memory of the records that wait, in bytes, at most
pub const MOST_BYTES: usize = 8 * 1024 * 1024;

thread_local! {
    /// This thread is at work on the mirror itself.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What became of the events so far
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that were to be mirrored.
    pub logged: u64,
    /// Those of them that were given up, because the queue was full or nobody was there to hear them.
    pub dropped: u64,
}

/// Records on their way to one reader; clones are the same queue
#[derive(Clone, Debug)]
pub struct Mirror(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The rank of the least important level that is mirrored; 0 = none is
    threshold: AtomicU8,
    queue: Mutex<Queue>,
    /// How many records and bytes wait, for a look without the lock
    records: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
    is_closed: AtomicBool,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Record>,
    bytes: usize,
    /// The number of the last event
    number: u64,
}

impl Mirror {
    /// A queue for events of this level and more important ones.
    #[must_use]
    pub fn new(threshold: LevelFilter) -> Self {
        Self(Arc::new(Shared {
            threshold: AtomicU8::new(rank(threshold)),
            queue: Mutex::default(),
            records: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            filled: Notify::new(),
        }))
    }

    /// Changes what is mirrored from now on.
    pub fn set_threshold(&self, threshold: LevelFilter) {
        self.0.threshold.store(rank(threshold), Ordering::Relaxed);
    }

    /// Whether an event of this level is mirrored.
    #[must_use]
    pub fn wants(&self, level: Level) -> bool {
        rank(LevelFilter::from_level(level)) <= self.0.threshold.load(Ordering::Relaxed)
            && !QUIET.get()
            && !self.0.is_closed.load(Ordering::Relaxed)
    }

    /// Takes an event that is [wanted](Self::wants); `make` is asked for its record if there is room, and may leave the number 0.
    pub fn push(&self, level: Level, make: impl FnOnce() -> Record) {
        let share = if level <= Level::WARN { 8 } else { 7 };
        let is_full = self.0.records.load(Ordering::Relaxed) >= MOST_RECORDS / 8 * share
            || self.0.bytes.load(Ordering::Relaxed) >= MOST_BYTES / 8 * share;
        // Made without the lock, and by a thread that is quiet: what a value logs while it is printed would come back here.
        // One whose value panics while it is printed is lost: what it tells of goes on.
        let make = || catch_unwind(AssertUnwindSafe(|| quietly(make))).ok();
        let record = (!is_full).then(make).flatten();
        let mut queue = self.queue();
        queue.number += 1;
        let Some(mut record) = record else {
            drop(queue);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        record.number = queue.number;
        queue.bytes += record.cost();
        queue.waiting.push_back(record);
        self.note(&queue);
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Appends up to `most` records to `into`, the oldest first; says how many.
    pub fn take(&self, into: &mut impl Extend<Record>, most: usize) -> usize {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(most);
        let taken: Vec<Record> = queue.waiting.drain(..count).collect();
        let bytes: usize = taken.iter().map(Record::cost).sum();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        if queue.waiting.is_empty() && queue.waiting.capacity() > 64 {
            // A flood leaves nothing behind.
            queue.waiting.shrink_to(64);
        }
        self.note(&queue);
        drop(queue);
        into.extend(taken);
        count
    }

    /// The same, and waits for the first of them. For one reader at a time; cancel safe.
    pub async fn next(&self, into: &mut impl Extend<Record>, most: usize) -> usize {
        loop {
            match self.take(into, most.max(1)) {
                0 => self.0.filled.notified().await,
                count => return count,
            }
        }
    }

    /// Counts records that were taken and then given up.
    pub fn give_up(&self, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.0.dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// Nobody will read any more: what waits is dropped, and nothing is mirrored from now on.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
        let mut rest = Vec::new();
        let count = self.take(&mut rest, usize::MAX);
        self.give_up(count);
    }

    /// What became of the events so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            logged: self.queue().number,
            dropped: self.0.dropped.load(Ordering::Relaxed),
        }
    }

    fn note(&self, queue: &Queue) {
        self.0.records.store(queue.waiting.len(), Ordering::Relaxed);
        self.0.bytes.store(queue.bytes, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something of which nothing that it logs is mirrored, so that mirroring does not feed itself
pub fn quietly<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);

    impl Drop for Restore {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }

    let _restore = Restore(QUIET.replace(true));
    work()
}

/// Greater for what is less important; 0 = nothing
fn rank(filter: LevelFilter) -> u8 {
    match filter.into_level() {
        None => 0,
        Some(Level::ERROR) => 1,
        Some(Level::WARN) => 2,
        Some(Level::INFO) => 3,
        Some(Level::DEBUG) => 4,
        Some(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: Level, message: &str) -> Record {
        Record {
            number: 0,
            timestamp_ms: 5,
            level,
            logger: "a".to_owned(),
            thread: "main".to_owned(),
            message: message.to_owned(),
            throwable: String::new(),
            context: Vec::new(),
        }
    }

    #[test]
    fn a_flood_is_counted_and_leaves_room_for_warnings() {
        let mirror = Mirror::new(LevelFilter::INFO);
        for _ in 0..3 * MOST_RECORDS {
            mirror.push(Level::INFO, || record(Level::INFO, "flood"));
        }
        mirror.push(Level::WARN, || record(Level::WARN, "worth knowing"));
        let counts = mirror.counts();
        assert_eq!(counts.logged, 3 * MOST_RECORDS as u64 + 1);
        assert_eq!(counts.dropped, (3 * MOST_RECORDS - MOST_RECORDS / 8 * 7) as u64);
        let mut taken = Vec::new();
        mirror.take(&mut taken, usize::MAX);
        let numbers: Vec<u64> = taken.iter().rev().take(2).map(|record| record.number).collect();
        assert_eq!(
            numbers,
            [3 * MOST_RECORDS as u64 + 1, (MOST_RECORDS / 8 * 7) as u64]
        );
        mirror.push(Level::INFO, || record(Level::INFO, "after it"));
        assert_eq!(mirror.take(&mut taken, 10), 1);
    }

    #[test]
    fn large_records_are_bounded_by_their_bytes() {
        let mirror = Mirror::new(LevelFilter::INFO);
        let long = "x".repeat(100_000);
        for _ in 0..1_000 {
            mirror.push(Level::INFO, || record(Level::INFO, &long));
        }
        let mut taken = Vec::new();
        mirror.take(&mut taken, usize::MAX);
        let held: usize = taken.iter().map(Record::cost).sum();
        assert!((1..MOST_BYTES).contains(&held), "{held}");
        assert_eq!(
            u64::try_from(taken.len()).ok(),
            Some(1_000 - mirror.counts().dropped)
        );
    }

    #[test]
    fn what_the_mirror_itself_logs_is_not_mirrored() {
        let mirror = Mirror::new(LevelFilter::TRACE);
        assert!(mirror.wants(Level::TRACE));
        quietly(|| {
            quietly(|| assert!(!mirror.wants(Level::ERROR)));
            assert!(!mirror.wants(Level::ERROR), "still");
        });
        assert!(mirror.wants(Level::ERROR));
        mirror.set_threshold(LevelFilter::WARN);
        assert!(mirror.wants(Level::WARN) && !mirror.wants(Level::INFO));
        mirror.set_threshold(LevelFilter::OFF);
        assert!(!mirror.wants(Level::ERROR));
    }

    #[tokio::test]
    async fn a_reader_is_woken_and_hears_of_nothing_after_the_end() {
        let mirror = Mirror::new(LevelFilter::INFO);
        let reader = tokio::spawn({
            let mirror = mirror.clone();
            async move {
                let mut taken = Vec::new();
                mirror.next(&mut taken, 10).await;
                taken
            }
        });
        tokio::task::yield_now().await;
        mirror.push(Level::INFO, || record(Level::INFO, "one"));
        assert_eq!(
            reader
                .await
                .map(|taken| taken.len())
                .map_err(|error| error.to_string()),
            Ok(1)
        );
        mirror.push(Level::INFO, || record(Level::INFO, "two"));
        mirror.close();
        assert_eq!(
            mirror.counts(),
            Counts {
                logged: 2,
                dropped: 1
            }
        );
        assert!(!mirror.wants(Level::ERROR));
    }
}
