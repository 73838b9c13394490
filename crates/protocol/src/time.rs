//! Deadlines that can explain themselves

use std::time::{Duration, Instant};

/// The moment at which a machine wants `handle_timeout` to be called, and why
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline<T> {
    /// When the timer expires.
    pub at: Instant,
    /// The timer that expires, for logs and tests.
    pub timer: T,
}

impl<T> Deadline<T> {
    /// Re-labels the timer, when one machine reports the deadline of a part of itself.
    pub fn map<U>(self, relabel: impl FnOnce(T) -> U) -> Deadline<U> {
        Deadline {
            at: self.at,
            timer: relabel(self.timer),
        }
    }

    /// The earlier of two optional deadlines; `a` when they fall together.
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

/// `now + delay`, or a moment about 30 years ahead where that does not exist
///
/// Durations reach this crate from peers and configuration files; `Instant + Duration` panics on overflow.
#[must_use]
pub fn after(now: Instant, delay: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(delay.min(FAR)).unwrap_or(now)
}
