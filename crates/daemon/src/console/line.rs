//! What a line of console output is

use std::borrow::Cow;

/// The longest line that leaves this machine, in UTF-16 units: what a Java controller accepts in a crash report
pub const MAX_LINE_UNITS: usize = 8192;

/// Ends a line that was cut; it counts towards [`MAX_LINE_UNITS`]
pub const TRUNCATION_MARKER: &str = "... (truncated)";

/// One line of an instance's output
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    /// Place in the output of this start of the instance, from 1; the same line keeps its number across daemon restarts
    pub sequence: u64,
    /// The text without its line ending, at most [`MAX_LINE_UNITS`] UTF-16 units
    pub text: String,
    /// When the daemon read it, milliseconds since the Unix epoch
    pub timestamp_ms: i64,
}

/// The lines in `raw`, which holds no `\n`: one, or more where a carriage return stands inside
///
/// A carriage return ends a line as it does for Java's readers, so a progress bar gives one line per step.
pub(super) fn split(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
    raw.split(|byte| *byte == b'\r')
}

/// The text of a line: bytes that are not UTF-8 become U+FFFD, and what is too long is cut and marked
pub(super) fn text(raw: &[u8]) -> String {
    // No more bytes than these can matter, since a UTF-16 unit takes at most three.
    let longest = MAX_LINE_UNITS * 3 + 4;
    let text = match raw.get(..longest) {
        Some(head) => String::from_utf8_lossy(head),
        None => String::from_utf8_lossy(raw),
    };
    truncated(text)
}

fn truncated(text: Cow<'_, str>) -> String {
    // A UTF-16 unit takes at least one byte of UTF-8, so a short text needs no counting.
    if text.len() <= MAX_LINE_UNITS || text.encode_utf16().count() <= MAX_LINE_UNITS {
        return text.into_owned();
    }
    let room = MAX_LINE_UNITS - TRUNCATION_MARKER.len();
    let mut units = 0;
    let mut cut = String::with_capacity(MAX_LINE_UNITS);
    for character in text.chars() {
        units += character.len_utf16();
        if units > room {
            break;
        }
        cut.push(character);
    }
    cut.push_str(TRUNCATION_MARKER);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(raw: &str) -> Vec<String> {
        split(raw.as_bytes()).map(text).collect()
    }

    #[test]
    fn carriage_returns_end_lines() {
        assert_eq!(lines("plain"), ["plain"]);
        assert_eq!(lines("windows\r"), ["windows"]);
        assert_eq!(lines("10%\r20%\r"), ["10%", "20%"]);
        assert_eq!(lines(""), [""]);
    }

    #[test]
    fn a_cut_line_has_exactly_the_limit() {
        let exact = "x".repeat(MAX_LINE_UNITS);
        assert_eq!(text(exact.as_bytes()), exact);
        let cut = text("x".repeat(MAX_LINE_UNITS + 1).as_bytes());
        assert_eq!(cut.encode_utf16().count(), MAX_LINE_UNITS);
        assert!(cut.ends_with(TRUNCATION_MARKER));
    }

    #[test]
    fn characters_outside_the_basic_plane_count_twice_and_are_not_halved() {
        let fits = "🦀".repeat(MAX_LINE_UNITS / 2);
        assert_eq!(text(fits.as_bytes()), fits);
        let cut = text("🦀".repeat(MAX_LINE_UNITS).as_bytes());
        let units = cut.encode_utf16().count();
        assert!(units <= MAX_LINE_UNITS && units > MAX_LINE_UNITS - 2, "{units}");
        assert!(!cut.contains('\u{fffd}'));
    }

    #[test]
    fn invalid_bytes_are_replaced() {
        assert_eq!(text(b"a\xffb"), "a\u{fffd}b");
    }
}
