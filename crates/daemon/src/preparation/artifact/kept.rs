//! The downloads that are kept, each under its SHA-256, with a record of what it is where somebody said so

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prexorcloud_proto::JarCacheEntry;
use prexorcloud_protocol::content::eviction::{CacheEntry, evicted};
use serde::{Deserialize, Serialize};

use super::is_sha256;
use crate::wall_clock::milliseconds;
use crate::{durable, partial};

/// Larger records are none of ours
const MAX_RECORD: u64 = 4096;

/// What a kept file is, for those who look at the cache
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::preparation) struct Description {
    pub(in crate::preparation) platform: String,
    pub(in crate::preparation) version: String,
    pub(in crate::preparation) file: String,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) folder: PathBuf,
    pub(super) max_bytes: u64,
}

/// A kept file as the file system knows it
struct File {
    sha256: String,
    bytes: u64,
    last_used_ms: u64,
}

impl Kept {
    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(sha256)
    }

    fn record(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.json"))
    }

    /// Says that a file was used now; only the order in which files go depends on it
    pub(super) fn touch(&self, sha256: &str) {
        let opened = durable::open_regular(&self.path(sha256), fs::OpenOptions::new().write(true));
        let _ = opened.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Writes down what a file is, if it is there
    pub(super) fn describe(&self, sha256: &str, description: &Description) -> io::Result<()> {
        if !self.path(sha256).is_file() || self.description(sha256).as_ref() == Some(description) {
            return Ok(());
        }
        durable::replace(&self.record(sha256), &serde_json::to_vec(description)?)
    }

    fn description(&self, sha256: &str) -> Option<Description> {
        let bytes = durable::read_bounded(&self.record(sha256), MAX_RECORD).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    fn files(&self) -> Vec<File> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let files = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let sha256 = entry
                .file_name()
                .into_string()
                .ok()
                .filter(|name| is_sha256(name))?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(File {
                sha256,
                bytes: metadata.len(),
                last_used_ms: milliseconds(metadata.modified().ok()?),
            })
        });
        files.collect()
    }

    /// Deletes what was used longest ago while there are too many bytes beside those of `unfinished` ones, but nothing in use
    pub(super) fn evict(&self, unfinished: u64, is_in_use: impl Fn(&str) -> bool) {
        let files = self.files();
        let entries: Vec<CacheEntry> = files
            .iter()
            .map(|file| CacheEntry {
                bytes: file.bytes,
                last_used: file.last_used_ms,
                in_use: is_in_use(&file.sha256),
            })
            .collect();
        for file in evicted(&entries, self.max_bytes.saturating_sub(unfinished))
            .into_iter()
            .filter_map(|place| files.get(place))
        {
            tracing::info!(
                sha256 = file.sha256,
                bytes = file.bytes,
                "the cache is full, a download is forgotten"
            );
            for path in [self.record(&file.sha256), self.path(&file.sha256)] {
                remove(&path);
            }
        }
    }

    pub(super) fn bytes(&self) -> i64 {
        let sum: u64 = self.files().iter().map(|file| file.bytes).sum();
        i64::try_from(sum.saturating_add(partial::bytes(&self.folder))).unwrap_or(i64::MAX)
    }

    /// The runtimes among them
    pub(super) fn jars(&self) -> Vec<JarCacheEntry> {
        let entries = self.files().into_iter().filter_map(|file| {
            let description = self.description(&file.sha256)?;
            let written = fs::metadata(self.path(&file.sha256)).and_then(|metadata| metadata.created());
            Some(JarCacheEntry {
                platform: description.platform,
                version: description.version,
                jar_file: description.file,
                size_bytes: i64::try_from(file.bytes).unwrap_or(i64::MAX),
                sha256: file.sha256,
                // Not every file system says it.
                cached_at_ms: written.map_or(0, |time| i64::try_from(milliseconds(time)).unwrap_or(0)),
            })
        });
        entries.collect()
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a kept download cannot be deleted");
    }
}
