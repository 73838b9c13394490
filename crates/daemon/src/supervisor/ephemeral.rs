//! Folders that go when their instance has gone

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dumps;
use crate::foreign;

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
    ///
    /// After a crash it is kept if it holds what [explains](super::dumps) it; returns whether it is.
    pub(super) fn remove(&self, has_crashed: bool) -> bool {
        self.try_remove(has_crashed).unwrap_or_else(|error| {
            tracing::warn!(folder = %self.path.display(), %error, "cannot delete the folder of an ended instance");
            false
        })
    }

    fn try_remove(&self, has_crashed: bool) -> io::Result<bool> {
        if !self.is_still_there()? {
            return Ok(false);
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.path.with_file_name(format!(".{name}-ended-{}", self.inode));
        fs::rename(&self.path, &aside)?;
        let moved = Self::of(&aside)?;
        if (moved.device, moved.inode) != (self.device, self.inode) {
            fs::rename(&aside, &self.path)?;
            return Ok(false);
        }
        match dumps::witness(&aside).filter(|_| has_crashed) {
            Some(witness) => dumps::keep(&aside, &self.path, &witness).map(|_| true),
            None => foreign::remove(&aside).map(|()| false),
        }
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
        first.remove(false);
        assert!(path.exists());
        let second = EphemeralFolder::of(&path).unwrap();
        second.remove(true);
        assert!(!path.exists());
        second.remove(true);
        assert_eq!(
            fs::read_dir(parent.path()).unwrap().count(),
            1,
            "only what was kept"
        );
    }

    #[test]
    fn a_folder_that_explains_a_crash_is_kept_under_another_name() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("lobby-1");
        for (has_crashed, is_kept) in [(false, false), (true, true)] {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("hs_err_pid7.log"), "# SIGSEGV").unwrap();
            assert_eq!(EphemeralFolder::of(&path).unwrap().remove(has_crashed), is_kept);
            assert!(!path.exists());
        }
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        let kept = left[0].as_ref().unwrap().path();
        assert!(kept.to_str().unwrap().contains("/lobby-1@crashed-"), "{kept:?}");
        assert_eq!(fs::read(kept.join("hs_err_pid7.log")).unwrap(), b"# SIGSEGV");
    }
}
