//! What is brought into the folder: folders, files and links of another one

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::undo::Undo;
use super::{Inside, InsideError, Kind, MAX_FILE_MOVED, NEXT, Place, kind};

impl Inside {
    /// What is written is of no use after a power failure, and nobody waits for the disk
    pub(in crate::preparation) fn for_one_start(mut self) -> Self {
        self.is_lasting = false;
        self
    }

    /// Whatever changes is remembered first
    pub(in crate::preparation) fn with_undo(mut self, undo: Arc<Undo>) -> Self {
        self.undo = Some(undo);
        self
    }

    /// To be called before a place changes
    pub(in crate::preparation) fn remember(&self, place: &Place) -> Result<(), InsideError> {
        match &self.undo {
            Some(undo) => Ok(undo.remember(self, place)?),
            None => Ok(()),
        }
    }

    /// Gives what is at a place a second name elsewhere; where files have one name only, it is copied
    pub(in crate::preparation) fn name_again(
        &self,
        place: &Place,
        elsewhere: &OwnedFd,
        as_name: &str,
    ) -> Result<(), InsideError> {
        let (name, folders) = place.split()?;
        let folder = self.folder(folders)?;
        match rustix::fs::linkat(&folder, name, elsewhere, as_name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::PERM | Errno::XDEV | Errno::MLINK | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut from = File::from(rustix::fs::openat(&folder, name, flags, Mode::empty())?);
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&from)?.st_mode & 0o777);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut to = File::from(rustix::fs::openat(elsewhere, as_name, flags, mode)?);
        io::copy(&mut from, &mut to)?;
        Ok(())
    }

    /// Moves what was named again back to its place
    pub(in crate::preparation) fn put_back(
        &self,
        relative: &str,
        elsewhere: &OwnedFd,
        as_name: &str,
    ) -> Result<(), InsideError> {
        let place = self.resolve_entry(relative)?;
        let (name, folders) = place.split()?;
        let folder = self.folder(folders)?;
        match rustix::fs::renameat(elsewhere, as_name, &folder, name) {
            // Put back already, by somebody who was interrupted.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // Two names of one file are not renamed: it was never replaced.
        let _ = rustix::fs::unlinkat(elsewhere, as_name, AtFlags::empty());
        Ok(())
    }

    /// Removes a file or a link; one that is not there is fine
    pub(in crate::preparation) fn remove_file(&self, relative: &str) -> Result<(), InsideError> {
        let place = self.resolve_entry(relative)?;
        let (name, folders) = place.split()?;
        let folder = match self.folder(folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is at a place, links included as what they are; `None` if nothing is
    pub(in crate::preparation) fn kind(&self, place: &Place) -> Result<Option<Kind>, InsideError> {
        let (name, folders) = place.split()?;
        let folder = match self.folder(folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(kind(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows the links before the last name of `relative`, and leaves that one as it is
    pub(in crate::preparation) fn resolve_entry(&self, relative: &str) -> Result<Place, InsideError> {
        match relative.rsplit_once('/') {
            Some((parent, name)) => Ok(self.resolve(parent)?.join(name.as_ref())),
            None => Ok(Place::root().join(relative.as_ref())),
        }
    }

    /// Makes a folder, and those above it; one that is there is fine
    pub(in crate::preparation) fn make_folder(&self, place: &Place) -> Result<(), InsideError> {
        let mut above: Vec<OsString> = Vec::new();
        for name in &place.names {
            let folder = self.folder(&above)?;
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            above.push(name.clone());
        }
        // What is there may be something else.
        self.folder(&above)?;
        Ok(())
    }

    /// Moves a file of another folder to a place, over the file that is there
    pub(in crate::preparation) fn take_over(
        &self,
        place: &Place,
        other: &Self,
        from: &Place,
    ) -> Result<(), InsideError> {
        self.remember(place)?;
        let (name, folders) = place.split()?;
        let (from_name, from_folders) = from.split()?;
        let (to, source) = (self.folder(folders)?, other.folder(from_folders)?);
        match rustix::fs::renameat(&source, from_name, &to, name) {
            Ok(()) => Ok(()),
            // Both are on file systems of their own.
            Err(Errno::XDEV) => {
                let stat = rustix::fs::statat(&source, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
                let bytes = other.read(from, MAX_FILE_MOVED)?.ok_or(io::ErrorKind::NotFound);
                self.replace(place, &bytes.map_err(io::Error::from)?)?;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
                Ok(rustix::fs::chmodat(&to, name, mode, AtFlags::empty())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a link says
    pub(in crate::preparation) fn read_link(&self, place: &Place) -> Result<OsString, InsideError> {
        use std::os::unix::ffi::OsStringExt as _;
        let (name, folders) = place.split()?;
        let target = rustix::fs::readlinkat(self.folder(folders)?, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Makes a link, in the place of the file or the link that is there
    pub(in crate::preparation) fn link(&self, place: &Place, target: &OsStr) -> Result<(), InsideError> {
        self.remember(place)?;
        let (name, folders) = place.split()?;
        let folder = self.folder(folders)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".partial-{}-link-{number}", std::process::id());
        rustix::fs::symlinkat(target, &folder, &temporary)?;
        if let Err(error) = rustix::fs::renameat(&folder, &temporary, &folder, name) {
            // The error that matters is the first one.
            let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
            return Err(error.into());
        }
        Ok(())
    }
}
