//! What the daemon itself remembers about an instance, beside the records of the shim

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prexorcloud_protocol::instance::NO_STARTUP_LIMIT;
use prexorcloud_protocol::readiness::Rule;
use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, InvalidName};
use serde::{Deserialize, Serialize};

use super::ephemeral::EphemeralFolder;
use crate::control::{ControlDir, fill_record, read_record, write_record};
use crate::durable;

/// The largest mark: one word
const MAX_MARK: u64 = durable::RESERVED as u64;

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
    /// What shows that it is ready
    pub readiness: Rule,
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
    /// Records of earlier versions have none
    #[serde(default)]
    readiness: String,
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
                readiness: self.readiness.to_string(),
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
            readiness: stored.readiness.parse().unwrap_or_default(),
            startup_timeout: Duration::from_millis(stored.startup_timeout_ms),
            grace: Duration::from_millis(stored.grace_ms),
            max_lifetime: stored.max_lifetime_ms.map(Duration::from_millis),
            ephemeral_folder: stored.ephemeral_folder,
        }))
    }
}

/// What the name of a control folder says: enough to go on with an instance whose records are damaged
///
/// ```text
/// lobby-1@1764407198000-0@4.30000.lobby
/// id     @when         -nth@incarnation.port.group
/// ```
///
/// `@` is in no safe name. Folders of earlier versions end before the second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderName {
    pub(super) instance: InstanceId,
    /// When the start was begun, milliseconds since the Unix epoch
    pub(super) begun_ms: i64,
    attempt: u32,
    of: Option<(Incarnation, u16, GroupName)>,
}

impl FolderName {
    pub(super) fn new(facts: &InstanceFacts, begun_ms: i64, attempt: u32) -> Self {
        Self {
            instance: facts.instance,
            begun_ms,
            attempt,
            of: Some((facts.incarnation, facts.port, facts.group)),
        }
    }

    pub(super) fn of(folder: &Path) -> Option<Self> {
        let mut parts = folder.file_name()?.to_str()?.split('@');
        let instance = parts.next()?.parse().ok()?;
        let (begun_ms, attempt) = parts.next()?.split_once('-')?;
        let of = parts.next().and_then(|of| {
            let mut of = of.splitn(3, '.');
            let incarnation = Incarnation::new(of.next()?.parse().ok()?);
            Some((incarnation, of.next()?.parse().ok()?, of.next()?.parse().ok()?))
        });
        Some(Self {
            instance,
            begun_ms: begun_ms.parse().ok()?,
            attempt: attempt.parse().ok()?,
            of,
        })
    }

    /// Whether these can be the facts of the start that the folder was made for
    pub(super) fn fits(&self, facts: &InstanceFacts) -> bool {
        let same_start =
            |of: &(Incarnation, u16, GroupName)| *of == (facts.incarnation, facts.port, facts.group);
        self.instance == facts.instance && self.of.as_ref().is_none_or(same_start)
    }

    /// The facts as far as they are known: what they limit is not limited
    pub(super) fn facts(&self) -> Option<InstanceFacts> {
        let (incarnation, port, group) = match self.of {
            Some(of) => of,
            None => (Incarnation::default(), 0, self.instance.as_str().parse().ok()?),
        };
        Some(InstanceFacts {
            instance: self.instance,
            group,
            incarnation,
            port,
            stop_command: "stop".to_owned(),
            readiness: Rule::Unknown,
            startup_timeout: NO_STARTUP_LIMIT,
            grace: Duration::from_secs(30),
            max_lifetime: None,
            ephemeral_folder: None,
        })
    }
}

impl std::fmt::Display for FolderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}-{}", self.instance, self.begun_ms, self.attempt)?;
        match self.of {
            Some((incarnation, port, group)) => write!(f, "@{}.{port}.{group}", incarnation.get()),
            None => Ok(()),
        }
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
        fill_record(&Self::path(control), self)
    }

    pub(super) fn read(control: &ControlDir) -> io::Result<Option<Self>> {
        read_record(&Self::path(control))
    }

    fn path(control: &ControlDir) -> PathBuf {
        control.path().join("stop.json")
    }
}

/// Takes the space for everything that has to be written at the end of an instance
pub(super) fn reserve(control: &ControlDir) -> io::Result<()> {
    control.reserve()?;
    reserve_marks(control)
}

/// The part of that which the shim has nothing to do with
pub(super) fn reserve_marks(control: &ControlDir) -> io::Result<()> {
    durable::reserve(&control.cursor())?;
    durable::reserve(&StopRecord::path(control))?;
    durable::reserve(&Mark::Ready.path(control))?;
    durable::reserve(&Mark::Settled.path(control))
}

/// A fact that is true once its file has a content
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// The instance was ready
    Ready,
    /// The end of the instance was taken over by the application
    Settled,
    /// The folder was removed while the instance ran, and made again
    Rebuilt,
}

impl Mark {
    fn path(self, control: &ControlDir) -> PathBuf {
        control.path().join(match self {
            Self::Ready => "ready",
            Self::Settled => "settled",
            Self::Rebuilt => "rebuilt",
        })
    }

    pub(super) fn set(self, control: &ControlDir) -> io::Result<()> {
        durable::fill(&self.path(control), b"true")
    }

    /// Whether it is set; a file of an earlier version is empty and means so, too
    pub(super) fn is_set(self, control: &ControlDir) -> io::Result<bool> {
        let content = durable::read_bounded(&self.path(control), MAX_MARK)?;
        Ok(content.is_some_and(|content| content.is_empty() || !content.trim_ascii().is_empty()))
    }

    /// Takes it back
    pub(super) fn clear(self, control: &ControlDir) -> io::Result<()> {
        durable::fill(&self.path(control), b"")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn facts() -> InstanceFacts {
        InstanceFacts {
            instance: "lobby-1".parse().unwrap(),
            group: "lobby.eu".parse().unwrap(),
            incarnation: Incarnation::new(4),
            port: 30_000,
            stop_command: "end".into(),
            readiness: Rule::Plugin,
            startup_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            max_lifetime: Some(Duration::from_secs(5)),
            ephemeral_folder: None,
        }
    }

    #[test]
    fn a_folder_is_called_after_what_must_not_be_lost() {
        let name = FolderName::new(&facts(), 17, 3);
        assert_eq!(name.to_string(), "lobby-1@17-3@4.30000.lobby.eu");
        let path = PathBuf::from("/run").join(name.to_string());
        assert_eq!(FolderName::of(&path), Some(name));
        let found = name.facts().unwrap();
        let InstanceFacts {
            instance,
            group,
            incarnation,
            port,
            ..
        } = facts();
        assert_eq!(
            (found.instance, found.group, found.incarnation, found.port),
            (instance, group, incarnation, port)
        );
        assert_eq!(found.max_lifetime, None);
    }

    #[test]
    fn an_earlier_name_tells_the_instance_and_any_other_nothing() {
        let earlier = FolderName::of(Path::new("/run/lobby-1@17-0")).unwrap();
        assert_eq!(earlier.to_string(), "lobby-1@17-0");
        let found = earlier.facts().unwrap();
        assert_eq!((found.instance.as_str(), found.incarnation.get()), ("lobby-1", 0));
        for other in [
            "lobby-1",
            "lobby-1@",
            "lobby-1@17",
            "@17-0",
            "..@17-0",
            "lobby-1@x-0",
        ] {
            assert_eq!(FolderName::of(&Path::new("/run").join(other)), None, "{other}");
        }
    }

    #[test]
    fn marks_are_set_once_they_have_a_content() {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlDir::new(folder.path());
        let mark = Mark::Settled;
        assert!(!mark.is_set(&control).unwrap());
        reserve(&control).unwrap();
        assert!(!mark.is_set(&control).unwrap());
        mark.set(&control).unwrap();
        assert!(mark.is_set(&control).unwrap());
        mark.clear(&control).unwrap();
        assert!(!mark.is_set(&control).unwrap());
        // As earlier versions did it.
        durable::replace(&mark.path(&control), b"").unwrap();
        assert!(mark.is_set(&control).unwrap());
        assert_eq!(StopRecord::read(&control).unwrap(), None);
    }
}
