//! Opening what is below a folder, and nothing else
//!
//! The system itself resolves a path below a folder (`openat2`, Linux 5.6) and refuses what leads out, however the path
//! changes meanwhile. Where it cannot (an older kernel, a sandbox that knows no such call), each name is opened in its turn
//! and no link is followed at all.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, open, openat, openat2, statat};
use rustix::io::Errno;

/// How often a path that changes while it is resolved is resolved anew
const ATTEMPTS: usize = 16;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Never waits for a writer, becomes nobody's terminal, and follows no link at the end
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A folder that the operator has named: a link to it is the operator's
pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

/// A folder directly in another; a link is refused
pub(super) fn open_folder(folder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(folder, name, FOLDER, Mode::empty())?)
}

/// A file somewhere below a folder; links on the way are followed as far as they stay there
///
/// # Errors
/// `EXDEV` if the path leads out, `ELOOP` if its end is a link, and whatever opening a file can fail with.
pub(super) fn open_file(folder: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
    for _ in 0..ATTEMPTS {
        match openat2(&folder, path, FILE, Mode::empty(), within) {
            Err(Errno::AGAIN) => {}
            // A sandbox says EPERM of what it does not know.
            Err(Errno::NOSYS | Errno::PERM) => return open_by_name(folder, path),
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

fn open_by_name(folder: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV),
        }
    }
    let Some((file, folders)) = names.split_last() else {
        return Err(Errno::ISDIR);
    };
    let mut at: Option<OwnedFd> = None;
    for name in folders {
        let from = at.as_ref().map_or_else(|| folder.as_fd(), AsFd::as_fd);
        let below = openat(from, *name, FOLDER, Mode::empty()).map_err(|error| {
            let is_link = statat(from, *name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
            if is_link { Errno::XDEV } else { error }
        })?;
        at = Some(below);
    }
    let from = at.as_ref().map_or_else(|| folder.as_fd(), AsFd::as_fd);
    openat(from, *file, FILE, Mode::empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_opened_by_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(inside.join("a/b/file"), "within").unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("../../../secret", inside.join("a/b/out")).unwrap();
        symlink("/", inside.join("root")).unwrap();
        symlink("b", inside.join("a/same")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let root = open_root(&inside).unwrap();
        let outcomes = |path: &str| {
            let path = Path::new(path);
            [open_file(&root, path), open_by_name(&root, path)]
        };
        for opened in outcomes("a/b/file") {
            let mut text = String::new();
            File::from(opened.unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "within");
        }
        for out in [
            "../secret",
            "up/secret",
            "root/etc/passwd",
            "/etc/passwd",
            "a/../../secret",
        ] {
            assert_eq!(outcomes(out).map(Result::unwrap_err), [Errno::XDEV; 2], "{out}");
        }
        for link in ["a/b/out", "loop"] {
            assert_eq!(outcomes(link).map(Result::unwrap_err), [Errno::LOOP; 2], "{link}");
        }
        // Followed by the system, as it stays inside; refused where it cannot be watched.
        let [by_system, by_name] = outcomes("a/same/file");
        assert_eq!((by_system.is_ok(), by_name.unwrap_err()), (true, Errno::XDEV));
    }
}
