//! The listening side
//!
//! # Invariants
//! Checked after every step by `tests/heartbeat.rs`:
//! - `silence_is_reported_once`: a watch gives the controller up once, and then rests for good;
//! - `silent_only_after_the_limit`: never within three intervals of a message;
//! - `a_sleeper_judges_nobody_on_waking`: a timer that fires more than an interval late, after a suspend say, grants
//!   the controller one more interval, because nobody was listening.

use std::time::{Duration, Instant};

use super::{DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL, MISSED_LIMIT};
use crate::time::Deadline;

/// Decides when a controller has been silent for too long
///
/// Any message counts as a sign of life. Create one per stream; once it has given the controller up, late messages
/// change nothing.
///
/// ```
/// use std::time::{Duration, Instant};
/// use prexorcloud_protocol::unstable::heartbeat::SilenceWatch;
/// # let start = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let interval = Duration::from_secs(30);
/// let mut watch = SilenceWatch::new(start, interval);
/// watch.handle_message(start + interval);
/// assert_eq!(watch.handle_timeout(start + 3 * interval), None);
/// assert_eq!(watch.handle_timeout(start + 4 * interval), Some(3 * interval));
/// assert_eq!(watch.handle_timeout(start + 5 * interval), None);
/// ```
#[derive(Clone, Debug)]
pub struct SilenceWatch {
    interval: Duration,
    last_heard: Instant,
    /// The end of the extra interval, if one has been granted since the last message.
    granted: Option<Instant>,
    gave_up: bool,
}

/// The timer of a silence watch
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceTimer {
    /// The controller has been silent for as long as it may.
    Silent,
}

impl SilenceWatch {
    /// A watch over a controller that has just been heard and pings at this interval.
    #[must_use]
    pub fn new(now: Instant, interval: Duration) -> Self {
        let interval = if interval.is_zero() {
            DEFAULT_INTERVAL
        } else {
            interval
        };
        Self {
            interval: interval.clamp(MIN_INTERVAL, MAX_INTERVAL),
            last_heard: now,
            granted: None,
            gave_up: false,
        }
    }

    /// A message of any kind has arrived.
    pub fn handle_message(&mut self, now: Instant) {
        self.last_heard = self.last_heard.max(now);
        self.granted = None;
    }

    /// How long the controller has been silent, if that is too long; told once.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Duration> {
        let due = self.due()?;
        if now < due {
            return None;
        }
        let late = now.saturating_duration_since(due) > self.interval;
        if late && self.granted.is_none() {
            self.granted = now.checked_add(self.interval);
            return None;
        }
        self.gave_up = true;
        Some(now.saturating_duration_since(self.last_heard))
    }

    fn due(&self) -> Option<Instant> {
        if self.gave_up {
            return None;
        }
        self.granted
            .or_else(|| self.last_heard.checked_add(self.interval * MISSED_LIMIT))
    }

    /// When the controller will have been silent for too long; `None` once it has been given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<SilenceTimer>> {
        self.due().map(|at| Deadline {
            at,
            timer: SilenceTimer::Silent,
        })
    }
}
