//! One answer for all who ask for the same at once
//!
//! Dashboards ask for the whole list, each for itself, and what it costs to write is the same for all of them. Whoever asks
//! while it is being written waits for it, and whoever asks a moment later gets it again, unless a record has changed since.

use std::{future::Future, time::Duration};

use axum::body::Bytes;
use tokio::{sync::Mutex, time::Instant};

use super::error::ApiError;

/// How long an answer is given again: what is not recorded, players for instance, may be so old
const FRESH: Duration = Duration::from_millis(100);

struct Written {
    /// What the records had come to before it was written
    version: u64,
    at: Instant,
    body: Bytes,
}

#[derive(Default)]
pub(crate) struct SharedAnswer(Mutex<Option<Written>>);

impl SharedAnswer {
    /// The answer as of `version` or later
    pub(super) async fn get<W>(&self, version: u64, write: impl FnOnce() -> W) -> Result<Bytes, ApiError>
    where
        W: Future<Output = Result<Bytes, ApiError>>,
    {
        let mut last = self.0.lock().await;
        if let Some(last) = &*last
            && last.version >= version
            && last.at.elapsed() < FRESH
        {
            return Ok(last.body.clone());
        }
        let body = write().await?;
        *last = Some(Written {
            version,
            at: Instant::now(),
            body: body.clone(),
        });
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_given_again_until_a_record_changes_or_it_is_old() {
        let shared = SharedAnswer::default();
        let written = Cell::new(0);
        let ask = async |version| {
            let write = || async {
                written.set(written.get() + 1);
                Ok(Bytes::from(format!("{}", written.get())))
            };
            shared.get(version, write).await.unwrap()
        };
        assert_eq!(
            (ask(1).await, ask(1).await, ask(0).await),
            ("1".into(), "1".into(), "1".into())
        );
        assert_eq!(ask(2).await, "2");
        if let Some(last) = &mut *shared.0.lock().await {
            last.at -= FRESH;
        }
        assert_eq!(ask(2).await, "3");
    }
}
