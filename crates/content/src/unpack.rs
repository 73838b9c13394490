//! From an archive to a folder

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags};
use tar::{EntryType, Header};

use crate::digest::{Digest, Hasher};
use crate::folder::{Below, Folder, is_empty};
use crate::limits::Limits;
use crate::link::{BadLink, LinkTarget};
use crate::manifest::{Blob, Kind, Manifest};
use crate::path::EntryPath;
use crate::tree::{Refusal, Taken, Tree};

/// What came of unpacking
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// What the folder holds now
    pub manifest: Manifest,
    /// SHA-256 of the archive
    pub archive_sha256: Digest,
    /// Bytes of the archive
    pub archive_bytes: u64,
}

/// Why an archive was not unpacked
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// What it holds is refused; the same archive always will be
    #[error("the archive is refused: {0}")]
    Refused(#[from] Refusal),
    /// It is no gzip tar, or one that is damaged or ends early
    #[error("the archive is damaged: {0}")]
    Malformed(String),
    /// The folder was not empty
    #[error("the folder to unpack into is not empty")]
    NotEmpty,
    /// The archive could not be read to its end
    #[error("the archive cannot be read: {0}")]
    Read(io::Error),
    /// The folder could not be written
    #[error("{path:?} cannot be written: {error}")]
    Write {
        /// Which entry, or "." for the folder itself
        path: String,
        /// What the system said
        error: io::Error,
    },
}

/// What padding an archive may have behind its end: tar fills up a record of at most 512 blocks
const MOST_PADDING: u64 = 512 * 512;

/// Bytes of a record of extended headers; what we read of one are two paths.
const MOST_EXTENSION: u64 = 64 * 1024;

/// Unpacks a gzip tar from `archive` into the empty folder `into`
///
/// It takes what [`pack`](crate::pack) and the Java controller make: files, folders, symbolic links, and long names in the GNU and the POSIX way. Folders
/// that are only part of a path are made. Modes count as far as "may be executed"; owners and times do not. Links are made last, so nothing
/// is ever written through one.
///
/// The archive is hashed on the way, and it is the caller's to compare [`Unpacked::archive_sha256`] before using the folder, to sync it,
/// and to remove it after an error: part of it is written then. No more than the limits allow is ever written.
///
/// # Errors
/// [`UnpackError`] says whose fault it is: [`Read`](UnpackError::Read) and [`Write`](UnpackError::Write) may pass, the others stay.
pub fn unpack(archive: impl Read, into: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let folder = Folder::open(into).map_err(|error| write_error(".", error))?;
    if !is_empty(folder.root()).map_err(|error| write_error(".", error))? {
        return Err(UnpackError::NotEmpty);
    }
    let flow = Rc::new(Flow::default());
    let source = Source {
        archive,
        flow: Rc::clone(&flow),
        hasher: Hasher::default(),
    };
    let plain = Plain {
        gzip: GzDecoder::new(BufReader::with_capacity(64 * 1024, source)),
        flow: Rc::clone(&flow),
        limits: limits.clone(),
    };
    let mut archive = tar::Archive::new(plain);
    let mut unpacking = Unpacking {
        folder: &folder,
        limits,
        flow: &flow,
        tree: Tree::new(limits),
        parent: None,
        links: Vec::new(),
        buffer: vec![0; 64 * 1024],
    };
    let mut extended = Extended::default();
    let mut headers = 0usize;
    let entries = archive.entries().map_err(|error| flow.blame(error))?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| flow.blame(error))?;
        headers += 1;
        // Extended headers are no entries; more than a few for each entry serve nobody.
        if headers > limits.entries.saturating_mul(4).saturating_add(16) {
            return Err(Refusal::TooManyEntries {
                limit: limits.entries,
            }
            .into());
        }
        if !extended.read(&mut entry, &flow)? {
            let name = std::mem::take(&mut extended);
            unpacking.entry(&mut entry, name)?;
        }
    }
    let tree = unpacking.finish()?;

    let mut plain = archive.into_inner();
    let padding = io::copy(&mut (&mut plain).take(MOST_PADDING + 1), &mut io::sink())
        .map_err(|error| flow.blame(error))?;
    if padding > MOST_PADDING {
        return Err(malformed("it goes on behind its end"));
    }
    let mut rest = plain.gzip.into_inner();
    if rest.read(&mut [0]).map_err(|error| flow.blame(error))? != 0 {
        return Err(malformed("there are bytes behind its end"));
    }
    Ok(Unpacked {
        manifest: tree.finish(),
        archive_sha256: rest.into_inner().hasher.finish(),
        archive_bytes: flow.packed.get(),
    })
}

fn malformed(what: impl Into<String>) -> UnpackError {
    UnpackError::Malformed(what.into())
}

fn write_error(path: impl ToString, error: impl Into<io::Error>) -> UnpackError {
    UnpackError::Write {
        path: path.to_string(),
        error: error.into(),
    }
}

/// What the readers of an archive share: how much has passed, and why it stopped
#[derive(Debug, Default)]
struct Flow {
    packed: Cell<u64>,
    unpacked: Cell<u64>,
    /// Errors pass through the tar reader, which wraps them; here they stay what they were
    failure: RefCell<Option<UnpackError>>,
}

impl Flow {
    /// Whose fault an error of reading was
    fn blame(&self, error: io::Error) -> UnpackError {
        self.failure.take().unwrap_or_else(|| {
            malformed(match error.kind() {
                io::ErrorKind::UnexpectedEof => "it ends in the middle".to_owned(),
                _ => error.to_string(),
            })
        })
    }

    fn stop(&self, failure: UnpackError) -> io::Error {
        *self.failure.borrow_mut() = Some(failure);
        io::ErrorKind::Other.into()
    }
}

/// The archive as it comes in
struct Source<R> {
    archive: R,
    flow: Rc<Flow>,
    hasher: Hasher,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.archive.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.flow.packed.set(self.flow.packed.get() + count as u64);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.flow.stop(UnpackError::Read(error))),
        }
    }
}

/// The tar inside of the gzip, as long as its size is believable
struct Plain<R> {
    gzip: GzDecoder<BufReader<Source<R>>>,
    flow: Rc<Flow>,
    limits: Limits,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.gzip.read(buffer)?;
        let unpacked = self.flow.unpacked.get() + count as u64;
        self.flow.unpacked.set(unpacked);
        if self.limits.is_bomb(self.flow.packed.get(), unpacked) {
            let ratio = self.limits.ratio;
            return Err(self.flow.stop(Refusal::Bomb { ratio }.into()));
        }
        Ok(count)
    }
}

/// What stands before an entry because its header has no room for it
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Extended {
    /// Reads an extended header; `false` if `entry` is none.
    fn read<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, flow: &Flow) -> Result<bool, UnpackError> {
        let kind = entry.header().entry_type();
        let known = matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        );
        if !known {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        let size = entry
            .take(MOST_EXTENSION + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| flow.blame(error))?;
        if size as u64 > MOST_EXTENSION {
            return Err(malformed("an extended header is larger than 64 KiB"));
        }
        match kind {
            EntryType::GNULongName => self.path = Some(until_nul(bytes)),
            EntryType::GNULongLink => self.target = Some(until_nul(bytes)),
            EntryType::XHeader => self.read_pax(&bytes)?,
            // What is said for all entries is not used: comments of git, or a path that all would share.
            _ => {}
        }
        Ok(true)
    }

    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        for record in pax_records(bytes) {
            let (key, value) = record.ok_or_else(|| malformed("a POSIX header is damaged"))?;
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                // It replaces the size of the header from 8 GiB on, which is more than any file may have.
                b"size" => return Err(malformed("a POSIX header gives a size of its own")),
                _ if key.starts_with(b"GNU.sparse") => {
                    return Err(malformed("it has a sparse file; pack it without holes"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The records `LENGTH KEY=VALUE\n`, whose length counts itself; `None` stands for a damaged one and ends them
fn pax_records(mut bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = pax_record(bytes);
        bytes = record.map_or(&[], |(_, rest)| rest);
        Some(record.map(|(pair, _)| pair))
    })
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn pax_record(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), rest))
}

struct Unpacking<'a> {
    folder: &'a Folder,
    limits: &'a Limits,
    flow: &'a Flow,
    tree: Tree<'a>,
    /// The folder of the last file: most files follow one of the same folder
    parent: Option<(Option<String>, Below)>,
    links: Vec<(EntryPath, LinkTarget)>,
    buffer: Vec<u8>,
}

impl<'a> Unpacking<'a> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, name: Extended) -> Result<(), UnpackError> {
        let header = entry.header();
        let raw = name.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let parsed = EntryPath::from_archive(&raw).map_err(|why| Refusal::Path {
            path: String::from_utf8_lossy(&raw[..raw.len().min(self.limits.path_bytes)]).into_owned(),
            why,
        })?;
        let size = header
            .entry_size()
            .map_err(|error| malformed(error.to_string()))?;
        let mut kind = header.entry_type();
        // So old archives mark folders.
        if kind == EntryType::Regular && raw.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let Some(path) = parsed else {
            return match kind {
                EntryType::Directory if size == 0 => Ok(()),
                _ => Err(malformed("its root is no folder")),
            };
        };
        if size != 0 && !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(malformed(format!("{path:?} has bytes although it is no file")));
        }
        match kind {
            EntryType::Directory => self.make_directory(&path),
            EntryType::Regular | EntryType::Continuous => {
                let executable = is_executable(header)?;
                self.write_file(entry, &path, executable, size)
            }
            EntryType::Symlink => {
                let target = match name.target {
                    Some(target) => target,
                    None => header.link_name_bytes().unwrap_or_default().into_owned(),
                };
                let target = LinkTarget::from_bytes(&target).map_err(|why: BadLink| Refusal::Link {
                    path: path.clone(),
                    target: String::from_utf8_lossy(&target[..target.len().min(self.limits.path_bytes)])
                        .into_owned(),
                    why,
                })?;
                self.take(&path, Kind::Link(target.clone()))?;
                self.links.push((path, target));
                Ok(())
            }
            other => Err(Refusal::Special {
                path,
                what: match other {
                    EntryType::Link => "a hard link",
                    EntryType::Char | EntryType::Block => "a device",
                    EntryType::Fifo => "a FIFO",
                    EntryType::GNUSparse => "a sparse file",
                    _ => "of an unknown kind",
                },
            }
            .into()),
        }
    }

    /// Judges an entry, and makes the folders in its path.
    fn take(&mut self, path: &EntryPath, kind: Kind) -> Result<Taken, UnpackError> {
        let (folder, parent) = (self.folder, &mut self.parent);
        self.tree.take(path, kind, |implied| {
            let below = below(folder, parent, implied.split().0)?;
            make_directory(folder, below, implied)
        })
    }

    fn make_directory(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        if self.take(path, Kind::Directory)? == Taken::AlreadyImplied {
            return Ok(());
        }
        let below = below(self.folder, &mut self.parent, path.split().0)?;
        make_directory(self.folder, below, path)
    }

    fn write_file(
        &mut self,
        bytes: &mut impl Read,
        path: &EntryPath,
        executable: bool,
        size: u64,
    ) -> Result<(), UnpackError> {
        // Judged before a byte of it is written.
        self.take(
            path,
            Kind::File(Blob {
                executable,
                size,
                sha256: Digest::of(&[]),
            }),
        )?;
        let (parent, name) = path.split();
        let below = below(self.folder, &mut self.parent, parent)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o750 } else { 0o640 });
        let file: OwnedFd = rustix::fs::openat(below.as_fd_in(self.folder), name, flags, mode)
            .map_err(|error| write_error(path, error))?;
        let mut file = File::from(file);
        let mut hasher = Hasher::default();
        let mut left = size;
        while left > 0 {
            let count = match bytes.read(&mut self.buffer) {
                Ok(0) => return Err(malformed("it ends in the middle")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.flow.blame(error)),
            };
            let part = &self.buffer[..count];
            hasher.update(part);
            file.write_all(part).map_err(|error| write_error(path, error))?;
            left = left.saturating_sub(count as u64);
        }
        self.tree.set_digest(path, hasher.finish());
        Ok(())
    }

    fn finish(mut self) -> Result<Tree<'a>, UnpackError> {
        for (path, target) in std::mem::take(&mut self.links) {
            let (parent, name) = path.split();
            let below = below(self.folder, &mut self.parent, parent)?;
            rustix::fs::symlinkat(target.as_str(), below.as_fd_in(self.folder), name)
                .map_err(|error| write_error(&path, error))?;
        }
        Ok(self.tree)
    }
}

fn is_executable(header: &Header) -> Result<bool, UnpackError> {
    let mode = header.mode().map_err(|error| malformed(error.to_string()))?;
    Ok(mode & 0o100 != 0)
}

/// The folder at `path`, which the tree has taken and which was therefore made.
fn below<'p>(
    folder: &Folder,
    last: &'p mut Option<(Option<String>, Below)>,
    path: Option<&str>,
) -> Result<&'p Below, UnpackError> {
    let found = match last.take() {
        Some((at, below)) if at.as_deref() == path => (at, below),
        _ => {
            let below = folder
                .descend(path)
                .map_err(|error| write_error(path.unwrap_or("."), error))?;
            (path.map(str::to_owned), below)
        }
    };
    Ok(&last.insert(found).1)
}

fn make_directory(folder: &Folder, below: &Below, path: &EntryPath) -> Result<(), UnpackError> {
    rustix::fs::mkdirat(below.as_fd_in(folder), path.split().1, Mode::from_raw_mode(0o750))
        .map_err(|error| write_error(path, error))
}
