//! What a peer can cost on one stream: how many of its mistakes are told, how much that changes nothing is answered

use std::time::{Duration, Instant};

use super::{ANSWERS_AT_ONCE, ANSWERS_INTERVAL, PINGS_AT_ONCE};
use crate::limits;

/// How many mistakes in a row are reported before the rest are only counted.
const MISTAKES_AT_ONCE: u32 = 32;

/// How long it takes until one more is reported.
const MISTAKES_INTERVAL: Duration = Duration::from_secs(1);

/// How many reports that only end in a log are handed on at once.
const REPORTS_AT_ONCE: u32 = 64;

/// How long it takes until one more is.
const REPORTS_INTERVAL: Duration = Duration::from_secs(1);

/// How many records of a daemon's log are handed on at once.
const LOGS_AT_ONCE: u32 = 8_192;

/// How long it takes until one more is: ten thousand a second, twice what a daemon of ours forwards.
const LOGS_INTERVAL: Duration = Duration::from_micros(100);

/// How many instances that nobody knew a node may bring: all that it can have, and as many again.
const ADOPTIONS_AT_ONCE: u32 = 2 * limits::INSTANCES_PER_NODE as u32;

/// How long it takes until it may bring one more.
const ADOPTIONS_INTERVAL: Duration = Duration::from_secs(10);

/// A token bucket: so much at once, and one more with every interval
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    size: u32,
    interval: Duration,
    left: u32,
    refilled: Option<Instant>,
}

impl Bucket {
    const fn new(size: u32, interval: Duration) -> Self {
        Self {
            size,
            interval,
            left: size,
            refilled: None,
        }
    }

    /// For answers to what changes nothing.
    pub(crate) const fn of_answers() -> Self {
        Self::new(ANSWERS_AT_ONCE, ANSWERS_INTERVAL)
    }

    /// For instances that nobody knew: each takes its id from the whole fleet, and leaves a number behind.
    pub(crate) const fn of_adoptions() -> Self {
        Self::new(ADOPTIONS_AT_ONCE, ADOPTIONS_INTERVAL)
    }

    pub(crate) fn refill(&mut self, now: Instant) {
        let refilled = *self.refilled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(refilled);
        if elapsed < self.interval {
            return;
        }
        let more = u32::try_from(elapsed.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(self.size);
        // What is left over counts for the next one, unless it is full.
        let used = self
            .interval
            .checked_mul(more)
            .and_then(|used| refilled.checked_add(used));
        self.refilled = used.filter(|_| self.left < self.size).or(Some(now));
    }

    pub(crate) const fn take(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// What the peer of one stream may still cost
#[derive(Clone, Debug)]
pub(crate) struct PeerBudget {
    mistakes: Bucket,
    answers: Bucket,
    pings: Bucket,
    reports: Bucket,
    logs: Bucket,
    total: u64,
}

impl PeerBudget {
    /// That of a new stream.
    pub(crate) const fn new() -> Self {
        Self {
            mistakes: Bucket::new(MISTAKES_AT_ONCE, MISTAKES_INTERVAL),
            answers: Bucket::of_answers(),
            pings: Bucket::new(PINGS_AT_ONCE, ANSWERS_INTERVAL),
            reports: Bucket::new(REPORTS_AT_ONCE, REPORTS_INTERVAL),
            logs: Bucket::new(LOGS_AT_ONCE, LOGS_INTERVAL),
            total: 0,
        }
    }

    /// A message has arrived.
    pub(crate) fn refill(&mut self, now: Instant) {
        self.mistakes.refill(now);
        self.answers.refill(now);
        self.pings.refill(now);
        self.reports.refill(now);
        self.logs.refill(now);
    }

    /// Counts a mistake; says whether it should be reported to the application and to the peer.
    pub(crate) const fn mistake(&mut self) -> bool {
        self.total += 1;
        self.mistakes.take()
    }

    /// Whether the peer is still answered although what it sent changes nothing.
    pub(crate) const fn answer(&mut self) -> bool {
        self.answers.take()
    }

    /// Whether the peer's ping is answered.
    pub(crate) const fn ping(&mut self) -> bool {
        self.pings.take()
    }

    /// Whether an error report, or another message that nothing follows from, is handed on.
    pub(crate) const fn report(&mut self) -> bool {
        self.reports.take()
    }

    /// Whether a record of the peer's log is handed on.
    pub(crate) const fn log(&mut self) -> bool {
        self.logs.take()
    }

    /// All mistakes, reported or not.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }
}
