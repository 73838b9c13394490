//! What every kind of configuration file consists of, and how a value is written

use std::fmt::Write as _;
use std::ops::Range;

/// A value of a file, and where it stands
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::preparation) struct Entry {
    /// Its key with the sections around it; `[n]` is the place in a list
    pub(in crate::preparation) path: Vec<String>,
    /// The value as the server reads it
    pub(in crate::preparation) value: String,
    /// Equal exactly when the value is the same thing to the server, [`SECTION`] for a section
    pub(in crate::preparation) seal: String,
    /// The bytes that a new value replaces
    pub(in crate::preparation) bytes: Range<usize>,
    /// What has to come before a new value there
    pub(in crate::preparation) joint: &'static str,
    /// From 1
    pub(in crate::preparation) line: usize,
    /// Why it cannot be replaced
    pub(in crate::preparation) obstacle: Option<&'static str>,
}

/// The seal of every section
pub(super) const SECTION: &str = "{}";

/// What a patch puts into a file
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    /// Whether it is text whatever it looks like; otherwise numbers and booleans are what they look like
    pub(super) is_text: bool,
}

impl Value {
    /// Bare if it is a number or a boolean to every reader, else in double quotes
    pub(super) fn rendered(&self) -> String {
        let text = &self.text;
        if !self.is_text && (text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")) {
            text.to_ascii_lowercase()
        } else if !self.is_text && is_number(text) {
            text.clone()
        } else {
            quoted(text)
        }
    }

    /// Whether `read` is what it says
    pub(super) fn is_read_as(&self, read: &str) -> bool {
        read == self.text || self.rendered() == read
    }
}

/// A minus, digits, a fraction; a zero before other digits makes it an octal number or nothing at all
pub(super) fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, is_fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, all_digits(fraction)),
        None => (digits, true),
    };
    all_digits(whole) && is_fraction && (whole.len() == 1 || !whole.starts_with('0'))
}

/// In double quotes, with what may not stand between them escaped as TOML, YAML and JSON have it
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            // Line separators are line ends to YAML, and a mark in the text is easily lost.
            '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
