//! What a controller's session tells its application, and is told by it

use std::time::Duration;

use prexorcloud_proto::{
    CacheStatus, CertificateRequest, CommandWritten, ConsoleOutput, CrashReport, DaemonLogRecord,
    ErrorReport, EventSubscribe, EventUnsubscribe, InstanceFileContent, InstanceFileTree,
    InstanceStatusUpdate, ModuleSnapshot, ModuleStateUpdate, NodeStatus, ShutdownNodeAck, StartInstanceAck,
    StopInstanceAck, TemplateRequest, TrustedAuthorities,
};

#[cfg(doc)]
use super::ControllerSession;
use crate::handshake::controller::{Hello, Refusal};
use crate::id::{Epoch, InstanceId};
use crate::outbox::Overflow;
use crate::reconcile::GroupPolicy;
use crate::session::{Anomaly, Close};
use crate::validate::Invalid;
use crate::verdict::DeniedReason;

/// The application's yes to a handshake
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// A name for this session, for logs at both ends.
    pub session_id: String,
    /// The epoch of this controller's leadership; stamped on every message.
    pub epoch: Epoch,
    /// The HTTP port; 0 if there is none.
    pub controller_api_port: u16,
    /// The gRPC addresses (`host:port`) of all controllers, for the daemon's later reconnects.
    pub controller_grpc_addrs: Vec<String>,
    /// The instances that this controller knows to run on other nodes; a copy found here is stopped.
    pub elsewhere: Vec<InstanceId>,
    /// Which unknown instances are adopted.
    pub groups: GroupPolicy,
}

/// How a crash report relates to what the controller knows
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashStanding {
    /// It is about the present use of the instance id, which is crashed now.
    Current,
    /// It is about an earlier use, or an instance that is not known any more. Store it; it changes nothing else.
    Past,
}

/// What a daemon asks, or answers, beyond the life of the session and its instances
///
/// The session has checked the fields, and knows no more about it; each is for a handler of its own.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DaemonRequest {
    /// The daemon wants a template.
    Template(TemplateRequest),
    /// The daemon's caches.
    Cache(Box<CacheStatus>),
    /// The state of a module on the node.
    Module(ModuleStateUpdate),
    /// All modules on the node.
    Modules(ModuleSnapshot),
    /// The daemon wants events.
    EventSubscribe(EventSubscribe),
    /// The daemon wants events no more.
    EventUnsubscribe(EventUnsubscribe),
    /// The daemon wants another certificate.
    Certificate(CertificateRequest),
    /// Which authorities the daemon believes.
    Authorities(TrustedAuthorities),
    /// The answer to a walk through an instance's files.
    FileTree(InstanceFileTree),
    /// The answer to a read of an instance's file.
    FileContent(InstanceFileContent),
}

impl From<DaemonRequest> for ControllerEvent {
    fn from(request: DaemonRequest) -> Self {
        Self::Request(request)
    }
}

/// News for the controller's application
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// A valid, compatible handshake. Answer with [`accept`](ControllerSession::accept),
    /// [`redirect`](ControllerSession::redirect) or [`close_with`](ControllerSession::close_with).
    Hello(Box<Hello>),
    /// The node is admitted.
    Established,
    /// The daemon reports a state.
    Status(InstanceStatusUpdate),
    /// The daemon answers a start.
    StartAck(Box<StartInstanceAck>),
    /// The daemon answers a stop.
    StopAck(StopInstanceAck),
    /// The node's load.
    NodeStatus(NodeStatus),
    /// A console line.
    Console(ConsoleOutput),
    /// A crash. The daemon keeps its report until it is acknowledged.
    Crash(Box<CrashReport>),
    /// There is room for starts and stops again, after [`take_orders`](ControllerSession::take_orders) had to leave some.
    HasRoom,
    /// A log record of the daemon.
    Log(Box<DaemonLogRecord>),
    /// Anything that is not about the life of the session or its instances.
    Request(DaemonRequest),
    /// The daemon reports an error that did not end the stream.
    DaemonError(ErrorReport),
    /// The daemon begins to shut down.
    ShutdownAcknowledged(ShutdownNodeAck),
    /// The node does not answer pings. The stream goes on: whether to end it is the application's decision.
    Unreachable {
        /// How many pings in a row went unanswered.
        missed: u32,
        /// How long ago the last sign of life was: an answered ping, or the beginning of the session.
        silent_for: Duration,
    },
    /// What became of a command that has a number.
    CommandWritten(CommandWritten),
    /// The node answers again.
    Recovered {
        /// How long it had been unreachable.
        after: Duration,
    },
    /// The daemon has answered a [probe](ControllerSession::probe).
    Answered,
    /// The daemon did something that was ignored; log it.
    Ignored(Anomaly),
    /// The stream ended, or must end. Comes exactly once, and last.
    Closed(ControllerOutcome),
}

/// A mistake of the daemon's in what it says of its instances
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What was wrong, and is ignored.
    pub anomaly: Anomaly,
    /// Under which [code](crate::session::error_code) the daemon is told; `None` if it is not.
    pub code: Option<&'static str>,
    /// What it was about, for instance an instance's id.
    pub context: String,
}

/// Why a controller's session ended
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerOutcome {
    /// The daemon, or the network, ended the stream.
    #[error("the stream ended")]
    StreamEnded,
    /// The stream never became a session.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The application refused the node, or ended the session.
    #[error("this controller ended the session: {0}")]
    Ended(Close),
    /// The daemon was sent to another controller.
    #[error("redirected to {to}")]
    Redirected {
        /// The leader's address, as `host:port`.
        to: String,
    },
    /// The daemon reads too slowly.
    #[error("the daemon reads too slowly: {0}")]
    SlowPeer(#[from] Overflow),
}

/// Why a console command was not sent
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The node has no session now.
    #[error("the node is not connected")]
    NotConnected,
    /// The instance cannot take a command.
    #[error(transparent)]
    Denied(#[from] DeniedReason),
    /// The command itself is not acceptable.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
