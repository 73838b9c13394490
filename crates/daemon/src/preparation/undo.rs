//! What the folder of a static instance was before a preparation, until it has succeeded
//!
//! A static folder may hold worlds, so it is not copied: what is about to be replaced gets a second name beside it, and a
//! list says where it belongs. When the preparation fails, or the next daemon finds a list that nobody has ended, the folder
//! becomes what it was. Whoever starts the instance ends the list first.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::inside::{Inside, Kind, Place};
use crate::foreign;

/// The list; the folder without it means nothing
const LIST: &str = "list.jsonl";

/// Longer lists are none of ours
const MAX_LIST: u64 = 256 * 1024 * 1024;

/// One line of the list
#[derive(Debug, Serialize, Deserialize)]
enum Former {
    /// The file or link that was there has this number now
    Kept { path: String, number: u64 },
    /// Nothing was there
    Absent { path: String },
}

/// The way back of one preparation
#[derive(Debug)]
pub(super) struct Undo {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Made when the first change comes
    list: Option<(File, OwnedFd)>,
    known: HashSet<String>,
    kept: u64,
}

impl Undo {
    /// Keeps in `folder`, which is made when it is needed, on the file system of the instance
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what is at a place that is about to change; only the first time counts
    pub(super) fn remember(&self, inside: &Inside, place: &Place) -> io::Result<()> {
        let path = place.relative().into_os_string().into_string();
        let path = path.map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        let mut state = self.state();
        if state.known.contains(&path) {
            return Ok(());
        }
        let kind = inside.kind(place).map_err(io::Error::other)?;
        if kind == Some(Kind::Folder) {
            return Ok(());
        }
        let number = state.kept;
        let former = match kind {
            None => Former::Absent { path: path.clone() },
            Some(_) => {
                state.kept += 1;
                Former::Kept {
                    path: path.clone(),
                    number,
                }
            }
        };
        if state.list.is_none() {
            fs::create_dir_all(&self.folder)?;
            let list = fs::OpenOptions::new()
                .append(true)
                .create_new(true)
                .open(self.folder.join(LIST))?;
            state.list = Some((list, open(&self.folder)?));
        }
        if let Some((list, folder)) = &mut state.list {
            if let Former::Kept { number, .. } = former {
                inside
                    .name_again(place, folder, &number.to_string())
                    .map_err(io::Error::other)?;
            }
            let mut line = serde_json::to_vec(&former)?;
            line.push(b'\n');
            list.write_all(&line)?;
        }
        state.known.insert(path);
        Ok(())
    }

    /// The preparation has succeeded: there is no way back any more
    pub(super) fn end(&self) -> io::Result<()> {
        if self.state().list.take().is_none() {
            return Ok(());
        }
        fs::remove_file(self.folder.join(LIST))?;
        if let Err(error) = foreign::remove(&self.folder) {
            // Without its list it is a leftover that the next daemon sweeps.
            tracing::warn!(folder = %self.folder.display(), %error, "former files of an instance cannot be deleted");
        }
        Ok(())
    }

    /// Makes the folder of the instance what it was; says what is in the way
    pub(super) fn roll_back(&self, live: &Path) {
        if self.state().list.take().is_some() {
            roll_back(&self.folder, live);
        }
    }
}

/// Makes a folder what it was by what was kept in `folder`, which is deleted then
///
/// What cannot be put back stays where it is kept, and is told.
pub(super) fn roll_back(folder: &Path, live: &Path) {
    let told = |error: io::Error| {
        tracing::error!(instance = %live.display(), kept = %folder.display(), %error,
            "files of a static instance cannot be put back after a failed start; they are kept");
    };
    match put_back(folder, live) {
        Ok(()) => {
            if let Err(error) = foreign::remove(folder) {
                tracing::warn!(folder = %folder.display(), %error, "cannot delete a leftover folder");
            }
        }
        Err(error) => told(error),
    }
}

fn put_back(folder: &Path, live: &Path) -> io::Result<()> {
    let list = match File::open(folder.join(LIST)) {
        Ok(list) => list,
        // Ended, or not begun.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if list.metadata()?.len() > MAX_LIST {
        return Err(io::Error::other("the list is too long to be one"));
    }
    let (inside, kept) = (Inside::new(live)?, open(folder)?);
    let mut failure = None;
    for line in BufReader::new(list).lines() {
        // A line that is torn is the last one, and its change had not been made.
        let Ok(former) = serde_json::from_str(&line?) else {
            break;
        };
        let done = match former {
            Former::Kept { path, number } => inside.put_back(&path, &kept, &number.to_string()),
            Former::Absent { path } => inside.remove_file(&path),
        };
        if let Err(error) = done {
            failure = Some(io::Error::other(error));
        }
    }
    failure.map_or(Ok(()), Err)
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(rustix::fs::CWD, folder, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use super::*;

    struct Instance(tempfile::TempDir);

    impl Instance {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in [("a.yml", "a"), ("config/b.yml", "b"), ("world", "w")] {
                let path = folder.path().join("live").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            std::os::unix::fs::symlink("a.yml", folder.path().join("live/link")).unwrap();
            Self(folder)
        }

        fn live(&self) -> PathBuf {
            self.0.path().join("live")
        }

        fn undo(&self) -> Arc<Undo> {
            Arc::new(Undo::new(self.0.path().join("undo")))
        }

        fn change(&self, undo: &Arc<Undo>) {
            let inside = Inside::new(&self.live()).unwrap().with_undo(Arc::clone(undo));
            for name in ["a.yml", "config/b.yml", "new.yml", "a.yml"] {
                let place = inside.resolve(name).unwrap();
                inside.replace(&place, b"changed").unwrap();
            }
            let link = inside.resolve_entry("link").unwrap();
            inside.link(&link, "elsewhere".as_ref()).unwrap();
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.live().join(name)).ok()
        }

        fn assert_former(&self) {
            for (name, content) in [
                ("a.yml", Some("a")),
                ("config/b.yml", Some("b")),
                ("world", Some("w")),
                ("link", Some("a")),
                ("new.yml", None),
            ] {
                assert_eq!(self.text(name).as_deref(), content, "{name}");
            }
            assert!(!self.0.path().join("undo").exists());
        }
    }

    #[test]
    fn a_folder_becomes_what_it_was() {
        let instance = Instance::new();
        let undo = instance.undo();
        instance.change(&undo);
        assert_eq!(instance.text("a.yml").as_deref(), Some("changed"));
        undo.roll_back(&instance.live());
        instance.assert_former();
        undo.roll_back(&instance.live());
        instance.assert_former();
    }

    #[test]
    fn the_next_daemon_goes_on_where_the_last_one_ended() {
        let instance = Instance::new();
        let undo = instance.undo();
        instance.change(&undo);
        drop(undo);
        let folder = instance.0.path().join("undo");
        // Killed in the middle of a line.
        let mut list = fs::OpenOptions::new()
            .append(true)
            .open(folder.join(LIST))
            .unwrap();
        list.write_all(b"{\"Kept\":{\"path\":\"world\"").unwrap();
        roll_back(&folder, &instance.live());
        instance.assert_former();
    }

    #[test]
    fn what_has_succeeded_stays() {
        let instance = Instance::new();
        let undo = instance.undo();
        instance.change(&undo);
        undo.end().unwrap();
        undo.roll_back(&instance.live());
        assert_eq!(instance.text("a.yml").as_deref(), Some("changed"));
        assert_eq!(instance.text("new.yml").as_deref(), Some("changed"));
        assert!(!instance.0.path().join("undo").exists());
        // A daemon that was killed between the end of the list and that of the folder.
        instance.change(&instance.undo());
        fs::remove_file(instance.0.path().join("undo").join(LIST)).unwrap();
        roll_back(&instance.0.path().join("undo"), &instance.live());
        assert_eq!(instance.text("new.yml").as_deref(), Some("changed"));
    }
}
