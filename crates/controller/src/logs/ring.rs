//! The last records of one log

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;
use tracing::Level;

/// Records of one log that are kept
pub(crate) const CAPACITY: usize = 2_000;

/// Bytes of them: a record of an ordinary log has a few hundred
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// What a record costs beside its texts
const OVERHEAD: usize = 256;

/// A record as it is kept and shown
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LogRecord {
    /// Position in this log, from 1
    pub(crate) seq: u64,
    /// When, by the clock of whoever logged it, in milliseconds since 1970
    pub(crate) ts: i64,
    pub(crate) level: String,
    pub(crate) logger: String,
    pub(crate) thread: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) throwable: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) mdc: BTreeMap<String, String>,
    /// Records that were lost on the way, just before this one
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl LogRecord {
    fn cost(&self) -> usize {
        let mdc: usize = self
            .mdc
            .iter()
            .map(|(key, value)| key.len() + value.len() + 64)
            .sum();
        let texts = [&self.logger, &self.thread, &self.message, &self.throwable];
        OVERHEAD + mdc + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// Which records are wanted
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// This level and what is more important
    pub(crate) level: Level,
    /// What the logger begins with
    pub(crate) logger: String,
    /// Not before this time
    pub(crate) since_ms: i64,
}

impl Filter {
    fn admits(&self, record: &LogRecord) -> bool {
        // A level that nobody knows is shown rather than hidden.
        let level = record.level.parse().unwrap_or(Level::INFO);
        level <= self.level && record.ts >= self.since_ms && record.logger.starts_with(&self.logger)
    }
}

/// What came in so far
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) records: u64,
    /// Records that were logged and never came
    pub(crate) lost: u64,
}

#[derive(Debug)]
pub(crate) struct Ring {
    kept: Mutex<Kept>,
    appended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Arc<LogRecord>>,
    bytes: usize,
    received: Received,
    /// The sender's number of its last record; 0 = it has begun anew, or counts nothing
    number: u64,
    is_forgotten: bool,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            appended: watch::Sender::new(()),
        }
    }
}

impl Ring {
    /// Whoever sends begins to number its records anew
    pub(crate) fn begin(&self) {
        self.kept().number = 0;
    }

    /// Adds a record with its sender's number, and how many the sender knows to be missing before it
    pub(crate) fn append(&self, mut record: LogRecord, number: u64, dropped: u64) {
        let mut kept = self.kept();
        record.lost = match kept.number {
            before if before > 0 && number > before => number - before - 1,
            _ => dropped,
        };
        if number > 0 {
            kept.number = number;
        }
        kept.received.lost = kept.received.lost.saturating_add(record.lost);
        kept.received.records += 1;
        record.seq = kept.received.records;
        kept.bytes += record.cost();
        kept.records.push_back(Arc::new(record));
        while kept.records.len() > CAPACITY || (kept.bytes > MOST_BYTES && kept.records.len() > 1) {
            if let Some(oldest) = kept.records.pop_front() {
                kept.bytes = kept.bytes.saturating_sub(oldest.cost());
            }
        }
        drop(kept);
        // Readers come and take; none of them runs here.
        self.appended.send_replace(());
    }

    /// The newest `most` of those that are wanted, the oldest first
    pub(crate) fn newest(&self, filter: &Filter, most: usize) -> Vec<Arc<LogRecord>> {
        let kept = self.kept();
        let wanted = kept.records.iter().rev().filter(|record| filter.admits(record));
        let mut records: Vec<_> = wanted.take(most).cloned().collect();
        drop(kept);
        records.reverse();
        records
    }

    pub(crate) fn size(&self) -> usize {
        self.kept().records.len()
    }

    pub(crate) fn received(&self) -> Received {
        self.kept().received
    }

    /// The log is gone; readers of it end
    pub(crate) fn forget(&self) {
        self.kept().is_forgotten = true;
        self.appended.send_replace(());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing to show
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogItem {
    Record(Arc<LogRecord>),
    /// So many records of all levels went before this reader came to them
    Gap {
        missed: u64,
        before: u64,
    },
}

/// Where a reader begins
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Behind this record
    After(u64),
    /// With so many of those that are there
    Newest(usize),
}

/// A position in one log
#[derive(Debug)]
pub(crate) struct LogReader {
    ring: Arc<Ring>,
    appended: watch::Receiver<()>,
    filter: Filter,
    next: u64,
}

impl LogReader {
    pub(crate) fn new(ring: Arc<Ring>, filter: Filter, from: From) -> Self {
        let next = match from {
            From::After(seq) => seq.saturating_add(1),
            From::Newest(most) => {
                let newest = ring.newest(&filter, most);
                let first = newest.first().map(|record| record.seq);
                first.unwrap_or_else(|| ring.received().records + 1)
            }
        };
        Self {
            appended: ring.appended.subscribe(),
            ring,
            filter,
            next,
        }
    }

    /// What is there to show now, at most `most` items; empty = nothing yet
    pub(crate) fn take(&mut self, most: usize) -> Vec<LogItem> {
        let kept = self.ring.kept();
        let oldest = kept.records.front().map_or(self.next, |record| record.seq);
        let mut items = Vec::new();
        if self.next < oldest {
            items.push(LogItem::Gap {
                missed: oldest - self.next,
                before: oldest,
            });
            self.next = oldest;
        }
        let start = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        for record in kept.records.iter().skip(start) {
            if items.len() >= most {
                break;
            }
            self.next = record.seq + 1;
            if self.filter.admits(record) {
                items.push(LogItem::Record(Arc::clone(record)));
            }
        }
        items
    }

    /// Waits until there is something to show; empty = the log is gone. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self, most: usize) -> Vec<LogItem> {
        loop {
            self.appended.mark_unchanged();
            let items = self.take(most);
            if !items.is_empty() || self.ring.kept().is_forgotten {
                return items;
            }
            // The ring is held by this reader, so its sender lives.
            if self.appended.changed().await.is_err() {
                return Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(level: Level) -> Filter {
        Filter {
            level,
            logger: String::new(),
            since_ms: 0,
        }
    }

    fn record(level: &str, message: &str) -> LogRecord {
        LogRecord {
            level: level.to_owned(),
            logger: "a::b".to_owned(),
            message: message.to_owned(),
            ..LogRecord::default()
        }
    }

    fn shown(items: &[LogItem]) -> Vec<String> {
        let show = |item: &LogItem| match item {
            LogItem::Record(record) => format!("{} {}", record.seq, record.message),
            LogItem::Gap { missed, before } => format!("missed {missed} before {before}"),
        };
        items.iter().map(show).collect()
    }

    #[test]
    fn a_reader_that_falls_behind_is_told_how_much_it_missed() {
        let ring = Arc::new(Ring::default());
        ring.append(record("INFO", "first"), 1, 0);
        let mut reader = LogReader::new(Arc::clone(&ring), filter(Level::INFO), From::Newest(10));
        assert_eq!(shown(&reader.take(10)), ["1 first"]);
        for number in 2..=CAPACITY as u64 + 10 {
            ring.append(record("INFO", "flood"), number, 0);
        }
        assert_eq!(ring.size(), CAPACITY);
        assert_eq!(shown(&reader.take(2)), ["missed 9 before 11", "11 flood"]);
    }

    #[test]
    fn level_logger_and_time_are_filtered_and_positions_are_not() {
        let ring = Arc::new(Ring::default());
        for (level, ts, message) in [
            ("DEBUG", 1, "d"),
            ("WARN", 2, "w"),
            ("odd", 3, "o"),
            ("INFO", 4, "i"),
        ] {
            ring.append(
                LogRecord {
                    ts,
                    ..record(level, message)
                },
                0,
                0,
            );
        }
        let messages = |filter: &Filter| -> Vec<String> {
            ring.newest(filter, 10)
                .iter()
                .map(|record| record.message.clone())
                .collect()
        };
        assert_eq!(messages(&filter(Level::INFO)), ["w", "o", "i"]);
        assert_eq!(messages(&filter(Level::WARN)), ["w"]);
        assert_eq!(
            messages(&Filter {
                since_ms: 4,
                ..filter(Level::TRACE)
            }),
            ["i"]
        );
        assert_eq!(
            messages(&Filter {
                logger: "a::c".to_owned(),
                ..filter(Level::TRACE)
            }),
            [""; 0]
        );
        let mut reader = LogReader::new(Arc::clone(&ring), filter(Level::INFO), From::After(2));
        assert_eq!(shown(&reader.take(10)), ["3 o", "4 i"]);
        let mut live = LogReader::new(ring, filter(Level::INFO), From::Newest(0));
        assert!(live.take(10).is_empty());
    }

    #[test]
    fn what_is_missing_is_counted_once_however_it_is_told() {
        let ring = Ring::default();
        let lost = |number, dropped| {
            ring.append(record("INFO", ""), number, dropped);
            ring.newest(&filter(Level::INFO), 1)[0].lost
        };
        assert_eq!(lost(5, 4), 4, "before the first that is seen");
        assert_eq!(lost(6, 0), 0);
        assert_eq!(lost(10, 2), 3, "two given up there, and one on the way");
        assert_eq!(lost(1, 0), 0, "of another start");
        ring.begin();
        assert_eq!(lost(100, 7), 7, "of another start that is farther");
        assert_eq!(lost(0, 0), 0, "of a Java daemon");
        assert_eq!(ring.received(), Received { records: 6, lost: 14 });
    }

    #[test]
    fn bytes_are_bounded_too() {
        let ring = Ring::default();
        let long = "x".repeat(30_000);
        for number in 1..=200 {
            ring.append(record("INFO", &long), number, 0);
        }
        assert!(ring.size() * 30_000 < MOST_BYTES, "{}", ring.size());
        ring.append(record("INFO", &"x".repeat(2 * MOST_BYTES)), 201, 0);
        assert_eq!(ring.size(), 1, "one is always kept");
    }

    #[tokio::test]
    async fn readers_wait_and_end_with_the_log() {
        let ring = Arc::new(Ring::default());
        let mut reader = LogReader::new(Arc::clone(&ring), filter(Level::INFO), From::Newest(0));
        let reading = tokio::spawn(async move { (reader.next(10).await, reader.next(10).await) });
        tokio::task::yield_now().await;
        ring.append(record("INFO", "one"), 1, 0);
        tokio::task::yield_now().await;
        ring.forget();
        let read = reading.await.unwrap_or_default();
        assert_eq!((shown(&read.0), read.1.len()), (vec!["1 one".to_owned()], 0));
    }
}
