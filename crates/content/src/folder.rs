//! A folder on disk, opened beneath

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::digest::{Digest, Hasher};
use crate::limits::Limits;
use crate::link::{BadLink, LinkTarget};
use crate::manifest::{Blob, Kind, Manifest};
use crate::path::{BadPath, EntryPath};
use crate::tree::{Refusal, Tree};

/// A folder on disk whose entries are opened beneath it, without following a link on the way
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
}

/// Why a folder could not be read into a manifest
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Something in it is refused
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Somebody writes to it
    #[error("{path:?} changed while it was read; try again when nobody writes to it")]
    Changed {
        /// The file
        path: EntryPath,
    },
    /// The operating system said no
    #[error("{path:?} cannot be read: {error}")]
    Read {
        /// Which entry, or "." for the folder itself
        path: String,
        /// What it said
        error: io::Error,
    },
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Never waits for the other end of a FIFO that took a file's place.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

impl Folder {
    /// Opens the folder at `path`, which may itself be reached by links
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Reads everything in it into a manifest
    ///
    /// # Errors
    /// [`ScanError`] at the first thing that cannot be taken, with its path.
    pub fn scan(&self, limits: &Limits) -> Result<Manifest, ScanError> {
        let mut tree = Tree::new(limits);
        let mut buffer = vec![0; 128 * 1024];
        scan_folder(self.root(), None, limits, &mut tree, &mut buffer)?;
        Ok(tree.finish())
    }

    /// Opens a file in it to be read
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::InvalidInput`] if it is no regular file, and an error of too many links if
    /// there is one in its path.
    pub fn open_file(&self, path: &EntryPath) -> io::Result<File> {
        let (parent, name) = path.split();
        let parent = self.descend(parent)?;
        let file = rustix::fs::openat(parent.as_fd_in(self), name, FILE, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        Ok(File::from(file))
    }

    /// Opens a folder below it, name by name.
    pub(crate) fn descend(&self, path: Option<&str>) -> io::Result<Below> {
        let mut below = Below(None);
        for name in path.into_iter().flat_map(|path| path.split('/')) {
            let next = rustix::fs::openat(below.as_fd_in(self), name, FOLDER, Mode::empty())?;
            below = Below(Some(next));
        }
        Ok(below)
    }
}

/// A folder below another; `None` is that other itself
#[derive(Debug)]
pub(crate) struct Below(Option<OwnedFd>);

impl Below {
    pub(crate) fn as_fd_in<'a>(&'a self, folder: &'a Folder) -> BorrowedFd<'a> {
        self.0.as_ref().map_or_else(|| folder.root(), |fd| fd.as_fd())
    }
}

fn failed(path: Option<&EntryPath>) -> impl Fn(Errno) -> ScanError {
    let path = path.map_or_else(|| ".".to_owned(), EntryPath::to_string);
    move |errno| ScanError::Read {
        path: path.clone(),
        error: errno.into(),
    }
}

/// The depth of the recursion is that of the tree, which the limit for paths bounds.
fn scan_folder(
    folder: BorrowedFd<'_>,
    path: Option<&EntryPath>,
    limits: &Limits,
    tree: &mut Tree<'_>,
    buffer: &mut [u8],
) -> Result<(), ScanError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() >= limits.entries {
            return Err(Refusal::TooManyEntries {
                limit: limits.entries,
            }
            .into());
        }
        names.push(name.to_vec());
    }
    names.sort_unstable();
    for name in names {
        let shown = || {
            let name = String::from_utf8_lossy(&name);
            path.map_or_else(|| name.to_string(), |path| format!("{path}/{name}"))
        };
        let entry = std::str::from_utf8(&name)
            .map_err(|_| BadPath::NotUtf8)
            .and_then(|name| EntryPath::join(path, name))
            .map_err(|why| Refusal::Path { path: shown(), why })?;
        let stat =
            rustix::fs::statat(folder, &name[..], AtFlags::SYMLINK_NOFOLLOW).map_err(failed(Some(&entry)))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                take(tree, &entry, Kind::Directory)?;
                let below = rustix::fs::openat(folder, &name[..], FOLDER, Mode::empty())
                    .map_err(failed(Some(&entry)))?;
                scan_folder(below.as_fd(), Some(&entry), limits, tree, buffer)?;
            }
            FileType::RegularFile => {
                // Judged by its size before it is read, and by what was opened and not by what was looked at.
                let blob = |stat: &Stat, sha256| {
                    Kind::File(Blob {
                        executable: stat.st_mode & 0o100 != 0,
                        size: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
                        sha256,
                    })
                };
                let file = rustix::fs::openat(folder, &name[..], FILE, Mode::empty())
                    .map_err(failed(Some(&entry)))?;
                let opened = rustix::fs::fstat(&file).map_err(failed(Some(&entry)))?;
                if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
                    return Err(ScanError::Changed { path: entry });
                }
                take(tree, &entry, blob(&opened, Digest::of(&[])))?;
                let sha256 = hash(File::from(file), &opened, &entry, buffer)?;
                tree.set_digest(&entry, sha256);
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(folder, &name[..], Vec::new()).map_err(failed(Some(&entry)))?;
                let target =
                    LinkTarget::from_bytes(target.to_bytes()).map_err(|why: BadLink| Refusal::Link {
                        path: entry.clone(),
                        target: target.to_string_lossy().into_owned(),
                        why,
                    })?;
                take(tree, &entry, Kind::Link(target))?;
            }
            other => {
                return Err(Refusal::Special {
                    path: entry,
                    what: match other {
                        FileType::Fifo => "a FIFO",
                        FileType::Socket => "a socket",
                        FileType::CharacterDevice | FileType::BlockDevice => "a device",
                        _ => "of an unknown kind",
                    },
                }
                .into());
            }
        }
    }
    Ok(())
}

fn take(tree: &mut Tree<'_>, path: &EntryPath, kind: Kind) -> Result<(), Refusal> {
    tree.take(path, kind, |_| Ok::<(), Refusal>(())).map(drop)
}

fn hash(mut file: File, opened: &Stat, path: &EntryPath, buffer: &mut [u8]) -> Result<Digest, ScanError> {
    let failed = |error| ScanError::Read {
        path: path.to_string(),
        error,
    };
    let size = u64::try_from(opened.st_size).unwrap_or(u64::MAX);
    let mut hasher = Hasher::default();
    let mut seen = 0u64;
    loop {
        let count = match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        seen += count as u64;
        // One that grows as fast as it is read would never end.
        if seen > size {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let now = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    let same = seen == size
        && now.st_size == opened.st_size
        && (now.st_mtime, now.st_mtime_nsec) == (opened.st_mtime, opened.st_mtime_nsec);
    if same {
        Ok(hasher.finish())
    } else {
        Err(ScanError::Changed { path: path.clone() })
    }
}

/// Whether nothing is in it
pub(crate) fn is_empty(folder: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            return Ok(false);
        }
    }
    Ok(true)
}
