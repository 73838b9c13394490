//! Folders that a server wrote into: looked through and deleted without trusting what is in them
//!
//! A server, and whoever else may write to its folder, decides how deep folders are nested, what links lead to, and what
//! may be entered. Nothing here follows a link, opens what is not a folder, recurses, or holds more than a few descriptors.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How often a folder may have got something new just when it was empty
const MAX_ADDITIONS: usize = 10_000;

/// The most entries that are looked at for a measure or a search
const MAX_ENTRIES: usize = 1_000_000;

/// How deep a file is looked for
const MAX_SEARCH_DEPTH: usize = 4;

/// The bytes of a block of which a file's metadata counts
const BLOCK: u64 = 512;

/// Deletes a folder and all that is in it; one that is not there is fine
///
/// Folders inside are moved up before they are emptied, so that no nesting is too deep. What is added meanwhile is deleted,
/// too, unless it comes faster than it goes.
///
/// # Errors
/// Failures of the file system; what is left can be deleted later.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    let root = match open_folder(rustix::fs::CWD, folder) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(folder),
        Err(error) => return Err(error.into()),
    };
    let (mut number, mut additions) = (0_u64, 0);
    loop {
        let mut is_empty = true;
        for (name, is_folder) in entries(root.as_fd())? {
            is_empty = false;
            if is_folder {
                raise_contents(root.as_fd(), &name, &mut number)?;
                unlink(root.as_fd(), &name, AtFlags::REMOVEDIR)?;
            } else {
                unlink(root.as_fd(), &name, AtFlags::empty())?;
            }
        }
        if !is_empty {
            continue;
        }
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && additions < MAX_ADDITIONS => {
                additions += 1;
            }
            removed => return removed,
        }
    }
}

/// Empties a folder inside `root`: files are deleted, folders moved to `root` under a name of their own
fn raise_contents(root: BorrowedFd<'_>, name: &CString, number: &mut u64) -> io::Result<()> {
    let folder = match open_folder(root, name.as_c_str()) {
        Ok(folder) => folder,
        // It went, or became something else, since it was listed.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for (inner, is_folder) in entries(folder.as_fd())? {
        if !is_folder {
            unlink(folder.as_fd(), &inner, AtFlags::empty())?;
            continue;
        }
        match unlink(folder.as_fd(), &inner, AtFlags::REMOVEDIR) {
            Ok(()) => continue,
            Err(error) if error.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        loop {
            *number += 1;
            let raised = format!(".prexorcloud-{number}");
            if rustix::fs::statat(root, &raised, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            match rustix::fs::renameat(folder.as_fd(), &inner, root, &raised) {
                Ok(()) | Err(Errno::NOENT) => break,
                // A folder that is closed to its own user cannot be moved elsewhere.
                Err(Errno::ACCESS) => {
                    rustix::fs::chmodat(folder.as_fd(), &inner, Mode::RWXU, AtFlags::empty())?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn unlink(folder: BorrowedFd<'_>, name: &CString, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name.as_c_str(), flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // It became something else since it was listed; the next round sees what.
        Err(Errno::NOTDIR | Errno::ISDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder, itself and no link to it; one that is closed to its own user is opened up first
fn open_folder<P: rustix::path::Arg + Copy>(at: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Through no link: one would have been refused as such.
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(at, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    if let Ok(status) = rustix::fs::fstat(&opened)
        && Mode::from_raw_mode(status.st_mode) & Mode::RWXU != Mode::RWXU
    {
        // Without it nothing in the folder could be deleted; if it is not ours, that will say so.
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// What is in a folder, and whether each is a folder
fn entries(folder: BorrowedFd<'_>) -> io::Result<Vec<(CString, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => FileType::from_raw_mode(status.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        entries.push((name.to_owned(), kind == FileType::Directory));
        if entries.len() >= MAX_ENTRIES {
            // The rest comes in the next round.
            break;
        }
    }
    Ok(entries)
}

/// The bytes on disk that a folder takes: what sparse files only pretend to have does not count
///
/// What cannot be looked at is left out, and so is what is beyond a million entries.
pub(crate) fn size(folder: &Path) -> u64 {
    let mut bytes = 0_u64;
    walk(folder, usize::MAX, &mut |_, metadata| {
        bytes = bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK));
        true
    });
    bytes
}

/// The first regular file whose name the rule wants, near the top of a folder
pub(crate) fn find_file(folder: &Path, wants: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut found = None;
    walk(folder, MAX_SEARCH_DEPTH, &mut |path, metadata| {
        let name = path.file_name().and_then(|name| name.to_str());
        if metadata.is_file() && metadata.len() > 0 && name.is_some_and(&wants) {
            found = Some(path.to_path_buf());
        }
        found.is_none()
    });
    found
}

/// Shows what is in a folder, nearest first, for as long as `show` wants more
fn walk(folder: &Path, depth: usize, show: &mut dyn FnMut(&Path, &fs::Metadata) -> bool) {
    let mut left = MAX_ENTRIES;
    let mut folders = VecDeque::from([(folder.to_path_buf(), 1)]);
    while let Some((folder, level)) = folders.pop_front() {
        // One that is too deep to be named, or closed, is left out.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Some(remaining) = left.checked_sub(1) else {
                return;
            };
            left = remaining;
            // Of the entry itself, not of what a link leads to.
            let Ok(metadata) = entry.metadata() else { continue };
            if !show(&entry.path(), &metadata) {
                return;
            }
            if metadata.is_dir() && level < depth {
                folders.push_back((entry.path(), level + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn everything_inside_goes_and_nothing_outside() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("deep/file"), "stays").unwrap();
        let folder = parent.path().join("folder");
        fs::create_dir_all(folder.join("a/b/c")).unwrap();
        fs::create_dir_all(folder.join("a/empty")).unwrap();
        fs::write(folder.join("a/b/c/file"), "goes").unwrap();
        symlink(&outside, folder.join("a/link")).unwrap();
        symlink(&outside, folder.join("link")).unwrap();
        fs::hard_link(outside.join("deep/file"), folder.join("hard")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("a/fifo"), mode).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("a/socket")).unwrap();
        for closed in ["a/b/c", "a/b", "a/empty"] {
            fs::set_permissions(folder.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove(&folder).unwrap();
        assert!(!folder.exists());
        assert_eq!(fs::read(outside.join("deep/file")).unwrap(), b"stays");
        remove(&folder).unwrap();
        symlink(&outside, &folder).unwrap();
        remove(&folder).unwrap();
        assert!(outside.join("deep/file").exists() && fs::symlink_metadata(&folder).is_err());
    }

    #[test]
    fn what_is_added_meanwhile_goes_too() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("folder");
        fs::create_dir(&folder).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Until there is no folder to write to.
                (0..3000).all(|name| File::create(folder.join(name.to_string())).is_ok());
            });
            remove(&folder).unwrap();
        });
        assert!(!folder.exists());
    }

    #[test]
    fn no_nesting_is_too_deep() {
        // In memory where there is such a place: a disk takes minutes for so many folders.
        let parent = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let folder = parent.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut at = open_folder(rustix::fs::CWD, folder.as_path()).unwrap();
        // Deeper than a path can say, a stack can recurse, or a process has descriptors.
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_folder(at.as_fd(), c"d").unwrap();
        }
        assert_eq!(find_file(&folder, |_| true), None);
        size(&folder);
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_sparse_file_is_as_large_as_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let sparse = File::create(folder.path().join("huge.hprof")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(size(folder.path()) < 1 << 20);
        fs::write(folder.path().join("real"), vec![1; 1 << 20]).unwrap();
        assert!(size(folder.path()) >= 1 << 20);
        assert!(find_file(folder.path(), |name| name.ends_with(".hprof")).is_some());
        symlink("/etc/passwd", folder.path().join("link.log")).unwrap();
        assert_eq!(find_file(folder.path(), |name| name.ends_with(".log")), None);
    }
}
