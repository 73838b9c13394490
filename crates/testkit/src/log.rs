//! What happened, line by line
//!
//! Each line begins with the moment in seconds. A run with the same seed and the same actions gives the same bytes, so
//! two logs can be compared, and a difference between two builds points at the first decision that changed.

use std::fmt;
use std::time::Duration;

/// The log of a simulation
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Vec<String>,
    silent: bool,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that keeps nothing, for runs by the thousand.
    #[must_use]
    pub const fn silent() -> Self {
        Self {
            lines: Vec::new(),
            silent: true,
        }
    }

    /// Adds a line; `text` is not even called when nothing is kept.
    pub fn note<T: fmt::Display>(&mut self, at: Duration, text: impl FnOnce() -> T) {
        if !self.silent {
            self.lines.push(format!(
                "{:>6}.{:03}  {}",
                at.as_secs(),
                at.subsec_millis(),
                text()
            ));
        }
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The lines that contain `text`.
    pub fn matching<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.lines
            .iter()
            .map(String::as_str)
            .filter(move |line| line.contains(text))
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
