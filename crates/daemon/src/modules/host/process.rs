//! The process of a host, under its shim
//!
//! The shim is tethered to this process, so the host ends with it, however that ends. What a former daemon has left, which can be
//! there for a moment only, is ended before anything is started in its place.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep};

use super::line;
use super::pipe::Lines;
use crate::control::{ControlDir, ExitCause, LaunchOrder, LaunchSpec};
use crate::durable;
use crate::process::{descriptors, kill_tree};
use crate::supervisor::ShimCommand;

/// How long the end of what a former daemon has left is waited for
const CLEARED_WITHIN: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(20);

/// A host that runs
#[derive(Debug)]
pub(super) struct Process {
    control: ControlDir,
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<Lines<ChildStdout>>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts it; that it runs is known when it speaks
    pub(super) async fn start(
        shim: &ShimCommand,
        folder: &Path,
        spec: &LaunchSpec,
        memory: Option<u64>,
    ) -> io::Result<Self> {
        let control = ControlDir::new(control_folder(folder));
        clear(&control).await?;
        durable::private_folder(control.path())?;
        durable::private_folder(&spec.working_folder)?;
        control.reserve()?;
        control.write_launch(&LaunchOrder {
            open_files: descriptors::limit_before(),
            memory,
            tethered: true,
            ..LaunchOrder::from(spec.clone())
        })?;
        let mut child = shim
            .command(&control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            control,
            stdin: child.stdin.take(),
            stdout: child
                .stdout
                .take()
                .map(|stdout| Lines::new(stdout, line::MAX_LINE)),
            stderr: child.stderr.take(),
            child,
        })
    }

    /// Has the shim end all of it
    pub(super) fn cut(&mut self) {
        self.stdin = None;
        self.stdout = None;
    }

    /// Ends what the shim did not end
    pub(super) fn kill(&mut self) {
        // It may have ended by itself by now.
        let _ = self.child.start_kill();
        end_main(&self.control);
    }

    /// How it ended, after the shim has
    pub(super) fn how(&self) -> String {
        // A shim that was killed has ended nothing.
        end_main(&self.control);
        match self.control.read_exit() {
            Ok(Some(exit)) => match exit.cause {
                ExitCause::Exited(3) => {
                    "exit code 3, as of a JVM that has run out of the memory it may have".to_owned()
                }
                ExitCause::Exited(code) => format!("exit code {code}"),
                ExitCause::Signalled(signal) => format!("killed by signal {signal}"),
                ExitCause::SpawnFailed { message, .. } => format!("it cannot be executed: {message}"),
                ExitCause::Unobserved => "nobody saw how".to_owned(),
            },
            Ok(None) => "nobody saw how".to_owned(),
            Err(error) => format!("nobody knows how: {error}"),
        }
    }
}

fn control_folder(folder: &Path) -> PathBuf {
    folder.join("run")
}

/// Ends what runs of a host in this folder, if anything does
///
/// # Errors
/// It does not end, or the file system fails.
pub async fn end_leftover(folder: &Path) -> io::Result<()> {
    clear(&ControlDir::new(control_folder(folder))).await
}

async fn clear(control: &ControlDir) -> io::Result<()> {
    if !control.path().try_exists()? {
        return Ok(());
    }
    let deadline = Instant::now() + CLEARED_WITHIN;
    // Its shim ends it by itself, having noticed that nobody listens.
    let _lock = loop {
        if let Some(lock) = control.try_lock()? {
            break lock;
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("an earlier host of the module does not end"));
        }
        sleep(LOOK).await;
    };
    end_main(control);
    let path = control.path().to_path_buf();
    tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await?
}

/// Kills the host and what it has started, if it is the one on record
fn end_main(control: &ControlDir) {
    if let Ok(Some(running)) = control.read_state()
        && let Err(error) = kill_tree(&running.main, true)
    {
        tracing::warn!(folder = %control.path().display(), %error, "the host of a module cannot be ended");
    }
}
