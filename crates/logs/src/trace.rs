//! Work that belongs to a trace of somebody else (W3C Trace Context)
//!
//! What is logged inside of the [`span`] of a trace has `traceId` and `spanId` in its context, in every record and line. Each
//! program that does a part of the work is a span of its own, [`child`] of the one that it was asked in.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use prexorcloud_protocol::trace::TraceParent;
use tracing::Span;

/// The same trace, with a new span of this program
#[must_use]
pub fn child(parent: &TraceParent) -> TraceParent {
    // Whoever draws the same one has only mixed up two lines of a log, so nothing better than the hasher's keys is needed.
    parent.with_span(RandomState::new().build_hasher().finish())
}

/// The span in whose records the ids of the trace stand
///
/// It is of the level of errors, so that every filter that lets anything of this program pass lets the ids pass, too.
#[must_use]
pub fn span(trace: &TraceParent) -> Span {
    tracing::error_span!(target: "prexorcloud", "traced", traceId = trace.trace_id(), spanId = trace.span_id())
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::{Mirror, MirrorLayer};

    #[test]
    fn records_of_traced_work_have_its_ids() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let Some(trace) = TraceParent::parse(text) else {
            panic!("it is well formed")
        };
        let child = child(&trace);
        assert_eq!(child.trace_id(), trace.trace_id());
        assert_ne!(child.span_id(), trace.span_id());
        assert_eq!(TraceParent::parse(child.as_str()), Some(child));

        let mirror = Mirror::new(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(MirrorLayer::new(mirror.clone()));
        tracing::subscriber::with_default(subscriber, || {
            span(&trace).in_scope(|| tracing::info!(node = "a", "inside"));
            tracing::info!("outside");
        });
        let mut records = Vec::new();
        mirror.take(&mut records, 10);
        let context: Vec<Vec<(&str, &str)>> = records
            .iter()
            .map(|record| {
                let context = record.context.iter();
                context
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect()
            })
            .collect();
        let traced = vec![
            ("traceId", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("spanId", "00f067aa0ba902b7"),
            ("node", "a"),
        ];
        assert_eq!(context, [traced, vec![]]);
    }
}
