//! What is in the folder of an instance

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use prexorcloud_proto::{FileEntry, InstanceFileTree, WalkInstanceFiles};
use prexorcloud_protocol::limits;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};

use super::{FilesError, beneath};

/// What counts where the controller does not say (java-daemon.md 11)
const USUAL_ENTRIES: usize = 5_000;
const USUAL_DEPTH: usize = 24;
const USUAL_THRESHOLD: usize = 500;

/// Each folder on the way down holds a descriptor
const MAX_DEPTH: usize = 64;

/// Bytes of an answer, by the length of its paths: half of what its message may have
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What an entry costs beside its path
const ENTRY_BYTES: usize = 48;

pub(super) fn walk(
    folder: &OwnedFd,
    asked: &WalkInstanceFiles,
    time: Duration,
) -> Result<InstanceFileTree, FilesError> {
    let or = |asked: i32, usual: usize, most: usize| match usize::try_from(asked) {
        Ok(asked) if asked > 0 => asked.min(most),
        _ => usual,
    };
    let mut walk = Walk {
        max_entries: or(asked.max_entries, USUAL_ENTRIES, limits::FILE_ENTRIES),
        max_depth: or(asked.max_depth, USUAL_DEPTH, MAX_DEPTH),
        threshold: or(asked.summarize_threshold, USUAL_THRESHOLD, limits::FILE_ENTRIES),
        deadline: Instant::now() + time,
        tree: InstanceFileTree::default(),
        bytes: 0,
    };
    let children = walk.children(folder).map_err(|_| FilesError::DirUnreadable)?;
    walk.list(folder, children, "", 1);
    Ok(walk.tree)
}

struct Walk {
    max_entries: usize,
    max_depth: usize,
    threshold: usize,
    deadline: Instant,
    tree: InstanceFileTree,
    bytes: usize,
}

enum Children {
    /// Their names, sorted
    Few(Vec<OsString>),
    /// More than are listed; so many
    Many(u64),
}

impl Walk {
    fn children(&self, folder: &OwnedFd) -> rustix::io::Result<Children> {
        let mut names = Vec::new();
        let mut count: u64 = 0;
        for name in names_in(folder)? {
            let name = name?;
            count += 1;
            if names.len() <= self.threshold {
                names.push(name);
            }
            if count.is_multiple_of(1024) && self.is_late() {
                break;
            }
        }
        if names.len() > self.threshold {
            return Ok(Children::Many(count));
        }
        names.sort();
        Ok(Children::Few(names))
    }

    /// Lists what is in a folder, which is `depth - 1` below the instance's
    fn list(&mut self, folder: &OwnedFd, children: Children, prefix: &str, depth: usize) {
        let names = match children {
            Children::Few(names) => names,
            Children::Many(count) => return self.summarise(folder, prefix, count),
        };
        for name in names {
            // It may have gone meanwhile.
            let Ok(found) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let path = match prefix {
                "" => name.to_string_lossy().into_owned(),
                prefix => format!("{prefix}/{}", name.to_string_lossy()),
            };
            let kind = FileType::from_raw_mode(found.st_mode);
            let is_dir = kind == FileType::Directory;
            let entry = FileEntry {
                path: path.clone(),
                size_bytes: if kind == FileType::RegularFile {
                    found.st_size
                } else {
                    0
                },
                is_dir,
                modified_at_ms: modified_at_ms(&found),
                ..FileEntry::default()
            };
            if !self.add(entry) {
                return;
            }
            if !is_dir {
                continue;
            }
            if depth >= self.max_depth {
                self.tree.truncated = true;
                continue;
            }
            // One that cannot be opened stays a name.
            if let Ok(below) = beneath::open_folder(folder.as_fd(), &name)
                && let Ok(children) = self.children(&below)
            {
                self.list(&below, children, &path, depth + 1);
            }
        }
    }

    /// One entry for all that is in a folder
    fn summarise(&mut self, folder: &OwnedFd, path: &str, count: u64) {
        let size = self.size_of(folder, 1);
        let modified_at_ms = rustix::fs::fstat(folder).as_ref().map_or(0, modified_at_ms);
        self.add(FileEntry {
            path: if path.is_empty() { "." } else { path }.to_owned(),
            size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
            is_dir: true,
            modified_at_ms,
            summary: true,
            child_count: i32::try_from(count).unwrap_or(i32::MAX),
        });
    }

    /// Bytes of all files below a folder, as far as there is time
    fn size_of(&mut self, folder: &OwnedFd, depth: usize) -> u64 {
        let mut size: u64 = 0;
        let Ok(names) = names_in(folder) else { return 0 };
        for name in names.filter_map(Result::ok) {
            if self.is_late() {
                self.tree.truncated = true;
                return size;
            }
            let Ok(found) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let below = match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile => u64::try_from(found.st_size).unwrap_or(0),
                FileType::Directory if depth >= MAX_DEPTH => {
                    self.tree.truncated = true;
                    0
                }
                FileType::Directory => beneath::open_folder(folder.as_fd(), &name)
                    .map_or(0, |below| self.size_of(&below, depth + 1)),
                _ => 0,
            };
            size = size.saturating_add(below);
        }
        size
    }

    /// Whether there was room for it
    fn add(&mut self, entry: FileEntry) -> bool {
        self.bytes += entry.path.len() + ENTRY_BYTES;
        let is_full = self.tree.entries.len() >= self.max_entries || self.bytes > MAX_BYTES;
        if is_full || self.is_late() {
            self.tree.truncated = true;
            return false;
        }
        self.tree.entries.push(entry);
        true
    }

    fn is_late(&self) -> bool {
        Instant::now() > self.deadline
    }
}

fn names_in(folder: &OwnedFd) -> rustix::io::Result<impl Iterator<Item = rustix::io::Result<OsString>>> {
    let is_own = |name: &OsStr| name == "." || name == "..";
    let entries = Dir::read_from(folder)?.map(|entry| {
        let entry = entry?;
        Ok(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
    });
    Ok(entries.filter(move |name| !name.as_ref().is_ok_and(|name| is_own(name))))
}

fn modified_at_ms(found: &Stat) -> i64 {
    let (seconds, nanos) = (i128::from(found.st_mtime), i128::from(found.st_mtime_nsec));
    i64::try_from(seconds * 1_000 + nanos / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn walked(folder: &Path, asked: &WalkInstanceFiles) -> InstanceFileTree {
        let root = beneath::open_root(folder).unwrap();
        walk(&root, asked, Duration::from_secs(60)).unwrap()
    }

    fn paths(tree: &InstanceFileTree) -> Vec<&str> {
        tree.entries.iter().map(|entry| entry.path.as_str()).collect()
    }

    #[test]
    fn a_tree_is_listed_by_name_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("world/region")).unwrap();
        fs::write(folder.path().join("world/region/r.0.0.mca"), "12345").unwrap();
        fs::write(folder.path().join("eula.txt"), "eula=true").unwrap();
        symlink("/etc", folder.path().join("etc")).unwrap();
        symlink("world", folder.path().join("again")).unwrap();
        let tree = walked(folder.path(), &WalkInstanceFiles::default());
        assert_eq!(
            paths(&tree),
            [
                "again",
                "etc",
                "eula.txt",
                "world",
                "world/region",
                "world/region/r.0.0.mca"
            ]
        );
        let facts: Vec<_> = tree
            .entries
            .iter()
            .map(|entry| (entry.is_dir, entry.size_bytes))
            .collect();
        assert_eq!(
            facts,
            [
                (false, 0),
                (false, 0),
                (false, 9),
                (true, 0),
                (true, 0),
                (false, 5)
            ]
        );
        assert!(
            tree.entries
                .iter()
                .all(|entry| entry.modified_at_ms > 1_700_000_000_000)
        );
        assert!(!tree.truncated && tree.error.is_empty());
    }

    #[test]
    fn a_large_folder_is_one_sum_and_nothing_exceeds_what_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/many/deep")).unwrap();
        for number in 0..10 {
            fs::write(folder.path().join(format!("a/many/{number}")), "1234").unwrap();
        }
        fs::write(folder.path().join("a/many/deep/x"), "123456").unwrap();
        let mut asked = WalkInstanceFiles {
            summarize_threshold: 10,
            ..WalkInstanceFiles::default()
        };
        let tree = walked(folder.path(), &asked);
        assert_eq!(paths(&tree), ["a", "a/many", "a/many"]);
        let sum = tree.entries.last().unwrap();
        assert_eq!(
            (sum.summary, sum.is_dir, sum.child_count, sum.size_bytes),
            (true, true, 11, 46)
        );
        assert!(!tree.truncated);

        asked.summarize_threshold = 11;
        assert_eq!(walked(folder.path(), &asked).entries.len(), 14);
        asked.max_entries = 5;
        let tree = walked(folder.path(), &asked);
        assert_eq!((tree.entries.len(), tree.truncated), (5, true));
        asked.max_entries = 0;
        asked.max_depth = 1;
        let tree = walked(folder.path(), &asked);
        assert_eq!((paths(&tree), tree.truncated), (vec!["a"], true));
        asked.max_depth = i32::MAX;
        asked.summarize_threshold = 1;
        let root = walked(&folder.path().join("a/many"), &asked);
        assert_eq!(paths(&root), ["."]);
    }

    #[test]
    fn time_and_depth_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().to_owned();
        for _ in 0..100 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let asked = WalkInstanceFiles {
            max_depth: 1_000,
            ..WalkInstanceFiles::default()
        };
        let tree = walked(folder.path(), &asked);
        assert_eq!((tree.entries.len(), tree.truncated), (MAX_DEPTH, true));
        let root = beneath::open_root(folder.path()).unwrap();
        let late = walk(&root, &asked, Duration::ZERO).unwrap();
        assert_eq!((late.entries.len(), late.truncated), (0, true));
    }
}
