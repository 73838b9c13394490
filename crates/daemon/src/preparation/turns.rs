//! One preparation at a time in the folder of an instance
//!
//! A preparation that is cancelled goes on for as long as it is in the middle of file work, and is rolled back then. Its turn ends after
//! that, so the next one finds a folder that nobody else works in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as Turned, OwnedMutexGuard};

/// The turns of all instances
#[derive(Debug)]
pub(super) struct Turns {
    patience: Duration,
    /// By the folder
    turns: Mutex<HashMap<PathBuf, Weak<Turned<()>>>>,
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
            turns: Mutex::default(),
        }
    }

    /// Waits for the turn; says for how long if it does not come
    pub(super) async fn take(&self, folder: &Path) -> Result<Turn, Duration> {
        let turn = self.of(folder);
        match tokio::time::timeout(self.patience, turn.lock_owned()).await {
            Ok(turn) => Ok(Turn {
                _turn: Arc::new(turn),
            }),
            Err(_) => Err(self.patience),
        }
    }

    fn of(&self, folder: &Path) -> Arc<Turned<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(folder).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turned::new(()));
        turns.insert(folder.to_path_buf(), Arc::downgrade(&turn));
        turn
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
        assert_eq!(turns.turns.lock().unwrap().len(), 1, "who has gone is forgotten");
    }
}
