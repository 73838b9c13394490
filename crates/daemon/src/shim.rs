//! The process that stands between the daemon and one instance, so that the instance outlives the daemon
//!
//! ```text
//! daemon ──spawn──> shim (own session, subreaper) ──spawn──> java (own process group)
//!    │                │ waits, records the exit               │ stdin: FIFO, opened read-write
//!    └── records on disk <──────────────────────────────────  └ stdout, stderr: straight into console.log
//! ```
//!
//! Only a parent learns an exit code, and a parent must live as long as its child: that is the whole reason for this
//! process. It copies no data, talks to nobody, and uses nothing but `std` and plain system calls, so it costs about a
//! hundred kilobytes and cannot fail in many ways. It runs from a hidden subcommand before any runtime or TLS library
//! starts.
//!
//! What is *tethered* does not outlive the daemon: the host of a module talks through the three streams that the shim was given,
//! and the kernel tells the shim when nobody reads the second any more, whatever has become of the reader. Then it kills what it
//! started, so that a daemon which was killed leaves none behind. Closing that stream is also how a daemon kills it.
//!
//! What it is to start comes from a file in the control folder ([`crate::control`]), never from its arguments: arguments
//! are public on a machine, and the environment of an instance holds its plugin token.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus, pidfd_send_signal,
};

use crate::control::{ControlDir, ExitCause, ExitRecord, LaunchOrder, LaunchSpec, RunningRecord};
use crate::durable;
use crate::process::signals::{self, Signals};
use crate::process::{Identity, children, descriptors};
use crate::wall_clock::now_ms;

/// What the shim writes to its standard output once the instance runs
pub(crate) const RUNNING: &str = "running\n";

/// What the shim writes to its standard output if the instance could not be started; the exit record says why
pub(crate) const FAILED: &str = "failed\n";

/// Runs the shim for the control folder that is the only argument, and returns when the instance has ended
///
/// Standard output must be a pipe to the daemon or closed: one word goes there. The exit code is 0 once
/// the exit is on record, 1 if something kept the shim from its work (said in one line on standard error), 2 for wrong
/// arguments.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        complain("expected one argument, the control folder");
        return ExitCode::from(2);
    };
    match supervise(&ControlDir::new(PathBuf::from(folder))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(message: &str) {
    // Nobody may be listening any more; there is nowhere else to say it.
    let _ = writeln!(io::stderr(), "prexorcloud shim: {message}");
}

/// How the shim is called in lists of processes: not like the daemon, so that a signal to all of that name is for it alone
pub(crate) const NAME: &str = "prexor-shim";

/// More than a thread needs that waits for one thing
const TETHER_STACK: usize = 64 * 1024;

fn supervise(control: &ControlDir) -> io::Result<()> {
    // Only for people to read.
    let _ = std::fs::write("/proc/self/comm", NAME);
    // The shim stays for as long as its instance does, or nobody would know how that ended; and what the daemon was
    // started to ignore, a server is not to inherit.
    signals::unblock_all()?;
    signals::shrug_off(Signals::now()?.ignored().chain(signals::OF_OPERATORS))?;
    signals::shrug_off_meaningless()?;
    // Fails only for a process group leader, which is in nobody's way.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let Some(_lock) = control.try_lock()? else {
        return Err(io::Error::other("another shim holds the control folder"));
    };
    if control.read_state()?.is_some() || control.read_exit()?.is_some() {
        return Err(io::Error::other("the control folder was used before"));
    }
    let Some(launch) = control.read_launch()? else {
        return Err(io::Error::other("there is no launch order, or it was withdrawn"));
    };
    // Opened now: at the end there may be no descriptor and no space left.
    let exit = control.open_exit()?;
    let started = spawn(control, &launch);
    let is_tethered = launch.tethered;
    // What is said on a tethered stream is not the shim's.
    let tell_daemon = |word| {
        if !is_tethered {
            tell_daemon(word)
        }
    };
    drop(launch);
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            exit.write(&ExitRecord {
                cause: ExitCause::SpawnFailed {
                    not_found: error.kind() == io::ErrorKind::NotFound,
                    message: error.to_string(),
                },
                exited_at_ms: now_ms(),
            })?;
            control.remove_launch()?;
            tell_daemon(FAILED);
            return Ok(());
        }
    };
    // From here on the child must be waited for, whatever the disk says.
    let recorded = record_start(control, child);
    tell_daemon(if recorded.is_ok() { RUNNING } else { FAILED });
    if let Err(error) = &recorded {
        complain(&format!("cannot record the start, ending the instance: {error}"));
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
    if is_tethered && let Err(error) = tether(child) {
        complain(&format!("cannot watch the daemon, ending the module: {error}"));
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
    let cause = wait_for(child)?;
    let written = exit.write(&ExitRecord {
        cause,
        exited_at_ms: now_ms(),
    });
    end_descendants()?;
    recorded.and(written)
}

fn spawn(control: &ControlDir, launch: &LaunchOrder) -> io::Result<Pid> {
    if let Some(open_files) = launch.open_files {
        descriptors::set_limit(open_files);
    }
    if let Some(bytes) = launch.memory {
        // Before the start, so that there is no moment without it. This process needs next to nothing.
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        rustix::process::setrlimit(Resource::Data, limit)?;
    }
    let is_tethered = launch.tethered;
    let launch = &launch.spec;
    if is_tethered {
        let child = command(launch).spawn()?;
        return Ok(Pid::from_child(&child));
    }
    // Read and write: the instance sees no end of file when the daemon goes away, and a writer always finds a reader.
    let stdin = File::options().read(true).write(true).open(control.stdin())?;
    let stdout = File::options()
        .append(true)
        .create(true)
        .mode(durable::PRIVATE_FILE)
        .open(control.console_log())?;
    let stderr = stdout.try_clone()?;
    let child = command(launch)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    Ok(Pid::from_child(&child))
}

fn command(launch: &LaunchSpec) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(&launch.environment)
        .current_dir(&launch.working_folder)
        .process_group(0);
    command
}

/// Kills `child` as soon as nobody reads standard output any more
fn tether(child: Pid) -> io::Result<()> {
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let watch = move || {
        loop {
            // Nothing is asked for: an error is told all the same, and for a pipe it means that its reader is gone.
            let stdout = io::stdout();
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            match rustix::event::poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
        // By descriptor: a child that has ended by itself is nobody else by now.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    };
    std::thread::Builder::new()
        .name("tether".into())
        .stack_size(TETHER_STACK)
        .spawn(watch)?;
    Ok(())
}

fn record_start(control: &ControlDir, child: Pid) -> io::Result<()> {
    control.write_state(&RunningRecord {
        shim: Identity::of(rustix::process::getpid())?,
        main: Identity::of(child)?,
        started_at_ms: now_ms(),
    })?;
    control.remove_launch()
}

/// Says one word to the daemon
fn tell_daemon(word: &str) {
    let mut stdout = io::stdout();
    // The daemon may have been killed meanwhile; it will read the records instead.
    let _ = stdout.write_all(word.as_bytes());
    let _ = stdout.flush();
}

/// Reaps whatever ends until `child` does
fn wait_for(child: Pid) -> io::Result<ExitCause> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                if let Some(cause) = ended(status) {
                    return Ok(cause);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn ended(status: WaitStatus) -> Option<ExitCause> {
    status
        .exit_status()
        .map(ExitCause::Exited)
        .or_else(|| status.terminating_signal().map(ExitCause::Signalled))
}

/// Kills and reaps everything that the instance left behind
///
/// Whoever loses its parent becomes a child of this process, so killing direct children until there are none reaches
/// all of them. A direct child's id cannot be reused before it is reaped here.
fn end_descendants() -> io::Result<()> {
    let me = rustix::process::getpid();
    loop {
        for child in children(me)? {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
