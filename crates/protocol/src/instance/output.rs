//! What a lifecycle wants done, and what it waits for

use std::time::Duration;

use super::{Cause, State};
use crate::verdict::StopMode;

/// What a lifecycle wants done, or wants known
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleOutput {
    /// The state has changed.
    Changed {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why.
        cause: Cause,
    },
    /// A stop has to reach the daemon.
    Stop(StopMode),
    /// The start took too long; a forced stop follows.
    StartupTimedOut {
        /// How long it was given.
        limit: Duration,
    },
    /// A stop took too long. After a graceful one a forced one follows, after a forced one the instance is given up.
    StopOverdue(StopMode),
    /// Even a forced stop took too long, and the daemon's own figures say that the instance runs; the stop goes out again.
    /// Said once for each stop.
    StillRuns,
    /// The instance has lived as long as it was meant to; a graceful stop follows.
    LifetimeOver,
}

/// The timers of a lifecycle
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LifecycleTimer {
    /// The process has to be there.
    Preparation,
    /// The server has to be ready.
    Startup,
    /// The stop has to be complete.
    Stop,
    /// The instance has to be stopped.
    Lifetime,
}
