//! What a controller's node machine wants done

use std::sync::Arc;
use std::time::Instant;

use prexorcloud_proto::{CrashReport, StartInstance, controller_message};

use super::{CommitId, OrderId, StreamId};
use crate::handshake::controller::Hello;
use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{Desired, State};
use crate::roster::InstanceEvent;
use crate::session::Close;
use crate::session::controller::{Admission, ControllerSession, CrashStanding, Objection};
use crate::trace::TraceParent;
use crate::verdict::{DeniedReason, StopMode};

/// Work for the application, to be done in order
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum ControllerWork {
    /// Record that the node was seen, and find out what its admission needs. Answer with
    /// [`handle_admission`](super::ControllerNode::handle_admission), which takes the handshake back, or
    /// [`handle_admission_failed`](super::ControllerNode::handle_admission_failed).
    Admit {
        /// The handshake.
        hello: Box<Hello>,
    },
    /// Accept the stream: [`ControllerSession::accept`](crate::ControllerSession::accept). Its session's events say what
    /// became of it.
    Accept {
        /// The handshake; [`hello.stream`](Hello::stream) says on which stream.
        hello: Box<Hello>,
        /// The answer to it.
        admission: Admission,
    },
    /// End a stream: [`ControllerSession::close_with`](crate::ControllerSession::close_with).
    Close {
        /// The stream.
        stream: StreamId,
        /// How.
        close: Close,
    },
    /// Ask the daemon for a sign of life: [`ControllerSession::probe`](crate::ControllerSession::probe).
    Probe {
        /// The stream.
        stream: StreamId,
    },
    /// Two daemons that may not be the same one have the identity of this node. Nothing has to be done about it, but an
    /// operator has to know: both streams are still there to be named.
    Contested {
        /// The stream that counts.
        holder: StreamId,
        /// The one that came in.
        challenger: StreamId,
        /// Whether both have said which process they are, so that they are known to be two.
        is_another: bool,
        /// What came of it.
        outcome: Contest,
    },
    /// Send a message: [`ControllerSession::send_traced`](crate::ControllerSession::send_traced).
    Send {
        /// The stream.
        stream: StreamId,
        /// The message.
        payload: controller_message::Payload,
        /// The trace that it belongs to.
        trace: Option<TraceParent>,
    },
    /// Tell the daemon of a mistake: [`ControllerSession::object`](crate::ControllerSession::object).
    Object {
        /// The stream.
        stream: StreamId,
        /// What was wrong.
        objection: Objection,
    },
    /// Write these changes, all or none, so that they survive this process. Answer with
    /// [`handle_committed`](super::ControllerNode::handle_committed) or
    /// [`handle_commit_failed`](super::ControllerNode::handle_commit_failed): what depends on them waits.
    Commit(Commit),
    /// An order has been carried out as far as this side is concerned, or has not.
    Answer {
        /// The order.
        order: OrderId,
        /// What became of it.
        result: Result<OrderOutcome, OrderRefusal>,
    },
    /// Something happened to an instance; nothing has to be done about it. None is ever lost, so never
    /// [`Lagged`](InstanceEvent::Lagged).
    News(InstanceEvent),
    /// A drain has come to its end. Record that, and say so with
    /// [`handle_drain_recorded`](super::ControllerNode::handle_drain_recorded).
    Drained,
}

impl ControllerWork {
    /// The stream whose session does this; `None` for what the application does.
    #[must_use]
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Accept { hello, .. } => Some(hello.stream.stream()),
            Self::Close { stream, .. }
            | Self::Probe { stream }
            | Self::Send { stream, .. }
            | Self::Object { stream, .. } => Some(*stream),
            Self::Contested { .. }
            | Self::Admit { .. }
            | Self::Commit(_)
            | Self::Answer { .. }
            | Self::News(_)
            | Self::Drained => None,
        }
    }

    /// Lets a session do what is for its stream, and gives back what is not
    ///
    /// A session that cannot says why in its events, sooner or later: its stream has ended, or ends.
    pub fn hand_to(self, now: Instant, session: &mut ControllerSession) -> Option<Self> {
        if self.stream() != Some(session.stream()) {
            return Some(self);
        }
        match self {
            Self::Accept { hello, admission } => {
                let _ = session.accept(now, hello, admission);
            }
            Self::Close { close, .. } => session.close_with(close),
            Self::Probe { .. } => session.probe(now),
            Self::Send { payload, trace, .. } => {
                let _ = session.send_traced(payload, trace);
            }
            Self::Object { objection, .. } => session.object(now, objection),
            other => return Some(other),
        }
        None
    }
}

/// What came of a newcomer that may be another daemon than the one that is there
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contest {
    /// The daemon that was there has answered, and stays; the newcomer is turned away.
    Kept,
    /// The daemon that was there does not answer; the newcomer takes its place as soon as it is admitted.
    Replaced,
}

/// Changes that belong together
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// Its name in the answer.
    pub id: CommitId,
    /// What changes.
    pub changes: Vec<Change>,
}

/// One change of what is recorded
///
/// Every change can be repeated without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An id is started anew. It must not be recorded alive, and its incarnation must be new; else the commit fails with
    /// [`CommitFailure::Conflict`].
    Start(Box<StartInstance>),
    /// What is known of an instance. A record of a later incarnation stays as it is.
    Instance(InstanceSnapshot),
    /// The instance is to be known no more.
    Forget {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it was.
        incarnation: Incarnation,
    },
    /// A crash report, once per [`report_id`](CrashReport::report_id).
    Crash {
        /// The report.
        report: Arc<CrashReport>,
        /// What it is about.
        standing: CrashStanding,
    },
}

/// An instance, as it is to be recorded
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSnapshot {
    /// The instance.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id it is; unknown for one that a Java daemon brought.
    pub incarnation: Incarnation,
    /// Its port; 0 if unknown.
    pub port: u16,
    /// Its state.
    pub state: State,
    /// What is wanted of it.
    pub desired: Desired,
    /// Its end was only inferred: when it is listed alive again, it is taken back.
    pub lost: bool,
    /// What went wrong with it, if something did since the last snapshot.
    pub note: Option<String>,
}

/// Why changes were not written
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitFailure {
    /// Somebody else changed what they were built on; writing them again does not help.
    #[error("{0}")]
    Conflict(String),
    /// The storage failed; it may recover.
    #[error("{0}")]
    Storage(String),
}

/// What an order came to
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderOutcome {
    /// The start is recorded, and leaves as soon as it can.
    Started,
    /// The wish to stop is recorded, and leaves as soon as it can.
    Stopping(StopMode),
    /// There is nothing to stop.
    AlreadyEnded,
    /// The instance is known no more.
    Forgotten,
    /// The instance counts as ended, and is recorded so.
    GivenUp,
}

/// Why an order was not carried out
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderRefusal {
    /// What is known of the instance forbids it.
    #[error(transparent)]
    Denied(#[from] DeniedReason),
    /// The order is for a node that is away, and this one is here: its daemon says itself what runs.
    #[error("the node is connected: stop the instance instead")]
    Connected,
    /// It could not be recorded, so nothing was done; only an instance that was given up stays so, and is recorded when the
    /// storage can.
    #[error(transparent)]
    NotRecorded(#[from] CommitFailure),
    /// Too many orders wait for the storage.
    #[error("{limit} orders wait for the storage already")]
    Busy {
        /// How many may.
        limit: usize,
    },
}
