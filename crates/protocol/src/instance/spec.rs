//! What is asked of an instance: what it is, how long things may take, and whether it should run

use std::time::Duration;

use prexorcloud_proto::StartInstance;

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::validate::{self, Invalid};
use crate::verdict::StopMode;

/// How long `STARTING` may take if the start does not say.
pub const DEFAULT_STARTUP: Duration = Duration::from_secs(60);
/// What stands in the place of a startup limit where nobody has asked for one: a hundred years.
pub const NO_STARTUP_LIMIT: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How long a server may take to stop by itself if the start does not say.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What someone asked for
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Desired {
    /// The instance is to run.
    Run,
    /// The instance is to stop, with time to save.
    Stop,
    /// The instance is to be killed.
    ForceStop,
}

impl Desired {
    /// How to stop, if stopping is what is wanted.
    #[must_use]
    pub const fn stop_mode(self) -> Option<StopMode> {
        match self {
            Self::Run => None,
            Self::Stop => Some(StopMode::Graceful),
            Self::ForceStop => Some(StopMode::Force),
        }
    }
}

impl From<StopMode> for Desired {
    fn from(mode: StopMode) -> Self {
        match mode {
            StopMode::Graceful => Self::Stop,
            StopMode::Force => Self::ForceStop,
        }
    }
}

/// The deadlines of an instance, from its start message
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long `STARTING` may take.
    pub startup: Duration,
    /// How long the server may take to stop by itself.
    pub grace: Duration,
    /// How long the instance may run; `None` for ever.
    pub lifetime: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            startup: DEFAULT_STARTUP,
            grace: DEFAULT_GRACE,
            lifetime: None,
        }
    }
}

impl Limits {
    /// The limits that `start` asks for; zero and negative numbers mean the default.
    #[must_use]
    pub fn of(start: &StartInstance) -> Self {
        let seconds = |wire: i32| {
            u64::try_from(wire)
                .ok()
                .filter(|&s| s > 0)
                .map(Duration::from_secs)
        };
        Self {
            startup: seconds(start.startup_timeout_seconds).unwrap_or(DEFAULT_STARTUP),
            grace: seconds(start.shutdown_grace_seconds).unwrap_or(DEFAULT_GRACE),
            lifetime: seconds(start.max_lifetime_seconds),
        }
    }

    /// The same, and `STARTING` may take as long as it does.
    #[must_use]
    pub const fn without_startup(self) -> Self {
        Self {
            startup: NO_STARTUP_LIMIT,
            ..self
        }
    }
}

/// Which instance, and what holds for it from the beginning
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The instance.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id this is.
    pub incarnation: Incarnation,
    /// The port that it serves; 0 if unknown.
    pub port: u16,
    /// Its deadlines.
    pub limits: Limits,
}

impl Spec {
    /// What is known for sure of something that runs, if its `start` is not one that could be sent again
    pub(crate) fn known_of(start: &StartInstance) -> Option<Self> {
        let unnamed = || GroupName::new("unknown");
        Some(Self {
            instance: InstanceId::new(&start.instance_id).ok()?,
            group: GroupName::new(&start.group).or_else(|_| unnamed()).ok()?,
            incarnation: Incarnation::new(start.incarnation),
            port: u16::try_from(start.port).unwrap_or_default(),
            limits: Limits::of(start),
        })
    }

    /// What `start` asks for.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that breaks a rule of the contract.
    pub fn of(start: &StartInstance) -> Result<Self, Invalid> {
        validate::start_instance(start)?;
        let name = |field, invalid| Invalid {
            field,
            fault: validate::Fault::Name(invalid),
        };
        Ok(Self {
            instance: validate::instance_id(&start.instance_id)?,
            group: GroupName::new(&start.group).map_err(|invalid| name("start_instance.group", invalid))?,
            incarnation: Incarnation::new(start.incarnation),
            port: u16::try_from(start.port).unwrap_or_default(),
            limits: Limits::of(start),
        })
    }
}
