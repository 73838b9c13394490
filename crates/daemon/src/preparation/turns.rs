//! One preparation at a time in the folder of an instance
//!
//! A preparation that is cancelled goes on for as long as it is in the middle of file work, and is rolled back then. Its turn ends after
//! that, so the next one finds a folder that nobody else works in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prexorcloud_transport::Locks;
use tokio::sync::OwnedMutexGuard;

/// The turns of all instances
#[derive(Debug)]
pub(super) struct Turns {
    patience: Duration,
    /// By the folder
    folders: Locks<PathBuf>,
}

/// The folder of an instance is nobody else's as long as this is there
#[derive(Clone, Debug)]
pub(super) struct Turn {
    _turn: Arc<OwnedMutexGuard<()>>,
}

impl Turns {
    /// `patience` is how long one waits for its turn
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            folders: Locks::default(),
        }
    }

    /// Waits for the turn; says for how long if it does not come
    pub(super) async fn take(&self, folder: &Path) -> Result<Turn, Duration> {
        let turn = self.folders.of(folder).lock_owned();
        match tokio::time::timeout(self.patience, turn).await {
            Ok(turn) => Ok(Turn {
                _turn: Arc::new(turn),
            }),
            Err(_) => Err(self.patience),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_waited_for_with_a_deadline() {
        let turns = Turns::new(Duration::from_secs(60));
        let first = turns.take(Path::new("a")).await.unwrap();
        turns.take(Path::new("b")).await.unwrap();
        assert_eq!(
            turns.take(Path::new("a")).await.unwrap_err(),
            Duration::from_secs(60)
        );
        let (waiting, ()) = tokio::join!(turns.take(Path::new("a")), async { drop(first) });
        waiting.unwrap();
        turns.take(Path::new("b")).await.unwrap();
        assert!(
            !turns.folders.is_wanted(Path::new("b")),
            "who has gone is forgotten"
        );
    }
}
