//! Files that survive a crash: complete or absent, never half
//!
//! [`replace`] writes a temporary file beside its target, syncs it, renames it over the target and syncs the folder, so
//! a reader sees the old bytes or the new ones, also after a power cut. That takes space, which a full disk does not have:
//! what must be written even then has its space [reserved](reserve) beforehand and is [filled in](fill) in place, in one
//! write of one block.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where a process finds what it has open itself
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// A path to a file which this process has open, for as long as it has
#[must_use]
pub fn own(file: BorrowedFd<'_>) -> PathBuf {
    Path::new(OWN_DESCRIPTORS).join(file.as_raw_fd().to_string())
}

/// Whether a path is that of a file which this process has open: following it leads nowhere else
#[must_use]
pub fn is_own(path: &Path) -> bool {
    path.parent() == Some(Path::new(OWN_DESCRIPTORS))
}

/// Mode of files that only the daemon's user may read: `0600`
pub const PRIVATE_FILE: u32 = 0o600;

/// Mode of folders that only the daemon's user may enter: `0700`
pub const PRIVATE_FOLDER: u32 = 0o700;

/// Bytes that [`reserve`] takes: one block of the usual file systems
pub const RESERVED: usize = 4096;

/// Whether a record was read and is no record, as opposed to one that could not be read
///
/// Only the former says something about the record; the latter may be over in a moment.
#[must_use]
pub fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Opens a file of which something else may have been put in the place of: never through a link, and never waiting
///
/// # Errors
/// Failures of the file system; damage, as [`is_damage`] tells, if it is no regular file.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let mut flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    // The link to an open file is one to that file, and nobody else can set it.
    flags.set(OFlags::NOFOLLOW, !is_own(path));
    let not_regular = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not a regular file", path.display()),
        )
    };
    let file = match options
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
    {
        Ok(file) => file,
        // A link, a socket, a folder, a FIFO without a reader.
        Err(error)
            if [
                rustix::io::Errno::LOOP,
                rustix::io::Errno::NXIO,
                rustix::io::Errno::ISDIR,
            ]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            return Err(not_regular());
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_regular())
    }
}

/// Reads a file of at most `limit` bytes; `None` if there is none
///
/// # Errors
/// As [`open_regular`]; one that is larger is damaged.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} has more than {limit} bytes, more than any record",
                path.display()
            ),
        ));
    }
    Ok(Some(bytes))
}

/// Makes sure that [`fill`] will find space for `path`, durably; until then it holds blanks
///
/// File systems that never write in place (btrfs, zfs) may still refuse a full disk.
///
/// # Errors
/// Any failure of the file system, a full one above all.
pub fn reserve(path: &Path) -> io::Result<()> {
    replace(path, &[b' '; RESERVED])
}

/// Writes `bytes` into the space that was reserved for `path`, durably; what was not reserved, or is too small, is replaced
///
/// # Errors
/// Any failure of the file system.
pub fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match open_regular(path, OpenOptions::new().write(true)) {
        Ok(file) => fill_open(&file, path, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_damage(&error) => replace(path, bytes),
        Err(error) => Err(error),
    }
}

/// As [`fill`] for a file at `path` that is open already
///
/// # Errors
/// Any failure of the file system.
pub fn fill_open(file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut block = [b' '; RESERVED];
    let Some(content) = block.get_mut(..bytes.len()) else {
        return replace(path, bytes);
    };
    content.copy_from_slice(bytes);
    file.write_all_at(&block, 0)?;
    file.sync_all()
}

/// Replaces `path` with `bytes`, readable by this user only, or leaves it as it was
///
/// Two writers of one path must take turns: they share the temporary name.
///
/// # Errors
/// Any failure of the file system; the target is then unchanged, or already complete when only the folder could not be
/// synced.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    // A leftover, or what somebody else put there, links included: it goes, and nothing is written through it.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(temporary, path)?;
    sync_parent(path)
}

/// What is in a folder; `None` if there is no such folder
///
/// # Errors
/// Any failure of the file system other than "not found".
pub fn list(folder: &Path) -> io::Result<Option<fs::ReadDir>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes `path` for good; a file that is not there is fine
///
/// # Errors
/// Any failure of the file system other than "not found".
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Syncs the folder that holds `path`, so that a rename or removal in it lasts
///
/// # Errors
/// Any failure to open or sync the folder.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Creates `path` and what is missing above it, and closes it to other users
///
/// # Errors
/// Any failure of the file system, such as a file in the place of the folder.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_FOLDER))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn replacing_closes_the_file_to_others_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        fs::write(&path, "old, and open to all").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE_FILE
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_reserved_is_filled_in_place_and_the_rest_replaced() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        reserve(&path).unwrap();
        let before = fs::metadata(&path).unwrap();
        assert!(before.blocks() * 512 >= RESERVED as u64, "the space is taken");
        fill(&path, b"a long record").unwrap();
        fill(&path, b"short").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.len()), (before.ino(), RESERVED as u64));
        assert_eq!(fs::read(&path).unwrap().trim_ascii_end(), b"short");
        let large = vec![b'x'; RESERVED + 1];
        fill(&path, &large).unwrap();
        assert_eq!(fs::read(&path).unwrap(), large);
        let absent = folder.path().join("absent");
        fill(&absent, b"new").unwrap();
        assert_eq!(fs::read(&absent).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_regular_file_is_damage_and_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(&outside, path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();
        for name in ["link", "folder", "socket", "fifo"] {
            let error = read_bounded(&path(name), 100).unwrap_err();
            assert!(is_damage(&error), "{name}: {error}");
        }
        let sparse = File::create(path("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(is_damage(&read_bounded(&path("sparse"), 100).unwrap_err()));
        assert_eq!(read_bounded(&path("absent"), 100).unwrap(), None);
        fill(&path("link"), b"record").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    }

    #[test]
    fn a_link_in_the_place_of_the_temporary_file_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, outside) = (
            folder.path().join("server.properties"),
            folder.path().join("outside"),
        );
        fs::write(&outside, "untouched").unwrap();
        let temporary = folder.path().join("server.properties.new");
        for plant in [
            std::os::unix::fs::symlink::<&Path, &Path>,
            fs::hard_link::<&Path, &Path>,
        ] {
            plant(&outside, &temporary).unwrap();
            replace(&path, b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::read(&outside).unwrap(), b"untouched");
        }
    }

    #[test]
    fn removing_an_absent_file_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        remove(&folder.path().join("absent")).unwrap();
    }

    #[test]
    fn a_private_folder_is_closed_even_when_it_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        private_folder(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE_FOLDER
        );
    }
}
