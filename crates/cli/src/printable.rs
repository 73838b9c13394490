//! Makes somebody else's text harmless for a terminal
//!
//! A console line can hold anything that a game server, a plugin or a player's name puts there: sequences that clear
//! the screen, set the window title, or answer as if typed; characters that reverse the direction of what
//! follows. None of that reaches the terminal: colour changes are dropped, everything else becomes visible.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text on one line, without anything that a terminal would obey
///
/// Colour sequences (`ESC [ ... m`) are dropped, because servers use them and only the colour is lost. Other control
/// characters, tab excepted, and invisible or direction-changing characters become visible as `\u{..}`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = colour_sequence(rest) {
            rest = rest.get(length..).unwrap_or_default();
            continue;
        }
        if is_dangerous(character) {
            let _infallible = write!(safe, "\\u{{{:x}}}", u32::from(character));
        } else {
            safe.push(character);
        }
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(safe)
}

/// As [`line()`], in at most `limit` characters, the last of which is `…` if something was cut
#[must_use]
pub fn short(text: &str, limit: usize) -> String {
    let safe = line(text);
    if safe.chars().count() <= limit {
        return safe.into_owned();
    }
    let mut cut: String = safe.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// JSON text in which nothing but line ends is left for a terminal to obey
///
/// JSON escapes the older control characters by itself. The others can only stand inside strings, where
/// `\uXXXX` means the same.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let dangerous = |character: char| character != '\n' && is_dangerous(character);
    if !text.chars().any(dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if dangerous(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

fn is_dangerous(character: char) -> bool {
    match character {
        '\t' => false,
        character if character.is_control() => true,
        // Line and paragraph separators, zero width characters, direction changes, tags.
        '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{061c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The length of the colour sequence that the text begins with
fn colour_sequence(text: &str) -> Option<usize> {
    const LONGEST: usize = 32;
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|character: char| !matches!(character, '0'..='9' | ';' | ':'))?;
    (end < LONGEST && parameters.get(end..)?.starts_with('m')).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_left_alone() {
        for text in [
            "",
            "[12:00:00 INFO]: Done (1.2s)!",
            "\tat a.b.C.d(E.java:1)",
            "Grüße, 世界 🎮",
        ] {
            assert_eq!(line(text), text);
        }
    }

    #[test]
    fn colours_are_dropped_and_everything_else_is_shown() {
        assert_eq!(line("\u{1b}[0;32;1mok\u{1b}[m"), "ok");
        assert_eq!(line("\u{1b}[2Jx"), "\\u{1b}[2Jx");
        assert_eq!(line("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(line("a\r\nb\u{8}"), "a\\u{d}\\u{a}b\\u{8}");
        assert_eq!(line("\u{9b}31mred"), "\\u{9b}31mred");
        assert_eq!(line("user\u{202e}txt.exe"), "user\\u{202e}txt.exe");
        // A sequence that never ends, or only pretends to be a colour.
        assert_eq!(line("\u{1b}[31"), "\\u{1b}[31");
        assert_eq!(line("\u{1b}[?25m"), "\\u{1b}[?25m");
        assert_eq!(line("\u{1b}\u{1b}[1m[2J"), "\\u{1b}[2J");
    }

    #[test]
    fn a_removed_colour_never_completes_another_sequence() {
        let hostile = "\u{1b}\u{1b}[0m[2J";
        assert!(!line(hostile).chars().any(is_dangerous));
    }

    #[test]
    fn short_text_is_cut_at_characters() {
        assert_eq!(short("äöü", 3), "äöü");
        assert_eq!(short("äöüß", 3), "äö…");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "line": "a\u{9b}b\u{1b}[2J\u{e0001}" });
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        let safe = json(&text);
        assert!(
            !safe
                .chars()
                .any(|character| character != '\n' && is_dangerous(character))
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).ok(), Some(value));
    }
}
