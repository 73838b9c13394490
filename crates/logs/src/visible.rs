//! Text in which nothing is left that a terminal would obey, or that looks like another line

use std::borrow::Cow;

/// Whether a terminal obeys it, it is invisible, or it turns around what follows; a tab is none of that
#[must_use]
pub fn forges(character: char) -> bool {
    match character {
        '\t' => false,
        character if character.is_control() => true,
        // Line and paragraph separators, zero width characters, direction changes, tags.
        '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{061c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The text on one line: a line end is shown as `\n`, and everything else that [forges] as `\u{..}`
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    shown(text, forges)
}

/// The same for a text of several lines, such as a stack trace: line ends stay
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    shown(text, |character| character != '\n' && forges(character))
}

fn shown(text: &str, is_shown: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_shown) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_shown(character) {
            visible.extend(character.escape_default());
        } else {
            visible.push(character);
        }
    }
    Cow::Owned(visible)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_forges_becomes_visible() {
        for (said, on_one_line, on_lines) in [
            ("grün\tund 世界", "grün\tund 世界", "grün\tund 世界"),
            ("a\nb", "a\\nb", "a\nb"),
            ("a\r\nb\u{1b}[2J", "a\\r\\nb\\u{1b}[2J", "a\\r\nb\\u{1b}[2J"),
            (
                "\u{202e}\u{200b}\u{feff}\u{9b}",
                "\\u{202e}\\u{200b}\\u{feff}\\u{9b}",
                "\\u{202e}\\u{200b}\\u{feff}\\u{9b}",
            ),
        ] {
            assert_eq!(one_line(said), on_one_line);
            assert_eq!(lines(said), on_lines);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_left(text in any::<String>()) {
            prop_assert!(!one_line(&text).contains(forges));
            prop_assert!(!lines(&text).contains(|character| character != '\n' && forges(character)));
        }
    }
}
