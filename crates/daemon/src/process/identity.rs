//! Who a process is, beyond its reusable id

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process, told apart from every other that had or will have its id
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, in this process's pid namespace
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`
    pub start_time: u64,
    /// The boot and pid namespace in which `pid` has a meaning
    pub boot: String,
}

impl Identity {
    /// Looks up the process that has `pid` now
    ///
    /// # Errors
    /// `NotFound` if there is none; other kinds if `/proc` cannot be read.
    pub fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self {
            pid: pid.as_raw_pid(),
            start_time: Stat::read(pid.as_raw_pid())?.start_time,
            boot: boot()?.to_owned(),
        })
    }

    /// Opens a pidfd to this process, or `None` if it is gone
    ///
    /// The pidfd is opened first and compared afterwards: from then on it cannot come to mean another process.
    ///
    /// # Errors
    /// Failures other than "no such process", such as a process without free file descriptors.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot != boot()? {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Stat::read(self.pid) {
            Ok(stat) if stat.start_time == self.start_time => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the process still runs; one that ended and awaits its parent does not
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn is_running(&self) -> io::Result<bool> {
        if self.boot != boot()? {
            return Ok(false);
        }
        match Stat::read(self.pid) {
            Ok(stat) => Ok(stat.start_time == self.start_time && !stat.ended),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the process go on if a signal has stopped it, and says whether it had
    ///
    /// # Errors
    /// As [`open`](Self::open), or this user may not signal it.
    pub fn resume(&self) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else {
            return Ok(false);
        };
        match Stat::read(self.pid) {
            Ok(stat) if stat.stopped => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        match pidfd_send_signal(&pidfd, Signal::CONT) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How the process ended, as its parent will be told; `None` if it runs, or its parent was told already
    ///
    /// Known of processes of this user only: of others, the kernel shows 0.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn unreaped_end(&self) -> io::Result<Option<End>> {
        if self.boot != boot()? {
            return Ok(None);
        }
        let found = fs::metadata(format!("/proc/{}", self.pid))
            .and_then(|folder| Ok((folder.uid(), Stat::read(self.pid)?)));
        match found {
            Ok((owner, stat)) => Ok((stat.start_time == self.start_time
                && stat.ended
                && owner == rustix::process::geteuid().as_raw())
            .then_some(stat.status)
            .flatten()
            .map(End::of)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How a process ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code
    Exited(i32),
    /// By this signal
    Signalled(i32),
}

impl End {
    /// From a status as `wait` gives it
    fn of(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited((status >> 8) & 0xff),
            signal => Self::Signalled(signal),
        }
    }
}

/// What `/proc/PID/stat` tells that this module needs
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) start_time: u64,
    /// Zombie or dead
    pub(super) ended: bool,
    /// By a signal, until another lets it go on
    stopped: bool,
    /// As `wait` gives it; 0 of a process that runs
    status: Option<i32>,
}

impl Stat {
    pub(super) fn read(pid: i32) -> io::Result<Self> {
        let text = match fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => text,
            // The process ended between open and read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Err(error) => return Err(error),
        };
        Self::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat line"))
    }

    /// The command name, field 2, may hold blanks and parentheses: fields are counted after the last one
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let start_time = fields.nth(17)?.parse().ok()?;
        Some(Self {
            parent,
            start_time,
            ended: matches!(state, "Z" | "X" | "x"),
            stopped: state == "T",
            // Field 52; older kernels have none.
            status: fields.nth(29).and_then(|status| status.parse().ok()),
        })
    }
}

/// The boot id of the kernel and the pid namespace of this process, which are asked for once
fn boot() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    Ok(BOOT.get_or_init(|| format!("{} {}", boot.trim(), namespace.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn this_process_is_found_and_a_namesake_is_not() {
        let me = Identity::of(rustix::process::getpid()).unwrap();
        assert!(me.open().unwrap().is_some());
        assert!(me.is_running().unwrap());
        let older = Identity {
            start_time: me.start_time - 1,
            ..me.clone()
        };
        assert!(older.open().unwrap().is_none(), "same pid, other start");
        let rebooted = Identity {
            boot: "another boot".into(),
            ..me
        };
        assert!(rebooted.open().unwrap().is_none(), "same pid, other boot");
    }

    #[test]
    fn an_ended_child_is_not_running_before_and_after_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let identity = Identity::of(pid).unwrap();
        let pidfd = identity.open().unwrap().unwrap();
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        assert!(!identity.is_running().unwrap(), "a zombie does not run");
        assert_eq!(identity.unreaped_end().unwrap(), Some(End::Exited(0)));
        child.wait().unwrap();
        assert!(!identity.is_running().unwrap());
        assert_eq!(identity.unreaped_end().unwrap(), None);
    }

    #[test]
    fn how_a_child_ended_is_known_before_it_is_reaped() {
        for (script, end) in [("exit 3", End::Exited(3)), ("kill -9 $$", End::Signalled(9))] {
            let mut child = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let identity = Identity::of(Pid::from_child(&child)).unwrap();
            let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
            let seen = loop {
                if let Some(end) = identity.unreaped_end().unwrap() {
                    break end;
                }
                assert!(std::time::Instant::now() < until);
                std::thread::yield_now();
            };
            assert_eq!(seen, end);
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_command_name_cannot_shift_the_fields() {
        let line = "42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 5 0 987654 100 1";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                parent: 7,
                start_time: 987_654,
                ended: false,
                stopped: false,
                status: None,
            })
        );
        assert_eq!(Stat::parse("42 (cut) S 7 42"), None);
    }
}
