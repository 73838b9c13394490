//! Folders of crashed instances that hold what explains the crash
//!
//! A heap dump or a JVM's crash log is the only witness of its crash. A folder that holds one is not deleted with its
//! instance, and not replaced by the next start of the id: it is renamed to `<id>@crashed-<when>` beside it, where it stays until
//! somebody deletes it, or all of them take more than their budget.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::foreign;
use crate::wall_clock::now_ms;

/// Between the id and the time in the name of a kept folder; `@` is in no safe name
const MARK: &str = "@crashed-";

/// The folders that are kept below one folder of instances
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dumps {
    /// Holds a folder per group, which hold a folder per instance
    pub(crate) instances_folder: PathBuf,
    /// Bytes that all kept folders may take together
    pub(crate) budget: u64,
}

/// The heap dump or crash log that a folder holds, if it holds one
pub(crate) fn witness(folder: &Path) -> Option<PathBuf> {
    foreign::find_file(folder, |name| {
        name.ends_with(".hprof") || (name.starts_with("hs_err_pid") && name.ends_with(".log"))
    })
}

/// Gives a folder the name under which it is kept; `live` is the name that its instance knew
pub(crate) fn keep(folder: &Path, live: &Path, witness: &Path) -> io::Result<PathBuf> {
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    let now = now_ms();
    let named = |attempt: i64| live.with_file_name(format!("{name}{MARK}{}", now + attempt));
    let kept = (0..100)
        .map(named)
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| named(100));
    fs::rename(folder, &kept)?;
    tracing::warn!(folder = %kept.display(), witness = %witness.file_name().unwrap_or_default().display(),
        "the folder of a crashed instance is kept: it holds a heap dump or a crash log; delete it when it is not needed any more");
    Ok(kept)
}

impl Dumps {
    /// Deletes the oldest kept folders until the rest is within the budget; the newest stays, however large it is,
    /// unless the budget is none at all
    pub(crate) fn enforce(&self) {
        let mut kept: Vec<_> = match self.kept() {
            Ok(kept) => kept
                .into_iter()
                .map(|path| (foreign::size(&path), path))
                .collect(),
            Err(error) => {
                tracing::warn!(folder = %self.instances_folder.display(), %error, "kept folders cannot be listed");
                return;
            }
        };
        let mut total: u64 = kept.iter().map(|(size, _)| *size).sum();
        // The newest last, to be deleted last.
        kept.sort_by_key(|(_, path)| when(path));
        let newest = if self.budget > 0 { kept.pop() } else { None };
        for (size, path) in kept {
            if total <= self.budget {
                return;
            }
            tracing::warn!(folder = %path.display(), size, budget = self.budget,
                "kept folders of crashed instances take more than instances.keep_dumps_mb: the oldest is deleted");
            if let Err(error) = foreign::remove(&path) {
                tracing::warn!(folder = %path.display(), %error, "cannot delete the kept folder of a crashed instance");
            }
            total = total.saturating_sub(size);
        }
        if let Some((size, path)) = newest.filter(|_| total > self.budget) {
            tracing::warn!(folder = %path.display(), size, budget = self.budget,
                "the last crash alone takes more than instances.keep_dumps_mb; it stays until the next one");
        }
    }

    fn kept(&self) -> io::Result<Vec<PathBuf>> {
        let mut kept = Vec::new();
        let Some(groups) = durable::list(&self.instances_folder)? else {
            return Ok(kept);
        };
        for group in groups.flatten() {
            if !group.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            // A folder of somebody else is nobody's group.
            let Ok(instances) = fs::read_dir(group.path()) else {
                continue;
            };
            for instance in instances.flatten() {
                if instance.file_type().is_ok_and(|kind| kind.is_dir()) && when(&instance.path()).is_some() {
                    kept.push(instance.path());
                }
            }
        }
        Ok(kept)
    }
}

/// When a folder was kept; `None` if it is no kept folder
fn when(folder: &Path) -> Option<i64> {
    let name = folder.file_name()?.to_str()?;
    name.split_once(MARK)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_explains_a_crash_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        file("world/level.dat", "x");
        file("latest.log", "x");
        file("hs_err_pid7.log", "");
        assert_eq!(witness(folder.path()), None, "an empty file explains nothing");
        file("logs/java_pid7.hprof", "x");
        assert!(witness(folder.path()).is_some());
    }

    #[test]
    fn the_oldest_go_when_the_budget_is_exceeded() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str, bytes: usize| {
            let path = parent.path().join("lobby").join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("a.hprof"), vec![1; bytes]).unwrap();
            path
        };
        const MIB: usize = 1 << 20;
        let live = folder("lobby-1", 5 * MIB);
        let other = folder("lobby-1@crashed-notes", 5 * MIB);
        let old = folder("lobby-2@crashed-7", MIB);
        let middle = folder("lobby-1@crashed-80", MIB);
        let new = folder("lobby-1@crashed-900", MIB);
        let dumps = |budget: usize| Dumps {
            instances_folder: parent.path().to_path_buf(),
            budget: budget as u64,
        };
        dumps(4 * MIB).enforce();
        assert!(
            [&live, &other, &old, &middle, &new]
                .iter()
                .all(|path| path.exists())
        );
        dumps(5 * MIB / 2).enforce();
        assert!(!old.exists() && middle.exists() && new.exists());
        dumps(1).enforce();
        assert!(
            !middle.exists() && new.exists(),
            "the only witness of the last crash"
        );
        dumps(0).enforce();
        assert!(!new.exists() && live.exists() && other.exists());
    }
}
