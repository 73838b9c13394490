//! When a node asks for another certificate
//!
//! A daemon asks over its stream, with a new key, when half of its certificate's lifetime has passed, or when its controller
//! wants it to. Nodes that enrolled together do not ask together: each has a moment of its own in the tenth of the lifetime
//! that follows. What fails is tried again, with growing pauses, for as long as the certificate counts.
//!
//! ```text
//!   away ──connected──▶ ready ──due──▶ asking ──issued──────────────▶ ready
//!     ▲                   ▲              ├─refused, or no answer──▶ ready after a pause
//!     └───disconnected────┴──────────────┘
//! ```
//!
//! A certificate's dates are read from the clock on the wall, which can be set: [`Renewal::handle_validity`] translates them, and
//! is called again at [`Timer::Look`].

use std::time::{Duration, Instant, SystemTime};

use crate::time::{self, Deadline};

/// How long a controller may take to sign
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at the clock on the wall
pub const LOOK: Duration = Duration::from_secs(3600);

/// What is waited after the first failure; doubled with each further one
pub const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause after a failure
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// No pause is longer than this part of a certificate's lifetime
const PAUSES_IN_A_LIFETIME: u32 = 32;

/// Why a [`Renewal`] wants to be called
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The clock on the wall may have been set: call [`Renewal::handle_validity`].
    Look,
    /// It is time to ask.
    Due,
    /// No answer came.
    Unanswered,
}

/// Ask for a certificate now: with the key of the attempt before, if that had no answer
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Away,
    Ready,
    Asking { until: Instant },
}

/// The renewals of one node's certificate, across streams
#[derive(Clone, Debug)]
pub struct Renewal {
    share: u16,
    state: State,
    /// When the certificate itself is due; `None` until its dates are known.
    due_at: Option<Instant>,
    look_at: Option<Instant>,
    /// When the controller wants one.
    ordered_at: Option<Instant>,
    not_before: Option<Instant>,
    longest_pause: Duration,
    failures: u32,
    asks: bool,
}

impl Renewal {
    /// Of a node whose moments lie at this share of their ranges: 0 = at the beginning, 65535 = at the end
    ///
    /// Take it at random, once per process.
    #[must_use]
    pub const fn new(share: u16) -> Self {
        Self {
            share,
            state: State::Away,
            due_at: None,
            look_at: None,
            ordered_at: None,
            not_before: None,
            longest_pause: LONGEST_PAUSE,
            failures: 0,
            asks: false,
        }
    }

    /// The present certificate counts from then until then, and `clock` is what the clock on the wall shows
    ///
    /// Call it first, for each new certificate, and at [`Timer::Look`].
    pub fn handle_validity(
        &mut self,
        now: Instant,
        clock: SystemTime,
        not_before: SystemTime,
        not_after: SystemTime,
    ) {
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        let moment = not_before
            .checked_add(lifetime / 2 + self.within(lifetime / 10))
            .unwrap_or(not_after);
        // What lies beyond what an instant can express is looked at again long before.
        let left = moment.duration_since(clock).unwrap_or_default().min(2 * LOOK);
        self.due_at = Some(now + left);
        self.look_at = Some(now + LOOK);
        self.longest_pause = (lifetime / PAUSES_IN_A_LIFETIME).min(LONGEST_PAUSE);
        self.consider(now);
    }

    /// A controller with `renewal/1` admitted the node
    pub fn handle_connected(&mut self, now: Instant) {
        self.state = State::Ready;
        self.consider(now);
    }

    /// The stream ended; an answer that was on its way is lost
    pub fn handle_disconnected(&mut self) {
        self.state = State::Away;
        self.asks = false;
    }

    /// The controller wants the node to ask within this time
    pub fn handle_order(&mut self, now: Instant, within: Duration) {
        let at = time::after(now, self.within(within));
        self.ordered_at = Some(self.ordered_at.map_or(at, |before| before.min(at)));
        self.consider(now);
    }

    /// A certificate came, and is in use
    pub fn handle_issued(&mut self) {
        if let State::Asking { .. } = self.state {
            self.state = State::Ready;
        }
        self.ordered_at = None;
        self.not_before = None;
        self.failures = 0;
        // Its dates come with `handle_validity`.
        self.due_at = None;
    }

    /// The controller refused, or what it sent cannot be used; it wants not to be asked again before `retry_after`
    pub fn handle_refused(&mut self, now: Instant, retry_after: Duration) {
        if let State::Asking { .. } = self.state {
            self.state = State::Ready;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
        let pause = doubled.min(self.longest_pause).max(retry_after.min(LOOK * 24));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
        self.consider(now);
    }

    /// Something is due
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::Asking { until } if until <= now) {
            self.handle_refused(now, Duration::ZERO);
        }
        // The dates in use stay, if nobody looks.
        self.look_at = self.look_at.map(|at| if at <= now { now + LOOK } else { at });
        self.consider(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), or [`handle_validity`](Self::handle_validity), and why
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<Timer>> {
        let deadline = |timer| move |at| Deadline { at, timer };
        let other = match self.state {
            State::Away => None,
            State::Asking { until } => Some(until).map(deadline(Timer::Unanswered)),
            State::Ready => self.next_ask().map(deadline(Timer::Due)),
        };
        Deadline::earlier(other, self.look_at.map(deadline(Timer::Look)))
    }

    /// What to do
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Ask> {
        std::mem::take(&mut self.asks).then_some(Ask)
    }

    /// Whether an answer is awaited
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking { .. })
    }

    fn next_ask(&self) -> Option<Instant> {
        let wanted = self.due_at.into_iter().chain(self.ordered_at).min()?;
        Some(
            self.not_before
                .map_or(wanted, |not_before| wanted.max(not_before)),
        )
    }

    fn consider(&mut self, now: Instant) {
        if self.state == State::Ready && self.next_ask().is_some_and(|at| at <= now) {
            self.state = State::Asking {
                until: now + ANSWER_WITHIN,
            };
            self.asks = true;
        }
    }

    fn within(&self, range: Duration) -> Duration {
        let nanos = range.as_nanos() * u128::from(self.share) / u128::from(u16::MAX);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
