//! Tables, JSON, colours and times
//!
//! Results go to standard output, everything said about them to standard error.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::{Timestamp, Unit};
use serde_json::Value;

use crate::arguments::Format;
use crate::failure::Failure;
use crate::printable;

/// Whether colours are used on one stream
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    enabled: bool,
}

/// The colours that are used, all of the basic sixteen so that a terminal's own scheme applies
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Something is well
    Good,
    /// Something is on its way
    Moving,
    /// Something is wrong
    Bad,
    /// Less important
    Dim,
    /// More important
    Strong,
    /// A name or a command
    Accent,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Moving => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Strong => "1",
            Self::Accent => "36",
        }
    }

    /// The colour of a state of a node, an instance or a token
    #[must_use]
    pub fn of_state(state: &str) -> Option<Self> {
        match state {
            "RUNNING" | "ONLINE" | "ACTIVE" => Some(Self::Good),
            "SCHEDULED" | "PREPARING" | "STARTING" | "STOPPING" | "DRAINING" | "CORDONED" => {
                Some(Self::Moving)
            }
            "CRASHED" | "UNREACHABLE" | "OFFLINE" | "REVOKED" => Some(Self::Bad),
            "STOPPED" | "EXPIRED" | "CONSUMED" => Some(Self::Dim),
            _ => None,
        }
    }
}

impl Paint {
    /// Colours for standard output, if it is a terminal and nobody objects
    #[must_use]
    pub fn for_stdout(no_color: bool) -> Self {
        Self::decide(no_color, io::stdout().is_terminal())
    }

    /// Colours for standard error, if it is a terminal and nobody objects
    #[must_use]
    pub fn for_stderr(no_color: bool) -> Self {
        Self::decide(no_color, io::stderr().is_terminal())
    }

    /// No colours
    #[must_use]
    pub fn plain() -> Self {
        Self { enabled: false }
    }

    fn decide(no_color: bool, terminal: bool) -> Self {
        let objection = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            enabled: terminal && !no_color && !objection,
        }
    }

    /// Whether there are colours
    #[must_use]
    pub fn is_enabled(self) -> bool {
        self.enabled
    }

    /// The text in a colour
    #[must_use]
    pub fn paint(self, colour: Colour, text: &str) -> String {
        if self.enabled {
            format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code())
        } else {
            text.to_owned()
        }
    }

    /// A state in its colour
    #[must_use]
    pub fn state(self, state: &str) -> String {
        match Colour::of_state(state) {
            Some(colour) => self.paint(colour, state),
            None => state.to_owned(),
        }
    }
}

/// Where results go
#[derive(Debug)]
pub struct Output {
    format: Format,
    paint: Paint,
    width: Option<u16>,
    now: Timestamp,
}

impl Output {
    /// Results on standard output
    #[must_use]
    pub fn new(format: Format, no_color: bool) -> Self {
        Self {
            format,
            paint: Paint::for_stdout(no_color),
            width: width(),
            now: Timestamp::now(),
        }
    }

    /// Whether programs read it
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The colours of standard output
    #[must_use]
    pub fn paint(&self) -> Paint {
        self.paint
    }

    /// Prints what the controller sent
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json(&self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.text(&printable::json(&text))
    }

    /// Prints text and a line end
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
        Ok(())
    }

    /// Prints a table, or `nothing` in its place if it has no rows
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.text(nothing);
        }
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(header.to_vec());
        if let Some(width) = self.width {
            table.set_width(width);
        }
        for row in rows {
            table.add_row(row.iter().map(|cell| printable::line(cell).replace('\t', " ")));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut lines = Vec::new();
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            lines.push(match index {
                0 => self.paint.paint(Colour::Strong, line),
                _ => self.states_in(line),
            });
        }
        self.text(&lines.join("\n"))
    }

    /// Prints names and values, one pair a line; pairs without a value are left out
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn facts(&self, facts: &[(&str, Option<String>)]) -> Result<(), Failure> {
        let width = facts
            .iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        let lines: Vec<String> = facts
            .iter()
            .filter_map(|(name, value)| {
                let value = self.states_in(&printable::line(value.as_deref()?));
                let name = self.paint.paint(Colour::Dim, &format!("{name:<width$}"));
                Some(format!("{name}  {value}"))
            })
            .collect();
        self.text(&lines.join("\n"))
    }

    /// How long ago that was, or as sent if it is no time
    #[must_use]
    pub fn ago(&self, time: Option<&str>) -> String {
        match time.map(|text| (text, text.parse::<Timestamp>())) {
            None => "-".to_owned(),
            Some((_, Ok(at))) => relative(at, self.now),
            Some((text, Err(_))) => printable::short(text, 40),
        }
    }

    /// The time itself and how long ago that was
    #[must_use]
    pub fn moment(&self, time: Option<&str>) -> Option<String> {
        let text = time?;
        Some(match text.parse::<Timestamp>() {
            Ok(at) => {
                let whole = at.round(Unit::Second).unwrap_or(at);
                format!("{whole} ({})", relative(at, self.now))
            }
            Err(_) => printable::short(text, 40),
        })
    }

    fn states_in(&self, line: &str) -> String {
        if !self.paint.is_enabled() {
            return line.to_owned();
        }
        line.split_inclusive(' ')
            .map(|piece| {
                let word = piece.trim_end();
                let space = piece.get(word.len()..).unwrap_or_default();
                format!("{}{space}", self.paint.state(word))
            })
            .collect()
    }
}

/// `-` for nothing
#[must_use]
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A length of time as `12s`, `4m`, `3h 20m` or `2d 5h`
#[must_use]
pub fn span(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m", seconds / 60),
        3_600..=86_399 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn relative(at: Timestamp, now: Timestamp) -> String {
    let milliseconds = now.as_millisecond().saturating_sub(at.as_millisecond());
    if milliseconds < -500 {
        format!("in {}", span(milliseconds.saturating_neg()))
    } else {
        format!("{} ago", span(milliseconds))
    }
}

/// Says something about the results on standard error; where nobody takes it, it is lost
pub fn remark(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Columns of the terminal; without a terminal, nothing is wrapped
fn width() -> Option<u16> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(&stdout)
        .ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 0);
    columns
        .or_else(|| env::var("COLUMNS").ok()?.parse().ok())
        .or(Some(100))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn spans_are_short() {
        for (milliseconds, text) in [
            (-5, "0s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (12_000_000, "3h 20m"),
            (i64::MAX, "106751991167d 7h"),
        ] {
            assert_eq!(span(milliseconds), text);
        }
    }

    #[test]
    fn times_are_relative_to_now() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-01-01T12:00:00Z");
        assert_eq!(relative(at("2026-01-01T11:58:30Z"), now), "1m ago");
        assert_eq!(relative(at("2026-01-01T13:00:00Z"), now), "in 1h 0m");
        assert_eq!(relative(now, now), "0s ago");
    }
}
