//! What the roster tells the application, and what it wants on the wire

use std::time::Duration;

use prexorcloud_proto::{StartInstance, StopInstance};

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{self, Cause, Desired, State};
use crate::ledger::{self, StartFailure};
use crate::reconcile::OrphanReason;
use crate::verdict::StopMode;

/// What has happened to an instance
///
/// Events of one instance come in the order in which things happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceEvent {
    /// The state has changed.
    Changed {
        /// The instance.
        instance: InstanceId,
        /// Its group.
        group: GroupName,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why.
        cause: Cause,
        /// Its port; 0 if unknown.
        port: u16,
        /// Players online.
        player_count: i32,
        /// How long the process had been running at the last report.
        uptime: Duration,
    },
    /// What a daemon counts of an instance whose state is the same as before.
    Counted {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// Players online.
        player_count: i32,
        /// How long the process had been running.
        uptime: Duration,
    },
    /// It had ended, and is known no more: it made room for what ended later.
    Forgotten {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it was.
        incarnation: Incarnation,
    },
    /// A daemon has brought more instances that nobody knew than a node may: so many were left alone.
    NotAdopted {
        /// How many.
        count: usize,
    },
    /// The daemon's list has entries that make no sense and were ignored: an unsafe id, an incarnation that was never ordered,
    /// the same start once more.
    Misreported {
        /// How many.
        count: usize,
    },
    /// The daemon has taken a start on.
    StartAccepted {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The composition plan that the daemon works by; empty if it does not say.
        plan_hash: String,
    },
    /// A start was rejected, or not answered, and goes out again.
    StartRetrying {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The number of the attempt to come; the first one was 1.
        attempt: u32,
        /// When it follows.
        after: Duration,
        /// What was wrong with the last one.
        failure: StartFailure,
    },
    /// A start has failed for good; the instance is `CRASHED`.
    StartFailed {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// What was wrong with the last attempt.
        failure: StartFailure,
    },
    /// The daemon refused a stop. The instance runs on and stays `STOPPING`; the stop goes out again. The incarnation may be an
    /// orphan's.
    StopRefused {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// How often it has been refused on this stream, and one.
        attempt: u32,
        /// When it follows.
        after: Duration,
        /// Why, in the daemon's words; empty if it does not say.
        message: String,
    },
    /// The daemon did not answer a stop, though it was told `1 + RETRIES` times. A late answer still counts; without one, the
    /// verdict of its deadline follows.
    StopUnanswered {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
    },
    /// The daemon runs an instance that was not known here. It is now, and has to be recorded.
    Adopted {
        /// The instance.
        instance: InstanceId,
        /// Its group.
        group: GroupName,
        /// Which start of the id it is; unknown for a Java daemon.
        incarnation: Incarnation,
        /// Its state.
        state: State,
        /// Its port; 0 if unknown.
        port: u16,
    },
    /// The daemon runs an instance that is not wanted there; it is being stopped.
    OrphanStopped {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// Why it is not wanted.
        reason: OrphanReason,
    },
    /// The start took too long; the instance is being killed.
    StartupTimedOut {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// How long it was given.
        limit: Duration,
    },
    /// A stop took too long. After a graceful one the instance is being killed, after a forced one it is given up.
    StopOverdue {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The stop that had no effect in time.
        mode: StopMode,
    },
    /// Even a kill took too long, and the daemon's own figures say that the instance runs on. It stays `STOPPING`, and the
    /// daemon is asked again and again. Told once for each stop; the incarnation may be an orphan's.
    StillRuns {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// Its port; 0 if unknown.
        port: u16,
    },
    /// The instance has lived as long as it was meant to, and is being stopped.
    LifetimeOver {
        /// The instance.
        instance: InstanceId,
        /// Which start of the id it is.
        incarnation: Incarnation,
    },
    /// Events were lost because nobody polled them. Read the whole roster again: it is right.
    Lagged {
        /// How many were lost.
        dropped: u64,
    },
}

impl InstanceEvent {
    /// The instance; `None` for [`Lagged`](Self::Lagged).
    #[must_use]
    pub const fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Changed { instance, .. }
            | Self::Counted { instance, .. }
            | Self::Forgotten { instance, .. }
            | Self::StartAccepted { instance, .. }
            | Self::StartRetrying { instance, .. }
            | Self::StartFailed { instance, .. }
            | Self::StopRefused { instance, .. }
            | Self::StopUnanswered { instance, .. }
            | Self::Adopted { instance, .. }
            | Self::OrphanStopped { instance, .. }
            | Self::StartupTimedOut { instance, .. }
            | Self::StopOverdue { instance, .. }
            | Self::StillRuns { instance, .. }
            | Self::LifetimeOver { instance, .. } => Some(*instance),
            Self::NotAdopted { .. } | Self::Misreported { .. } | Self::Lagged { .. } => None,
        }
    }
}

/// What has to go out to the daemon
#[derive(Clone, Debug, PartialEq)]
pub enum Dispatch {
    /// Start an instance.
    Start(Box<StartInstance>),
    /// Stop an instance.
    Stop(StopInstance),
}

/// An instance as it was recorded before the controller was restarted
#[derive(Clone, Debug, PartialEq)]
pub struct RosterEntry {
    /// The start as it was asked for; of an adopted instance, one with its id, group, port and incarnation.
    pub start: Box<StartInstance>,
    /// The last state.
    pub state: State,
    /// What was asked for.
    pub desired: Desired,
    /// The end is one that was only inferred.
    pub lost: bool,
}

/// What a roster is waiting for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterTimer {
    /// The instance that the timer belongs to.
    pub instance: InstanceId,
    /// What is due.
    pub due: Due,
}

/// What falls due with a timer of the roster
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// A state has to be left.
    Lifecycle(instance::LifecycleTimer),
    /// A command has to be answered, or repeated.
    Command(ledger::CommandTimer),
}
