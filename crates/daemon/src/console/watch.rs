//! Wakes readers when a log grows
//!
//! One inotify descriptor serves all logs of the daemon, because a user has few of them. A watch fires once and is set
//! again by the reader after it has caught up, so a chatty instance costs one event per reading and not one per line.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::readable::readable;

/// Tells when files change
///
/// Cheap to clone; the descriptor is closed with the last clone.
#[derive(Clone, Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    descriptor: AsyncFd<OwnedFd>,
    waiting: Mutex<HashMap<i32, Vec<oneshot::Sender<()>>>>,
}

impl Watcher {
    /// Opens the descriptor and starts the task that reads it; call it inside a tokio runtime
    ///
    /// # Errors
    /// If the system has no inotify descriptor left. Readers then have to look at intervals.
    pub fn start() -> io::Result<Self> {
        let descriptor = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let shared = Arc::new(Shared {
            descriptor: readable(descriptor)?,
            waiting: Mutex::default(),
        });
        let reader = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(shared) = reader.upgrade() {
                // A last owner that goes away must not wait for an event: look up now and then.
                let round = tokio::time::timeout(std::time::Duration::from_secs(30), shared.round());
                if let Ok(Err(error)) = round.await {
                    tracing::warn!(%error, "file watching stopped; consoles are read at intervals");
                    shared.lock().clear();
                    return;
                }
            }
        });
        Ok(Self { shared })
    }

    /// Asks for word of the next change of the file at `path`
    ///
    /// Look at the file after this call and before waiting, or a change in between is overlooked. The receiver fails if
    /// watching broke down.
    ///
    /// # Errors
    /// If the file is gone, or the user's watches are used up.
    pub fn arm(&self, path: &Path) -> io::Result<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        // Held while the watch is set: the event cannot be handed out before its receiver is known.
        let mut waiting = self.shared.lock();
        let watch = inotify::add_watch(
            self.shared.descriptor.get_ref(),
            path,
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::ONESHOT | inotify::WatchFlags::DONT_FOLLOW,
        )?;
        let senders = waiting.entry(watch).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        Ok(receiver)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for events once and hands them out
    async fn round(&self) -> io::Result<()> {
        let mut guard = self.descriptor.readable().await?;
        let mut waiting = self.lock();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.descriptor.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        // Nobody knows which events were lost: wake everyone.
                        waiting.clear();
                    }
                    for sender in waiting.remove(&event.wd()).into_iter().flatten() {
                        // A reader that is no longer interested dropped its end.
                        let _ = sender.send(());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    guard.clear_ready();
                    return Ok(());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_wakes_every_reader_once() {
        let watcher = Watcher::start().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for round in 0..3 {
            let first = watcher.arm(file.path()).unwrap();
            let second = watcher.arm(file.path()).unwrap();
            std::fs::write(file.path(), format!("round {round}")).unwrap();
            let both = async { tokio::join!(first, second) };
            let (first, second) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
            first.unwrap();
            second.unwrap();
        }
    }

    #[tokio::test]
    async fn a_missing_file_cannot_be_watched() {
        let watcher = Watcher::start().unwrap();
        assert!(watcher.arm(Path::new("/does/not/exist")).is_err());
    }
}
