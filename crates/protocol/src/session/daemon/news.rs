//! What a daemon's session tells its application, and is told by it

use std::time::Duration;

#[cfg(doc)]
use super::DaemonSession;
use crate::handshake::daemon::{Connected, HandshakeFailure};
use crate::id::{Epoch, GroupName, Incarnation, InstanceId};
use crate::instance::State;
use crate::outbox::Overflow;
#[cfg(doc)]
use crate::session::Session;
use crate::session::{Anomaly, wire_seconds};
use crate::trace::TraceParent;
use crate::verdict::StopMode;
use prexorcloud_proto::{
    ModuleInstall, ModuleUninstall, StartFailureDisposition, StartInstance, StartInstanceAck,
    StartPreparationStage, controller_message,
};

/// An order to start an instance: fenced, valid and not a repetition
#[derive(Clone, Debug, PartialEq)]
pub struct StartOrder {
    /// The instance, entered in the table as scheduled.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id this is.
    pub incarnation: Incarnation,
    /// The whole message.
    pub start: Box<StartInstance>,
    /// The trace that the order belongs to.
    pub trace: Option<TraceParent>,
}

/// News for the daemon's application
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DaemonEvent {
    /// A controller admitted the node.
    Connected(Connected),
    /// Start an instance. Answer with [`start_accepted`](DaemonSession::start_accepted) or
    /// [`start_rejected`](DaemonSession::start_rejected), and report its states.
    Start(StartOrder),
    /// Stop an instance that is hosted and alive. Answer with
    /// [`stop_acknowledged`](DaemonSession::stop_acknowledged), and report its states.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// How.
        mode: StopMode,
        /// The trace that the order belongs to.
        trace: Option<TraceParent>,
    },
    /// Write a line to an instance's console.
    Command {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The line, without a line break.
        line: String,
        /// By which it is answered with [`command_written`](DaemonSession::command_written); `None` = not at all.
        id: Option<u64>,
        /// The trace that the command belongs to.
        trace: Option<TraceParent>,
    },
    /// The plugin inside of a server that starts says that it is ready. What follows from it is
    /// [reported](DaemonSession::report) as if it had been seen.
    PluginReady {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
    },
    /// Stop everything and exit. Answer with [`acknowledge_shutdown`](DaemonSession::acknowledge_shutdown).
    Shutdown {
        /// The operator's reason.
        reason: String,
    },
    /// A crash report has been stored by the controller (or, by a Java controller, been put on the wire): forget it.
    CrashReportAcknowledged {
        /// The report.
        report_id: String,
    },
    /// A controller has stored that an instance ended; once per telling. One that does not
    /// [confirm receipt](crate::peer::ControllerPeer::confirms_receipt) is believed to at the ping after the telling.
    EndHeard {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it was.
        incarnation: Incarnation,
    },
    /// Every console line of this start that was sent with a number up to this one has arrived. What has not when a
    /// stream ends is to be told again by an application that has it still.
    ConsoleArrived {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The number.
        sequence: u64,
    },
    /// The controller wants a module installed, or another version of it; valid by the contract's rules.
    InstallModule {
        /// The order.
        order: Box<ModuleInstall>,
        /// The trace it belongs to.
        trace: Option<TraceParent>,
    },
    /// The controller wants a module removed; valid by the contract's rules.
    UninstallModule {
        /// The order.
        order: ModuleUninstall,
        /// The trace it belongs to.
        trace: Option<TraceParent>,
    },
    /// Any other request of the controller, valid by the contract's rules.
    Request(controller_message::Payload),
    /// A `NodeStatus` is due; [`send`](DaemonSession::send) one.
    NodeStatusDue,
    /// A newer controller is obeyed from now on: write the epoch down for good, without keeping the session waiting, and
    /// answer with [`fence_written`](DaemonSession::fence_written) or
    /// [`fence_not_written`](DaemonSession::fence_not_written). Commands under it wait for the answer; there is one
    /// such event at a time, and the newest epoch is in the next.
    FenceRaised(Epoch),
    /// The peer did something that was ignored; log it.
    Ignored(Anomaly),
    /// The stream ended. Comes exactly once for each call of [`handle_connected`](Session::handle_connected).
    Disconnected(DaemonOutcome),
}

/// Why a stream ended, and so what to do next
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonOutcome {
    /// The stream ended without a reason of ours. Dial again.
    #[error("the stream ended")]
    StreamEnded {
        /// Whether the session was established before.
        established: bool,
    },
    /// The handshake did not lead to a session.
    #[error(transparent)]
    Handshake(#[from] HandshakeFailure),
    /// Nothing came from the controller for three intervals. Dial again.
    #[error("the controller has been silent for {} s", silent_for.as_secs())]
    ControllerSilent {
        /// How long.
        silent_for: Duration,
    },
    /// The controller reads too slowly. Dial again.
    #[error("the controller reads too slowly: {0}")]
    SlowPeer(#[from] Overflow),
    /// The controller sent a second acknowledgement.
    #[error("the controller acknowledged the handshake twice")]
    AcknowledgedTwice,
    /// This side ended the session as planned.
    #[error("this daemon ended the session")]
    ShutDown,
}

impl DaemonOutcome {
    /// Whether a session had been established; resets the reconnect back-off.
    #[must_use]
    pub const fn reached_established(&self) -> bool {
        match self {
            Self::StreamEnded { established } => *established,
            Self::Handshake(_) => false,
            Self::ControllerSilent { .. } | Self::SlowPeer(_) | Self::AcknowledgedTwice | Self::ShutDown => {
                true
            }
        }
    }
}

/// What the supervisor saw of an instance
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of the id it is.
    pub incarnation: Incarnation,
    /// What is true of it now.
    pub state: State,
    /// The players on it; 0 if unknown.
    pub player_count: u32,
    /// How long its process has been running.
    pub uptime: Duration,
}

impl StatusReport {
    /// A state and nothing else: no players, no uptime.
    #[must_use]
    pub const fn new(instance: InstanceId, incarnation: Incarnation, state: State) -> Self {
        Self {
            instance,
            incarnation,
            state,
            player_count: 0,
            uptime: Duration::ZERO,
        }
    }
}

/// Why an instance could not be started
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRejection {
    /// The stage that failed.
    pub stage: StartPreparationStage,
    /// A stable code, for instance `RUNTIME_PROVISION_FAILED`.
    pub error_code: String,
    /// A sentence with the root cause.
    pub message: String,
    /// Whether trying again can help.
    pub disposition: StartFailureDisposition,
    /// When to try again; zero if that cannot help.
    pub retry_after: Duration,
    /// The hash of the plan that was tried; may be empty.
    pub plan_hash: String,
}

impl StartRejection {
    /// When to ask again for a start that failed for a passing reason.
    pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

    pub(super) fn into_ack(self, instance_id: &str, incarnation: u64) -> StartInstanceAck {
        StartInstanceAck {
            instance_id: instance_id.to_owned(),
            accepted: false,
            error_message: self.message,
            plan_hash: self.plan_hash,
            stage: self.stage as i32,
            error_code: self.error_code,
            failure_disposition: self.disposition as i32,
            retry_after_seconds: wire_seconds(self.retry_after),
            incarnation,
        }
    }
}
