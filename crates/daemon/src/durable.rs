//! Files that survive a crash: complete or absent, never half
//!
//! [`replace`] writes a temporary file beside its target, syncs it, renames it over the target and syncs the folder, so
//! a reader sees the old bytes or the new ones, also after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Mode of files that only the daemon's user may read: `0600`
pub const PRIVATE_FILE: u32 = 0o600;

/// Mode of folders that only the daemon's user may enter: `0700`
pub const PRIVATE_FOLDER: u32 = 0o700;

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
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(temporary)?;
    // An older file of that name keeps its mode: say it again.
    file.set_permissions(fs::Permissions::from_mode(PRIVATE_FILE))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(temporary, path)?;
    sync_parent(path)
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
