//! Durations and `key=value` words, as scenarios write them

use std::time::Duration;

use crate::scenario::ParseError;

/// Writes a duration in the largest unit that says it exactly, at least in milliseconds.
pub(crate) fn show(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        millis if millis % 3_600_000 == 0 => format!("{}h", millis / 3_600_000),
        millis if millis % 60_000 == 0 => format!("{}m", millis / 60_000),
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// Reads what [`show`] writes.
pub(crate) fn duration(word: &str) -> Result<Duration, ParseError> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = word.get(digits.len()..).unwrap_or_default();
    let count: u64 = number(digits)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(ParseError::new(word, "a duration such as 250ms, 10s, 5m or 1h")),
    };
    count
        .checked_mul(factor)
        .map(Duration::from_millis)
        .ok_or_else(|| ParseError::new(word, "a shorter duration"))
}

pub(crate) fn number<T: std::str::FromStr>(word: &str) -> Result<T, ParseError> {
    word.parse().map_err(|_| ParseError::new(word, "a number"))
}

/// The words of a line, taken one by one.
pub(crate) struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Self(line.split_whitespace())
    }

    pub(crate) fn next(&mut self, expected: &'static str) -> Result<&'a str, ParseError> {
        self.0
            .next()
            .ok_or_else(|| ParseError::new("the end of the line", expected))
    }

    pub(crate) fn rest(self) -> impl Iterator<Item = &'a str> {
        self.0
    }

    pub(crate) fn end(mut self) -> Result<(), ParseError> {
        self.0
            .next()
            .map_or(Ok(()), |word| Err(ParseError::new(word, "the end of the line")))
    }
}
