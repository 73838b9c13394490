//! The modules of this node on disk
//!
//! ```text
//! modules/
//!   index.json        which modules there are, and in which versions
//!   store/<sha256>.jar
//!   incoming/         what is on its way
//!   hosts/<id>/       console, records of the process, and `data`, the module's own folder
//! ```
//!
//! A jar is in the store before the index names it, and leaves it after, so that a daemon which was killed at any point finds each module
//! whole. What the index does not name goes at the start. A version on trial stands beside the one before until it has worked: where
//! the trial was cut short, the one before counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prexorcloud_content::Digest;
use prexorcloud_content::module::MAX_JAR_BYTES;
use serde::{Deserialize, Serialize};

use crate::control::{read_record, write_record};
use crate::durable;
use crate::partial::{self, Partial};

/// One version of a module
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) manifest: String,
    /// Whether it has worked
    #[serde(default)]
    pub(super) proven: bool,
}

/// What is kept of a module
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) current: Version,
    /// The one on trial
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) candidate: Option<Version>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    modules: BTreeMap<String, Entry>,
}

/// A jar that was not stored yet
#[derive(Debug)]
pub(super) enum Jar {
    /// It came with its order
    Inline(Bytes),
    /// It was fetched
    Fetched(Partial),
}

/// Where things are
#[derive(Clone, Debug)]
pub(super) struct Paths {
    folder: PathBuf,
}

impl Paths {
    pub(super) fn jar(&self, sha256: &str) -> PathBuf {
        self.folder.join("store").join(format!("{sha256}.jar"))
    }

    /// Where a jar of this module grows that is on its way
    pub(super) fn incoming(&self, id: &str, sha256: &Digest) -> PathBuf {
        let name = format!("{id}.{sha256}.{}", partial::SUFFIX);
        self.folder.join("incoming").join(name)
    }

    pub(super) fn host_folder(&self, id: &str) -> PathBuf {
        self.folder.join("hosts").join(id)
    }
}

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    index: Index,
}

impl Store {
    /// Opens it, and clears away what an end in the middle has left
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        for part in ["store", "incoming", "hosts"] {
            durable::private_folder(&folder.join(part))?;
        }
        let index: Index = read_record(&folder.join("index.json"))?.unwrap_or_default();
        let mut store = Self {
            folder: folder.to_path_buf(),
            index,
        };
        let mut is_changed = false;
        for entry in store.index.modules.values_mut() {
            is_changed |= entry.candidate.take().is_some();
        }
        if is_changed {
            store.write()?;
        }
        store.sweep()?;
        Ok(store)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.index.modules.keys().cloned().collect()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Entry> {
        self.index.modules.get(id)
    }

    pub(super) fn paths(&self) -> Paths {
        Paths {
            folder: self.folder.clone(),
        }
    }

    fn jar(&self, sha256: &str) -> PathBuf {
        self.paths().jar(sha256)
    }

    fn host_folder(&self, id: &str) -> PathBuf {
        self.paths().host_folder(id)
    }

    /// This version has worked: it is the module from now on
    pub(super) fn prove(&mut self, id: &str, sha256: &str) -> io::Result<()> {
        let Some(entry) = self.get(id) else {
            return Ok(());
        };
        let versions = entry.candidate.iter().chain([&entry.current]);
        let found = versions.into_iter().find(|version| version.sha256 == sha256);
        let Some(current) = found.cloned() else {
            return Ok(());
        };
        let entry = Entry {
            current: Version {
                proven: true,
                ..current
            },
            candidate: None,
        };
        self.set(id, Some(entry))
    }

    /// Whether the jar is there as it should be: it is read
    pub(super) fn is_whole(&self, sha256: &str) -> bool {
        fs::File::open(self.jar(sha256))
            .and_then(Digest::of_reader)
            .is_ok_and(|found| found.to_string() == sha256)
    }

    /// Keeps a jar whose digest was compared, and names it as the module
    pub(super) fn install(&mut self, id: &str, entry: Entry, sha256: &str, jar: Jar) -> io::Result<()> {
        let target = self.jar(sha256);
        let part = match jar {
            Jar::Fetched(part) => part,
            Jar::Inline(bytes) => {
                let mut part = Partial::beside(&target)?;
                part.write(&bytes)?;
                part
            }
        };
        part.sync()?;
        part.keep(&target)?;
        durable::sync_parent(&target)?;
        self.set(id, Some(entry))
    }

    /// Names `entry` as the module, or none any more; what nothing names goes
    pub(super) fn set(&mut self, id: &str, entry: Option<Entry>) -> io::Result<()> {
        let before = match entry {
            Some(entry) => self.index.modules.insert(id.to_owned(), entry),
            None => self.index.modules.remove(id),
        };
        if let Err(error) = self.write() {
            // What is on disk counts.
            match before {
                Some(before) => drop(self.index.modules.insert(id.to_owned(), before)),
                None => drop(self.index.modules.remove(id)),
            }
            return Err(error);
        }
        if !self.index.modules.contains_key(id) {
            self.remove_host(&self.host_folder(id));
        }
        self.sweep_jars()
    }

    fn write(&self) -> io::Result<()> {
        write_record(&self.folder.join("index.json"), &self.index)
    }

    fn named(&self) -> BTreeSet<PathBuf> {
        let versions = self.index.modules.values().flat_map(|entry| {
            let candidate = entry.candidate.as_ref().map(|version| &version.sha256);
            candidate.into_iter().chain([&entry.current.sha256])
        });
        versions.map(|sha256| self.jar(sha256)).collect()
    }

    fn sweep(&self) -> io::Result<()> {
        self.sweep_jars()?;
        // Room for one that is as large as a jar may be.
        let room = MAX_JAR_BYTES.saturating_mul(4);
        partial::sweep(&self.folder.join("incoming"), room, |_| false);
        for entry in durable::list(&self.folder.join("hosts"))?.into_iter().flatten() {
            let entry = entry?;
            let is_known = entry
                .file_name()
                .to_str()
                .is_some_and(|id| self.index.modules.contains_key(id));
            // One whose shim is still ending it is gone at the next start.
            if !is_known {
                self.remove_host(&entry.path());
            }
        }
        Ok(())
    }

    fn sweep_jars(&self) -> io::Result<()> {
        let named = self.named();
        for entry in durable::list(&self.folder.join("store"))?.into_iter().flatten() {
            let path = entry?.path();
            if !named.contains(&path) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }

    fn remove_host(&self, folder: &Path) {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "what a module has left cannot be deleted yet");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn version(version: &str, jar: &[u8]) -> Version {
        Version {
            version: version.to_owned(),
            sha256: Digest::of(jar).to_string(),
            manifest: String::new(),
            proven: true,
        }
    }

    fn put(store: &mut Store, entry: Entry, jar: &'static [u8]) {
        let sha256 = Digest::of(jar).to_string();
        store
            .install("m", entry, &sha256, Jar::Inline(jar.into()))
            .unwrap();
    }

    fn jars(store: &Store) -> usize {
        fs::read_dir(store.folder.join("store")).unwrap().count()
    }

    #[test]
    fn a_trial_that_was_cut_short_leaves_the_version_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let (one, two) = (version("1.0.0", b"one"), version("2.0.0", b"two"));
        let current = Entry {
            current: one.clone(),
            candidate: None,
        };
        put(&mut store, current.clone(), b"one");
        let trial = Entry {
            candidate: Some(two),
            ..current.clone()
        };
        put(&mut store, trial, b"two");
        assert_eq!(jars(&store), 2);
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.get("m"), Some(&current));
        assert_eq!(jars(&store), 1);
        assert!(store.is_whole(&one.sha256));
        fs::write(store.jar(&one.sha256), "changed").unwrap();
        assert!(!store.is_whole(&one.sha256));
        fs::create_dir_all(store.host_folder("m").join("data")).unwrap();
        store.set("m", None).unwrap();
        assert_eq!((jars(&store), store.host_folder("m").exists()), (0, false));
    }

    #[test]
    fn what_the_index_does_not_name_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let entry = Entry {
            current: version("1.0.0", b"one"),
            candidate: None,
        };
        put(&mut store, entry, b"one");
        // A kill between the jar and the index, and one in the middle of a jar.
        fs::write(store.jar(&"0".repeat(64)), "jar").unwrap();
        fs::write(folder.path().join("store/.partial-x"), "j").unwrap();
        fs::create_dir_all(store.host_folder("gone").join("data")).unwrap();
        fs::write(folder.path().join("index.json.new"), "{").unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!((jars(&store), store.ids()), (1, vec!["m".to_owned()]));
        assert!(!store.host_folder("gone").exists());
    }
}
