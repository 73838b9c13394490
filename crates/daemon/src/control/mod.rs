//! The control folder of one start of an instance: what daemon and shim tell each other, on disk
//!
//! ```text
//! run/<instance id>/
//!   instance.json   what was asked for, written by the daemon before the shim starts
//!   launch.json     program, arguments, environment; holds secrets, deleted by the shim once the child runs
//!   shim.lock       locked by the shim for as long as it lives
//!   stdin           FIFO that is the instance's standard input
//!   console.log     the instance's standard output and error, append-only
//!   cursor          how far the console was handed over
//!   state.json      who shim and child are, written by the shim after the spawn
//!   exit.json       how the child ended, written by the shim
//! ```
//!
//! The folder is closed to other users. A record is complete or absent ([`crate::durable`]); what is absent says how far
//! things came, so a daemon that was killed at any point can tell. What the end needs has its space reserved before the
//! start, and holds blanks until then, which count as absent: a disk that has become full cannot falsify an end.

mod lost;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::process::Identity;

use lost::Lost;

pub use prexorcloud_protocol::node::daemon::UNOBSERVED;

/// The largest record that is read back; ours are far smaller
const MAX_RECORD: u64 = 8 * 1024 * 1024;

/// The folder through which the daemon and one shim talk
#[derive(Clone, Debug)]
pub struct ControlDir {
    path: PathBuf,
    /// Files that the folder does not name any more
    lost: Arc<[Lost]>,
}

/// Two that name one folder are the same
impl PartialEq for ControlDir {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for ControlDir {}

const STDIN: &str = "stdin";
const CONSOLE: &str = "console.log";
const LOCK: &str = "shim.lock";
const EXIT: &str = "exit.json";

impl ControlDir {
    /// Names the folder; nothing is touched
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            lost: Arc::default(),
        }
    }

    /// The same with those files that were removed or replaced, and that the processes of this start have open; and what
    /// these are called
    ///
    /// # Errors
    /// `/proc` cannot be read, or no descriptor is left.
    pub fn with_lost_files(self, running: &RunningRecord) -> io::Result<(Self, Vec<&'static str>)> {
        let lost = lost::find(&self, running)?;
        let names = lost.iter().map(Lost::name).collect();
        let lost = lost.into();
        Ok((Self { lost, ..self }, names))
    }

    fn file(&self, name: &'static str) -> PathBuf {
        Lost::path_of(&self.lost, name).unwrap_or_else(|| self.path.join(name))
    }

    /// The folder itself
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The FIFO that is the instance's standard input
    #[must_use]
    pub fn stdin(&self) -> PathBuf {
        self.file(STDIN)
    }

    /// The append-only file that takes standard output and error
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.file(CONSOLE)
    }

    /// The position up to which the console was handed over
    #[must_use]
    pub fn cursor(&self) -> PathBuf {
        self.path.join("cursor")
    }

    /// The file that the shim keeps locked while it lives
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.file(LOCK)
    }

    /// What was asked for
    #[must_use]
    pub fn instance(&self) -> PathBuf {
        self.path.join("instance.json")
    }

    fn launch(&self) -> PathBuf {
        self.path.join("launch.json")
    }

    fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    fn exit(&self) -> PathBuf {
        self.file(EXIT)
    }

    /// Takes the space that the shim needs to record the end
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn reserve(&self) -> io::Result<()> {
        durable::reserve(&self.exit())
    }

    /// Writes the order for the shim
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn write_launch(&self, launch: &LaunchOrder) -> io::Result<()> {
        write_record(&self.launch(), launch)
    }

    /// The order for the shim, or `None` once it was carried out or withdrawn
    ///
    /// # Errors
    /// Failures of the file system, or a file that is not such a record.
    pub fn read_launch(&self) -> io::Result<Option<LaunchOrder>> {
        read_record(&self.launch())
    }

    /// Deletes the order, and the secrets in it
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn remove_launch(&self) -> io::Result<()> {
        durable::remove(&self.launch())
    }

    /// Records that the child runs
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn write_state(&self, state: &RunningRecord) -> io::Result<()> {
        write_record(&self.state(), state)
    }

    /// Who runs, or `None` if nothing was started yet
    ///
    /// # Errors
    /// Failures of the file system, or a file that is not such a record.
    pub fn read_state(&self) -> io::Result<Option<RunningRecord>> {
        read_record(&self.state())
    }

    /// Records how the child ended, in the space that was reserved for it
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn write_exit(&self, exit: &ExitRecord) -> io::Result<()> {
        fill_record(&self.exit(), exit)
    }

    /// Opens the record of the end, to be written once
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn open_exit(&self) -> io::Result<ExitSlot> {
        if self.read_exit()?.is_none() {
            self.reserve()?;
        }
        let path = self.exit();
        let file = durable::open_regular(&path, File::options().write(true))?;
        Ok(ExitSlot { file, path })
    }

    /// How the child ended, or `None` while it runs
    ///
    /// # Errors
    /// Failures of the file system, or a file that is not such a record.
    pub fn read_exit(&self) -> io::Result<Option<ExitRecord>> {
        read_record(&self.exit())
    }

    /// Takes the shim's lock, or returns `None` if a living shim holds it
    ///
    /// It is released when the returned file is closed.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options()
            .create(true)
            .append(true)
            .mode(durable::PRIVATE_FILE)
            .open(self.lock())?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The place for the record of an end, which takes neither a descriptor nor space any more
#[derive(Debug)]
pub struct ExitSlot {
    file: File,
    path: PathBuf,
}

impl ExitSlot {
    /// Records how the child ended
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn write(&self, exit: &ExitRecord) -> io::Result<()> {
        durable::fill_open(&self.file, &self.path, &serde_json::to_vec(exit)?)
    }
}

/// What the shim is to start
///
/// `Debug` shows the names of environment variables and hides their values: they may be secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The program, an absolute path or a name to be found on `PATH`
    pub program: PathBuf,
    /// Its arguments
    pub arguments: Vec<String>,
    /// Its whole environment: nothing is inherited
    pub environment: BTreeMap<String, String>,
    /// Its working folder
    pub working_folder: PathBuf,
}

impl std::fmt::Debug for LaunchSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchSpec")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("environment", &self.environment.keys())
            .field("working_folder", &self.working_folder)
            .finish()
    }
}

/// What the shim finds in the control folder: what to start, and under which limits
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchOrder {
    /// What to start
    #[serde(flatten)]
    pub spec: LaunchSpec,
    /// How many files the instance may have open before it raises the limit itself; absent = as the shim
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Bytes of writable memory of its own that each of its processes may have; absent = as the shim
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Whether it talks through the shim's own three streams, and ends when nobody reads what it says any more
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tethered: bool,
}

impl From<LaunchSpec> for LaunchOrder {
    fn from(spec: LaunchSpec) -> Self {
        Self {
            spec,
            open_files: None,
            memory: None,
            tethered: false,
        }
    }
}

/// Who runs
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRecord {
    /// The shim
    pub shim: Identity,
    /// The instance's main process, leader of a process group of its own
    pub main: Identity,
    /// When it was started, milliseconds since the Unix epoch
    pub started_at_ms: i64,
}

/// How the main process ended
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// What happened
    pub cause: ExitCause,
    /// When, milliseconds since the Unix epoch
    pub exited_at_ms: i64,
}

/// What ended a main process
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// It ended itself with this code
    Exited(i32),
    /// This signal ended it
    Signalled(i32),
    /// It never ran
    SpawnFailed {
        /// Whether the program file was not found
        not_found: bool,
        /// The system's words
        message: String,
    },
    /// It ended while nobody was there to see how: its shim had been killed
    Unobserved,
}

impl ExitCause {
    /// The exit code as shells and Java report it: signals are 128 + n
    ///
    /// A process that never ran is 127 as in a shell. One whose end nobody saw is [`UNOBSERVED`], which is the code of no
    /// process.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::Signalled(signal) => 128_i32.saturating_add(*signal),
            Self::SpawnFailed { .. } => 127,
            Self::Unobserved => UNOBSERVED,
        }
    }
}

/// Writes `record` as JSON, durably
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(record)?)
}

/// Writes `record` as JSON, durably, into the space that was reserved for it
pub(crate) fn fill_record<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    durable::fill(path, &serde_json::to_vec(record)?)
}

/// Reads a record back; `None` if there is none, or only the space for one
///
/// What is there and is no such record is damage, as [`durable::is_damage`] tells.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = durable::read_bounded(path, MAX_RECORD)? else {
        return Ok(None);
    };
    if bytes.len() == durable::RESERVED && bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let damaged = |error: serde_json::Error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    #[test]
    fn records_come_back_and_absent_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlDir::new(folder.path());
        assert_eq!(control.read_exit().unwrap(), None);
        control.reserve().unwrap();
        assert_eq!(control.read_exit().unwrap(), None, "the space is no record");
        let exit = ExitRecord {
            cause: ExitCause::Signalled(9),
            exited_at_ms: 5,
        };
        control.write_exit(&exit).unwrap();
        assert_eq!(control.read_exit().unwrap(), Some(exit));
        fs::write(control.exit(), "{\"cause\":").unwrap();
        assert!(control.read_exit().is_err(), "a torn record is not absent");
        fs::write(control.exit(), "").unwrap();
        assert!(durable::is_damage(&control.read_exit().unwrap_err()));
    }

    #[test]
    fn signals_map_to_128_and_n() {
        assert_eq!(ExitCause::Signalled(9).code(), 137);
        assert_eq!(ExitCause::Signalled(15).code(), 143);
        assert_eq!(ExitCause::Exited(3).code(), 3);
    }

    #[test]
    fn the_lock_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlDir::new(folder.path());
        let held = control.try_lock().unwrap();
        assert!(held.is_some());
        assert!(control.try_lock().unwrap().is_none());
        drop(held);
        assert!(control.try_lock().unwrap().is_some());
    }

    #[test]
    fn debug_of_a_launch_hides_values_of_the_environment() {
        let launch = LaunchSpec {
            program: "java".into(),
            arguments: vec![],
            environment: [("CLOUD_PLUGIN_TOKEN".to_owned(), "s3cret".to_owned())].into(),
            working_folder: "/".into(),
        };
        let text = format!("{launch:?}");
        assert!(text.contains("CLOUD_PLUGIN_TOKEN") && !text.contains("s3cret"));
    }
}
