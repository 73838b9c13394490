//! Starting a shim, and hearing whether its instance runs

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::control::{ControlDir, ExitCause, LaunchOrder, LaunchSpec, RunningRecord};
use crate::durable::is_damage;
use crate::node::OWN_EXECUTABLE;
use crate::process::{descriptors, holders, kill_tree};
use crate::shim;

/// How long a shim may take to say whether the instance runs: a fork, an exec and two synced files
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long records and processes are looked for that a lack of descriptors hides
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two looks
const RETRY: Duration = Duration::from_millis(50);

/// How the shim is started: usually this very executable with a hidden subcommand
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimCommand {
    /// The executable
    pub program: PathBuf,
    /// What comes before the control folder
    pub arguments: Vec<String>,
}

impl ShimCommand {
    /// The shim of what this control folder is for; its streams are the caller's to choose
    pub(crate) fn command(&self, control: &ControlDir) -> Command {
        let mut command = Command::new(&self.program);
        // What it is executed by says nothing to whoever reads a list of processes.
        match std::env::args_os().next() {
            Some(name) if self.program == Path::new(OWN_EXECUTABLE) => command.arg0(name),
            _ => command.arg0(shim::NAME),
        };
        command
            .args(&self.arguments)
            .arg(control.path())
            .current_dir(control.path());
        command
    }
}

/// Why an instance did not start
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An instance of this id runs, or is about to
    #[error("the instance is running already")]
    AlreadyRunning,
    /// The program could not be executed
    #[error("cannot run {program}: {message}", program = program.display())]
    Spawn {
        /// The program
        program: PathBuf,
        /// There is no such file
        not_found: bool,
        /// The system's words
        message: String,
    },
    /// The shim failed before it could start the program
    #[error("the process supervisor of the instance failed: {message}")]
    Shim {
        /// What it said, or how it ended
        message: String,
    },
    /// The control folder could not be prepared
    #[error("cannot prepare the control folder {folder}: {error}", folder = folder.display())]
    ControlFolder {
        /// The folder
        folder: PathBuf,
        /// What failed
        #[source]
        error: io::Error,
    },
}

/// Writes the order, starts the shim and waits for its word
///
/// On an error nothing runs, and the control folder may be deleted.
pub(super) async fn launch(
    shim: &ShimCommand,
    control: &ControlDir,
    spec: LaunchSpec,
) -> Result<RunningRecord, StartError> {
    let prepare = |error| StartError::ControlFolder {
        folder: control.path().to_path_buf(),
        error,
    };
    let failed = |message: String| StartError::Shim { message };
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, control.stdin(), mode).map_err(|error| prepare(error.into()))?;
    let program = spec.program.clone();
    let order = LaunchOrder {
        open_files: descriptors::limit_before(),
        ..LaunchOrder::from(spec)
    };
    control.write_launch(&order).map_err(prepare)?;
    drop(order);
    let mut child = shim
        .command(control)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot run {}: {error}", shim.program.display())))?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("its pipes are missing".into()));
    };
    let mut word = String::new();
    let mut reader = BufReader::new(stdout).take(64);
    let answer = timeout(ANSWER_TIMEOUT, reader.read_line(&mut word)).await;
    if matches!(answer, Ok(Ok(_)))
        && word == shim::RUNNING
        && let Some(running) = recorded(control).await
    {
        // The shim is not waited for here: its life is the instance's. Tokio reaps it when it ends.
        drop(child);
        return Ok(running);
    }
    if matches!(answer, Ok(Ok(_)))
        && word == shim::FAILED
        && let Ok(Some(exit)) = control.read_exit()
        && let ExitCause::SpawnFailed { not_found, message } = exit.cause
    {
        return Err(StartError::Spawn {
            program,
            not_found,
            message,
        });
    }
    // Whatever happened, nothing may be left running that nobody knows of.
    let _ = child.start_kill();
    end_started(control).await;
    let mut said = Vec::new();
    let _ = timeout(
        Duration::from_secs(1),
        (&mut stderr).take(4096).read_to_end(&mut said),
    )
    .await;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(failed(match answer {
        Err(_) => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        Ok(_) if said.is_empty() => "it ended without a word".into(),
        Ok(_) => said,
    }))
}

/// What the shim says that it has written, which a moment without descriptors may keep from being read
async fn recorded(control: &ControlDir) -> Option<RunningRecord> {
    let deadline = Instant::now() + RECORD_TIMEOUT;
    loop {
        match control.read_state() {
            Ok(running) => return running,
            Err(error) if is_damage(&error) || Instant::now() > deadline => return None,
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Kills what was started although the start counts as failed
async fn end_started(control: &ControlDir) {
    let deadline = Instant::now() + RECORD_TIMEOUT;
    loop {
        let killed = holders(&control.stdin(), &control.console_log()).and_then(|processes| {
            for process in &processes {
                kill_tree(process, true)?;
            }
            Ok(processes.is_empty())
        });
        match killed {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) if Instant::now() > deadline => {
                let folder = control.path().display();
                tracing::error!(%folder, %error, "what a failed start left running cannot be looked for");
                return;
            }
            Err(_) => {}
        }
        if Instant::now() > deadline {
            return;
        }
        sleep(RETRY).await;
    }
}
