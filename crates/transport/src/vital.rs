//! Tasks whose death must not pass in silence
//!
//! A task that panics takes nothing else with it, so a program could go on for years without the one that keeps a node.
//! What is guarded here is missed: the first death is told, the program ends with its name, and the next start has all
//! of its tasks again. A task of a single request or connection is none of these: its panic ends that one alone.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

/// Guards tasks; clones guard for the same [`Deaths`]
#[derive(Clone, Debug)]
pub struct Vital(Arc<watch::Sender<Option<String>>>);

/// Who is told of the first death
#[derive(Clone, Debug)]
pub struct Deaths(watch::Receiver<Option<String>>);

impl Vital {
    /// A guard, and whom it tells
    pub fn new() -> (Self, Deaths) {
        let (dead, deaths) = watch::channel(None);
        (Self(Arc::new(dead)), Deaths(deaths))
    }

    /// The same task, whose panic is told under `name`
    pub fn guard<N: Into<String>, F: Future>(
        &self,
        name: N,
        task: F,
    ) -> impl Future<Output = F::Output> + use<N, F> {
        let guard = Guard {
            vital: self.clone(),
            name: name.into(),
        };
        async move {
            let _guard = guard;
            task.await
        }
    }
}

impl Deaths {
    /// The name of the first task that died; never resolves while none does
    pub async fn first(mut self) -> String {
        match self.0.wait_for(Option::is_some).await.map(|name| name.clone()) {
            Ok(Some(name)) => name,
            // Every task has ended in order.
            _ => std::future::pending().await,
        }
    }
}

/// Notices that it is dropped by a panic
struct Guard {
    vital: Vital,
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Without a panic, the task has ended or was ended by somebody who knows.
        if std::thread::panicking() {
            let name = std::mem::take(&mut self.name);
            self.vital.0.send_if_modified(|first| {
                let is_first = first.is_none();
                // Others follow from it.
                first.get_or_insert(name);
                is_first
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_first_task_that_panics_is_named() {
        let (vital, deaths) = Vital::new();
        tokio::spawn(vital.guard("one that is well", async {}))
            .await
            .unwrap();
        let ended = tokio::spawn(vital.guard("one that is ended", std::future::pending::<()>()));
        ended.abort();
        assert!(ended.await.unwrap_err().is_cancelled());
        assert_eq!(deaths.clone().first().now_or_never(), None);
        for name in ["the task of node-1", "the next"] {
            let died = tokio::spawn(vital.guard(name, async { panic!("as a test of it") }));
            assert!(died.await.unwrap_err().is_panic());
        }
        assert_eq!(deaths.first().await, "the task of node-1");
    }

    #[tokio::test]
    async fn nobody_has_died_when_all_have_ended() {
        let (vital, deaths) = Vital::new();
        drop(vital);
        assert_eq!(deaths.first().now_or_never(), None);
    }
}
