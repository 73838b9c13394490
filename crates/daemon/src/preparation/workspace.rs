//! The folder that an instance runs in
//!
//! A dynamic instance gets a fresh folder each time: it is filled under a staging name and takes its real name when it is
//! complete, so a half-prepared folder is never started and never mistaken for one. A static instance keeps its folder,
//! and what changes in it changes file by file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::PreparationError;
use super::inside::Inside;
use super::order::Assignment;
use super::undo::{self, Undo};
use crate::foreign;
use crate::supervisor::dumps;

/// Begins the names of folders that no instance uses; no group is called like that
const HIDDEN: &str = ".";

/// In the name of a folder that is being prepared
const STAGING: &str = "-staging-";

/// In the name of a folder with what a preparation has replaced
const UNDO: &str = "-undo-";

/// In the name of a folder with templates on their way into another one
const TEMPLATES: &str = "-templates-";

/// The folders of all instances
#[derive(Debug)]
pub(super) struct Workspaces {
    root: PathBuf,
    next: AtomicU64,
}

/// The folder of one instance while it is prepared
///
/// Dropping it deletes what was staged.
#[derive(Debug)]
pub(super) struct Workspace {
    live: PathBuf,
    /// Absent for a static instance, whose folder is live all the time
    staging: Option<PathBuf>,
    /// The way back of a static instance
    undo: Option<Arc<Undo>>,
}

impl Workspaces {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            next: AtomicU64::new(0),
        }
    }

    /// Deletes what an earlier daemon left half-prepared or half-deleted; call it before anything is prepared
    ///
    /// What explains a crash is kept, as it would have been. What is not ours to look at, such as `lost+found`, is left
    /// alone with a warning.
    ///
    /// # Errors
    /// If the folder of all instances cannot be listed.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let remove = |path: PathBuf| {
            if let Err(error) = foreign::remove(&path) {
                tracing::warn!(folder = %path.display(), %error, "cannot delete a leftover folder");
            }
        };
        // Where earlier versions of this daemon, and daemons in Java, prepared instances.
        let former = self.root.join(".staging");
        if former.exists() {
            remove(former);
        }
        let groups = match fs::read_dir(&self.root) {
            Ok(groups) => groups,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for group in groups {
            let group = group?;
            let path = group.path();
            let instances = match group.file_type() {
                Ok(kind) if kind.is_dir() => fs::read_dir(&path),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            let instances = match instances {
                Ok(instances) => instances,
                Err(error) => {
                    tracing::warn!(folder = %path.display(), %error, "cannot look for leftovers here, passing it over");
                    continue;
                }
            };
            for instance in instances.flatten() {
                let name = instance.file_name();
                let is_folder = instance.file_type().is_ok_and(|kind| kind.is_dir());
                let name = name.to_str().filter(|_| is_folder);
                match name.and_then(half_prepared) {
                    Some((instance_name, UNDO)) => {
                        tracing::warn!(
                            instance = instance_name,
                            "a daemon ended while it prepared this static instance, whose files are put back"
                        );
                        undo::roll_back(&instance.path(), &path.join(instance_name));
                        continue;
                    }
                    Some(_) => {
                        remove(instance.path());
                        continue;
                    }
                    None => {}
                }
                let Some(instance_name) = name.and_then(leftover_of) else {
                    continue;
                };
                match dumps::witness(&instance.path()) {
                    Some(witness) => {
                        let kept = dumps::keep(&instance.path(), &path.join(instance_name), &witness);
                        if let Err(error) = kept {
                            tracing::warn!(folder = %instance.path().display(), %error, "cannot keep the folder of a crashed instance");
                        }
                    }
                    None => remove(instance.path()),
                }
            }
        }
        Ok(())
    }

    /// A name beside the folder of an instance: a group may be on a file system of its own
    fn beside(&self, order: &Assignment, mark: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{HIDDEN}{}{mark}{}-{number}", order.instance, std::process::id());
        self.root.join(order.group.as_str()).join(name)
    }

    /// A folder beside that of an instance, for what is on its way there
    pub(super) fn scratch(&self, order: &Assignment) -> Scratch {
        Scratch(self.beside(order, TEMPLATES))
    }

    /// Makes room for an instance
    pub(super) fn open(&self, order: &Assignment) -> Result<Workspace, PreparationError> {
        // Both names were checked: they cannot leave the root.
        let live = self.root.join(order.group.as_str()).join(order.instance.as_str());
        if order.is_static {
            create(&live)?;
            let undo = Undo::new(self.beside(order, UNDO));
            return Ok(Workspace {
                live,
                staging: None,
                undo: Some(Arc::new(undo)),
            });
        }
        let staging = self.beside(order, STAGING);
        create(&staging)?;
        Ok(Workspace {
            live,
            staging: Some(staging),
            undo: None,
        })
    }
}

impl Workspace {
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
            // No process of the instance outlasts the machine, and the next start begins anew.
            None => inside.for_one_start(),
        })
    }

    /// Gives the folder its real name, in the place of whatever had it; returns that name
    ///
    /// Does not wait for a former folder to be deleted. Call it inside a tokio runtime.
    pub(super) fn promote(mut self) -> Result<PathBuf, PreparationError> {
        let live = self.live.clone();
        let failed = |error| PreparationError::Workspace {
            path: live.clone(),
            error,
        };
        if let Some(undo) = &self.undo {
            undo.end().map_err(failed)?;
        }
        let Some(staging) = self.staging.take() else {
            return Ok(live);
        };
        if let Some(group) = live.parent() {
            create(group)?;
        }
        let name = live.file_name().unwrap_or_default().to_string_lossy();
        let own = staging.file_name().unwrap_or_default().to_string_lossy();
        let stamp = own.rsplit_once(STAGING).map_or(&*own, |(_, stamp)| stamp);
        let aside = live.with_file_name(format!("{HIDDEN}{name}-replaced-{stamp}"));
        let replaced = match fs::rename(&live, &aside) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.staging = Some(staging);
                return Err(failed(error));
            }
        };
        if let Err(error) = fs::rename(&staging, &live) {
            if replaced {
                // Puts the former folder back; if that fails too, it is still there under the other name.
                let _ = fs::rename(&aside, &live);
            }
            self.staging = Some(staging);
            return Err(failed(error));
        }
        if replaced {
            let former = live.clone();
            // Nobody waits for it: a world can be large, and a leftover is swept by the next daemon.
            drop(tokio::task::spawn_blocking(move || {
                let gone = match dumps::witness(&aside) {
                    // A crash that this start follows too soon to have been cleared away.
                    Some(witness) => dumps::keep(&aside, &former, &witness).map(drop),
                    None => foreign::remove(&aside),
                };
                if let Err(error) = gone {
                    tracing::warn!(folder = %aside.display(), %error, "cannot delete the folder of an earlier start");
                }
            }));
        }
        Ok(live)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(undo) = &self.undo {
            undo.roll_back(&self.live);
        }
        if let Some(staging) = &self.staging
            && let Err(error) = foreign::remove(staging)
        {
            tracing::warn!(folder = %staging.display(), %error, "cannot delete a half-prepared folder");
        }
    }
}

/// Folders that are only there while an instance is prepared
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder in it
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, PreparationError> {
        let path = self.0.join(name);
        create(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = foreign::remove(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot delete unpacked templates");
        }
    }
}

/// Whose preparation a folder belongs to, and which of its marks it has
fn half_prepared(name: &str) -> Option<(&str, &'static str)> {
    let name = name.strip_prefix(HIDDEN)?;
    [STAGING, TEMPLATES, UNDO].into_iter().find_map(|mark| {
        // An instance may be called like that, too: the last mark counts, with its two numbers.
        let (instance, stamp) = name.rsplit_once(mark)?;
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (process, number) = stamp.split_once('-')?;
        (is_number(process) && is_number(number)).then_some((instance, mark))
    })
}

/// Whose folder it was, if the name is one that folders have on their way out
fn leftover_of(name: &str) -> Option<&str> {
    let name = name.strip_prefix(HIDDEN)?;
    ["-ended-", "-replaced-"]
        .iter()
        .find_map(|mark| Some(name.split_once(mark)?.0))
}

fn create(path: &Path) -> Result<(), PreparationError> {
    fs::create_dir_all(path).map_err(|error| PreparationError::Workspace {
        path: path.to_path_buf(),
        error,
    })
}
