//! What a daemon does next about an artifact that it fetches from `ArtifactService`
//!
//! ```text
//!  Waiting ──▶ Calling ──chunks──▶ Whole ──verified──▶ settled
//!     ▲           │                  │
//!     └───────────┴──────────────────┘ cut off, stands still, damaged
//! ```
//!
//! A call that breaks is continued at the byte where it broke, however often that happens, as long as each stretch of
//! [`give_up`](TransferConfig::give_up) brings something. What turns out not to have its digest is fetched again from its first
//! byte, twice at most: a controller that notices mends its storage meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::time::{Deadline, after};

/// The most bytes of one `ArtifactChunk`. A controller sends 64 KiB to 1 MiB, and less only in the last one.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

// gRPC's numbers of the statuses that mean more than "try again": https://grpc.github.io/grpc/core/md_doc_statuscodes.html
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const DATA_LOSS: i32 = 15;
const UNAUTHENTICATED: i32 = 16;

/// How often what has come is thrown away before the transfer has failed.
const MAX_RENEWALS: u8 = 2;

/// How patient a transfer is
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferConfig {
    /// How long a call may bring nothing until it counts as broken.
    pub stall: Duration,
    /// The first pause before a call is made again; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// How long nothing may come, over all calls.
    pub give_up: Duration,
}

impl Default for TransferConfig {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
            give_up: Duration::from_secs(120),
        }
    }
}

/// The timers of a transfer
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferTimer {
    /// The pause before the next call is over.
    CallDue,
    /// The call has brought nothing for too long.
    Stalled,
}

/// Work and news, in order
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutput {
    /// Drop the call that is open, keep the first `offset` bytes and no more, and call `Fetch` from there.
    Call {
        /// How many bytes are kept.
        offset: u64,
    },
    /// All bytes are here: compare their SHA-256 and say so by [`Transfer::handle_verified`].
    Verify,
    /// It is over; nothing more comes out.
    Settled(TransferOutcome),
}

/// What came of a transfer
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// It is here, and has its digest.
    Whole,
    /// The controller does not have it any more, or does not know that it told this node to fetch it: ask for the template again.
    Gone {
        /// Its words.
        message: String,
    },
    /// It cannot be had.
    Failed(TransferFailure),
}

/// Why a transfer failed
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferFailure {
    /// The controller refuses it.
    #[error("the controller refuses it: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// Each time it was not what its digest says.
    #[error("again and again it has other bytes than its SHA-256 says: the controller's storage is damaged")]
    Damaged,
    /// Each time the controller sent what no artifact is made of.
    #[error("the controller breaks the rules of a transfer: {problem}")]
    Misbehaved {
        /// Which one.
        problem: &'static str,
    },
    /// Nothing came for too long.
    #[error("nothing of it came for {} s, the last time because: {reason}", after.as_secs())]
    Stuck {
        /// For how long.
        after: Duration,
        /// What ended the last call.
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting { until: Instant },
    Calling { heard: Instant },
    Whole,
    Over,
}

/// One artifact on its way
///
/// Call [`handle_timeout`](Self::handle_timeout) at the deadline from [`poll_timeout`](Self::poll_timeout), and drain
/// [`poll_output`](Self::poll_output) after every call.
#[derive(Clone, Debug)]
pub struct Transfer {
    config: TransferConfig,
    size: u64,
    received: u64,
    state: State,
    pause: Duration,
    /// When something came last.
    advanced: Instant,
    /// How often it was begun anew.
    renewals: u8,
    outputs: VecDeque<TransferOutput>,
}

impl Transfer {
    /// An artifact of `size` bytes, of which nothing is here; the first output is the first call.
    #[must_use]
    pub fn new(now: Instant, size: u64, config: TransferConfig) -> Self {
        Self::resumed(now, size, 0, config)
    }

    /// An artifact of `size` bytes, of which the first `received` are here from an earlier transfer; what is more than it has is none
    /// of it, and nothing is kept then. If all are here, the first output is to verify them.
    #[must_use]
    pub fn resumed(now: Instant, size: u64, received: u64, config: TransferConfig) -> Self {
        let mut transfer = Self {
            config,
            size,
            received: if received > size { 0 } else { received },
            state: State::Over,
            pause: config.first_pause,
            advanced: now,
            renewals: 0,
            outputs: VecDeque::new(),
        };
        if transfer.received == size && size > 0 {
            transfer.state = State::Whole;
            transfer.outputs.push_back(TransferOutput::Verify);
        } else {
            transfer.call(now);
        }
        transfer
    }

    /// How many bytes are here.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A chunk has come on the call that is open. Says whether it continues what is here; what does not is not to be kept.
    #[must_use]
    pub fn handle_chunk(&mut self, now: Instant, offset: i64, len: usize, last: bool) -> bool {
        if !matches!(self.state, State::Calling { .. }) {
            return false;
        }
        let Some(received) = self.continued(offset, len) else {
            self.begin_anew(
                now,
                TransferFailure::Misbehaved {
                    problem: "a chunk that does not continue the one before",
                },
            );
            return false;
        };
        if last != (received == self.size) || (len == 0 && !last) || len > MAX_CHUNK_BYTES {
            self.begin_anew(
                now,
                TransferFailure::Misbehaved {
                    problem: "a chunk that ends at another place, is empty or too large",
                },
            );
            return false;
        }
        self.received = received;
        self.advanced = now;
        self.pause = self.config.first_pause;
        self.state = State::Calling { heard: now };
        if last {
            self.state = State::Whole;
            self.outputs.push_back(TransferOutput::Verify);
        }
        true
    }

    fn continued(&self, offset: i64, len: usize) -> Option<u64> {
        let offset = u64::try_from(offset)
            .ok()
            .filter(|offset| *offset == self.received)?;
        let end = offset.checked_add(len as u64)?;
        (end <= self.size).then_some(end)
    }

    /// The call, or the connection that it needs, was cut off.
    pub fn handle_cut(&mut self, now: Instant, reason: &str) {
        if matches!(self.state, State::Calling { .. }) {
            self.wait(now, reason);
        }
    }

    /// The controller ended the call with a status that is not OK; `code` is the number that gRPC gives it.
    pub fn handle_status(&mut self, now: Instant, code: i32, message: &str) {
        if !matches!(self.state, State::Calling { .. }) {
            return;
        }
        let message = || message.to_owned();
        match code {
            NOT_FOUND | PERMISSION_DENIED => {
                self.settle(TransferOutcome::Gone { message: message() });
            }
            OUT_OF_RANGE => {
                let problem = "what it has is shorter than it said";
                self.begin_anew(now, TransferFailure::Misbehaved { problem });
            }
            DATA_LOSS => self.begin_anew(now, TransferFailure::Damaged),
            INVALID_ARGUMENT | UNIMPLEMENTED | UNAUTHENTICATED => {
                self.fail(TransferFailure::Refused { message: message() });
            }
            _ => self.wait(now, &message()),
        }
    }

    /// Whether all bytes together have the SHA-256 that the artifact is named by.
    pub fn handle_verified(&mut self, now: Instant, is_it: bool) {
        if self.state != State::Whole {
            return;
        }
        if is_it {
            self.settle(TransferOutcome::Whole);
        } else {
            self.begin_anew(now, TransferFailure::Damaged);
        }
    }

    /// Does what is due. Early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Waiting { until } if until <= now => self.call(now),
            State::Calling { heard } if after(heard, self.config.stall) <= now => {
                self.wait(now, "the call stood still");
            }
            _ => {}
        }
    }

    /// When something is due next; `None` once it is over, or while it is verified.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<TransferTimer>> {
        let (at, timer) = match self.state {
            State::Waiting { until } => (until, TransferTimer::CallDue),
            State::Calling { heard } => (after(heard, self.config.stall), TransferTimer::Stalled),
            State::Whole | State::Over => return None,
        };
        Some(Deadline { at, timer })
    }

    /// The next thing to do or to tell.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<TransferOutput> {
        self.outputs.pop_front()
    }

    fn call(&mut self, now: Instant) {
        self.state = State::Calling { heard: now };
        let offset = self.received;
        self.outputs.push_back(TransferOutput::Call { offset });
    }

    fn wait(&mut self, now: Instant, reason: &str) {
        let silent = now.saturating_duration_since(self.advanced);
        if silent >= self.config.give_up {
            let reason = reason.to_owned();
            return self.fail(TransferFailure::Stuck {
                after: silent,
                reason,
            });
        }
        let until = after(now, self.pause);
        self.pause = self.pause.saturating_mul(2).min(self.config.longest_pause);
        self.state = State::Waiting { until };
    }

    /// Throws away what is here, a few times; then it has failed.
    fn begin_anew(&mut self, now: Instant, failure: TransferFailure) {
        if self.renewals >= MAX_RENEWALS {
            return self.fail(failure);
        }
        self.renewals += 1;
        self.received = 0;
        self.call(now);
    }

    fn fail(&mut self, failure: TransferFailure) {
        self.settle(TransferOutcome::Failed(failure));
    }

    fn settle(&mut self, outcome: TransferOutcome) {
        self.state = State::Over;
        self.outputs.push_back(TransferOutput::Settled(outcome));
    }
}
