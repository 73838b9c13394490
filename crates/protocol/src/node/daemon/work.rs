//! What a daemon's node machine wants done

use std::sync::Arc;

use prexorcloud_proto::{CrashReport, StartInstance};
use std::time::Duration;

use super::Attempt;
use crate::id::{Incarnation, InstanceId};
use crate::instance::Limits;
use crate::session::daemon::{StartRejection, StatusReport};
use crate::verdict::StopMode;

/// Work for the application, to be done in order
///
/// `L` is what a preparation made for its launch; see [`Prepared`](super::Prepared).
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum DaemonWork<L> {
    /// Prepare an instance. Answer with [`handle_prepared`](super::DaemonNode::handle_prepared) or
    /// [`handle_preparation_failed`](super::DaemonNode::handle_preparation_failed).
    Prepare {
        /// Which attempt it is for.
        attempt: Attempt,
        /// The order.
        start: Box<StartInstance>,
        /// The deadlines that hold for what it starts. `STARTING` has one only where the controller understands that this
        /// daemon [keeps it](crate::peer::ControllerPeer::wants_startup_deadline).
        limits: Limits,
    },
    /// Give a preparation up. No answer is needed; a late one changes nothing.
    CancelPreparation {
        /// Which attempt it was for.
        attempt: Attempt,
    },
    /// Start the process. Answer with [`handle_launched`](super::DaemonNode::handle_launched) or
    /// [`handle_launch_failed`](super::DaemonNode::handle_launch_failed); it cannot be taken back.
    Launch {
        /// Which attempt it is for.
        attempt: Attempt,
        /// What the preparation made.
        launch: L,
    },
    /// Stop the process. Its end is the answer, or [`handle_stop_failed`](super::DaemonNode::handle_stop_failed).
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// How; force overtakes grace.
        mode: StopMode,
    },
    /// Write a crash report durably. Answer with [`handle_spooled`](super::DaemonNode::handle_spooled) or
    /// [`handle_spool_failed`](super::DaemonNode::handle_spool_failed): nothing is told of the crash before.
    Spool {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it was.
        incarnation: Incarnation,
        /// The report.
        report: Arc<CrashReport>,
    },
    /// Report what is true of an instance: [`DaemonSession::report`](crate::DaemonSession::report).
    Report(StatusReport),
    /// Acknowledge a start: [`DaemonSession::start_accepted`](crate::DaemonSession::start_accepted).
    AcceptStart {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The hash of the plan that was carried out.
        plan_hash: String,
    },
    /// Refuse a start: [`DaemonSession::start_rejected`](crate::DaemonSession::start_rejected).
    RejectStart {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// Why.
        rejection: StartRejection,
    },
    /// Acknowledge a stop, or refuse it: [`DaemonSession::stop_acknowledged`](crate::DaemonSession::stop_acknowledged).
    AcknowledgeStop {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// That it is gone, or why the stop could not be carried out.
        result: Result<(), String>,
    },
    /// Hand a crash report to the session: [`DaemonNode::tell_crash`](super::DaemonNode::tell_crash).
    TellCrash {
        /// The report.
        report: Arc<CrashReport>,
        /// Where it is kept until it is confirmed.
        kept: Kept,
    },
    /// Hand every report on disk to the session, which had too many before:
    /// [`DaemonNode::tell_crash`](super::DaemonNode::tell_crash) for each.
    TellSpooledCrashes,
    /// Delete a crash report that a controller has. The id comes from the controller: check it before it names a file.
    ForgetCrash {
        /// The report.
        report_id: String,
    },
    /// Let go of an end that has surely been heard, or that a new start of the id needs out of its way. Answer with
    /// [`handle_settled`](super::DaemonNode::handle_settled).
    Settle {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it was.
        incarnation: Incarnation,
    },
    /// Acknowledge the order to shut the node down:
    /// [`DaemonSession::acknowledge_shutdown`](crate::DaemonSession::acknowledge_shutdown).
    AcknowledgeShutdown {
        /// How many instances there are, those on their way included.
        running: u32,
        /// How long it may take until they have ended.
        estimated_drain: Duration,
    },
    /// The node has been shut down: nothing runs any more. The last work there is, once.
    Finish {
        /// The operator's reason.
        reason: String,
    },
}

/// Where a crash report is kept until a controller has it
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// On disk.
    OnDisk,
    /// Only in memory, as it could not be written. The end itself stays unsettled until the report is confirmed, so a
    /// daemon that is killed tells it again.
    InMemory,
}

/// The timers of a daemon's node machine
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DaemonNodeTimer {
    /// A preparation has taken too long.
    Preparation,
    /// A start has waited too long for its id.
    Release,
}
