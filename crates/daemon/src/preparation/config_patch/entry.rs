//! What every kind of configuration file consists of, and how a value is written

use std::fmt::Write as _;
use std::ops::Range;

/// A value of a file, and where it stands
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::preparation) struct Entry {
    /// Its key with the sections around it
    pub(in crate::preparation) path: Vec<String>,
    /// The value as the server reads it
    pub(in crate::preparation) value: String,
    /// Equal exactly when the value is the same thing to the server
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

pub(in crate::preparation) fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match digits.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => all_digits(digits),
    }
}

/// In double quotes, with what may not stand between them escaped as both TOML and YAML have it
pub(in crate::preparation) fn quoted(text: &str) -> String {
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
