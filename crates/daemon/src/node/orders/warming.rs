//! Runtimes and templates that a controller wants in the cache before they are needed
//!
//! The order has no answer of its own: what came of it is in the `CacheStatus` that follows, and what failed in an
//! `ErrorReport` each.

use std::sync::Arc;

use prexorcloud_proto::{ErrorReport, PreWarmCache, daemon_message};
use prexorcloud_protocol::{
    content::requests::Wanted,
    session::error_code::{PRE_WARM_BUSY, PRE_WARM_FAILED},
};

use super::Orders;

/// How many failures of one order are told; each has its own
const TOLD: usize = 16;

impl Orders {
    /// Fetches runtimes and templates, one after the other; while it does, further orders wait for the controller to repeat them
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
            let mut tell = |what: &str, problem: String, is_transient: bool| {
                tracing::warn!(what, problem, "it cannot be had beforehand");
                failures += 1;
                if failures <= TOLD {
                    send(daemon_message::Payload::ErrorReport(ErrorReport {
                        error_code: PRE_WARM_FAILED.to_owned(),
                        error_message: problem,
                        context: what.to_owned(),
                        retry_after_seconds: if is_transient { 60 } else { 0 },
                    }));
                }
            };
            for entry in &order.entries {
                if let Err(error) = preparer.warm(entry).await {
                    tell(&entry.jar_file, error.to_string(), error.is_transient());
                }
            }
            let templates = preparer.templates();
            for template in order.templates.into_iter().filter(|its| !its.hash.is_empty()) {
                let name = match template.name.parse() {
                    Ok(name) => name,
                    Err(_) => {
                        tell("", "this cannot be the name of a template".to_owned(), false);
                        continue;
                    }
                };
                let hash = template.hash;
                if let Err(error) = templates.get(&Wanted { name, hash }).await {
                    tell(&template.name, error.to_string(), error.is_transient());
                }
            }
            send(daemon_message::Payload::CacheStatus(Box::new(
                preparer.cache_status(),
            )));
        });
    }
}
