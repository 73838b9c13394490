//! Files that hold secrets or must survive a power cut
//!
//! Everything is written beside its destination, flushed, renamed over it, and the directory is flushed: a
//! reader sees the old bytes or the new ones, never a part, and after a return the new ones are on the disk.
//! Secrets are created with mode 0600 and never exist with another one.

mod lock;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use self::lock::{DataDirLock, LockError};

/// Why a file could not be read or written
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried
        action: &'static str,
        /// On which file or directory
        path: PathBuf,
        /// What the operating system said
        source: io::Error,
    },
    /// A secret that others can read is no secret
    #[error("{} can be read by others (mode {mode:04o}); run `chmod 600` on it", .path.display())]
    TooOpen {
        /// Which file
        path: PathBuf,
        /// Its permission bits
        mode: u32,
    },
    /// A directory in which others can replace files
    #[error("{} can be written by others (mode {mode:04o}); run `chmod 700` on it or choose another directory", .path.display())]
    SharedDirectory {
        /// Which directory
        path: PathBuf,
        /// Its permission bits
        mode: u32,
    },
    /// Larger than the caller expects
    #[error("{} is larger than {limit} bytes", .path.display())]
    TooLarge {
        /// Which file
        path: PathBuf,
        /// The limit, in bytes
        limit: u64,
    },
    /// Not UTF-8
    #[error("{} is not a text file", .path.display())]
    NotText {
        /// Which file
        path: PathBuf,
    },
    /// A directory, a device or a pipe
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// Which file
        path: PathBuf,
    },
    /// The path has no file name
    #[error("{} does not name a file", .path.display())]
    NoFileName {
        /// The path
        path: PathBuf,
    },
}

impl FileError {
    /// Whether the file simply does not exist
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Creates `path` and its missing parents with mode 0700
///
/// An existing directory is taken as it is, unless others may write into it: they could replace the files. An
/// empty one is restricted to 0700; one that holds files already is left alone, because restricting a
/// directory such as `/etc` breaks a machine.
///
/// # Errors
/// [`FileError::SharedDirectory`] when others may write into it, [`FileError::Io`] when it cannot be created
/// or read.
pub fn ensure_private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create directory", path))?;
    let mode = fs::metadata(path)
        .map_err(failed("inspect", path))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if fs::read_dir(path).map_err(failed("list", path))?.next().is_none() {
        return fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("restrict", path));
    }
    if mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(FileError::SharedDirectory {
            path: path.to_owned(),
            mode,
        })
    }
}

/// Replaces `path` by a file of mode 0600 with these bytes, durably and at once
///
/// # Errors
/// [`FileError`]; the old file is then still there.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, 0o600)
}

/// Replaces `path` by a file of mode 0644 with these bytes, durably and at once
///
/// # Errors
/// [`FileError`]; the old file is then still there.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, 0o644)
}

/// Removes `path` so that it stays removed after a power cut; a file that is not there is fine
///
/// # Errors
/// [`FileError::Io`] when it cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Reads a secret of at most `limit` bytes
///
/// # Errors
/// [`FileError::TooOpen`] when group or others may read it, otherwise as [`read`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_checked(path, limit, |mode| mode & 0o077 == 0)
}

/// Reads a file of at most `limit` bytes
///
/// # Errors
/// [`FileError`] when it is missing, too large, or not a regular file.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_checked(path, limit, |_| true).map(|bytes| bytes.to_vec())
}

/// The text without the byte order mark that some editors put before it
#[must_use]
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Reads a secret UTF-8 text of at most `limit` bytes, without a byte order mark
///
/// # Errors
/// As [`read_secret`], and [`FileError::NotText`].
pub fn read_secret_text(path: &Path, limit: u64) -> Result<Zeroizing<String>, FileError> {
    let bytes = read_secret(path, limit)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })?;
    Ok(Zeroizing::new(without_mark(text).to_owned()))
}

/// Reads a UTF-8 text of at most `limit` bytes, without a byte order mark
///
/// # Errors
/// As [`read`], and [`FileError::NotText`].
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let text = String::from_utf8(read(path, limit)?).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })?;
    Ok(without_mark(&text).to_owned())
}

fn read_checked(
    path: &Path,
    limit: u64,
    mode_ok: impl Fn(u32) -> bool,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nonblocking);
    let file = options.open(path).map_err(failed("open", path))?;
    // The open file is inspected, not the path: the two could differ a moment later.
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if !mode_ok(mode) {
        return Err(FileError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let too_large = || FileError::TooLarge {
        path: path.to_owned(),
        limit,
    };
    if metadata.len() > limit {
        return Err(too_large());
    }
    // Sized at once, so that growing does not leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len()).unwrap_or_default() + 1,
    ));
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let name = path.file_name().ok_or_else(|| FileError::NoFileName {
        path: path.to_owned(),
    })?;
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("replace", path)));
    if written.is_err() {
        // The error that matters is the first one; a leftover is replaced by the next attempt.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    // A leftover of a process that was killed may have had other contents or a link behind it: start from
    // nothing.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    // The umask may have taken bits away from a public file, never added any.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(failed("restrict", path))?;
    file.sync_all().map_err(failed("flush", path))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("flush directory", parent))
}
