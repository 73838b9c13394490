//! One process per data directory

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{FileError, ensure_private_dir};

const LOCK_FILE: &str = "lock";

/// Holds a data directory until dropped; the operating system lets go of it when the process ends, however it
/// ends
///
/// The lock is the `flock` on the file `lock`, not the file's existence, so a leftover after a crash locks
/// nobody out.
#[derive(Debug)]
pub struct DataDirLock {
    file: File,
    path: PathBuf,
}

/// Why a data directory cannot be used
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it
    #[error(
        "{} is in use by another process ({}); stop that one first or choose another data directory",
        .directory.display(), .holder.as_deref().unwrap_or("unknown")
    )]
    Held {
        /// The data directory
        directory: PathBuf,
        /// What the other process wrote about itself, such as `controller, pid 4711`
        holder: Option<String>,
    },
    /// Network file systems lose locks
    #[error("{} is on a network file system, where locks and fsync cannot be relied on; use a local disk", .directory.display())]
    NetworkFileSystem {
        /// The data directory
        directory: PathBuf,
    },
    /// The directory cannot be created or written
    #[error("the data directory cannot be used: {0}")]
    File(#[from] FileError),
}

impl DataDirLock {
    /// Takes the data directory for this process, creating it with mode 0700 if needed
    ///
    /// `role` (such as `controller`) and the process id are written into the lock file for whoever comes
    /// second.
    ///
    /// # Errors
    /// [`LockError::Held`] at once, without waiting, when another process has it.
    pub fn acquire(directory: &Path, role: &str) -> Result<Self, LockError> {
        ensure_private_dir(directory)?;
        let path = directory.join(LOCK_FILE);
        let io_failed = |action| {
            let path = path.clone();
            move |source: io::Error| FileError::Io { action, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(&path)
            .map_err(io_failed("open"))?;
        if is_network_file_system(&file) {
            return Err(LockError::NetworkFileSystem {
                directory: directory.to_owned(),
            });
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    directory: directory.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
            Err(error) => return Err(io_failed("lock")(error.into()).into()),
        }
        let line = format!("{}, pid {}\n", role.escape_default(), std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(io_failed("write"))?;
        Ok(Self { file, path })
    }

    /// The lock file
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDirLock {
    fn drop(&mut self) {
        // Emptied, so that nobody reads about a process that is gone. The file stays: removing it would let
        // two processes lock two files of one name.
        let _ = self.file.set_len(0);
    }
}

/// The holder's line, if it wrote one: bounded and printable, since anyone may have written the file
fn read_holder(file: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(200).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| crate::name::excerpt(line))
}

#[cfg(target_os = "linux")]
fn is_network_file_system(file: &File) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const CIFS: u32 = 0xff53_4d42;
    const SMB2: u32 = 0xfe53_4d42;
    // The field's width and sign vary by architecture; the magic numbers are 32 bits.
    rustix::fs::fstatfs(file).is_ok_and(|stat| {
        let magic = stat.f_type as u64 & u64::from(u32::MAX);
        [NFS, SMB, CIFS, SMB2]
            .into_iter()
            .any(|known| u64::from(known) == magic)
    })
}

#[cfg(not(target_os = "linux"))]
fn is_network_file_system(_file: &File) -> bool {
    false
}
