//! `.properties` files, as Java reads them

use super::super::encoding::escaped;
use super::entry::Entry;

/// Every property with the place of its value
pub(in crate::preparation) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let mut reader = Reader { text, at: 0, line: 1 };
    let mut entries = Vec::new();
    while reader.at < text.len() {
        reader.skip(|next| matches!(next, ' ' | '\t' | '\u{c}'));
        match reader.peek() {
            None => break,
            Some('\n' | '\r') => reader.end_line(),
            Some('#' | '!') => {
                reader.skip(|next| !matches!(next, '\n' | '\r'));
                reader.end_line();
            }
            Some(_) => entries.push(reader.property()?),
        }
    }
    Ok(entries)
}

/// The value as it is written: as the patch has it, with its escapes, but for blanks before it, which would be lost, and
/// for characters beyond ASCII, which some servers read as Latin-1 and others as UTF-8
pub(super) fn rendered(value: &str) -> String {
    let rendered = in_ascii(value);
    if rendered.starts_with([' ', '\t', '\u{c}']) {
        format!("\\{rendered}")
    } else {
        rendered
    }
}

fn in_ascii(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            ascii.push_str(&escaped(character));
        }
    }
    ascii
}

/// A line that adds a property
pub(super) fn line(key: &str, value: &str) -> String {
    let mut line = String::with_capacity(key.len() + value.len() + 1);
    for (index, character) in key.chars().enumerate() {
        if matches!(character, '\\' | '=' | ':' | ' ' | '\t' | '\u{c}')
            || index == 0 && matches!(character, '#' | '!')
        {
            line.push('\\');
        }
        if character.is_ascii() {
            line.push(character);
        } else {
            line.push_str(&escaped(character));
        }
    }
    line.push('=');
    line.push_str(&rendered(value));
    line
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..).and_then(|rest| rest.chars().next())
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while let Some(next) = self.peek().filter(|next| wanted(*next)) {
            self.at += next.len_utf8();
        }
    }

    fn end_line(&mut self) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += match rest.as_bytes() {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => return,
        };
        self.line += 1;
    }

    /// One logical line; lines that end in a backslash go on in the next
    fn property(&mut self) -> Result<Entry, String> {
        let line = self.line;
        let key = self.text_until(|next| matches!(next, '=' | ':' | ' ' | '\t' | '\u{c}'))?;
        let key_end = self.at;
        self.skip_blanks();
        if matches!(self.peek(), Some('=' | ':')) {
            self.at += 1;
            self.skip_blanks();
        }
        let start = self.at;
        let value = self.text_until(|_| false)?;
        let bytes = start..self.at;
        self.end_line();
        Ok(Entry {
            path: vec![key],
            seal: value.clone(),
            value,
            // A key alone needs a separator before its value.
            joint: if start == key_end { "=" } else { "" },
            bytes,
            line,
            obstacle: None,
        })
    }

    /// Blanks, and line ends behind a backslash
    fn skip_blanks(&mut self) {
        loop {
            self.skip(|next| matches!(next, ' ' | '\t' | '\u{c}'));
            let rest = self.text.get(self.at..).unwrap_or_default();
            if !(rest.starts_with("\\\n") || rest.starts_with("\\\r")) {
                return;
            }
            self.at += 1;
            self.end_line();
        }
    }

    fn text_until(&mut self, is_end: impl Fn(char) -> bool) -> Result<String, String> {
        let mut text = String::new();
        while let Some(next) = self.peek() {
            if matches!(next, '\n' | '\r') || is_end(next) {
                break;
            }
            self.at += next.len_utf8();
            if next != '\\' {
                text.push(next);
                continue;
            }
            let Some(escaped) = self.peek() else { break };
            match escaped {
                '\n' | '\r' => {
                    self.end_line();
                    self.skip(|next| matches!(next, ' ' | '\t' | '\u{c}'));
                    continue;
                }
                'u' => {
                    self.at -= 1;
                    self.unicode(&mut text)?;
                    continue;
                }
                't' => text.push('\t'),
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                'f' => text.push('\u{c}'),
                other => text.push(other),
            }
            self.at += escaped.len_utf8();
        }
        Ok(text)
    }
    /// What follows a backslash and is `uXXXX`, with the second half if this is the first one of a pair
    fn unicode(&mut self, text: &mut String) -> Result<(), String> {
        let first = self.unit()?;
        let character = match first {
            0xd800..=0xdbff => {
                let behind = self.at;
                let second = match self.text.get(behind..) {
                    Some(rest) if rest.starts_with("\\u") => self.unit()?,
                    _ => 0,
                };
                let pair = char::decode_utf16([first, second]).next().and_then(Result::ok);
                if pair.is_none() {
                    self.at = behind;
                }
                pair
            }
            _ => char::from_u32(u32::from(first)),
        };
        match character {
            Some(character) => text.push(character),
            // Half a pair is a character of its own to Java; only whether it changes matters here.
            None => text.push_str(&format!("\\u{first:04x}")),
        }
        Ok(())
    }

    /// Reads `\uXXXX`
    fn unit(&mut self) -> Result<u16, String> {
        let digits = self.text.get(self.at + 2..self.at + 6).unwrap_or_default();
        let unit = match digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => u16::from_str_radix(digits, 16).ok(),
            false => None,
        };
        self.at += 6;
        unit.ok_or_else(|| format!("line {}: \\u needs four hexadecimal digits", self.line))
    }
}
