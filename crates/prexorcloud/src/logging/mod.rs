//! Log lines on standard error
//!
//! A line that cannot be written is dropped and counted, and the next one that can be says how many are missing: what a
//! program has to say about its work is never a reason not to do it. That holds for panics, too, which are told in the
//! shape of the log.

mod sink;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context as _;
use prexorcloud_logs::{FileLimits, Mirror, MirrorLayer, RollingFile};
use prexorcloud_transport::protocol::redact;
use tracing::level_filters::LevelFilter;
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

/// How long the end of a program waits for its log file
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// A file for the log
pub struct LogFile {
    pub path: PathBuf,
    pub limits: FileLimits,
}

/// A log that has started
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    mirror: Mirror,
    file: Option<RollingFile>,
}

impl Log {
    /// Logs what passes `filter` from now on, and mirrors this level of it; nothing changes if it is not one
    pub fn refilter(&self, filter: &str, mirrored: LevelFilter) -> anyhow::Result<()> {
        self.filter.reload(parse(filter)?).context("the log has ended")?;
        self.mirror.set_threshold(mirrored);
        Ok(())
    }

    /// What is logged, for whoever shows it elsewhere
    pub fn mirror(&self) -> Mirror {
        self.mirror.clone()
    }

    /// The file that has the log, too
    pub fn file(&self) -> Option<RollingFile> {
        self.file.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // A disk that hangs does not keep the program from its end.
            file.flush(FLUSHED_WITHIN);
        }
    }
}

/// Lines of events on their way to a file
struct FileLines(Option<RollingFile>);

impl io::Write for FileLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &self.0 {
            let text = String::from_utf8_lossy(bytes);
            file.write(redact::text(&sink::on_one_line(&text)).as_bytes());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins a log file, whose misfortunes are told on standard error
fn begin(file: LogFile) -> anyhow::Result<RollingFile> {
    let shown = file.path.display().to_string();
    let tell = move |what: Result<u64, &io::Error>| match what {
        Err(error) => STANDARD_ERROR.line(
            Level::Error,
            "prexorcloud::logging",
            &format!("{shown} cannot be written ({error}): lines are counted and left out until it can"),
        ),
        Ok(missing) => STANDARD_ERROR.line(
            Level::Warn,
            "prexorcloud::logging",
            &format!("{shown} can be written again; {missing} lines are missing there"),
        ),
    };
    RollingFile::start(file.path, file.limits, Box::new(tell))
        .context("log.file has no thread to be written by")
}

/// Starts logging what passes `filter`, and mirrors what has at least this level
pub fn start(
    filter: &str,
    shape: Shape,
    mirrored: LevelFilter,
    file: Option<LogFile>,
) -> anyhow::Result<Log> {
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
    let file = file.map(begin).transpose()?;
    let in_file = file.clone();
    let file_lines = fmt::layer()
        .with_writer(move || FileLines(in_file.clone()))
        .with_ansi(false)
        .log_internal_errors(false);
    let file_lines = file.is_some().then(|| match shape {
        Shape::Text => file_lines.boxed(),
        Shape::Json => file_lines.json().boxed(),
    });
    let mirror = Mirror::new(mirrored);
    let (filter, handle) = reload::Layer::new(filter);
    // The boxed error does not go into `anyhow` as it is.
    tracing_subscriber::registry()
        .with(filter)
        .with(MirrorLayer::new(mirror.clone()))
        .with(lines)
        .with(file_lines)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(Log {
        filter: handle,
        mirror,
        file,
    })
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
