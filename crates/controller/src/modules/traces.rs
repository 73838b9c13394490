//! The trace of what an operator asked last about each module
//!
//! The orders that come of it are given by the tasks of the nodes, some of them later: when a node is back, or when something is
//! tried again. They belong to the trace all the same. It is in memory only, so another process gives them without.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prexorcloud_protocol::trace::TraceParent;

/// Modules whose traces are known at once, those that are uninstalled among them; the orders about one more have none
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Traces(Mutex<BTreeMap<String, TraceParent>>);

impl Traces {
    /// Something was asked about a module, in this trace or in none
    pub(super) fn note(&self, module: &str, trace: Option<TraceParent>) {
        let mut traces = self.traces();
        traces.remove(module);
        if let Some(trace) = trace
            && traces.len() < MOST
        {
            traces.insert(module.to_owned(), trace);
        }
    }

    pub(super) fn of(&self, module: &str) -> Option<TraceParent> {
        self.traces().get(module).copied()
    }

    fn traces(&self) -> MutexGuard<'_, BTreeMap<String, TraceParent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_last_request_about_a_module_counts() {
        let traces = Traces::default();
        traces.note("a", TraceParent::parse(TRACE));
        assert_eq!(traces.of("a"), TraceParent::parse(TRACE));
        assert_eq!(traces.of("b"), None);
        traces.note("a", None);
        assert_eq!(traces.of("a"), None, "it had no trace");
    }

    #[test]
    fn modules_that_come_and_go_are_not_remembered_without_end() {
        let traces = Traces::default();
        for number in 0..2 * MOST {
            traces.note(&format!("m-{number}"), TraceParent::parse(TRACE));
        }
        assert_eq!(traces.traces().len(), MOST);
    }
}
