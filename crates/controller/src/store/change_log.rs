//! The bounded memory of recent commits that watches are served from
//!
//! Watchers pull: each keeps only its position, and the log is shared. However many watchers there are and however slow
//! they read, memory is bounded by the log. A position that has fallen out of the log is answered with `Lagged`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::stream;
use tokio::sync::watch;

use super::{Change, ChangeSet, Revision, Watch, WatchError};

#[derive(Debug)]
struct Recent {
    commits: VecDeque<Arc<ChangeSet>>,
    bytes: usize,
    /// Every commit after this revision is in `commits`.
    floor: Revision,
    newest: Revision,
}

#[derive(Debug)]
pub(super) struct ChangeLog {
    recent: Mutex<Recent>,
    /// Only the wake-up; what is there to read is decided under the lock.
    appended: watch::Sender<()>,
    max_commits: usize,
    max_bytes: usize,
}

impl ChangeLog {
    pub(super) fn starting_at(revision: Revision, max_commits: usize, max_bytes: usize) -> Self {
        Self {
            recent: Mutex::new(Recent {
                commits: VecDeque::new(),
                bytes: 0,
                floor: revision,
                newest: revision,
            }),
            appended: watch::Sender::new(()),
            max_commits,
            max_bytes,
        }
    }

    pub(super) fn append(&self, commits: impl IntoIterator<Item = ChangeSet>) {
        let mut recent = self.recent();
        for commit in commits {
            recent.newest = commit.revision;
            recent.bytes += bytes_of(&commit);
            recent.commits.push_back(Arc::new(commit));
            while recent.commits.len() > self.max_commits || recent.bytes > self.max_bytes {
                let Some(dropped) = recent.commits.pop_front() else {
                    break;
                };
                recent.bytes -= bytes_of(&dropped);
                recent.floor = dropped.revision;
            }
        }
        drop(recent);
        self.appended.send_replace(());
    }

    pub(super) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Watch {
        let watcher = Watcher {
            appended: self.appended.subscribe(),
            log: Arc::downgrade(self),
            prefix: prefix.to_owned(),
            position: from,
        };
        Box::pin(stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(change) => Some((Ok(change), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// The first commit after `position` that touches `prefix`, reduced to it; moves `position` over what was examined
    fn next_after(&self, position: &mut Revision, prefix: &str) -> Result<Option<ChangeSet>, WatchError> {
        let recent = self.recent();
        if *position < recent.floor || *position > recent.newest {
            return Err(WatchError::Lagged {
                position: *position,
                oldest: recent.floor,
            });
        }
        let start = recent
            .commits
            .partition_point(|commit| commit.revision <= *position);
        for commit in recent.commits.iter().skip(start) {
            *position = commit.revision;
            let changes: Vec<Change> = commit
                .changes
                .iter()
                .filter(|change| change.key.starts_with(prefix))
                .cloned()
                .collect();
            if !changes.is_empty() {
                return Ok(Some(ChangeSet {
                    revision: commit.revision,
                    changes,
                }));
            }
        }
        Ok(None)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watcher {
    // Weak, so that a forgotten watch neither keeps a closed store's log alive nor hides that it closed.
    log: std::sync::Weak<ChangeLog>,
    appended: watch::Receiver<()>,
    prefix: String,
    position: Revision,
}

impl Watcher {
    async fn next(&mut self) -> Result<ChangeSet, WatchError> {
        loop {
            self.appended.mark_unchanged();
            let log = self.log.upgrade().ok_or(WatchError::Closed)?;
            if let Some(change) = log.next_after(&mut self.position, &self.prefix)? {
                return Ok(change);
            }
            drop(log);
            self.appended.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }
}

fn bytes_of(commit: &ChangeSet) -> usize {
    let fixed = size_of::<ChangeSet>();
    let changes = commit.changes.iter();
    fixed
        + changes
            .map(|change| {
                size_of::<Change>() + change.key.len() + change.value.as_ref().map_or(0, bytes::Bytes::len)
            })
            .sum::<usize>()
}
