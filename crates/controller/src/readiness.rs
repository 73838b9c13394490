//! Whether the controller can do its work: whether a write can be committed
//!
//! Found out by committing one, when somebody asks and the last answer is no longer fresh. So it is red as soon as the
//! disk is full, and green again as soon as it is not, with nobody having to do anything about it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::store::{Store, StoreError};

/// How long an answer is given again
const FRESH: Duration = Duration::from_secs(1);

/// How long a commit may take before the answer is that it does not
const DEADLINE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
struct Verdict {
    at: Instant,
    proven: Result<(), StoreError>,
}

pub(crate) struct Readiness {
    store: Arc<dyn Store>,
    last: Mutex<Option<Verdict>>,
}

impl Readiness {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            last: Mutex::default(),
        }
    }

    /// Why no write can be committed now, if so; those who ask together share one answer
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && last.at.elapsed() < FRESH
        {
            return last.proven.clone();
        }
        let proven = tokio::time::timeout(DEADLINE, self.store.probe())
            .await
            .unwrap_or(Err(StoreError::Timeout));
        let was_ready = last.as_ref().is_none_or(|last| last.proven.is_ok());
        match &proven {
            Ok(()) if !was_ready => tracing::info!("the controller is ready again: its state can be written"),
            Err(error) if was_ready => tracing::error!(%error, "the controller is not ready"),
            Ok(()) | Err(_) => {}
        }
        *last = Some(Verdict {
            at: Instant::now(),
            proven: proven.clone(),
        });
        proven
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::{SqliteOptions, SqliteStore, Txn};

    #[tokio::test]
    async fn ready_means_that_a_commit_succeeds_and_is_asked_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("controller.db");
        let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let readiness = Readiness::new(Arc::clone(&store));
        let before = store.txn(Txn::new().put("a", "1")).await.unwrap();
        assert_eq!(readiness.check().await, Ok(()));
        assert_eq!(
            store.txn(Txn::new()).await.unwrap(),
            before,
            "a probe is no change"
        );
        store.close().await.unwrap();
        assert_eq!(readiness.check().await, Ok(()), "still fresh");
        if let Some(last) = &mut *readiness.last.lock().await {
            last.at -= FRESH;
        }
        assert_eq!(readiness.check().await, Err(StoreError::Closed));
    }
}
