//! Where a template is unpacked before it is known to be whole
//!
//! A folder that is not there yet gets its place by one rename. One that is there, and empty, stays the same folder, since a shell may
//! stand in it: what was unpacked inside of it, hidden, moves up.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The end of the names of such folders
const SUFFIX: &str = ".pull";

/// Never waits
const ALONE: FlockOperation = FlockOperation::NonBlockingLockExclusive;

/// A hidden folder that is removed unless it got its place
///
/// It is locked as long as somebody works in it: what a pull that was killed has left is not, and goes with the next one.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    place: PathBuf,
    /// Whether the place is there, so that it gets the content and not the name
    is_there: bool,
    _lock: File,
}

impl Staging {
    /// Makes one for what is to come to `dir`, which must be empty or absent
    pub(super) fn beside(dir: &Path, name: &str) -> io::Result<Self> {
        let place = std::path::absolute(dir)?;
        let is_there = match fs::metadata(&place) {
            Ok(metadata) if metadata.is_dir() => true,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let parent = match (is_there, place.parent()) {
            (true, _) => place.clone(),
            (false, Some(parent)) => parent.to_path_buf(),
            (false, None) => return Err(io::Error::other("it has no name")),
        };
        let prefix = format!(".{name}.");
        sweep(&parent, &prefix)?;
        if is_there && fs::read_dir(&place)?.next().is_some() {
            return Err(io::Error::other("the folder is not empty"));
        }
        let path = parent.join(format!("{prefix}{}{SUFFIX}", std::process::id()));
        fs::create_dir(&path)?;
        let lock = File::open(&path)?;
        flock(&lock, ALONE)?;
        Ok(Self {
            path,
            place,
            is_there,
            _lock: lock,
        })
    }

    /// Where to unpack
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts what was unpacked where it belongs
    pub(super) fn take_place(self) -> io::Result<()> {
        if !self.is_there {
            return fs::rename(&self.path, &self.place);
        }
        // Somebody may have put something there meanwhile, which no rename may replace.
        let others = fs::read_dir(&self.place)?.flatten();
        if others.into_iter().any(|entry| entry.path() != self.path) {
            return Err(io::Error::other("the folder is not empty any more"));
        }
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            fs::rename(entry.path(), self.place.join(entry.file_name()))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone if it got its place; else the next pull tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what pulls have left that were killed
fn sweep(parent: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let is_ours = number.is_some_and(|number| number.parse::<u32>().is_ok());
        // Of a link only the link would go, and what it leads to is nobody's to lock.
        if is_ours && entry.file_type()?.is_dir() {
            let lock = File::open(entry.path())?;
            if flock(&lock, ALONE).is_ok() {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_folder_that_is_there_stays_the_same_folder() {
        let folder = tempfile::tempdir().unwrap();
        let before = fs::metadata(folder.path()).unwrap().ino();
        let staging = Staging::beside(folder.path(), "lobby").unwrap();
        fs::create_dir(staging.path().join("plugins")).unwrap();
        fs::write(staging.path().join("plugins/a.jar"), "a").unwrap();
        fs::write(staging.path().join("b.yml"), "b").unwrap();
        staging.take_place().unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().ino(), before);
        assert_eq!(names(folder.path()), ["b.yml", "plugins"]);
        let error = Staging::beside(folder.path(), "lobby").unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn what_comes_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::beside(folder.path(), "lobby").unwrap();
        fs::write(staging.path().join("b.yml"), "new").unwrap();
        fs::write(folder.path().join("b.yml"), "mine").unwrap();
        let error = staging.take_place().unwrap_err();
        assert!(error.to_string().contains("not empty any more"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("b.yml")).unwrap(), "mine");
        assert_eq!(names(folder.path()), ["b.yml"]);
    }

    #[test]
    fn a_folder_that_is_not_there_gets_its_place_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("lobby");
        let staging = Staging::beside(&place, "lobby").unwrap();
        fs::write(staging.path().join("b.yml"), "b").unwrap();
        assert!(!place.exists());
        staging.take_place().unwrap();
        assert_eq!(
            (names(folder.path()), names(&place)),
            (vec!["lobby".to_owned()], vec!["b.yml".to_owned()])
        );
        fs::write(folder.path().join("file"), "").unwrap();
        Staging::beside(&folder.path().join("file"), "lobby").unwrap_err();
    }

    #[test]
    fn what_a_killed_pull_has_left_goes_and_what_another_one_works_in_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("half"), "").unwrap();
            path
        };
        let killed = left(".lobby.4294967295.pull");
        let works = left(".lobby.4294967294.pull");
        let lock = File::open(&works).unwrap();
        flock(&lock, ALONE).unwrap();
        let (other, mine) = (left(".other.1.pull"), left(".lobby.mine.pull"));
        drop(Staging::beside(&folder.path().join("lobby"), "lobby").unwrap());
        assert!(!killed.exists());
        assert!(works.exists() && other.exists() && mine.exists());
        drop(lock);
        drop(Staging::beside(&folder.path().join("lobby"), "lobby").unwrap());
        assert_eq!(names(folder.path()), [".lobby.mine.pull", ".other.1.pull"]);
    }
}
