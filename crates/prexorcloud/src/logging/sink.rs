//! Where lines go, however little it takes of them
//!
//! A line is written at once, by whoever has it, so that nothing is lost when a process dies. What that may cost is
//! bounded: a reader who does not keep up (a pipe whose other end sleeps, a terminal that was stopped) is waited for a
//! tenth of the time at most, and then lines are dropped.

use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prexorcloud_logs::visible::forges;
use prexorcloud_transport::protocol::redact;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::Shape;

/// How long a line waits for room at most
const PATIENCE: Duration = Duration::from_millis(100);

/// After a wait, none for so many times as long
const REST: u32 = 9;

/// What fits into a pipe or socket that says that it has room (`PIPE_BUF`)
const PIECE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Warn,
    Error,
}

/// A file descriptor that takes lines, or does not
pub struct Sink {
    lost: Arc<AtomicU64>,
    state: Mutex<State>,
}

struct State {
    /// None if there was none to be had, which loses everything
    file: Option<OwnedFd>,
    shape: Shape,
    /// Lines of which no line has told yet that they are missing, and why the last of them is
    missing: Option<(u64, Errno)>,
    /// A line was cut off in its middle
    torn: bool,
    no_wait_before: Option<Instant>,
}

impl Sink {
    pub fn standard_error() -> Self {
        Self::new(io::stderr().as_fd().try_clone_to_owned().ok())
    }

    fn new(file: Option<OwnedFd>) -> Self {
        Self {
            lost: Arc::default(),
            state: Mutex::new(State {
                file,
                shape: Shape::Text,
                missing: None,
                torn: false,
                no_wait_before: None,
            }),
        }
    }

    pub fn set_shape(&self, shape: Shape) {
        self.state().shape = shape;
    }

    pub fn lost_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Writes a line of the log that does not come from `tracing`
    pub fn line(&self, level: Level, target: &str, message: &str) {
        let shape = self.state().shape;
        self.say(&line(shape, level, target, message));
    }

    /// Writes a text that ends with a newline, whole or not at all; what is missing is said before it
    ///
    /// Secrets that are known by their place are left out, whoever quotes them.
    pub fn say(&self, text: &str) {
        let text = &*redact::text(text);
        let mut state = self.state();
        let told = match state.missing {
            Some((count, why)) => {
                let message = format!("{count} log lines could not be written: {}", io::Error::from(why));
                let notice = line(state.shape, Level::Warn, "prexorcloud::logging", &message);
                state.write(&notice).inspect(|()| state.missing = None)
            }
            None => Ok(()),
        };
        if let Err(why) = told.and_then(|()| state.write(text)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            let before = state.missing.map_or(0, |(count, _)| count);
            state.missing = Some((before.saturating_add(1), why));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes each event of `tracing` in one piece, and never fails
///
/// An event is one line: what it quotes may come from a peer, whose line ends must not begin lines of ours.
impl Write for &Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.say(&on_one_line(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text with every line end, control character and invisible character in it made visible, but for its last line end
///
/// Of what begins with ESC only colours are left: they are what the formatter puts into the lines of a terminal. Whatever else
/// a terminal would obey is somebody else's.
pub(super) fn on_one_line(text: &str) -> Cow<'_, str> {
    let (inner, end) = match text.strip_suffix('\n') {
        Some(inner) => (inner, "\n"),
        None => (text, ""),
    };
    if !inner.contains(forges) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    let mut rest = inner;
    while let Some(character) = rest.chars().next() {
        let length = colour(rest).unwrap_or(character.len_utf8());
        match rest.get(..length) {
            Some(piece) if piece.ends_with('m') || !forges(character) => visible.push_str(piece),
            _ => visible.extend(character.escape_default()),
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    visible.push_str(end);
    Cow::Owned(visible)
}

/// The length of the colour that the text begins with
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|character: char| !matches!(character, '0'..='9' | ';'))?;
    parameters.get(end..)?.starts_with('m').then_some(2 + end + 1)
}

impl State {
    fn write(&mut self, text: &str) -> Result<(), Errno> {
        // Whatever comes after half a line begins one of its own.
        if self.torn {
            self.write_all(b"\n")?;
            self.torn = false;
        }
        self.write_all(text.as_bytes())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut left = bytes;
        while !left.is_empty() {
            self.wait_for_room()?;
            let file = self.file.as_ref().ok_or(Errno::BADF)?;
            let piece = left.get(..PIECE).unwrap_or(left);
            match rustix::io::write(file, piece) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            self.torn = !left.is_empty();
        }
        Ok(())
    }

    fn wait_for_room(&mut self) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        if has_room(file, Duration::ZERO)? {
            return Ok(());
        }
        let began = Instant::now();
        if self.no_wait_before.is_some_and(|rested| began < rested) {
            return Err(Errno::AGAIN);
        }
        let room = has_room(file, PATIENCE);
        self.no_wait_before = Some(Instant::now() + began.elapsed() * REST);
        if room? { Ok(()) } else { Err(Errno::AGAIN) }
    }
}

/// Whether a piece can be written, or would fail, without waiting
fn has_room(file: &OwnedFd, limit: Duration) -> Result<bool, Errno> {
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A line as `tracing` would shape it
fn line(shape: Shape, level: Level, target: &str, message: &str) -> String {
    let mut now = String::new();
    // Without a clock there is no time to tell.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    let level = match level {
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    match shape {
        Shape::Text => format!("{now} {level:>5} {target}: {message}\n"),
        Shape::Json => {
            let line = serde_json::json!({
                "timestamp": now,
                "level": level,
                "fields": { "message": message },
                "target": target,
            });
            format!("{line}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::{PipeReader, Read as _};

    use super::*;

    /// A sink into a pipe that holds four pages
    fn small_pipe() -> (PipeReader, Sink) {
        let (reader, writer) = io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4 * 4096).unwrap();
        (reader, Sink::new(Some(writer.into())))
    }

    fn drain(reader: &mut PipeReader) -> String {
        let mut bytes = vec![0; 65_536];
        let read = reader.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[test]
    fn nothing_but_colours_is_left_for_a_terminal_to_obey() {
        for (said, shown) in [
            (
                "plain, gr\u{fc}n\tand \u{4e16}\n",
                "plain, gr\u{fc}n\tand \u{4e16}\n",
            ),
            (
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[38;5;1mred\n",
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[38;5;1mred\n",
            ),
            (
                "\u{1b}]0;title\u{7}\u{1b}[2J\n",
                "\\u{1b}]0;title\\u{7}\\u{1b}[2J\n",
            ),
            ("a\nb\u{200b}\u{202e}\u{1b}", "a\\nb\\u{200b}\\u{202e}\\u{1b}"),
            ("\u{1b}[\u{1b}[1m\u{1b}[9", "\\u{1b}[\u{1b}[1m\\u{1b}[9"),
        ] {
            assert_eq!(on_one_line(said), shown);
        }
    }

    #[test]
    fn what_a_slow_reader_misses_is_counted_and_said_once() {
        let (mut reader, sink) = small_pipe();
        let long = format!("{}\n", "x".repeat(3000));
        let began = Instant::now();
        for _ in 0..1000 {
            sink.say(&long);
        }
        assert!(began.elapsed() < PATIENCE * 20, "{:?}", began.elapsed());
        let lost = sink.lost.load(Ordering::Relaxed);
        assert!((990..1000).contains(&lost), "{lost}");
        drain(&mut reader);
        sink.say("next\n");
        sink.say("another\n");
        let said = drain(&mut reader);
        let lines: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
        assert!(
            lines[0].contains(&format!(
                "  WARN prexorcloud::logging: {lost} log lines could not be written: "
            )),
            "{said}"
        );
        assert_eq!(lines[1..], ["next", "another"]);
    }

    #[test]
    fn no_url_brings_its_secrets_into_the_log() {
        let (mut reader, sink) = small_pipe();
        writeln!(
            &sink,
            "https://bob:hunter2@repo.example/x.jar?token=hunter2 answered 404"
        )
        .unwrap();
        sink.line(Level::Warn, "x", "see https://h/?sig=hunter2");
        let said = drain(&mut reader);
        assert!(
            said.contains("https://***@repo.example/x.jar?token=*** answered 404"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_swallow_the_next() {
        let (mut reader, sink) = small_pipe();
        sink.say(&format!("{}\n", "x".repeat(6 * 4096)));
        assert_eq!(sink.lost.load(Ordering::Relaxed), 1);
        let cut = drain(&mut reader);
        assert!(!cut.is_empty() && !cut.contains('\n'), "{}", cut.len());
        sink.set_shape(Shape::Json);
        sink.say("{}\n");
        let said = drain(&mut reader);
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some(""));
        let notice: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(notice["level"], "WARN");
        assert!(
            notice["fields"]["message"]
                .as_str()
                .unwrap()
                .starts_with("1 log lines")
        );
        assert_eq!(lines.next(), Some("{}"));
    }

    #[test]
    fn nothing_fails_without_a_reader_or_a_file() {
        let (reader, sink) = small_pipe();
        drop(reader);
        for sink in [sink, Sink::new(None)] {
            writeln!(&sink, "lost").unwrap();
            sink.line(Level::Error, "panic", "lost, too");
            assert_eq!(sink.lost.load(Ordering::Relaxed), 2);
        }
    }
}
