//! The asking side
//!
//! # Invariants
//! Checked after every step by `tests/heartbeat.rs`:
//! - `one_ping_per_interval`: two pings are never closer than an interval, however late the timer was;
//! - `sequences_rise`: every ping has a higher sequence than the one before;
//! - `unreachable_only_after_the_limit`: never sooner than `missed_limit` intervals after the last sign of life;
//! - `news_alternates`: unreachable, recovered, unreachable, ... and nothing twice;
//! - `bad_pong_changes_nothing`: an unsolicited or repeated pong leaves the machine as it was;
//! - `always_pinging`: there is always a next deadline, and after `handle_timeout(now)` it is later than `now`.

use std::time::{Duration, Instant};

use super::{DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL, MISSED_LIMIT};
use crate::time::Deadline;

/// How many pings back an answer is still recognised.
const WINDOW: usize = 16;

/// When to ping, and when to stop believing
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// The time between two pings; zero = 30 s, otherwise brought between 1 s and 1 h.
    pub interval: Duration,
    /// How many pings in a row may stay unanswered; at least 1.
    pub missed_limit: u32,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            interval: DEFAULT_INTERVAL,
            missed_limit: MISSED_LIMIT,
        }
    }
}

/// A pong that answers nothing
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PongError {
    /// No such ping was ever sent on this stream.
    #[error("pong {sequence} answers no ping, the last one sent was {last_sent}")]
    Unsolicited {
        /// The sequence of the pong.
        sequence: i64,
        /// The highest sequence sent so far; 0 before the first ping.
        last_sent: i64,
    },
    /// The ping has been answered before.
    #[error("pong {sequence} has been received before")]
    Repeated {
        /// The sequence of the pong.
        sequence: i64,
    },
    /// The ping was sent so long ago that nobody waits for its answer any more.
    #[error("pong {sequence} is too old, the oldest ping that is remembered is {oldest}")]
    Forgotten {
        /// The sequence of the pong.
        sequence: i64,
        /// The oldest sequence that is still recognised.
        oldest: i64,
    },
}

/// What a valid pong tells
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The sequence of the ping.
    pub sequence: i64,
    /// From the ping to the pong.
    pub time: Duration,
}

/// News about the peer
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The peer has stopped answering. Pings go on.
    Unreachable {
        /// How many pings in a row were unanswered.
        missed: u32,
        /// How long ago the last sign of life was.
        silent_for: Duration,
    },
    /// The peer answers again.
    Recovered {
        /// How long it had counted as unreachable.
        after: Duration,
    },
}

/// What a prober wants done, or wants known
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutput {
    /// A ping is to be sent.
    SendPing {
        /// Its sequence.
        sequence: i64,
        /// The highest sequence that had been answered when everything was stored; 0 before that.
        answered: i64,
    },
    /// Something for the application.
    News(News),
}

/// The timer of a prober
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTimer {
    /// The next ping is due, and the last one is judged.
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    sequence: i64,
    at: Instant,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    Reachable,
    Unreachable { since: Instant },
}

/// Decides when to ping a daemon and when to stop believing in it
///
/// Create it when the stream is established: the first ping is due at once. Call
/// [`handle_timeout`](Self::handle_timeout) at the deadline from [`poll_timeout`](Self::poll_timeout), then drain
/// [`poll_output`](Self::poll_output).
///
/// A ping is missed when the next one falls due and no pong has come in since it was sent. A timer that fires late,
/// after a suspend say, counts one miss and sends one ping.
///
/// ```
/// use std::time::{Duration, Instant};
/// use prexorcloud_protocol::unstable::heartbeat::{HeartbeatConfig, News, ProbeOutput, Prober};
/// # let start = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let mut prober = Prober::new(start, HeartbeatConfig::default());
/// assert_eq!(prober.poll_output(), Some(ProbeOutput::SendPing { sequence: 1, answered: 0 }));
///
/// for tick in 1..=3 {
///     prober.handle_timeout(start + tick * Duration::from_secs(30));
/// }
/// let ninety = Duration::from_secs(90);
/// assert_eq!(prober.poll_output(), Some(ProbeOutput::News(News::Unreachable { missed: 3, silent_for: ninety })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prober {
    interval: Duration,
    missed_limit: u32,
    next_ping: Instant,
    last_sent: i64,
    /// The last ping of those that come at every interval.
    judged: i64,
    last_answered: i64,
    confirmed: i64,
    window: [Option<Sent>; WINDOW],
    missed: u32,
    last_heard: Instant,
    belief: Belief,
    /// A ping that nobody has polled yet.
    ping: Option<i64>,
    /// News that nobody has polled yet; what has been overtaken by later news is never told.
    lost: Option<News>,
    back: Option<News>,
}

impl Prober {
    /// A prober of a peer that has just been heard, whose first ping is due.
    #[must_use]
    pub fn new(now: Instant, config: HeartbeatConfig) -> Self {
        let interval = if config.interval.is_zero() {
            DEFAULT_INTERVAL
        } else {
            config.interval
        };
        let mut prober = Self {
            interval: interval.clamp(MIN_INTERVAL, MAX_INTERVAL),
            missed_limit: config.missed_limit.max(1),
            next_ping: now,
            last_sent: 0,
            judged: 0,
            last_answered: 0,
            confirmed: 0,
            window: [None; WINDOW],
            missed: 0,
            last_heard: now,
            belief: Belief::Reachable,
            ping: None,
            lost: None,
            back: None,
        };
        prober.handle_timeout(now);
        prober
    }

    /// The time between two pings.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Whether the peer answers.
    #[must_use]
    pub const fn is_reachable(&self) -> bool {
        matches!(self.belief, Belief::Reachable)
    }

    /// The peer has answered.
    ///
    /// # Errors
    /// [`PongError`] if the pong answers no outstanding ping; nothing has changed then.
    pub fn handle_pong(&mut self, now: Instant, sequence: i64) -> Result<RoundTrip, PongError> {
        let last_sent = self.last_sent;
        if sequence < 1 || sequence > last_sent {
            return Err(PongError::Unsolicited { sequence, last_sent });
        }
        let Some(sent) = self
            .window
            .iter_mut()
            .flatten()
            .find(|sent| sent.sequence == sequence)
        else {
            let oldest = self
                .window
                .iter()
                .flatten()
                .map(|sent| sent.sequence)
                .min()
                .unwrap_or(last_sent);
            return Err(PongError::Forgotten { sequence, oldest });
        };
        if std::mem::replace(&mut sent.answered, true) {
            return Err(PongError::Repeated { sequence });
        }
        let time = now.saturating_duration_since(sent.at);
        self.missed = 0;
        self.last_heard = now;
        self.last_answered = self.last_answered.max(sequence);
        if let Belief::Unreachable { since } = self.belief {
            self.belief = Belief::Reachable;
            self.back = Some(News::Recovered {
                after: now.saturating_duration_since(since),
            });
        }
        Ok(RoundTrip { sequence, time })
    }

    /// What came in before the last pong is stored: pings say so from now on.
    pub const fn confirm(&mut self) {
        self.confirmed = self.last_answered;
    }

    /// Judges the last ping and sends the next one, if it is time; early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_ping {
            return;
        }
        let unanswered = |sent: &Sent| !sent.answered && self.last_heard <= sent.at;
        if self
            .window
            .iter()
            .flatten()
            .find(|sent| sent.sequence == self.judged)
            .is_some_and(unanswered)
        {
            self.missed = self.missed.saturating_add(1);
        } else {
            self.missed = 0;
        }
        if self.missed >= self.missed_limit && self.is_reachable() {
            self.belief = Belief::Unreachable { since: now };
            // A recovery that nobody heard of has not happened.
            if self.back.take().is_none() {
                let silent_for = now.saturating_duration_since(self.last_heard);
                self.lost = Some(News::Unreachable {
                    missed: self.missed,
                    silent_for,
                });
            }
        }
        // Counted from now, not from when it was due: a late timer is followed by one ping, not by many.
        self.next_ping = now.checked_add(self.interval).unwrap_or(self.next_ping);
        self.ping(now);
        self.judged = self.last_sent;
    }

    /// Sends a ping beside those of every interval, because somebody has to know now; says which one is to be answered.
    pub fn probe(&mut self, now: Instant) -> i64 {
        if self.ping.is_none() {
            self.ping(now);
        }
        self.last_sent
    }

    fn ping(&mut self, now: Instant) {
        let Some(sequence) = self.last_sent.checked_add(1) else {
            return;
        };
        self.last_sent = sequence;
        let slot = usize::try_from(sequence).unwrap_or_default() % WINDOW;
        if let Some(oldest) = self.window.get_mut(slot) {
            *oldest = Some(Sent {
                sequence,
                at: now,
                answered: false,
            });
        }
        self.ping = Some(sequence);
    }

    /// When the next ping is due; there is always a next one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<ProbeTimer>> {
        Some(Deadline {
            at: self.next_ping,
            timer: ProbeTimer::Ping,
        })
    }

    /// The next piece of work or news.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<ProbeOutput> {
        let news = self
            .lost
            .take()
            .or_else(|| self.back.take())
            .map(ProbeOutput::News);
        let answered = self.confirmed;
        news.or_else(|| {
            let sequence = self.ping.take()?;
            Some(ProbeOutput::SendPing { sequence, answered })
        })
    }
}
