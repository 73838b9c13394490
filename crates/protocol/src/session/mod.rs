//! Whole sessions: every machine of this crate, composed for one side of the stream
//!
//! [`DaemonSession`](daemon::DaemonSession) lives as long as its daemon and sees one stream after the other.
//! [`ControllerSession`](controller::ControllerSession) lives as long as one stream; what it hears about instances goes to
//! the [`ControllerNode`](crate::node::ControllerNode), which outlives it.
//!
//! A driver owns the stream and the clock. Its turn has a fixed order: expired timers, then [`Session::poll_transmit`]
//! and [`Session::poll_event`] until both are empty, then exactly one new input. [The crate's page](crate) shows one, and
//! `prexorcloud-transport` has the async one for gRPC.
//!
//! # What a peer can cost
//! Whatever a peer says, and however often: of its mistakes 32 are told and answered, and one more with every second; of
//! what changes nothing (a repeated or refused order, a refused request) [`ANSWERS_AT_ONCE`] are answered, and one more
//! with every [`ANSWERS_INTERVAL`]; pings likewise, [`PINGS_AT_ONCE`]. The rest is counted as a mistake. No order that
//! takes effect is held back by it.

pub(crate) mod budget;
pub mod controller;
pub mod daemon;
pub mod error_code;
pub mod kind;

use std::fmt;
use std::time::{Duration, Instant};

pub use crate::outbox::{Bound, Bounds, Class, Overflow};
use crate::time::Deadline;
use crate::validate::Invalid;

/// What a driver needs from either side's session
///
/// Nothing here fails: what a peer does wrong comes out as an event, or as [`close`](Self::close). Times are the driver's
/// own clock, which must never go back.
pub trait Session {
    /// The envelope that the peer sends.
    type Incoming;
    /// The envelope that this side sends.
    type Outgoing;
    /// News for the application.
    type Event;
    /// The reasons for a wake-up.
    type Timer: Copy + fmt::Debug;

    /// A stream is open: call this before anything else is said about it. A daemon's session queues its handshake, a
    /// controller's starts to wait for one.
    fn handle_connected(&mut self, now: Instant);

    /// A message arrived, decoded. [`Received::from`] makes one of a message that the codec knew as a whole.
    fn handle_message(&mut self, now: Instant, received: Received<Self::Incoming>);

    /// A deadline may have passed. Early and repeated calls are harmless.
    fn handle_timeout(&mut self, now: Instant);

    /// The stream is gone, for whatever reason. Repeated calls are harmless.
    fn handle_disconnected(&mut self, now: Instant);

    /// The next message for the wire. Ask when there is room for one.
    #[must_use]
    fn poll_transmit(&mut self) -> Option<Self::Outgoing>;

    /// The next piece of news, in the order in which it happened.
    #[must_use]
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// The earliest armed timer. May move after any other call.
    #[must_use]
    fn poll_timeout(&self) -> Option<Deadline<Self::Timer>>;

    /// Why the session wants the stream ended. Write what [`poll_transmit`](Self::poll_transmit) still has, then end it.
    fn close(&self) -> Option<&Close>;

    /// How many events wait. A driver stops reading while there are more than [`EVENTS_HIGH_WATER`].
    fn events_pending(&self) -> usize;
}

/// A decoded envelope, and the oneof variant that this build does not know
///
/// An unknown variant decodes as no payload at all, like an empty envelope. The codec still has the bytes and names
/// the field number, so that the session can count it and say so once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Received<M> {
    /// The envelope. Fields beside the payload (epoch, traceparent) are honoured also where the payload is unknown.
    pub message: M,
    /// The field number of the payload variant that this build does not know.
    pub unknown_variant: Option<u32>,
    /// Why the payload was not decoded: it is beyond what its [row](crate::payload::Kind) allows. `message` has what was
    /// beside it.
    pub refused: Option<Refused>,
}

/// A payload that was judged by its size alone, and not decoded
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name of the message, as the contract spells it.
    pub name: &'static str,
    /// The limit that it exceeds.
    pub invalid: Invalid,
}

impl<M> From<M> for Received<M> {
    fn from(message: M) -> Self {
        Self {
            message,
            unknown_variant: None,
            refused: None,
        }
    }
}

/// Why a stream is ended, as the peer sees it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The gRPC status.
    pub code: Code,
    /// A sentence for the operator at the other end.
    pub message: String,
    /// When the peer should come again, where this side knows better than its back-off. Additive: who does not know it
    /// waits as always.
    pub retry_after: Option<Duration>,
}

impl Close {
    /// A close with a sentence for the operator at the other end.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same, with the time after which the peer should come again.
    #[must_use]
    pub fn again_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

/// The gRPC status codes that a session uses
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The session ended as planned.
    Ok,
    /// The operation was cancelled by this side.
    Cancelled,
    /// A field breaks a rule of the contract.
    InvalidArgument,
    /// The peer did not do something in time.
    DeadlineExceeded,
    /// The certificate does not allow what the peer claims.
    PermissionDenied,
    /// The peer is too slow, or asks for too much.
    ResourceExhausted,
    /// The message does not fit the state of the session.
    FailedPrecondition,
    /// A newer session took over.
    Aborted,
    /// This controller cannot serve now; another may.
    Unavailable,
}

/// Why a message was not taken for sending
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No handshake has been completed on a stream that is open now.
    #[error("not connected")]
    NotConnected,
    /// The session is ending its stream.
    #[error("the session is closing")]
    Closing,
    /// The class is full. For reports and bulk, keep the message and try again.
    #[error(transparent)]
    Full(#[from] Overflow),
    /// The message exceeds the largest that a peer accepts.
    #[error("the message has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The message breaks a rule of the contract.
    #[error("the message breaks the contract: {0}")]
    Invalid(#[from] Invalid),
    /// The session makes messages of this kind itself.
    #[error("{0} messages are made by the session itself; use its method for them")]
    Reserved(&'static str),
}

impl SendError {
    /// The class that was full, if that is why.
    #[must_use]
    pub const fn full_class(&self) -> Option<Class> {
        match self {
            Self::Full(overflow) => Some(overflow.class),
            _ => None,
        }
    }
}

/// Something a peer did that was ignored, for the log
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Anomaly {
    /// A oneof variant that this build does not know; reported once per tag and stream.
    #[error("the peer sent a message of the unknown kind {tag}; it is ignored, and so are further ones")]
    UnknownVariant {
        /// The field number of the variant.
        tag: u32,
    },
    /// An envelope without payload.
    #[error("the peer sent an empty message")]
    EmptyEnvelope,
    /// A message that breaks a rule; the peer was told.
    #[error("the peer sent an invalid message: {0}")]
    Invalid(#[from] Invalid),
    /// A command of a superseded controller; the peer was told.
    #[error(transparent)]
    Stale(#[from] crate::fence::StaleEpoch),
    /// A message with an epoch that nobody can have; the peer was told.
    #[error(transparent)]
    EpochOutOfRange(#[from] crate::fence::EpochOutOfRange),
    /// A pong that answers no outstanding ping.
    #[error(transparent)]
    Pong(#[from] crate::heartbeat::PongError),
    /// A message that is not allowed at this point; the peer was told.
    #[error("the peer sent {what} at the wrong time")]
    OutOfPlace {
        /// The kind of message.
        what: &'static str,
    },
    /// An observation of an instance that this node does not have; the peer was told.
    #[error("the peer reported {what} for an instance that is not on its node")]
    UnknownInstance {
        /// The kind of message.
        what: &'static str,
    },
    /// An order that cannot be carried out; the peer was told.
    #[error("{what}: {reason}")]
    Denied {
        /// The kind of message.
        what: &'static str,
        /// Why not.
        reason: crate::verdict::DeniedReason,
    },
    /// An observation of an earlier incarnation.
    #[error("the peer reported {what} of an earlier incarnation")]
    StaleInstance {
        /// The kind of message.
        what: &'static str,
    },
    /// An observation that the transition table forbids.
    #[error("the peer reported {input:?} for an instance that is {state}")]
    IllegalTransition {
        /// The state believed in.
        state: crate::instance::State,
        /// What was observed.
        input: crate::instance::Input,
    },
    /// More than is answered that changes nothing; this one was not.
    #[error("the peer repeats itself: {what} is not answered any more for now")]
    Flood {
        /// The kind of message.
        what: &'static str,
    },
    /// The peer answered one of our messages with an error.
    #[error("the peer refused one of our messages; see the error report")]
    Refused,
}

impl From<crate::fence::EpochRefused> for Anomaly {
    fn from(refused: crate::fence::EpochRefused) -> Self {
        match refused {
            crate::fence::EpochRefused::Stale(stale) => stale.into(),
            crate::fence::EpochRefused::OutOfRange(given) => given.into(),
        }
    }
}

/// The tags of unknown variants already reported on a stream, so each is reported once
#[derive(Clone, Debug, Default)]
pub(crate) struct UnknownVariants {
    reported: Vec<u32>,
    count: u64,
}

impl UnknownVariants {
    /// More distinct tags than this on one stream are counted, not reported.
    const MAX_REPORTED: usize = 64;

    /// Counts one occurrence; says whether it is the first of its tag.
    pub(crate) fn note(&mut self, tag: u32) -> bool {
        self.count += 1;
        if self.reported.contains(&tag) || self.reported.len() >= Self::MAX_REPORTED {
            return false;
        }
        self.reported.push(tag);
        true
    }

    /// Another stream begins: each tag is new again, the count goes on.
    pub(crate) fn begin_stream(&mut self) {
        self.reported.clear();
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }
}

/// Whole milliseconds of a duration for the wire, at most `i64::MAX`.
pub(crate) fn wire_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whole seconds of a duration for the wire, rounded up, at most `i32::MAX`.
pub(crate) fn wire_seconds(duration: Duration) -> i32 {
    let rounded_up = duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0));
    i32::try_from(rounded_up).unwrap_or(i32::MAX)
}

/// How many messages that change nothing are answered at once on one stream: as many as a node has instances.
pub const ANSWERS_AT_ONCE: u32 = 4_096;
/// How long it takes until one more of them is answered.
pub const ANSWERS_INTERVAL: Duration = Duration::from_millis(100);
/// How many pings are answered at once on one stream, and one more with every [`ANSWERS_INTERVAL`].
pub const PINGS_AT_ONCE: u32 = 64;

/// The number of waiting events above which a driver stops reading from the peer.
pub const EVENTS_HIGH_WATER: usize = 1_024;
