//! What a server of Paper or Spigot makes of its jar at its first start, made once for all servers of the jar
//!
//! The files are those of one jar, known by its SHA-256: neither platform nor version says which build it is. They are made by a
//! [run of the jar](warm_up) in a folder of its own, once for all starts that wait for it. Starts wait for a while only: without the files a
//! server makes them itself. What failed is not tried again for some time.
//!
//! The same run leaves a class archive (CDS) with the classes that it loaded. It serves the build of the JVM that made it, and a
//! jar of the same name.

mod jvm;
mod shelf;
mod supervised;
mod warm_up;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prexorcloud_content::Digest;
use prexorcloud_proto::{BootstrapCacheEntry, ConfigFormat};
use prexorcloud_protocol::limits;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(crate) use shelf::Held;
pub(crate) use warm_up::jar_time;

use jvm::{Jvms, Stamp};
use shelf::{Origin, Shelf};

/// The most failures that are remembered; who is forgotten is tried again
const MOST_FAILURES: usize = 1024;

/// Where and how much, and for how long
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) folder: PathBuf,
    /// Bytes of all entries together, but for those in use; 0 turns it off
    pub(crate) max_bytes: u64,
    /// How long a start waits for a run
    pub(crate) patience: Duration,
    /// How long a run may take
    pub(crate) deadline: Duration,
    /// How long a jar rests whose run has failed
    pub(crate) rest: Duration,
}

impl Settings {
    pub(crate) fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self {
            folder,
            max_bytes,
            patience: Duration::from_secs(60),
            deadline: Duration::from_secs(120),
            rest: Duration::from_secs(600),
        }
    }
}

/// Whose files are wanted
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Of the jar
    pub(crate) sha256: Digest,
    /// Its name in the folder of the server, which is its class path
    pub(crate) jar_file: String,
    pub(crate) format: ConfigFormat,
    pub(crate) version: String,
    pub(crate) java: PathBuf,
}

impl Wanted {
    /// Whether runtimes of this kind make files that can be kept
    pub(crate) fn is_for(format: ConfigFormat) -> bool {
        matches!(format, ConfigFormat::Paper | ConfigFormat::Spigot)
    }

    fn origin(&self) -> Origin {
        // A controller drops the whole status for one that is too long.
        let fits = limits::fits(&self.version, limits::VERSION);
        Origin {
            format: self.format.into(),
            version: if fits { self.version.clone() } else { String::new() },
        }
    }
}

/// A jar, and the archive that is wanted with its files
type Key = (Digest, Option<Digest>);

/// The prepared files of this node
#[derive(Debug)]
pub(crate) struct Bootstraps {
    settings: Settings,
    shelf: Arc<Shelf>,
    jvms: Jvms,
    runs: Mutex<Runs>,
    /// Each takes the memory of a JVM
    one_at_a_time: Semaphore,
}

#[derive(Debug, Default)]
struct Runs {
    /// Whoever waits sees the end when the sender goes
    under_way: HashMap<Key, watch::Receiver<()>>,
    failed: HashMap<Key, Instant>,
    tasks: JoinSet<()>,
}

impl Bootstraps {
    /// What an earlier daemon kept is there; what it left half-done is gone
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            shelf: Arc::new(Shelf::open(settings.folder.clone(), settings.max_bytes)),
            jvms: Jvms::default(),
            runs: Mutex::default(),
            one_at_a_time: Semaphore::new(1),
            settings,
        })
    }

    pub(crate) fn is_off(&self) -> bool {
        self.settings.max_bytes == 0
    }

    /// Ends what is under way
    pub(crate) fn abandon(&self) {
        self.runs().tasks.abort_all();
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of a jar, from here or by a run of it, for which it is waited only so long; `None` if there are none by then
    pub(crate) async fn get(self: &Arc<Self>, wanted: &Wanted, jar: File) -> Option<Held> {
        self.get_within(self.settings.patience, wanted, jar).await
    }

    /// Has the files of a jar before they are needed; what fails is told in the log, and is not here afterwards
    pub(crate) async fn make_ahead(self: &Arc<Self>, wanted: &Wanted, jar: File) {
        // Others may be before it.
        self.get_within(2 * self.settings.deadline, wanted, jar).await;
    }

    async fn get_within(self: &Arc<Self>, patience: Duration, wanted: &Wanted, jar: File) -> Option<Held> {
        if self.is_off() {
            return None;
        }
        let jvm = self.jvms.build_of(&wanted.java, &self.shelf).await;
        let archive = jvm.as_ref().map(|(_, build)| warm_up::archive_of(wanted, build));
        let key = (wanted.sha256, archive);
        let (has_files, knows_archive) = self.shelf.has(&wanted.sha256, archive.as_ref());
        if !(has_files && knows_archive)
            && let Some(mut run) = self.run(key, wanted, jar, jvm)
            && !has_files
            // Its end is that of the sender. The archive alone is not worth the wait.
            && tokio::time::timeout(patience, run.changed()).await.is_err()
        {
            tracing::warn!(jar = %wanted.sha256, file = wanted.jar_file,
                "preparing the files of a jar takes long; the server prepares its own");
        }
        let (shelf, sha256) = (Arc::clone(&self.shelf), wanted.sha256);
        let taken = tokio::task::spawn_blocking(move || shelf.take(&sha256, archive.as_ref()));
        taken.await.ok().flatten()
    }

    /// The run for a jar: one that is under way, or a new one; `None` while it rests after a failure
    fn run(
        self: &Arc<Self>,
        key: Key,
        wanted: &Wanted,
        jar: File,
        jvm: Option<(Stamp, String)>,
    ) -> Option<watch::Receiver<()>> {
        let mut runs = self.runs();
        if let Some(run) = runs.under_way.get(&key).filter(|run| run.has_changed().is_ok()) {
            return Some(run.clone());
        }
        let now = Instant::now();
        runs.failed.retain(|_, until| *until > now);
        if runs.failed.contains_key(&key) {
            return None;
        }
        while runs.tasks.try_join_next().is_some() {}
        let (ends_with_it, run) = watch::channel(());
        runs.under_way.insert(key, run.clone());
        let (bootstraps, wanted) = (Arc::clone(self), wanted.clone());
        runs.tasks.spawn(async move {
            bootstraps.perform(key, &wanted, jar, jvm).await;
            drop(ends_with_it);
        });
        Some(run)
    }

    async fn perform(&self, key: Key, wanted: &Wanted, jar: File, jvm: Option<(Stamp, String)>) {
        let begun = Instant::now();
        let done = {
            // Never closed.
            let _turn = self.one_at_a_time.acquire().await;
            // Another run may have made them meanwhile, for another archive.
            let former = self.shelf.take(&wanted.sha256, None);
            warm_up::warm_up(&self.shelf, wanted, jar, jvm, former, self.settings.deadline).await
        };
        let (jar, file, rest) = (wanted.sha256, &wanted.jar_file, self.settings.rest);
        let mut runs = self.runs();
        runs.under_way.remove(&key);
        match done {
            Ok(()) => {
                let milliseconds = begun.elapsed().as_millis();
                tracing::info!(%jar, file, milliseconds, "the files of a jar are prepared for all its servers");
            }
            Err(error) => {
                tracing::warn!(%jar, file, %error,
                    "the files of a jar cannot be prepared, its servers prepare their own; it is tried again after {} s", rest.as_secs());
                // Damage is gone by now.
                if runs.failed.len() < MOST_FAILURES && !error.is_damage() {
                    runs.failed.insert(key, Instant::now() + rest);
                }
            }
        }
    }

    /// What is kept, for a node whose JVM is `java`
    pub(crate) fn entries(&self, java: Option<&Path>) -> Vec<BootstrapCacheEntry> {
        let java = java.and_then(|java| Stamp::of(java).ok());
        let entries = self.shelf.entries(java.as_ref());
        let entries = entries
            .into_iter()
            .map(|(origin, bytes, has_cds)| BootstrapCacheEntry {
                config_format: origin.format,
                version: origin.version,
                has_cds,
                size_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            });
        entries.collect()
    }
}
