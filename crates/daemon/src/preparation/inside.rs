//! The files inside a folder, reached without ever leaving it
//!
//! The folder may belong to somebody who is hostile: links may lead out or in circles, a pipe may wait for its writer, a
//! sparse file may claim any size, and all of it may change at any moment. A path is therefore resolved here and not by
//! the system, links that stay inside are followed, and what is opened then is opened without following any.

mod changes;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use super::undo::Undo;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

/// More links on one path lead nowhere
const MAX_LINKS: usize = 40;

/// Numbers temporary files, so that two never share one
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A folder out of which nothing leads
#[derive(Debug)]
pub(super) struct Inside {
    root: PathBuf,
    /// Without links, for links that name the folder in full
    real: PathBuf,
    /// Where what changes is remembered, if it is
    undo: Option<Arc<Undo>>,
    /// The folder that was opened last: most files follow one of the same folder
    last: Mutex<Option<(Vec<OsString>, Arc<OwnedFd>)>>,
}

/// A path below the folder, without links when it was resolved
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    names: Vec<OsString>,
}

/// Why a path cannot be used
#[derive(Debug, thiserror::Error)]
pub(super) enum InsideError {
    /// `..`, or an absolute path
    #[error("it leads out of the instance's folder")]
    LeadsOut,
    /// A link to elsewhere
    #[error("the link {link} leads out of the instance's folder")]
    LinkLeadsOut { link: String },
    /// Links that lead to each other
    #[error("the link {link} leads through too many links")]
    TooManyLinks { link: String },
    /// A folder, a pipe, a device
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// More than the caller takes
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// The system's answer
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for InsideError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl InsideError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

/// What a name in a folder is
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Folder,
    File,
    Link,
    /// A pipe, a socket, a device
    Special,
}

/// What is at a place
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    /// With its size
    File(u64),
    Other,
}

impl Place {
    /// The folder itself
    pub(super) fn root() -> Self {
        Self { names: Vec::new() }
    }

    pub(super) fn join(&self, name: &OsStr) -> Self {
        let mut names = self.names.clone();
        names.push(name.to_owned());
        Self { names }
    }

    /// The folder that it is in; `None` for the folder itself
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, folders) = self.names.split_last()?;
        Some(Self {
            names: folders.to_vec(),
        })
    }

    pub(super) fn depth(&self) -> usize {
        self.names.len()
    }

    /// As a path below the folder
    pub(super) fn relative(&self) -> PathBuf {
        self.names.iter().collect()
    }

    fn split(&self) -> Result<(&OsStr, &[OsString]), InsideError> {
        let (name, folders) = self
            .names
            .split_last()
            .ok_or(InsideError::NotAFile("the folder"))?;
        Ok((name, folders))
    }
}

impl Inside {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: std::path::absolute(root)?,
            real: root.canonicalize()?,
            undo: None,
            last: Mutex::default(),
        })
    }

    /// Where a place is in the file system
    pub(super) fn path(&self, place: &Place) -> PathBuf {
        self.root.join(place.relative())
    }

    /// Follows `relative` and the links on it; what is missing at its end may be missing
    pub(super) fn resolve(&self, relative: &str) -> Result<Place, InsideError> {
        let relative = relative.replace('\\', "/");
        let mut waiting: Vec<OsString> = Vec::new();
        for component in Path::new(&relative).components().rev() {
            match component {
                Component::Normal(name) => waiting.push(name.to_owned()),
                Component::CurDir => {}
                _ => return Err(InsideError::LeadsOut),
            }
        }
        let mut names: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(name) = waiting.pop() {
            if name == ".." {
                names.pop();
                continue;
            }
            let path = self.root.join(names.iter().collect::<PathBuf>()).join(&name);
            let is_link = path
                .symlink_metadata()
                .is_ok_and(|metadata| metadata.is_symlink());
            if !is_link {
                names.push(name);
                continue;
            }
            let link = || {
                path.strip_prefix(&self.root)
                    .unwrap_or(&path)
                    .display()
                    .to_string()
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(InsideError::TooManyLinks { link: link() });
            }
            let target = std::fs::read_link(&path)?;
            let leads_out = || InsideError::LinkLeadsOut { link: link() };
            let target = if target.is_absolute() {
                names.clear();
                let inside = target
                    .strip_prefix(&self.root)
                    .or_else(|_| target.strip_prefix(&self.real));
                inside.map_err(|_| leads_out())?.to_path_buf()
            } else {
                target
            };
            let mut depth = names.len();
            let mut parts = Vec::new();
            for component in target.components() {
                match component {
                    Component::Normal(name) => {
                        depth += 1;
                        parts.push(name.to_owned());
                    }
                    Component::ParentDir => {
                        depth = depth.checked_sub(1).ok_or_else(leads_out)?;
                        parts.push("..".into());
                    }
                    _ => {}
                }
            }
            waiting.extend(parts.into_iter().rev());
        }
        if names.is_empty() {
            return Err(InsideError::LeadsOut);
        }
        Ok(Place { names })
    }

    /// As [`resolve`](Self::resolve) for a name in a folder that was resolved
    pub(super) fn resolve_in(&self, folder: &Place, name: &OsStr) -> Result<Place, InsideError> {
        let place = folder.join(name);
        let opened = match self.folder(&folder.names) {
            Ok(opened) => opened,
            // What is missing may be missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(place),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                self.resolve(&place.relative().to_string_lossy())
            }
            _ => Ok(place),
        }
    }

    /// The names in a folder, with what they are
    pub(super) fn list(&self, place: &Place) -> io::Result<Vec<(OsString, Entry)>> {
        use std::os::unix::ffi::OsStrExt as _;

        let folder = self.folder(&place.names)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // Somebody may clean up; what is gone is not there.
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            let entry = match kind {
                FileType::Directory => Entry::Folder,
                FileType::RegularFile => Entry::File,
                FileType::Symlink => Entry::Link,
                _ => Entry::Special,
            };
            entries.push((name.to_owned(), entry));
        }
        Ok(entries)
    }

    /// The content of a file; `None` if there is none
    pub(super) fn read(&self, place: &Place, limit: u64) -> Result<Option<Vec<u8>>, InsideError> {
        match self.open_file(place, OFlags::RDONLY)? {
            Some((mut file, size)) => read_to_end(&mut file, size, limit).map(Some),
            None => Ok(None),
        }
    }

    /// Gives a file what `edit` makes of its content, if it makes anything of it; one that is not there is fine
    pub(super) fn edit(
        &self,
        place: &Place,
        limit: u64,
        edit: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), InsideError> {
        let opened = match self.undo {
            Some(_) => None,
            None => self.open_file(place, OFlags::RDWR).ok(),
        };
        let is_open_to_write = opened.is_some();
        let opened = match opened {
            Some(opened) => opened,
            // What may not be written may be replaced.
            None => self.open_file(place, OFlags::RDONLY)?,
        };
        let Some((mut file, size)) = opened else {
            return Ok(());
        };
        let former = read_to_end(&mut file, size, limit)?;
        match edit(&former) {
            Some(edited) if is_open_to_write => overwrite(&file, &edited, former.len()),
            Some(edited) => self.replace(place, &edited),
            None => Ok(()),
        }
    }

    /// Opens a file to be read; `None` if there is none
    pub(super) fn open(&self, place: &Place) -> Result<Option<File>, InsideError> {
        Ok(self.open_file(place, OFlags::RDONLY)?.map(|(file, _)| file))
    }

    /// Makes a file where none is: it gets its place when it is written
    pub(super) fn write_new(
        &self,
        place: &Place,
        write: impl Fn(&File) -> io::Result<()>,
    ) -> Result<(), InsideError> {
        self.remember(place)?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        self.put_at_once(place, |folder, temporary| {
            write(&create(folder, temporary, mode)?)
        })
    }

    /// Opens a regular file, whose size is told
    fn open_file(&self, place: &Place, access: OFlags) -> Result<Option<(File, u64)>, InsideError> {
        let (name, folders) = place.split()?;
        let folder = match self.folder(folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Without NONBLOCK, opening a pipe would wait for its writer.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            // A socket cannot be opened at all.
            Err(rustix::io::Errno::NXIO) => return Err(InsideError::NotAFile("a socket")),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some((file.into(), size(&stat)))),
            FileType::Directory => Err(InsideError::NotAFile("a folder")),
            FileType::Fifo => Err(InsideError::NotAFile("a pipe")),
            _ => Err(InsideError::NotAFile("a device")),
        }
    }

    /// Gives a file another content, with the mode and owner that it had
    ///
    /// Where changes are [remembered](Self::with_undo) it is done at once. Any other folder is the preparation's own and goes with it, so
    /// the file is overwritten: a file system that syncs what is renamed over another file (ext4 does) takes several times as long.
    /// Nothing is synced here: what is remembered is when the preparation ends.
    pub(super) fn replace(&self, place: &Place, bytes: &[u8]) -> Result<(), InsideError> {
        self.remember(place)?;
        let (name, folders) = place.split()?;
        let folder = self.folder(folders)?;
        if self.undo.is_none()
            && let Some(file) = open_to_overwrite(&folder, name)?
        {
            return overwrite(&file, bytes, usize::MAX);
        }
        let former = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(rustix::io::Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        self.put_at_once(place, |folder, temporary| {
            write(
                create(folder, temporary, Mode::RUSR | Mode::WUSR)?,
                bytes,
                former.as_ref(),
            )
        })
    }

    /// Opens a folder name by name, so that no link is followed
    fn folder(&self, names: &[OsString]) -> io::Result<Arc<OwnedFd>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, folder)) = last.as_ref().filter(|(at, _)| at == names) {
            return Ok(Arc::clone(folder));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(&self.root, flags, Mode::empty())?;
        for name in names {
            folder = rustix::fs::openat(&folder, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        let folder = Arc::new(folder);
        *last = Some((names.to_vec(), Arc::clone(&folder)));
        Ok(folder)
    }

    /// A folder that is removed is not to be found any more
    fn forget_last(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn read_to_end(file: &mut File, size: u64, limit: u64) -> Result<Vec<u8>, InsideError> {
    if size > limit {
        return Err(InsideError::TooLarge(limit));
    }
    // One byte more says at once that it has ended.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(InsideError::TooLarge(limit));
    }
    Ok(bytes)
}

/// Writes over a file that had so many bytes
fn overwrite(file: &File, bytes: &[u8], former: usize) -> Result<(), InsideError> {
    file.write_all_at(bytes, 0)?;
    if bytes.len() < former {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

/// Opens a regular file that is there; `None` for whatever has to be replaced instead
fn open_to_overwrite(folder: &OwnedFd, name: &OsStr) -> io::Result<Option<File>> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else {
        return Ok(None);
    };
    let is_file = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
    Ok(is_file.then(|| file.into()))
}

fn create(folder: BorrowedFd<'_>, name: &str, mode: Mode) -> io::Result<File> {
    // To be read too, since who copies looks at what has come.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, mode)?.into())
}

fn write(mut file: File, bytes: &[u8], former: Option<&Stat>) -> io::Result<()> {
    file.write_all(bytes)?;
    match former {
        Some(former) => take_after(&file, former),
        None => Ok(()),
    }
}

/// Gives a file the mode of another one, and its owner if that is possible
fn take_after(file: &File, former: &Stat) -> io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(former.st_uid);
    let group = rustix::fs::Gid::from_raw(former.st_gid);
    // Only root may give files away; for others the file becomes the daemon's.
    let _ = rustix::fs::fchown(file, Some(owner), Some(group));
    Ok(rustix::fs::fchmod(
        file,
        Mode::from_raw_mode(former.st_mode & 0o777),
    )?)
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File(size(stat)),
        _ => Kind::Other,
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_are_followed_as_long_as_they_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        let inside = Inside::new(&root).unwrap();
        for (to, name) in [
            ("a", "short"),
            ("../a/./b", "a/up"),
            ("short/b", "twice"),
            ("..", "a/b/parent"),
            ("../..", "a/out"),
            ("/etc", "far"),
            ("x", "y"),
            ("y", "x"),
            ("missing/deep", "dangling"),
        ] {
            symlink(to, root.join(name)).unwrap();
        }
        symlink(root.join("a"), root.join("full")).unwrap();
        let resolved = |relative: &str| inside.resolve(relative).map(|place| place.relative());
        for (relative, real) in [
            ("a/b/c.yml", "a/b/c.yml"),
            ("./short\\b/x", "a/b/x"),
            ("a/up/x", "a/b/x"),
            ("twice/x", "a/b/x"),
            ("a/b/parent/x", "a/x"),
            ("full/b/x", "a/b/x"),
            ("dangling/x", "missing/deep/x"),
        ] {
            assert_eq!(resolved(relative).unwrap(), Path::new(real), "{relative}");
        }
        for (relative, said) in [
            ("../x", "it leads out"),
            ("/x", "it leads out"),
            ("", "it leads out"),
            ("a/out/x", "the link a/out leads out"),
            ("far/passwd", "the link far leads out"),
            ("x/z", "too many links"),
        ] {
            let error = resolved(relative).unwrap_err().to_string();
            assert!(error.contains(said), "{relative}: {error}");
        }
    }

    #[test]
    fn a_file_of_the_preparations_own_is_overwritten_and_nothing_of_it_is_left() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yml");
        fs::write(&path, "a long content").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let inside = Inside::new(folder.path()).unwrap();
        for content in ["short", "a longer one"] {
            let place = inside.resolve("x.yml").unwrap();
            inside.replace(&place, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn replacing_keeps_the_mode_and_follows_no_planted_link() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::write(&outside, "precious").unwrap();
        fs::write(root.join("x.yml"), "old").unwrap();
        fs::set_permissions(root.join("x.yml"), fs::Permissions::from_mode(0o640)).unwrap();
        let inside = Inside::new(&root).unwrap();
        let place = inside.resolve("x.yml").unwrap();
        inside.replace(&place, b"new").unwrap();
        assert_eq!(fs::read(root.join("x.yml")).unwrap(), b"new");
        assert_eq!(
            fs::metadata(root.join("x.yml")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        // Swapped for a link after it was resolved.
        fs::remove_file(root.join("x.yml")).unwrap();
        symlink(&outside, root.join("x.yml")).unwrap();
        assert!(inside.read(&place, 100).is_err());
        inside.replace(&place, b"newer").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"precious");
        // A folder on the way, too.
        let deep = Place::root().join("sub".as_ref()).join("y.yml".as_ref());
        symlink(folder.path(), root.join("sub")).unwrap();
        assert!(inside.replace(&deep, b"x").is_err());
        assert!(!folder.path().join("y.yml").exists());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }
}
