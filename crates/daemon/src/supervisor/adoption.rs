//! Finding instances again that a former daemon started

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::instance::{Found, Instance};
use super::record::{InstanceFacts, Mark};
use super::{Supervisor, feed, remove_folder};
use crate::control::{ControlDir, RunningRecord};

/// How long a shim that was found while it was starting may take
const STARTING_SHIM_TIMEOUT: Duration = Duration::from_secs(5);

/// An instance that a former daemon started and nobody has settled
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What was asked for
    pub facts: InstanceFacts,
    /// Where in its life it is; its process may have ended, which an event will tell
    pub found: Found,
    /// Whether its process runs
    pub is_running: bool,
    /// Its process id
    pub pid: i32,
    /// How long ago it was started
    pub uptime: Duration,
}

impl Supervisor {
    /// Takes over what a former daemon left: running instances, and ends that were not settled
    ///
    /// Starts that had not come as far as a process are withdrawn. Ends are told as events, those of processes that
    /// ended while no daemon ran included.
    ///
    /// # Errors
    /// If the run folder cannot be listed. Single control folders that cannot be read are set aside with a warning.
    pub async fn adopt(&self) -> io::Result<Vec<Adopted>> {
        let mut adopted = Vec::new();
        for entry in fs::read_dir(&self.inner.settings.run_folder)? {
            let entry = entry?;
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_hidden || !entry.file_type()?.is_dir() {
                continue;
            }
            let control = ControlDir::new(entry.path());
            match self.adopt_one(&control).await {
                Ok(found) => adopted.extend(found),
                Err(error) => {
                    let folder = control.path().display();
                    tracing::warn!(%folder, %error, "control folder cannot be understood, setting it aside");
                    set_aside(control.path());
                }
            }
        }
        Ok(adopted)
    }

    async fn adopt_one(&self, control: &ControlDir) -> io::Result<Option<Adopted>> {
        let Some(facts) = InstanceFacts::read(control)? else {
            // Nothing was started before the facts were written.
            remove_folder(control.path());
            return Ok(None);
        };
        let Some(running) = started(control).await? else {
            tracing::info!(instance = %facts.instance, "a start that was interrupted is withdrawn");
            return Ok(None);
        };
        if Mark::Settled.is_set(control)? {
            // Only its console may still be wanted.
            self.resume_unlisted(facts, control.clone(), running);
            return Ok(None);
        }
        let is_running = running.main.is_running()?;
        let uptime = feed::now_ms().saturating_sub(running.started_at_ms);
        let found = Adopted {
            found: Instance::found(control)?,
            is_running,
            pid: running.main.pid,
            uptime: Duration::from_millis(u64::try_from(uptime).unwrap_or(0)),
            facts: facts.clone(),
        };
        self.watch(facts, control.clone(), running);
        Ok(Some(found))
    }
}

/// Who runs or ran; `None` if nothing was started, and then nothing ever will be in this folder
async fn started(control: &ControlDir) -> io::Result<Option<RunningRecord>> {
    let deadline = Instant::now() + STARTING_SHIM_TIMEOUT;
    loop {
        // The lock arbitrates: a shim that comes later finds it taken, or its order gone.
        let lock = control.try_lock()?;
        if let Some(running) = control.read_state()? {
            return Ok(Some(running));
        }
        if lock.is_some() {
            control.remove_launch()?;
            remove_folder(control.path());
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its shim neither starts the instance nor ends",
            ));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn set_aside(folder: &Path) {
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    let target = folder.with_file_name(format!(".unreadable-{name}"));
    if let Err(error) = fs::rename(folder, target) {
        tracing::warn!(folder = %folder.display(), %error, "cannot set the folder aside");
    }
}
