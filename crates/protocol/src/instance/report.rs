//! What is seen of an instance, and why a state followed from it

use std::time::Duration;

use super::State;
use crate::id::Incarnation;

/// Why a state changed
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The daemon reported it.
    Reported,
    /// The server said itself that it is ready.
    Ready,
    /// The start went out again.
    Dispatched,
    /// Someone asked for it.
    Requested,
    /// The start was stopped before it had left; nothing ever ran.
    Withdrawn,
    /// The daemon refused the start for good, or never answered.
    StartFailed,
    /// The start took too long.
    StartupTimedOut,
    /// The instance has lived as long as it was meant to.
    LifetimeOver,
    /// The daemon answered the stop, and had nothing more to say.
    StopAcknowledged,
    /// Even a forced stop had no effect in time; the instance is given up.
    StopOverdue,
    /// A crash report arrived.
    CrashReported,
    /// The handshake's list of instances says so.
    Reconciled,
    /// The application gave the instance up.
    DeclaredLost,
    /// A newer incarnation was found in its place.
    Superseded,
    /// It was only assumed to have ended, or to be told to stop, and is alive.
    TakenBack,
}

impl Cause {
    /// Whether the daemon itself says, or shows, what the state followed from; otherwise it is a conclusion of ours.
    #[must_use]
    pub const fn is_seen(self) -> bool {
        matches!(
            self,
            Self::Reported | Self::CrashReported | Self::StopAcknowledged
        )
    }
}

/// What a daemon says about an instance
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The incarnation it speaks of.
    pub incarnation: Incarnation,
    /// The state it sees.
    pub state: State,
    /// The port, 0 if it does not say.
    pub port: u16,
    /// Players online.
    pub player_count: i32,
    /// How long the process has been running.
    pub uptime: Duration,
}

impl Report {
    /// A report of a state and nothing else, by a peer that names no incarnation.
    #[must_use]
    pub const fn of(state: State) -> Self {
        Self {
            incarnation: Incarnation::UNKNOWN,
            state,
            port: 0,
            player_count: 0,
            uptime: Duration::ZERO,
        }
    }
}

/// Whether a crash report is about the current incarnation
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum CrashVerdict {
    /// It is; the instance is `CRASHED` now, unless it had ended already.
    Current,
    /// It is about an earlier one, or one that is not known here: worth keeping, but no instance is touched.
    Stale,
}
