//! Runtimes and templates that a controller wants in the cache before they are needed
//!
//! The order has no answer of its own: what came of it is in the `CacheStatus` that follows, and what failed in an
//! `ErrorReport` each. A few entries are fetched at a time, and each has a deadline, so that one that stalls holds up neither the
//! others nor the end of the order.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use prexorcloud_proto::{CacheStatus, ErrorReport, PreWarmCache, PreWarmEntry, TemplateRef, daemon_message};
use prexorcloud_protocol::{
    content::requests::Wanted,
    session::error_code::{PRE_WARM_BUSY, PRE_WARM_FAILED},
};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::Orders;
use crate::preparation::Preparer;

/// How many failures of one order are told; each has its own
const TOLD: usize = 16;

/// Entries at a time; fewer than there are downloads at a time, so that a start finds room for its own
const AT_ONCE: usize = 3;

/// How long one entry may take, the making of its prepared files included
const ENTRY_WITHIN: Duration = Duration::from_secs(10 * 60);

/// How long a whole order may take; a controller waits for half an hour
const ORDER_WITHIN: Duration = Duration::from_secs(25 * 60);

/// Something to have in the cache
enum Entry {
    Runtime(PreWarmEntry),
    Template(TemplateRef),
}

/// Why it is not there
struct Failure {
    what: String,
    problem: String,
    is_transient: bool,
}

impl Entry {
    fn name(&self) -> String {
        match self {
            Self::Runtime(entry) => entry.jar_file.clone(),
            Self::Template(template) => template.name.clone(),
        }
    }

    async fn fetch(self, preparer: &Preparer) -> Result<(), Failure> {
        let failed = |what: String, problem: String, is_transient: bool| Failure {
            what,
            problem,
            is_transient,
        };
        match self {
            Self::Runtime(entry) => {
                let warmed = preparer.warm(&entry).await;
                warmed.map_err(|error| failed(entry.jar_file, error.to_string(), error.is_transient()))
            }
            Self::Template(TemplateRef { name, hash }) => {
                let Ok(parsed) = name.parse() else {
                    let problem = "this cannot be the name of a template".to_owned();
                    return Err(failed(String::new(), problem, false));
                };
                let wanted = Wanted { name: parsed, hash };
                let got = preparer.templates().get(&wanted).await;
                got.map(drop)
                    .map_err(|error| failed(name, error.to_string(), error.is_transient()))
            }
        }
    }
}

impl Orders {
    /// Fetches runtimes and templates; while it does, further orders are for the controller to repeat
    pub(super) fn warm(&mut self, order: PreWarmCache) {
        if !self.warming.is_empty() {
            return self.send(daemon_message::Payload::ErrorReport(ErrorReport {
                error_code: PRE_WARM_BUSY.to_owned(),
                error_message: "the cache is being filled for an earlier order".to_owned(),
                context: "PreWarmCache".to_owned(),
                retry_after_seconds: 60,
            }));
        }
        let (preparer, session) = (Arc::clone(&self.preparer), self.session.clone());
        self.warming.spawn(async move {
            let send = |payload| {
                if let Err(error) = session.with(|session, _| session.send(payload)) {
                    tracing::debug!(%error, "a message was not sent");
                }
            };
            let mut failures = 0;
            let tell = |failure: Failure| {
                let Failure {
                    what,
                    problem,
                    is_transient,
                } = failure;
                tracing::warn!(what, problem, "it cannot be had beforehand");
                failures += 1;
                if failures <= TOLD {
                    send(daemon_message::Payload::ErrorReport(ErrorReport {
                        error_code: PRE_WARM_FAILED.to_owned(),
                        error_message: problem,
                        context: what,
                        retry_after_seconds: if is_transient { 60 } else { 0 },
                    }));
                }
            };
            let runtimes = order.entries.into_iter().map(Entry::Runtime);
            let templates = order.templates.into_iter().filter(|its| !its.hash.is_empty());
            let entries = runtimes.chain(templates.map(Entry::Template));
            let fetch = async |entry: Entry| entry.fetch(&preparer).await;
            fetch_all(entries.map(|entry| (entry.name(), fetch(entry))).collect(), tell).await;
            let status = tokio::task::spawn_blocking(move || preparer.cache_status()).await;
            status.unwrap_or_default()
        });
    }

    /// Tells the end of an order, by which a controller knows that the next one is followed: no earlier than that is so
    pub(super) fn handle_warmed(&mut self, warmed: Result<CacheStatus, JoinError>) {
        let status = warmed.unwrap_or_else(|error| {
            tracing::error!(%error, "filling the cache ended with a panic");
            self.preparer.cache_status()
        });
        self.send(daemon_message::Payload::CacheStatus(Box::new(status)));
    }
}

/// Fetches what is named, a few at a time and each within its deadline, and tells what failed as soon as it has
async fn fetch_all<F>(fetches: Vec<(String, F)>, mut tell: impl FnMut(Failure))
where
    F: Future<Output = Result<(), Failure>>,
{
    let end = Instant::now() + ORDER_WITHIN;
    let bounded = fetches.into_iter().map(|(what, fetch)| async move {
        let begun = Instant::now();
        let until = end.min(begun + ENTRY_WITHIN);
        let Ok(fetched) = timeout_at(until, fetch).await else {
            let problem = match begun.elapsed().as_secs() {
                0 => "the order took too long before its turn came".to_owned(),
                seconds => format!("it was given up after {seconds} s"),
            };
            return Err(Failure {
                what,
                problem,
                is_transient: true,
            });
        };
        fetched
    });
    let mut fetched = stream::iter(bounded).buffer_unordered(AT_ONCE);
    while let Some(fetched) = fetched.next().await {
        if let Err(failure) = fetched {
            tell(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_stalls_holds_up_no_other() {
        let (begun, done) = (Instant::now(), Cell::new(0));
        let last = Cell::new(Duration::ZERO);
        let fetch = async |place: usize| {
            if place == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
            done.set(done.get() + 1);
            last.set(begun.elapsed());
            Ok(())
        };
        let fetches = (0..7).map(|place| (place.to_string(), fetch(place))).collect();
        let mut failures = Vec::new();
        fetch_all(fetches, |failure| failures.push(failure)).await;
        assert_eq!(
            (done.get(), last.get()),
            (6, Duration::from_secs(60)),
            "two at a time beside it"
        );
        let [failure] = &failures[..] else {
            panic!("{} failures", failures.len())
        };
        assert_eq!((failure.what.as_str(), failure.is_transient), ("0", true));
        assert!(failure.problem.contains("after 600 s"), "{}", failure.problem);
        assert!(begun.elapsed() < ENTRY_WITHIN + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_of_which_all_stalls_ends() {
        let begun = Instant::now();
        let stall = async || {
            std::future::pending::<()>().await;
            Ok(())
        };
        let fetches = (0..100)
            .map(|place: usize| (place.to_string(), stall()))
            .collect();
        let mut failures = 0;
        fetch_all(fetches, |_| failures += 1).await;
        assert_eq!(failures, 100, "each is told");
        assert!(begun.elapsed() < ORDER_WITHIN + Duration::from_secs(1));
    }
}
