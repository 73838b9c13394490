//! What preparations leave beside the folders of instances, by its names
//!
//! | Name | What it is | At the next start of a daemon |
//! |---|---|---|
//! | `.<id>-staging-<stamp>` | a dynamic instance, half-prepared | deleted |
//! | `.<id>-scratch-<stamp>` | templates and files on their way | deleted |
//! | `.<id>-undo` | what a static instance was | put back; what cannot be stays, and no start passes it by |
//! | `.<id>-undone-<stamp>` | the same, when it is of no use any more | deleted |
//! | `.<id>-replaced-<stamp>`, `.<id>-ended-<inode>` | a dynamic instance of an earlier start | deleted, unless it explains a crash |
//! | `<id>@failed-<when>` | what was put aside because somebody may want it | deleted after a week, and before if a group has more than eight |
//! | `.staging` | what a Java daemon was preparing | deleted, after the folders of static instances are put back |
//!
//! A stamp is the number of a process and one of its own. `@` is in no safe name, and no safe name begins with a dot.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::undo;
use crate::durable;
use crate::foreign;
use crate::supervisor::dumps;
use crate::wall_clock::milliseconds;

/// Begins the names of folders that no instance uses
const HIDDEN: &str = ".";
pub(super) const STAGING: &str = "-staging-";
pub(super) const SCRATCH: &str = "-scratch-";
pub(super) const UNDONE: &str = "-undone-";
pub(super) const REPLACED: &str = "-replaced-";
const ENDED: &str = "-ended-";
const UNDO: &str = "-undo";

/// Between the id and the time in the name of what is put aside
const FAILED: &str = "@failed-";

/// How long what is put aside is kept
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many of them a group has, the newest
const MOST_KEPT: usize = 8;

/// In the folder of all instances: where Java daemons prepare
const JAVA_STAGING: &str = ".staging";

/// Where a Java daemon has the folder of a static instance while it prepares it
const JAVA_BACKUP: &str = "-backup-";

/// The name of a folder beside that of an instance: a group may be on a file system of its own
pub(super) fn beside(live: &Path, mark: &str, stamp: &str) -> PathBuf {
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    live.with_file_name(format!("{HIDDEN}{name}{mark}{stamp}"))
}

/// The names for the way back of a static instance
pub(super) fn undo_names(live: &Path, stamp: &str) -> undo::Names {
    undo::Names {
        pending: beside(live, UNDO, ""),
        ended: beside(live, UNDONE, stamp),
    }
}

/// Puts a folder aside for somebody who may want it, and says so
pub(super) fn quarantine(folder: &Path, live: &Path) -> io::Result<PathBuf> {
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    let now = milliseconds(SystemTime::now());
    let named = |attempt: u64| live.with_file_name(format!("{name}{FAILED}{}", now + attempt));
    let aside = (0..100)
        .map(named)
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| named(100));
    fs::rename(folder, &aside)?;
    tracing::error!(instance = %name, folder = %aside.display(),
        "what a failed start has left is put aside; it is deleted after {} days, or by you when nothing in it is needed", KEPT_FOR.as_secs() / 86_400);
    if let Some(group) = live.parent() {
        let all = fs::read_dir(group).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        expire(all.unwrap_or_default());
    }
    Ok(aside)
}

/// Deletes what was put aside too long ago, or before too many others
fn expire(paths: Vec<PathBuf>) {
    let mut kept: Vec<(u64, PathBuf)> = paths
        .into_iter()
        .filter_map(|path| Some((put_aside(&path)?, path)))
        .collect();
    kept.sort_by_key(|(when, _)| Reverse(*when));
    let oldest = milliseconds(SystemTime::now() - KEPT_FOR);
    for (number, (when, path)) in kept.iter().enumerate() {
        if number >= MOST_KEPT || *when < oldest {
            tracing::warn!(folder = %path.display(), "what a failed start has left is deleted, a week or eight failures after it");
            remove(path);
        }
    }
}

/// When a folder was put aside; `None` if it was not
fn put_aside(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.split_once(FAILED)?.1.parse().ok()
}

/// Ends what an earlier daemon has begun; call it before anything is prepared
///
/// What explains a crash is kept, as it would have been. What is not ours to look at, such as `lost+found`, is left
/// alone with a warning.
///
/// # Errors
/// If the folder of all instances cannot be listed.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    sweep_java(root);
    let Some(groups) = durable::list(root)? else {
        return Ok(());
    };
    for group in groups {
        let group = group?;
        let path = group.path();
        let entries = match group.file_type() {
            Ok(kind) if kind.is_dir() => fs::read_dir(&path),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match entries {
            Ok(entries) => sweep_group(entries.flatten().collect()),
            Err(error) => {
                tracing::warn!(folder = %path.display(), %error, "cannot look for leftovers here, passing it over");
            }
        }
    }
    Ok(())
}

fn sweep_group(entries: Vec<fs::DirEntry>) {
    let mut folders = Vec::new();
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match name.to_str().and_then(Leftover::of) {
            Some(Leftover::Useless) => remove(&path),
            Some(Leftover::Undo(instance)) => put_back(&path.with_file_name(instance)),
            Some(Leftover::Former(instance)) => match dumps::witness(&path) {
                Some(witness) => {
                    if let Err(error) = dumps::keep(&path, &path.with_file_name(instance), &witness) {
                        tracing::warn!(folder = %path.display(), %error, "cannot keep the folder of a crashed instance");
                    }
                }
                None => remove(&path),
            },
            None => folders.push(path),
        }
    }
    expire(folders);
}

fn put_back(live: &Path) {
    let instance = live.file_name().unwrap_or_default().display();
    tracing::warn!(%instance, "a daemon ended while it prepared this static instance, whose files are put back");
    let names = undo_names(live, &format!("{}-0", std::process::id()));
    if let Err(error) = undo::roll_back(&names, live) {
        tracing::error!(%instance, kept = %names.pending.display(), %error,
            "not all files of a static instance can be put back; the rest is kept, and it is not started before");
    }
}

/// Puts the folders of static instances back that a Java daemon has taken away to prepare them, and deletes the rest
fn sweep_java(root: &Path) {
    let staging = root.join(JAVA_STAGING);
    let mut backups = Vec::new();
    for group in folders_in(&staging) {
        for folder in folders_in(&group) {
            let name = folder
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let instance = name.rsplit_once(JAVA_BACKUP).filter(|(_, time)| is_number(time));
            if let (Some((instance, _)), Some(group)) = (instance, group.file_name()) {
                let modified = fs::metadata(&folder).and_then(|metadata| metadata.modified());
                let live = root.join(group).join(instance);
                backups.push((modified.unwrap_or(UNIX_EPOCH), folder, live));
            }
        }
    }
    // The newest of an instance gets its place, should there be several.
    backups.sort_by_key(|(modified, ..)| Reverse(*modified));
    let mut is_all_safe = true;
    for (_, folder, live) in backups {
        let is_missing =
            fs::symlink_metadata(&live).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let saved = match (is_missing, live.parent()) {
            (true, Some(group)) => fs::create_dir_all(group).and_then(|()| fs::rename(&folder, &live)),
            _ => quarantine(&folder, &live).map(drop),
        };
        match saved {
            Ok(()) => tracing::warn!(instance = %live.display(),
                "a Java daemon ended while it prepared this static instance, whose folder is saved"),
            Err(error) => {
                is_all_safe = false;
                tracing::error!(folder = %folder.display(), instance = %live.display(), %error,
                    "the folder of a static instance that a Java daemon has taken away cannot be put back: do so before you start it");
            }
        }
    }
    if is_all_safe && staging.exists() {
        remove(&staging);
    }
}

fn folders_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(path: &Path) {
    if let Err(error) = foreign::remove(path) {
        tracing::warn!(folder = %path.display(), %error,
            "cannot delete a leftover folder; the next start of the daemon tries it again");
    }
}

/// What a folder beside those of the instances is, by its name
#[derive(Debug, PartialEq, Eq)]
enum Leftover<'a> {
    Useless,
    /// Of the instance
    Undo(&'a str),
    /// Of the instance
    Former(&'a str),
}

impl<'a> Leftover<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let name = name.strip_prefix(HIDDEN)?;
        if let Some(instance) = name.strip_suffix(UNDO) {
            return Some(Self::Undo(instance));
        }
        // An instance may be called like that, too: the last mark counts, with what follows it.
        let marked = |mark: &str| name.rsplit_once(mark).filter(|(_, stamp)| is_stamp(stamp));
        if [STAGING, SCRATCH, UNDONE]
            .into_iter()
            .any(|mark| marked(mark).is_some())
        {
            return Some(Self::Useless);
        }
        let former = [ENDED, REPLACED]
            .into_iter()
            .find_map(|mark| name.split_once(mark));
        former.map(|(instance, _)| Self::Former(instance))
    }
}

fn is_stamp(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
