//! From `tracing` to records
//!
//! The message of an event becomes the message of its record, an error that is given as one the throwable, and every other field
//! context, together with those of the spans around it, the outermost first.
//!
//! What the transport says about its own frames is left out below a warning: to send a record is to write a frame, and a record
//! about that frame would be the next one to send. For the same reason nothing is mirrored that a thread logs while it is at work
//! on the mirror ([`quietly`](crate::mirror::quietly)).

use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::AssertUnwindSafe;
use std::time::{SystemTime, UNIX_EPOCH};

use prexorcloud_protocol::limits;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Recorded};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::record::{self, Bounded};
use crate::{Mirror, Record};

/// The crates through which records travel
const CARRIERS: [&str; 12] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "rustls",
    "tokio_rustls",
    "tokio",
    "tokio_util",
    "mio",
    "want",
    "axum",
];

/// The causes of an error that are told
const CAUSES: usize = 16;

/// Gives a [`Mirror`] what is logged
#[derive(Clone, Debug)]
pub struct MirrorLayer {
    mirror: Mirror,
}

impl MirrorLayer {
    /// A layer for this mirror.
    #[must_use]
    pub fn new(mirror: Mirror) -> Self {
        Self { mirror }
    }
}

/// The fields of a span, as they are kept
#[derive(Debug, Default)]
struct SpanFields(Vec<(String, String)>);

impl<S> Layer<S> for MirrorLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let fields = fields_of(|fields| attributes.record(fields));
        span.extensions_mut().insert(SpanFields(fields.context));
    }

    fn on_record(&self, id: &Id, values: &Recorded<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let fields = fields_of(|fields| values.record(fields));
        if let Some(SpanFields(kept)) = span.extensions_mut().get_mut() {
            for (name, value) in fields.context {
                put(kept, name, value);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if !self.mirror.wants(*metadata.level()) || is_about_carrying(metadata) {
            return;
        }
        self.mirror.push(*metadata.level(), || {
            let mut fields = Fields::default();
            for span in context
                .event_scope(event)
                .into_iter()
                .flat_map(|scope| scope.from_root())
            {
                if let Some(SpanFields(kept)) = span.extensions().get() {
                    for (name, value) in kept {
                        put(&mut fields.context, name.clone(), value.clone());
                    }
                }
            }
            event.record(&mut fields);
            fields.into_record(metadata)
        });
    }
}

/// The fields of a span; none if one of its values cannot be printed, which must not end the work that the span is about
fn fields_of(record: impl FnOnce(&mut Fields)) -> Fields {
    let printed = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut fields = Fields::default();
        record(&mut fields);
        fields
    }));
    printed.unwrap_or_default()
}

fn is_about_carrying(metadata: &Metadata<'_>) -> bool {
    let crate_name = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() > Level::WARN && CARRIERS.contains(&crate_name)
}

/// What is inside comes later, and hides what is around it
fn put(context: &mut Vec<(String, String)>, name: String, value: String) {
    if let Some(known) = context.iter_mut().find(|(known, _)| *known == name) {
        known.1 = value;
    } else if context.len() < limits::LOG_MDC {
        context.push((name, value));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    throwable: String,
    context: Vec<(String, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.message = record::message(text),
            name => {
                let value = record::value(name, text);
                put(&mut self.context, record::name(name, limits::LOG_MDC_TEXT), value);
            }
        }
    }

    fn into_record(self, metadata: &Metadata<'_>) -> Record {
        let thread = std::thread::current();
        Record {
            number: 0,
            timestamp_ms: now_millis(),
            level: *metadata.level(),
            logger: record::name(metadata.target(), limits::LOG_LOGGER),
            thread: record::name(thread.name().unwrap_or("unnamed"), limits::LOG_THREAD),
            message: self.message,
            throwable: self.throwable,
            context: self.context,
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut bounded = Bounded::of(limits::LOG_MESSAGE);
        // It is cut where this fails.
        let _ = write!(bounded, "{value:?}");
        self.add(field, &bounded.text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let mut bounded = Bounded::of(limits::LOG_THROWABLE);
        let told = write!(bounded, "{error}");
        let mut cause = error.source();
        for _ in 0..CAUSES {
            let (Some(next), true) = (cause, told.is_ok()) else {
                break;
            };
            if write!(bounded, "\nCaused by: {next}").is_err() {
                break;
            }
            cause = next.source();
        }
        self.throwable = record::throwable(&bounded.text);
        let first = bounded.text.lines().next().unwrap_or_default().to_owned();
        self.add(field, &first);
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn logged(work: impl FnOnce()) -> Vec<Record> {
        let mirror = Mirror::new(LevelFilter::TRACE);
        let subscriber = tracing_subscriber::registry().with(MirrorLayer::new(mirror.clone()));
        tracing::subscriber::with_default(subscriber, work);
        let mut records = Vec::new();
        mirror.take(&mut records, usize::MAX);
        records
    }

    fn pairs(record: &Record) -> Vec<(&str, &str)> {
        let context = record.context.iter();
        context
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn fields_of_the_event_and_its_spans_are_context() {
        let records = logged(|| {
            let command = tracing::info_span!(
                "command",
                trace_id = "4bf9",
                instance = "lobby-1",
                port = tracing::field::Empty
            );
            command.record("port", 25_565);
            command.in_scope(|| {
                let inner = tracing::info_span!("inner", instance = "lobby-2");
                inner.in_scope(
                    || tracing::warn!(target: "a::b", attempt = 2, joinToken = "pxr_1", "told {}", 7),
                );
            });
            tracing::info!("outside");
        });
        assert_eq!(records.len(), 2, "{records:?}");
        let record = &records[0];
        assert_eq!(
            (record.level, record.logger.as_str(), record.message.as_str()),
            (Level::WARN, "a::b", "told 7")
        );
        assert_eq!(
            pairs(record),
            [
                ("trace_id", "4bf9"),
                ("instance", "lobby-2"),
                ("port", "25565"),
                ("attempt", "2"),
                ("joinToken", "***")
            ]
        );
        assert!(record.timestamp_ms > 0 && !record.thread.is_empty());
        assert!(records[1].context.is_empty());
    }

    #[test]
    fn a_value_that_cannot_be_printed_costs_its_record_and_nothing_else() {
        struct Broken;

        impl fmt::Debug for Broken {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("a mistake in a Debug")
            }
        }

        let mirror = Mirror::new(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(MirrorLayer::new(mirror.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(broken = ?Broken, "lost");
            let span = tracing::info_span!("span", broken = ?Broken);
            span.in_scope(|| tracing::info!("kept"));
        });
        let mut records = Vec::new();
        mirror.take(&mut records, 10);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].message.as_str(), records[0].number), ("kept", 2));
        assert_eq!(mirror.counts().dropped, 1);
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug)]
        struct Outer(io::Error);

        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the spool")
            }
        }

        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }

        let records = logged(|| {
            let error = Outer(io::Error::other("no space"));
            tracing::error!(error = &error as &dyn Error, "cannot write");
        });
        assert_eq!(records[0].throwable, "the spool\nCaused by: no space");
        assert_eq!(pairs(&records[0]), [("error", "the spool")]);
    }

    #[test]
    fn nothing_that_somebody_else_wrote_breaks_out_or_fills_memory() {
        let records = logged(|| {
            tracing::info!(said = "a\nb\u{1b}[2J", "line\r\n{}", "x".repeat(10_000_000));
            for number in 0..3 {
                tracing::info!(long = "y".repeat(100_000), number);
            }
        });
        let record = &records[0];
        assert!(
            record.message.starts_with("line\\r\\nx") && limits::fits(&record.message, limits::LOG_MESSAGE)
        );
        assert_eq!(pairs(record), [("said", "a\\nb\\u{1b}[2J")]);
        assert!(records[1..].iter().all(|record| record.cost() < 4_000));
    }

    #[test]
    fn what_carries_records_does_not_make_new_ones() {
        let records = logged(|| {
            tracing::trace!(target: "h2::codec::framed_write", "send");
            tracing::debug!(target: "hyper_util::client", "connect");
            tracing::info!(target: "h2x", "not of it");
            tracing::warn!(target: "h2::proto", "worth knowing");
            // A value that logs while it is printed.
            struct Chatty;
            impl fmt::Debug for Chatty {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    tracing::info!("again");
                    f.write_str("chatty")
                }
            }
            tracing::info!(value = ?Chatty, "once");
        });
        let said: Vec<&str> = records.iter().map(|record| record.message.as_str()).collect();
        assert_eq!(said, ["not of it", "worth knowing", "once"]);
    }
}
