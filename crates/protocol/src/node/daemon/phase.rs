//! Where an instance is on its way

use std::sync::Arc;
use std::time::{Duration, Instant};

use prexorcloud_proto::{CrashReport, StartInstance};

use super::{Attempt, DaemonNodeTimer, Exit, StopReason};
use crate::id::Incarnation;
use crate::instance::Limits;
use crate::time::Deadline;
use crate::verdict::StopMode;

/// What is known of one id
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) incarnation: Incarnation,
    /// An order to stop it is to be acknowledged when it is gone.
    pub(super) stop_owed: bool,
    pub(super) phase: Phase,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Waits for its id, which a former start still has.
    Queued {
        attempt: Attempt,
        start: Box<StartInstance>,
        limits: Limits,
        former: Incarnation,
        until: Instant,
    },
    /// Can be cancelled at any moment.
    Preparing {
        attempt: Attempt,
        /// The port it will have; absent if the order names none.
        port: Option<u16>,
        plan_hash: String,
        began: Instant,
        until: Instant,
    },
    /// Runs to its end; then it is stopped if somebody asked for it.
    Launching {
        attempt: Attempt,
        plan_hash: String,
        life: Box<Life>,
        early: Early,
    },
    /// It has a process.
    Live(Life),
    /// It crashed, and the report is being written.
    Spooling {
        report: Arc<CrashReport>,
        uptime: Duration,
    },
    /// It is over.
    Ended {
        told: Told,
        /// The crash report that tells of it as well.
        report_id: Option<String>,
    },
}

/// A process, or what will be one
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) port: u16,
    pub(super) grace: Duration,
    pub(super) startup_timeout: Duration,
    pub(super) started: Instant,
    pub(super) is_ready: bool,
    pub(super) is_stopping: bool,
    /// Why it is being stopped, if that was told.
    pub(super) stopped_for: Option<StopReason>,
    /// How somebody asked for its stop, if anybody did.
    pub(super) asked: Option<StopMode>,
}

/// What was told of a process before its launch was answered; `STARTING` has to come first
#[derive(Clone, Debug, Default)]
pub(super) struct Early {
    pub(super) is_ready: bool,
    pub(super) stopping: Option<StopReason>,
    pub(super) exit: Option<Box<Exit>>,
}

/// Whether a controller has surely heard of an end
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is on disk and reported to the session, which says when it was heard.
    Reported,
    /// Only a confirmation of its crash report says so: nothing else would survive this process.
    Unwritten,
    /// It was heard, and the supervisor is letting go.
    Settling,
}

impl Entry {
    /// Whether it has a process or is on its way to one.
    pub(super) const fn is_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Queued { .. } | Phase::Preparing { .. } | Phase::Launching { .. } | Phase::Live(_)
        )
    }

    /// Whether the id cannot be started anew: its end, if there was one, is not reported yet.
    pub(super) const fn is_occupied(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. })
    }

    /// The port that nobody else may have.
    pub(super) fn owned_port(&self) -> Option<u16> {
        match &self.phase {
            Phase::Queued { start, .. } => port_of(start),
            Phase::Preparing { port, .. } => *port,
            Phase::Launching { life, .. } => Some(life.port),
            Phase::Live(life) => Some(life.port),
            Phase::Spooling { .. } | Phase::Ended { .. } => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline<DaemonNodeTimer>> {
        let (at, timer) = match &self.phase {
            Phase::Queued { until, .. } => (*until, DaemonNodeTimer::Release),
            Phase::Preparing { until, .. } => (*until, DaemonNodeTimer::Preparation),
            Phase::Launching { .. } | Phase::Live(_) | Phase::Spooling { .. } | Phase::Ended { .. } => {
                return None;
            }
        };
        Some(Deadline { at, timer })
    }
}

/// The port that an order names, if it names one.
pub(super) fn port_of(start: &StartInstance) -> Option<u16> {
    u16::try_from(start.port).ok().filter(|port| *port != 0)
}
