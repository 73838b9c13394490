//! What a daemon's node machine is told

use std::time::Duration;

use prexorcloud_proto::{StartFailureDisposition, StartInstance};

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::Limits;

/// One carrying-out of one order to start
///
/// Two orders can agree in id and incarnation: a start that failed is ordered again, and a Java controller numbers
/// nothing. An attempt is never given twice, so a late answer about an earlier one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub(super) instance: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) ordinal: u64,
}

impl Attempt {
    /// The instance that is started.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Which start of the id it is.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

/// What a preparation came to
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared<L> {
    /// The port that the instance will have.
    pub port: u16,
    /// How long it may take to stop by itself.
    pub grace: Duration,
    /// How long it may take until it is ready, as [`DaemonWork::Prepare`](super::DaemonWork::Prepare) said.
    pub startup_timeout: Duration,
    /// What the application needs to launch it; the machine only carries it through.
    pub launch: L,
}

impl<L> Prepared<L> {
    /// What the order says, with the [defaults](Limits) where it says nothing.
    #[must_use]
    pub fn of(start: &StartInstance, launch: L) -> Self {
        let limits = Limits::of(start);
        Self {
            port: u16::try_from(start.port).unwrap_or_default(),
            grace: limits.grace,
            startup_timeout: limits.startup,
            launch,
        }
    }
}

/// Why a process could not be started
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFailure {
    /// A sentence with the root cause.
    pub message: String,
    /// Whether trying again can help.
    pub disposition: StartFailureDisposition,
}

/// An instance that an earlier process of the daemon started, and whose end is not settled
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of the id it is.
    pub incarnation: Incarnation,
    /// The port it has.
    pub port: u16,
    /// How long it may take to stop by itself.
    pub grace: Duration,
    /// How long it might take until it was ready.
    pub startup_timeout: Duration,
    /// How long ago it was started.
    pub uptime: Duration,
    /// Whether it was ready.
    pub is_ready: bool,
    /// Whether it is being stopped; its exit says why.
    pub is_stopping: bool,
}

/// Why an instance is being stopped
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Somebody asked for it.
    Requested,
    /// It was not ready in time.
    StartupTimeout,
    /// It reached its greatest age.
    LifetimeOver,
}

/// The end of an instance's process
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The instance.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id it was.
    pub incarnation: Incarnation,
    /// The exit code; 128 + n for signal n, [`UNOBSERVED`](super::UNOBSERVED) if nobody saw the end.
    pub code: i32,
    /// Why it was being stopped, if it was.
    pub stopped_for: Option<StopReason>,
    /// How long it lived.
    pub uptime: Duration,
    /// What a report of this end is called: the same however often the end is told.
    pub report_id: String,
    /// Its last lines.
    pub log_tail: Vec<String>,
}

impl Exit {
    /// The end of an instance that somebody asked to stop, and that did so in order: code 0, no lines, no report.
    #[must_use]
    pub fn requested(
        instance: InstanceId,
        group: GroupName,
        incarnation: Incarnation,
        uptime: Duration,
    ) -> Self {
        Self {
            instance,
            group,
            incarnation,
            code: 0,
            stopped_for: Some(StopReason::Requested),
            uptime,
            report_id: String::new(),
            log_tail: Vec::new(),
        }
    }
}
