//! Folders that go when their instance has gone

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A folder, told apart from a later one of the same name
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralFolder {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl EphemeralFolder {
    /// The folder that is at `path` now
    ///
    /// # Errors
    /// If there is none.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Deletes the folder, unless another one has taken its place
    ///
    /// It is moved aside and looked at before anything is deleted: a new start of the same instance may put its folder
    /// there at any moment.
    pub(super) fn remove(&self) {
        if let Err(error) = self.try_remove() {
            tracing::warn!(folder = %self.path.display(), %error, "cannot delete the folder of an ended instance");
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        if !self.is_still_there()? {
            return Ok(());
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.path.with_file_name(format!(".{name}-ended-{}", self.inode));
        fs::rename(&self.path, &aside)?;
        let moved = Self::of(&aside)?;
        if (moved.device, moved.inode) != (self.device, self.inode) {
            return fs::rename(&aside, &self.path);
        }
        fs::remove_dir_all(&aside)
    }

    fn is_still_there(&self) -> io::Result<bool> {
        match Self::of(&self.path) {
            Ok(now) => Ok(now == *self),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_later_folder_of_the_same_name_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("lobby-1");
        fs::create_dir_all(path.join("world")).unwrap();
        let first = EphemeralFolder::of(&path).unwrap();
        fs::rename(&path, parent.path().join("kept")).unwrap();
        fs::create_dir(&path).unwrap();
        first.remove();
        assert!(path.exists());
        let second = EphemeralFolder::of(&path).unwrap();
        second.remove();
        assert!(!path.exists());
        second.remove();
        assert_eq!(
            fs::read_dir(parent.path()).unwrap().count(),
            1,
            "only what was kept"
        );
    }
}
