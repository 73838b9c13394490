//! The traces that orders belong to, until the orders are carried out

use std::collections::HashMap;

use prexorcloud_logs::trace;
use prexorcloud_protocol::node::daemon::DaemonWork;
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_protocol::{DaemonEvent, InstanceId};
use tracing::Span;

/// Orders whose traces are known at once; the work of one more has none
const MOST: usize = 1024;

/// The trace of the last order about each instance that somebody works on
#[derive(Default)]
pub(super) struct Traces(HashMap<InstanceId, TraceParent>);

impl Traces {
    /// The trace in which an event is taken; what comes of an order to start or stop is done in it, too
    pub(super) fn begin(&mut self, event: &DaemonEvent) -> Option<TraceParent> {
        let (instance, order) = match event {
            DaemonEvent::Start(order) => (Some(order.instance), order.trace),
            DaemonEvent::Stop { instance, trace, .. } => (Some(*instance), *trace),
            DaemonEvent::Command { trace, .. }
            | DaemonEvent::InstallModule { trace, .. }
            | DaemonEvent::UninstallModule { trace, .. } => (None, *trace),
            _ => return None,
        };
        let child = order.as_ref().map(trace::child);
        if let Some(instance) = instance {
            self.0.remove(&instance);
            if let Some(child) = child
                && self.0.len() < MOST
            {
                self.0.insert(instance, child);
            }
        }
        child
    }

    /// The trace of a piece of work; with the answer to it, the order is carried out
    pub(super) fn of<L>(&mut self, work: &DaemonWork<L>) -> Option<TraceParent> {
        let (instance, is_answer) = match work {
            DaemonWork::Prepare { attempt, .. }
            | DaemonWork::CancelPreparation { attempt }
            | DaemonWork::Launch { attempt, .. } => (attempt.instance(), false),
            DaemonWork::Stop { instance, .. } => (*instance, false),
            DaemonWork::Report(report) => (report.instance, false),
            DaemonWork::AcceptStart { instance, .. }
            | DaemonWork::RejectStart { instance, .. }
            | DaemonWork::AcknowledgeStop { instance, .. } => (*instance, true),
            _ => return None,
        };
        match is_answer {
            true => self.0.remove(&instance),
            false => self.0.get(&instance).copied(),
        }
    }
}

/// The span of what is done in this trace, or in none
pub(super) fn span(trace: Option<TraceParent>) -> Span {
    trace.as_ref().map_or_else(Span::none, trace::span)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_protocol::{Incarnation, StopMode};

    use super::*;

    fn stop(instance: &str, traceparent: &str) -> DaemonEvent {
        DaemonEvent::Stop {
            instance: instance.parse().unwrap(),
            incarnation: Incarnation::new(1),
            mode: StopMode::Graceful,
            trace: TraceParent::parse(traceparent),
        }
    }

    fn work(instance: &str) -> DaemonWork<()> {
        DaemonWork::Stop {
            instance: instance.parse().unwrap(),
            incarnation: Incarnation::new(1),
            mode: StopMode::Graceful,
        }
    }

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_work_of_an_order_is_traced_until_it_is_answered() {
        let mut traces = Traces::default();
        let began = traces.begin(&stop("a", TRACE));
        assert!(
            began.is_some_and(|child| TRACE.contains(child.trace_id()) && !TRACE.contains(child.span_id()))
        );
        assert_eq!(traces.of(&work("a")), began);
        assert_eq!(traces.of(&work("b")), None, "that of another instance");
        let answer = DaemonWork::<()>::AcknowledgeStop {
            instance: "a".parse().unwrap(),
            incarnation: Incarnation::new(1),
            result: Ok(()),
        };
        assert_eq!(traces.of(&answer), began);
        assert_eq!(traces.of(&work("a")), None, "it is over");

        traces.begin(&stop("a", TRACE));
        assert_eq!(traces.begin(&stop("a", "00-broken")), None);
        assert_eq!(traces.of(&work("a")), None, "another order has taken its place");
    }

    #[test]
    fn orders_that_are_never_answered_are_not_remembered_without_end() {
        let mut traces = Traces::default();
        for number in 0..2 * MOST {
            traces.begin(&stop(&format!("i-{number}"), TRACE));
        }
        assert_eq!(traces.0.len(), MOST);
    }
}
