//! What is brought into the folder: folders, files and links of another one

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::undo::Undo;
use super::{Inside, InsideError, Kind, NEXT, Place, create, kind, take_after};
use crate::reflink;

/// How many temporary names may be taken already
const MAX_ATTEMPTS: usize = 100;

impl Inside {
    /// Whatever changes is remembered first
    pub(in crate::preparation) fn with_undo(mut self, undo: Arc<Undo>) -> Self {
        self.undo = Some(undo);
        self
    }

    /// To be called before a place changes
    pub(in crate::preparation) fn remember(&self, place: &Place) -> Result<(), InsideError> {
        self.remember_all(std::slice::from_ref(place), &[])
    }

    /// To be called before many places change: waiting for the disk once is enough for all of them
    ///
    /// `folders` are those that will be made.
    pub(in crate::preparation) fn remember_all(
        &self,
        files: &[Place],
        folders: &[Place],
    ) -> Result<(), InsideError> {
        match &self.undo {
            Some(undo) => undo.remember(self, files, folders),
            None => Ok(()),
        }
    }

    /// Remembers places that will change, if anybody wants to know; what is wrong with one is said when it changes
    pub(in crate::preparation) fn remember_ahead(
        &self,
        mut files: Vec<Place>,
        mut folders: Vec<Place>,
    ) -> Result<(), InsideError> {
        if self.undo.is_none() {
            return Ok(());
        }
        for places in [&mut files, &mut folders] {
            places.retain(|place| self.kind(place).is_ok());
        }
        self.remember_all(&files, &folders)
    }

    /// Whether [`remember_ahead`](Self::remember_ahead) does anything
    pub(in crate::preparation) fn remembers(&self) -> bool {
        self.undo.is_some()
    }

    /// Makes something under a name of its own and gives it its place at once
    pub(super) fn put_at_once(
        &self,
        place: &Place,
        make: impl Fn(BorrowedFd<'_>, &str) -> io::Result<()>,
    ) -> Result<(), InsideError> {
        let (name, folders) = place.split()?;
        let target = self.folder(folders)?;
        if let Some(undo) = &self.undo {
            // Nothing half-written is ever in a folder that stays.
            let aside = undo.folder()?;
            match make_and_move(aside.as_fd(), &temporary(), target.as_fd(), name, &make) {
                Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {}
                done => return Ok(done?),
            }
        }
        for attempt in 0.. {
            let temporary = temporary();
            let beside = Place {
                names: folders
                    .iter()
                    .cloned()
                    .chain([OsString::from(&temporary)])
                    .collect(),
            };
            // Below a mount there is no other place, so it is removed with the other changes.
            self.remember(&beside)?;
            match make_and_move(target.as_fd(), &temporary, target.as_fd(), name, &make) {
                // The folder may belong to somebody who plants names.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < MAX_ATTEMPTS => {}
                done => return Ok(done?),
            }
        }
        Ok(())
    }

    /// Gives what is at a place a second name elsewhere; where files have one name only, it is copied, and is on disk then
    pub(in crate::preparation) fn name_again(
        &self,
        place: &Place,
        elsewhere: &OwnedFd,
        as_name: &str,
    ) -> Result<(), InsideError> {
        let (name, folders) = place.split()?;
        let folder = self.folder(folders)?;
        match rustix::fs::linkat(&folder, name, elsewhere, as_name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::PERM | Errno::XDEV | Errno::MLINK | Errno::OPNOTSUPP) => {
                copy(folder.as_fd(), name, elsewhere.as_fd(), as_name)
            }
            Err(error) => Err(error.into()),
        }
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
        self.make_folder(&Place {
            names: folders.to_vec(),
        })?;
        let folder = self.folder(folders)?;
        match rustix::fs::renameat(elsewhere, as_name, &folder, name) {
            // Put back already, by somebody who was interrupted.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::XDEV) => self.put_at_once(&place, |folder, temporary| {
                copy(elsewhere.as_fd(), OsStr::new(as_name), folder, temporary).map_err(io::Error::other)
            })?,
            Err(error) => return Err(error.into()),
        }
        // Two names of one file are not renamed: it was never replaced. And a copy stays when it was copied back.
        match rustix::fs::unlinkat(elsewhere, as_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file or a link; one that is not there is fine
    pub(in crate::preparation) fn remove_file(&self, relative: &str) -> Result<(), InsideError> {
        self.remove(relative, AtFlags::empty())
    }

    /// Removes a folder if it is empty
    pub(in crate::preparation) fn remove_empty_folder(&self, relative: &str) -> Result<(), InsideError> {
        match self.remove(relative, AtFlags::REMOVEDIR) {
            // Somebody has put something there meanwhile, or something else in its place.
            Err(InsideError::Io(error))
                if [Errno::NOTEMPTY, Errno::EXIST, Errno::NOTDIR]
                    .map(|errno| Some(errno.raw_os_error()))
                    .contains(&error.raw_os_error()) =>
            {
                Ok(())
            }
            removed => removed,
        }
    }

    fn remove(&self, relative: &str, flags: AtFlags) -> Result<(), InsideError> {
        let place = self.resolve_entry(relative)?;
        let (name, folders) = place.split()?;
        let folder = match self.folder(folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.forget_last();
        match rustix::fs::unlinkat(&folder, name, flags) {
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
        self.remember_all(&[], std::slice::from_ref(place))?;
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
            Err(Errno::XDEV) => self.put_at_once(place, |folder, temporary| {
                copy(source.as_fd(), from_name, folder, temporary).map_err(io::Error::other)
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// What a link says
    pub(in crate::preparation) fn read_link(&self, place: &Place) -> Result<OsString, InsideError> {
        let (name, folders) = place.split()?;
        read_link(self.folder(folders)?.as_fd(), name)
    }

    /// Makes a link, in the place of the file or the link that is there
    pub(in crate::preparation) fn link(&self, place: &Place, target: &OsStr) -> Result<(), InsideError> {
        self.remember(place)?;
        self.put_at_once(place, |folder, temporary| {
            Ok(rustix::fs::symlinkat(target, folder, temporary)?)
        })
    }

    /// Waits until a file, and the name that it has, are on disk; what is not there needs no waiting for
    pub(in crate::preparation) fn sync(&self, place: &Place) -> Result<(), InsideError> {
        let (name, folders) = place.split()?;
        let folder = match self.folder(folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => rustix::fs::fsync(file)?,
            // Gone, a link, or nothing that has bytes.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Waits until everything on the file system of a place is on disk
    pub(in crate::preparation) fn sync_around(&self, folder: &Place) -> Result<(), InsideError> {
        Ok(rustix::fs::syncfs(self.folder(&folder.names)?)?)
    }

    /// Which file system a folder is on
    pub(in crate::preparation) fn device(&self, folder: &Place) -> Result<u64, InsideError> {
        Ok(rustix::fs::fstat(self.folder(&folder.names)?)?.st_dev)
    }
}

fn temporary() -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".partial-{}-{number}", std::process::id())
}

fn make_and_move(
    from: BorrowedFd<'_>,
    temporary: &str,
    to: BorrowedFd<'_>,
    name: &OsStr,
    make: &impl Fn(BorrowedFd<'_>, &str) -> io::Result<()>,
) -> io::Result<()> {
    let made = make(from, temporary);
    if made
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
    {
        // It is somebody else's.
        return made;
    }
    let moved = made.and_then(|()| Ok(rustix::fs::renameat(from, temporary, to, name)?));
    if moved.is_err() {
        // The error that matters is the first one.
        let _ = rustix::fs::unlinkat(from, temporary, AtFlags::empty());
    }
    moved
}

/// Copies a file or a link to a new name, and waits until it is on disk
fn copy(from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, as_name: &str) -> Result<(), InsideError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = match rustix::fs::openat(from, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => {
            let target = read_link(from, name)?;
            return Ok(rustix::fs::symlinkat(target, to, as_name)?);
        }
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&source)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(InsideError::NotAFile("a pipe or a device"));
    }
    let mut copy = create(to, as_name, Mode::RUSR | Mode::WUSR)?;
    if !reflink::share(&source, &copy) {
        io::copy(&mut source, &mut copy)?;
    }
    take_after(&copy, &stat)?;
    Ok(copy.sync_all()?)
}

fn read_link(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OsString, InsideError> {
    use std::os::unix::ffi::OsStringExt as _;
    let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()))
}
