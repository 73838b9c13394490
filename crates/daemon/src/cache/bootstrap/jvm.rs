//! Which build of the Java virtual machine a `java` is

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::shelf::Shelf;
use super::supervised::{Failure, Surroundings, run};

/// How long a JVM may take to name itself
const DEADLINE: Duration = Duration::from_secs(10);

/// The executable as the file system knows it: another JVM in its place has another one
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: PathBuf,
    bytes: u64,
    modified_ns: u64,
}

impl Stamp {
    pub(super) fn of(java: &Path) -> io::Result<Self> {
        // Distributions replace what the link leads to.
        let path = java.canonicalize()?;
        let metadata = fs::metadata(&path)?;
        let modified = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            path,
            bytes: metadata.len(),
            modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// The builds by executable; each is asked once, and one that does not answer has none
#[derive(Debug, Default)]
pub(super) struct Jvms(tokio::sync::Mutex<HashMap<Stamp, Option<String>>>);

impl Jvms {
    /// What the JVM says of itself, the time of its build included: archives of another build are of no use to it
    ///
    /// It may work in a folder of the shelf meanwhile.
    pub(super) async fn build_of(&self, java: &Path, shelf: &Shelf) -> Option<(Stamp, String)> {
        let stamp = Stamp::of(java).ok()?;
        let mut known = self.0.lock().await;
        if let Some(build) = known.get(&stamp) {
            return build.clone().map(|build| (stamp, build));
        }
        let build = ask(java, shelf).await;
        if let Err(error) = &build {
            tracing::warn!(java = %java.display(), %error, "a JVM does not say which it is, and gets no class archives");
        }
        // Whatever was there before is not there any more.
        known.retain(|other, _| other.path != stamp.path);
        let build = known.entry(stamp.clone()).insert_entry(build.ok());
        build.get().clone().map(|build| (stamp, build))
    }
}

async fn ask(java: &Path, shelf: &Shelf) -> Result<String, Failure> {
    let staging = shelf.staging()?;
    let surroundings = Surroundings {
        folder: staging.path(),
        output: &staging.path().join("version.log"),
        deadline: DEADLINE,
        max_file_bytes: 1 << 20,
    };
    run(java, &["-Xinternalversion".to_owned()], &surroundings).await
}
