//! Log lines on standard error
//!
//! A line that cannot be written is dropped and counted, and the next one that can be says how many are missing: what a
//! program has to say about its work is never a reason not to do it. That holds for panics, too, which are told in the
//! shape of the log.

mod sink;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use sink::{Level, Sink};

/// How a line looks
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// The one standard error of this process, for everything that is said there
static STANDARD_ERROR: LazyLock<Sink> = LazyLock::new(Sink::standard_error);

/// A log that has started
pub struct Log(reload::Handle<EnvFilter, Registry>);

impl Log {
    /// Logs what passes `filter` from now on; nothing changes if it is not one
    pub fn refilter(&self, filter: &str) -> anyhow::Result<()> {
        self.0.reload(parse(filter)?).context("the log has ended")
    }
}

/// Starts logging what passes `filter`
pub fn start(filter: &str, shape: Shape) -> anyhow::Result<Log> {
    let filter = parse(filter)?;
    STANDARD_ERROR.set_shape(shape);
    tell_panics();
    let lines = fmt::layer()
        .with_writer(|| &*STANDARD_ERROR)
        // It would tell of them with `eprintln!`, which panics where nothing can be written.
        .log_internal_errors(false);
    let lines = match shape {
        Shape::Text => lines
            .with_ansi(
                io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            )
            .boxed(),
        Shape::Json => lines.json().boxed(),
    };
    let (filter, handle) = reload::Layer::new(filter);
    // The boxed error does not go into `anyhow` as it is.
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(Log(handle))
}

/// Whether this is a filter
pub fn check(filter: &str) -> anyhow::Result<()> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).with_context(|| format!("log.filter {filter:?} is not a filter"))
}

/// Says something that is not a log line, where log lines go
pub fn say(text: impl Display) {
    STANDARD_ERROR.say(&format!("{text}\n"));
}

/// How many lines could not be written so far
pub fn lost_lines() -> Arc<AtomicU64> {
    STANDARD_ERROR.lost_lines()
}

/// Tells panics as log lines
///
/// Not by `tracing`: a panic inside of it, where something is printed, would wait for its own locks.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        let place = panic
            .location()
            .map(|place| format!(" at {place}"))
            .unwrap_or_default();
        let mut message = format!(
            "thread {:?} panicked{place}: {what}",
            thread.name().unwrap_or("without a name")
        );
        // Taken where RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            message = format!("{message}\n{backtrace}");
        }
        STANDARD_ERROR.line(Level::Error, "panic", &message);
    }));
}
