//! What the daemon itself remembers about an instance, beside the records of the shim

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, InvalidName};
use serde::{Deserialize, Serialize};

use super::ephemeral::EphemeralFolder;
use crate::control::{ControlDir, read_record, write_record};

/// One start of an instance, as the supervisor keeps it
///
/// Nothing in it is secret: it stays on disk for as long as the instance lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFacts {
    /// Its id
    pub instance: InstanceId,
    /// Its group
    pub group: GroupName,
    /// Which start of the id this is; unknown from a Java controller
    pub incarnation: Incarnation,
    /// The port it listens on
    pub port: u16,
    /// What to write to its console so that it stops by itself
    pub stop_command: String,
    /// Pieces of console lines that mean that it is ready
    pub ready_markers: Vec<String>,
    /// How long it may take from its start until it is ready
    pub startup_timeout: Duration,
    /// How long it may take to stop by itself
    pub grace: Duration,
    /// After this long it is stopped
    pub max_lifetime: Option<Duration>,
    /// A folder that is deleted some time after the instance has ended, if it still is the same folder
    pub ephemeral_folder: Option<EphemeralFolder>,
}

#[derive(Serialize, Deserialize)]
struct StoredFacts {
    instance: String,
    group: String,
    incarnation: u64,
    port: u16,
    stop_command: String,
    ready_markers: Vec<String>,
    startup_timeout_ms: u64,
    grace_ms: u64,
    max_lifetime_ms: Option<u64>,
    ephemeral_folder: Option<EphemeralFolder>,
}

impl InstanceFacts {
    pub(super) fn write(&self, control: &ControlDir) -> io::Result<()> {
        write_record(
            &control.instance(),
            &StoredFacts {
                instance: self.instance.as_str().to_owned(),
                group: self.group.as_str().to_owned(),
                incarnation: self.incarnation.get(),
                port: self.port,
                stop_command: self.stop_command.clone(),
                ready_markers: self.ready_markers.clone(),
                startup_timeout_ms: millis(self.startup_timeout),
                grace_ms: millis(self.grace),
                max_lifetime_ms: self.max_lifetime.map(millis),
                ephemeral_folder: self.ephemeral_folder.clone(),
            },
        )
    }

    pub(super) fn read(control: &ControlDir) -> io::Result<Option<Self>> {
        let Some(stored) = read_record::<StoredFacts>(&control.instance())? else {
            return Ok(None);
        };
        let invalid = |error: InvalidName| io::Error::new(io::ErrorKind::InvalidData, error);
        Ok(Some(Self {
            instance: stored.instance.parse().map_err(invalid)?,
            group: stored.group.parse().map_err(invalid)?,
            incarnation: Incarnation::new(stored.incarnation),
            port: stored.port,
            stop_command: stored.stop_command,
            ready_markers: stored.ready_markers,
            startup_timeout: Duration::from_millis(stored.startup_timeout_ms),
            grace: Duration::from_millis(stored.grace_ms),
            max_lifetime: stored.max_lifetime_ms.map(Duration::from_millis),
            ephemeral_folder: stored.ephemeral_folder,
        }))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why an instance is being stopped
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody asked for it
    Requested,
    /// It was not ready in time; its end counts as a crash
    StartupTimeout,
    /// It reached its greatest age
    LifetimeOver,
}

impl From<StopReason> for prexorcloud_protocol::node::daemon::StopReason {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Requested => Self::Requested,
            StopReason::StartupTimeout => Self::StartupTimeout,
            StopReason::LifetimeOver => Self::LifetimeOver,
        }
    }
}

/// An order to stop that was given, so that a daemon that starts again goes on with it
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StopRecord {
    pub(super) reason: StopReason,
    pub(super) force: bool,
    pub(super) at_ms: i64,
}

impl StopRecord {
    pub(super) fn write(&self, control: &ControlDir) -> io::Result<()> {
        write_record(&control.path().join("stop.json"), self)
    }

    pub(super) fn read(control: &ControlDir) -> io::Result<Option<Self>> {
        read_record(&control.path().join("stop.json"))
    }
}

/// A fact that a file's existence tells
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// The instance was ready
    Ready,
    /// The end of the instance was taken over by the application
    Settled,
}

impl Mark {
    fn path(self, control: &ControlDir) -> PathBuf {
        control.path().join(match self {
            Self::Ready => "ready",
            Self::Settled => "settled",
        })
    }

    pub(super) fn set(self, control: &ControlDir) -> io::Result<()> {
        crate::durable::replace(&self.path(control), b"")
    }

    pub(super) fn is_set(self, control: &ControlDir) -> io::Result<bool> {
        self.path(control).try_exists()
    }
}
