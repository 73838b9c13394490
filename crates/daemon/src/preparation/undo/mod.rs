//! What the folder of a static instance was before a preparation, until it has succeeded
//!
//! ```text
//!  a change is announced ── second names, a line of the list, fsync ── the change ── … ── all synced ── the folder is renamed
//! ```
//!
//! A static folder may hold worlds, so it is not copied: what is about to be replaced gets a second name in a folder beside it, and a
//! list there says where it belongs. The folder under its name, `.<id>-undo`, means that the instance is half-changed, at any moment and
//! for whoever finds it: the preparation that failed, the next one, or the next daemon. The instance becomes what it was before
//! anything else is done to it. Renaming the folder is what ends it, so no list outlives a start that has succeeded.

mod list;

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::inside::{Inside, InsideError, Kind, Place};
use super::leftovers;
use crate::{durable, foreign};
use list::{Former, List};

/// As many places are synced one by one; for more, their file system is synced as a whole
const SYNCED_ALONE: usize = 16;

/// The way back of one preparation
#[derive(Debug)]
pub(super) struct Undo {
    names: Names,
    state: Mutex<State>,
}

/// What the folder beside that of the instance is called
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// As long as there is a way back
    pub(super) pending: PathBuf,
    /// When there is none any more, until it is deleted
    pub(super) ended: PathBuf,
}

#[derive(Debug, Default)]
struct State {
    /// Made when the first change comes
    open: Option<Open>,
    known: HashSet<Place>,
    kept: u64,
}

#[derive(Debug)]
struct Open {
    list: List,
    folder: Arc<OwnedFd>,
}

impl Undo {
    /// Both names have to be on the file system of the instance, and free
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder that goes when the preparation has ended, on the file system of the instance
    pub(super) fn folder(&self) -> io::Result<Arc<OwnedFd>> {
        let mut state = self.state();
        Ok(Arc::clone(&self.opened(&mut state)?.folder))
    }

    fn opened<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Open> {
        let opened = match state.open.take() {
            Some(opened) => opened,
            None => {
                let pending = &self.names.pending;
                // It holds what the server may have closed to others.
                DirBuilder::new().mode(durable::PRIVATE_FOLDER).create(pending)?;
                durable::sync_parent(pending)?;
                Open {
                    list: List::create(pending)?,
                    folder: Arc::new(open(pending)?),
                }
            }
        };
        Ok(state.open.insert(opened))
    }

    /// Remembers what is at places that are about to change, of which only the first time counts
    ///
    /// When it returns, all of it is on disk. `folders` are those that are about to be made.
    pub(super) fn remember(
        &self,
        inside: &Inside,
        files: &[Place],
        folders: &[Place],
    ) -> Result<(), InsideError> {
        let mut state = self.state();
        let mut batch = Batch::default();
        for place in folders {
            batch.add_missing(inside, &state.known, Some(place.clone()))?;
        }
        for place in files {
            if state.known.contains(place) || batch.fresh.contains(place) {
                continue;
            }
            match inside.kind(place)? {
                Some(Kind::Folder) => continue,
                Some(_) => {
                    batch.formers.push(Former::Kept {
                        path: text(place)?,
                        number: state.kept,
                    });
                    batch.kept.push((place.clone(), state.kept.to_string()));
                    state.kept += 1;
                }
                None => {
                    batch.add_missing(inside, &state.known, place.parent())?;
                    batch.formers.push(Former::Absent { path: text(place)? });
                }
            }
            batch.fresh.insert(place.clone());
        }
        if batch.formers.is_empty() {
            return Ok(());
        }
        let open = self.opened(&mut state)?;
        for (place, number) in &batch.kept {
            inside.name_again(place, &open.folder, number)?;
        }
        rustix::fs::fsync(&*open.folder)?;
        open.list.add(&batch.formers)?;
        state.known.extend(batch.fresh);
        Ok(())
    }

    /// The preparation has succeeded, and what it has changed is on disk: there is no way back any more
    ///
    /// Returns what can be deleted. After an error there still is a way back.
    pub(super) fn end(&self, inside: &Inside) -> Result<Option<&Path>, InsideError> {
        let mut state = self.state();
        if state.open.is_none() {
            return Ok(None);
        }
        sync(inside, state.known.iter())?;
        let Names { pending, ended } = &self.names;
        fs::rename(pending, ended)?;
        if let Err(error) = durable::sync_parent(pending) {
            fs::rename(ended, pending)?;
            return Err(error.into());
        }
        state.open = None;
        Ok(Some(ended))
    }

    /// Makes the folder of the instance what it was, if anything has changed
    pub(super) fn roll_back(&self, live: &Path) -> io::Result<()> {
        match self.state().open.take() {
            Some(_) => roll_back(&self.names, live),
            None => Ok(()),
        }
    }
}

/// What is remembered at once
#[derive(Debug, Default)]
struct Batch {
    formers: Vec<Former>,
    kept: Vec<(Place, String)>,
    fresh: HashSet<Place>,
    present: HashSet<Place>,
}

impl Batch {
    /// Lists a folder and those above it, as far as they are not there, the uppermost first
    fn add_missing(
        &mut self,
        inside: &Inside,
        known: &HashSet<Place>,
        folder: Option<Place>,
    ) -> Result<(), InsideError> {
        let mut missing = Vec::new();
        let mut at = folder.filter(|folder| folder.depth() > 0);
        while let Some(place) = at {
            if known.contains(&place) || self.fresh.contains(&place) || self.present.contains(&place) {
                break;
            }
            if inside.kind(&place)?.is_some() {
                self.present.insert(place);
                break;
            }
            at = place.parent().filter(|parent| parent.depth() > 0);
            missing.push(place);
        }
        for place in missing.into_iter().rev() {
            self.formers.push(Former::NoFolder { path: text(&place)? });
            self.fresh.insert(place);
        }
        Ok(())
    }
}

/// Makes a folder what it was by what is pending beside it, and ends that; without anything pending it does nothing
///
/// If it fails, what is done stays done, and the rest stays pending.
pub(super) fn roll_back(names: &Names, live: &Path) -> io::Result<()> {
    let Names { pending, ended } = names;
    if fs::symlink_metadata(pending).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let formers = list::read(pending)?;
    if fs::symlink_metadata(live).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        // Somebody has deleted the instance, and may want what is left of it.
        if formers.iter().any(|former| matches!(former, Former::Kept { .. })) {
            return leftovers::quarantine(pending, live).map(drop);
        }
    } else {
        put_back(pending, live, &formers)?;
    }
    fs::rename(pending, ended)?;
    durable::sync_parent(ended)?;
    if let Err(error) = foreign::remove(ended) {
        tracing::warn!(folder = %ended.display(), %error, "cannot delete a leftover folder");
    }
    Ok(())
}

fn put_back(folder: &Path, live: &Path, formers: &[Former]) -> io::Result<()> {
    let (inside, kept) = (Inside::new(live)?, open(folder)?);
    let mut places = Vec::new();
    let (mut left, mut failure) = (Vec::new(), None);
    // Folders come before what is in them, and go after it.
    for former in formers.iter().rev() {
        let (path, done) = match former {
            Former::Kept { path, number } => (path, inside.put_back(path, &kept, &number.to_string())),
            Former::Absent { path } => (path, inside.remove_file(path)),
            Former::NoFolder { path } => (path, inside.remove_empty_folder(path)),
        };
        match done {
            Ok(()) => places.extend(inside.resolve_entry(path).ok()),
            Err(error) => {
                failure.get_or_insert_with(|| format!("{path}: {error}"));
                left.push(former.clone());
            }
        }
    }
    sync(&inside, places.iter()).map_err(io::Error::other)?;
    let Some(failure) = failure else {
        return Ok(());
    };
    // What is put back may be changed by whoever mends the rest.
    left.reverse();
    list::shorten(folder, &left)?;
    Err(io::Error::other(failure))
}

/// Waits until places are on disk
fn sync<'a>(inside: &Inside, places: impl ExactSizeIterator<Item = &'a Place>) -> Result<(), InsideError> {
    if places.len() <= SYNCED_ALONE {
        for place in places {
            inside.sync(place)?;
        }
        return Ok(());
    }
    let folders: HashSet<Place> = places.filter_map(Place::parent).collect();
    let mut synced = HashSet::from([inside.device(&Place::root())?]);
    inside.sync_around(&Place::root())?;
    for folder in &folders {
        match inside.device(folder) {
            Ok(device) if !synced.insert(device) => {}
            Ok(_) => inside.sync_around(folder)?,
            Err(InsideError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn text(place: &Place) -> io::Result<String> {
    let text = place.relative().into_os_string().into_string();
    text.map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(rustix::fs::CWD, folder, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests;
