//! The folder that an instance runs in
//!
//! A dynamic instance gets a fresh folder each time: it is filled under a staging name and takes its real name when it is
//! complete, so a half-prepared folder is never started and never mistaken for one. A static instance keeps its folder,
//! and what changes in it changes file by file, with a way back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::PreparationError;
use super::inside::Inside;
use super::leftovers;
use super::order::Assignment;
use super::turns::{Turn, Turns};
use super::undo::{self, Undo};
use crate::foreign;
use crate::supervisor::dumps;

/// How long a preparation waits for an earlier one of the same instance, which only ends what it is in the middle of
const PATIENCE: Duration = Duration::from_secs(60);

/// The folders of all instances
#[derive(Debug)]
pub(super) struct Workspaces {
    root: PathBuf,
    turns: Turns,
    next: AtomicU64,
}

/// The folder of one instance while it is prepared
///
/// Whoever gives it up, or stops waiting for what is done in it, leaves nothing behind: it is undone where that may take its time.
#[derive(Debug)]
pub(super) struct Preparing {
    live: PathBuf,
    scratch: PathBuf,
    /// Not while somebody works in it
    workspace: Option<Workspace>,
}

/// The files of an instance while it is prepared, for those who may block
///
/// Dropping it deletes what was staged, and puts back what was replaced.
#[derive(Debug)]
pub(super) struct Workspace {
    live: PathBuf,
    /// Absent for a static instance, whose folder is live all the time
    staging: Option<PathBuf>,
    /// The way back of a static instance
    undo: Option<Arc<Undo>>,
    scratch: PathBuf,
    stamp: String,
    /// Ends last
    turn: Turn,
}

/// A folder in which a process can be started
///
/// Dropping it deletes that of a dynamic instance, unless it was taken.
#[derive(Debug)]
struct Promoted {
    folder: PathBuf,
    is_unwanted: bool,
    _turn: Turn,
}

impl Workspaces {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            turns: Turns::new(PATIENCE),
            // The sweep has used the first one.
            next: AtomicU64::new(1),
        }
    }

    #[cfg(test)]
    pub(super) fn be_patient_for(&mut self, patience: Duration) {
        self.turns = Turns::new(patience);
    }

    /// Makes room for an instance, when nobody else works on it any more
    pub(super) async fn open(&self, order: &Assignment) -> Result<Preparing, PreparationError> {
        // Both names were checked: they cannot leave the root.
        let live = self.root.join(order.group.as_str()).join(order.instance.as_str());
        let turn = self.turns.take(&live).await;
        let turn = turn.map_err(|waited| PreparationError::Busy {
            path: live.clone(),
            waited,
        })?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stamp = format!("{}-{number}", std::process::id());
        let (path, is_static) = (live.clone(), order.is_static);
        let workspace = blocking(&live, move || Workspace::open(path, is_static, stamp, turn)).await??;
        Ok(Preparing {
            live,
            scratch: workspace.scratch.clone(),
            workspace: Some(workspace),
        })
    }
}

impl Preparing {
    /// Where files may be put that are on their way into the workspace
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Does file work where it may block; it goes on, and is undone, when nobody waits for it any more
    pub(super) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Workspace) -> Result<T, PreparationError> + Send + 'static,
    ) -> Result<T, PreparationError> {
        let workspace = self.take()?;
        let (done, workspace) = blocking(&self.live, move || (work(&workspace), workspace)).await?;
        self.workspace = Some(workspace);
        done
    }

    /// Undoes everything, and waits until it is
    pub(super) async fn give_up(mut self) {
        if let Some(workspace) = self.workspace.take() {
            // What fails is told, and there is nobody to hear more.
            let _ = blocking(&self.live, move || drop(workspace)).await;
        }
    }

    /// Gives the folder its real name, in the place of whatever had it; returns that name
    ///
    /// Does not wait for a former folder to be deleted.
    pub(super) async fn promote(mut self) -> Result<PathBuf, PreparationError> {
        let workspace = self.take()?;
        let promoted = blocking(&self.live, move || workspace.promote()).await??;
        Ok(promoted.take())
    }

    fn take(&mut self) -> Result<Workspace, PreparationError> {
        self.workspace.take().ok_or_else(|| PreparationError::Workspace {
            path: self.live.clone(),
            error: io::Error::other("it was given up"),
        })
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        if let Some(workspace) = self.workspace.take() {
            behind(move || drop(workspace));
        }
    }
}

impl Workspace {
    fn open(live: PathBuf, is_static: bool, stamp: String, turn: Turn) -> Result<Self, PreparationError> {
        let names = leftovers::undo_names(&live, &stamp);
        // What a failed start has changed would be put back over what comes of this one.
        undo::roll_back(&names, &live).map_err(|error| PreparationError::RollBack {
            path: live.clone(),
            kept: names.pending.clone(),
            error,
        })?;
        let staging = leftovers::beside(&live, leftovers::STAGING, &stamp);
        create(if is_static { &live } else { &staging })?;
        Ok(Self {
            staging: (!is_static).then_some(staging),
            undo: is_static.then(|| Arc::new(Undo::new(names))),
            scratch: leftovers::beside(&live, leftovers::SCRATCH, &stamp),
            live,
            stamp,
            turn,
        })
    }

    pub(super) fn is_static(&self) -> bool {
        self.undo.is_some()
    }

    /// Where files go now
    pub(super) fn path(&self) -> &Path {
        self.staging.as_deref().unwrap_or(&self.live)
    }

    /// The files in it
    pub(super) fn inside(&self) -> Result<Inside, PreparationError> {
        let inside = Inside::new(self.path()).map_err(|error| PreparationError::Workspace {
            path: self.path().to_path_buf(),
            error,
        })?;
        Ok(match &self.undo {
            Some(undo) => inside.with_undo(Arc::clone(undo)),
            None => inside,
        })
    }

    /// An empty folder for what is on its way into the workspace
    pub(super) fn scratch(&self, name: &str) -> Result<PathBuf, PreparationError> {
        let path = self.scratch.join(name);
        create(&path)?;
        Ok(path)
    }

    fn promote(mut self) -> Result<Promoted, PreparationError> {
        match self.staging.take() {
            Some(staging) => self.replace_live(&staging)?,
            None => self.end_undo()?,
        }
        let is_unwanted = self.undo.is_none();
        remove(&self.scratch);
        // Nothing of it is left to be undone.
        Ok(Promoted {
            folder: self.live.clone(),
            is_unwanted,
            _turn: self.turn.clone(),
        })
    }

    fn end_undo(&self) -> Result<(), PreparationError> {
        let Some(undo) = &self.undo else { return Ok(()) };
        let ended = undo.end(&self.inside()?);
        let ended = ended.map_err(|error| PreparationError::Workspace {
            path: self.live.clone(),
            error: io::Error::other(error),
        })?;
        if let Some(ended) = ended {
            let ended = ended.to_path_buf();
            behind(move || remove(&ended));
        }
        Ok(())
    }

    fn replace_live(&self, staging: &Path) -> Result<(), PreparationError> {
        let live = &self.live;
        let aside = leftovers::beside(live, leftovers::REPLACED, &self.stamp);
        let failed = |error: io::Error| PreparationError::Promotion {
            path: live.clone(),
            // Whoever looks for the cause may want to see it.
            kept: leftovers::quarantine(staging, live).unwrap_or_else(|_| staging.to_path_buf()),
            error,
        };
        let replaced = match fs::rename(live, &aside) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error)),
        };
        if let Err(error) = fs::rename(staging, live) {
            if replaced && let Err(error) = fs::rename(&aside, live) {
                tracing::error!(folder = %aside.display(), %error, "the folder of an earlier start cannot be put back");
            }
            return Err(failed(error));
        }
        if replaced {
            let former = live.clone();
            // Nobody waits for it: a world can be large, and a leftover is swept by the next daemon.
            behind(move || {
                let gone = match dumps::witness(&aside) {
                    // A crash that this start follows too soon to have been cleared away.
                    Some(witness) => dumps::keep(&aside, &former, &witness).map(drop),
                    None => foreign::remove(&aside),
                };
                if let Err(error) = gone {
                    tracing::warn!(folder = %aside.display(), %error, "cannot delete the folder of an earlier start");
                }
            });
        }
        Ok(())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(undo) = &self.undo
            && let Err(error) = undo.roll_back(&self.live)
        {
            tracing::error!(instance = %self.live.display(), %error,
                "not all files of a static instance can be put back after a failed start; the rest is kept, and it is not started before");
        }
        if let Some(staging) = &self.staging {
            remove(staging);
        }
        remove(&self.scratch);
    }
}

impl Promoted {
    fn take(mut self) -> PathBuf {
        self.is_unwanted = false;
        self.folder.clone()
    }
}

impl Drop for Promoted {
    fn drop(&mut self) {
        if self.is_unwanted {
            remove(&self.folder);
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = foreign::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error,
            "cannot delete what is left of a preparation; the next start of the daemon tries it again");
    }
}

/// Does work that nobody waits for, and that may block
fn behind(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

async fn blocking<T: Send + 'static>(
    live: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PreparationError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| PreparationError::Workspace {
        path: live.to_path_buf(),
        error: io::Error::other(error),
    })
}

fn create(path: &Path) -> Result<(), PreparationError> {
    fs::create_dir_all(path).map_err(|error| PreparationError::Workspace {
        path: path.to_path_buf(),
        error,
    })
}
