//! A program that is run to its end, or to its deadline, and never longer than somebody waits for it

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use crate::readable::readable;

/// How much of the end of its output is read
const TAIL: u64 = 16 * 1024;

/// Why a program came to nothing
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it cannot be run: {0}")]
    Io(#[from] io::Error),
    #[error("it did not end within {} s and was killed", .0.as_secs_f64())]
    Overdue(Duration),
    #[error("it ended with {status}, and said at last: {said}")]
    Failed {
        status: std::process::ExitStatus,
        said: String,
    },
}

/// What a program is given, beside its arguments
pub(super) struct Surroundings<'a> {
    /// Where it works, and has its home and its temporary files
    pub(super) folder: &'a Path,
    /// What it writes comes here
    pub(super) output: &'a Path,
    pub(super) deadline: Duration,
    /// The most bytes that it may write into a file
    pub(super) max_file_bytes: u64,
}

/// Runs a program; returns the end of what it said
///
/// Of the daemon's environment it sees `PATH` alone. It has a process group of its own, all of which is killed when the program has
/// ended, when its time is over, and when this future is dropped.
pub(super) async fn run(
    program: &Path,
    arguments: &[String],
    surroundings: &Surroundings<'_>,
) -> Result<String, Failure> {
    let output = File::create(surroundings.output)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", surroundings.folder)
        .env("TMPDIR", surroundings.folder)
        .current_dir(surroundings.folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let mut group = Group(command.spawn()?);
    let pid = Pid::from_child(&group.0);
    let limit = Rlimit {
        current: Some(surroundings.max_file_bytes),
        maximum: Some(surroundings.max_file_bytes),
    };
    rustix::process::prlimit(Some(pid), Resource::Fsize, limit).map_err(io::Error::from)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from)?;
    let pidfd = readable(pidfd)?;
    match tokio::time::timeout(surroundings.deadline, pidfd.readable()).await {
        Ok(ended) => drop(ended?),
        Err(_) => return Err(Failure::Overdue(surroundings.deadline)),
    }
    let status = group.end()?;
    let said = tail(surroundings.output)?;
    match status.success() {
        true => Ok(said),
        false => Err(Failure::Failed { status, said }),
    }
}

/// A child that leads a group
struct Group(Child);

impl Group {
    /// Kills whoever is left of it. The child is waited for last: until then its number means nobody else.
    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        match rustix::process::kill_process_group(Pid::from_child(&self.0), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => self.0.wait(),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After an end that was waited for, the number may be somebody else's.
        if matches!(self.0.try_wait(), Ok(None))
            && let Err(error) = self.end()
        {
            tracing::warn!(pid = self.0.id(), %error, "a program that prepares files cannot be killed");
        }
    }
}

fn tail(output: &Path) -> io::Result<String> {
    let mut file = File::open(output)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Enough for a log line, and nothing that moves its reader's cursor.
    let printable = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    let text: Vec<char> = text.trim().chars().map(printable).collect();
    Ok(text.iter().skip(text.len().saturating_sub(1000)).collect())
}
