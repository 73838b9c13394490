//! What is kept of one event

use std::fmt::{self, Write};

use prexorcloud_protocol::{limits, redact};
use tracing::Level;

use crate::visible;

/// What a record costs beside its texts, roughly
const OVERHEAD: usize = 256;

/// What a context entry costs beside its texts, roughly
const ENTRY_OVERHEAD: usize = 64;

/// UTF-8 needs at most three bytes for what UTF-16 has one unit for
const BYTES_OF_A_UNIT: usize = 3;

/// One event, as it goes to whoever shows it
///
/// Every text is within the limits of the wire, harmless for a terminal, and without the secrets that are known by their
/// place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place among all that were to be mirrored, from 1; what was dropped has numbers, too.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// How bad it is.
    pub level: Level,
    /// What logged it: a module's path, such as `prexorcloud_daemon::node`.
    pub logger: String,
    /// The thread that logged it.
    pub thread: String,
    /// The text, on one line.
    pub message: String,
    /// The error with its causes, a line for each; empty = none.
    pub throwable: String,
    /// The fields of the event and of the spans around it.
    pub context: Vec<(String, String)>,
}

impl Record {
    /// Roughly the memory that it takes.
    #[must_use]
    pub fn cost(&self) -> usize {
        let context: usize = self
            .context
            .iter()
            .map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD)
            .sum();
        OVERHEAD + self.logger.len() + self.thread.len() + self.message.len() + self.throwable.len() + context
    }
}

/// A message as it may be kept: on one line, without secrets, within its limit
#[must_use]
pub fn message(text: &str) -> String {
    kept(&visible::one_line(&redact::text(text)), limits::LOG_MESSAGE)
}

/// A stack trace as it may be kept
#[must_use]
pub fn throwable(text: &str) -> String {
    kept(&visible::lines(&redact::text(text)), limits::LOG_THROWABLE)
}

/// A name (of a logger, a thread, a context entry) as it may be kept
#[must_use]
pub fn name(text: &str, limit: usize) -> String {
    kept(&visible::one_line(text), limit)
}

/// The value of a context entry as it may be kept: `***` where its name is that of a secret
#[must_use]
pub fn value(name: &str, text: &str) -> String {
    if redact::is_secret_field(name) {
        return "***".to_owned();
    }
    kept(&visible::one_line(&redact::text(text)), limits::LOG_MDC_TEXT)
}

fn kept(text: &str, limit: usize) -> String {
    let mut bounded = Bounded::of(limit);
    // It is full when this fails, and longer than the limit then.
    let _ = bounded.write_str(text);
    let mut text = bounded.text;
    limits::shorten(&mut text, limit);
    text
}

/// Takes of a text what its limit could need, and refuses the rest: a value that would print gigabytes does not get to
pub(crate) struct Bounded {
    pub(crate) text: String,
    most: usize,
}

impl Bounded {
    /// For a text of at most `limit` UTF-16 units; a longer one is taken so far that it can be seen to be longer.
    pub(crate) fn of(limit: usize) -> Self {
        Self {
            text: String::new(),
            most: (limit + 1) * BYTES_OF_A_UNIT,
        }
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.most.saturating_sub(self.text.len());
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let cut = floor_char_boundary(text, room);
        self.text.push_str(text.get(..cut).unwrap_or_default());
        Err(fmt::Error)
    }
}

/// The last place at or before this one where the text can be cut
fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_fits_and_a_short_one_is_left_whole(text in "\\PC{0,40}", limit in 16_usize..24) {
            let long = text.repeat(8);
            let cut = kept(&long, limit);
            prop_assert!(limits::fits(&cut, limit), "{cut:?}");
            if limits::fits(&long, limit) {
                prop_assert_eq!(cut, long);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character_and_says_so() {
        let long = message(&"🎮".repeat(1_000_000));
        assert!(limits::fits(&long, limits::LOG_MESSAGE) && long.ends_with("... (truncated)"));
        // Escapes count, too: they are what is sent.
        let forged = throwable(&"\u{1b}".repeat(100_000));
        assert!(limits::fits(&forged, limits::LOG_THROWABLE) && forged.starts_with("\\u{1b}"));
    }

    #[test]
    fn values_of_secrets_are_not_kept() {
        assert_eq!(value("db.password", "hunter2"), "***");
        assert_eq!(value("url", "https://u:hunter2@h/"), "https://***@h/");
        assert!(!message("with pxr_0123456789abcdefghijklmnopqrstuv").contains("0123"));
    }
}
