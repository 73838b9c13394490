//! `.properties` files, as Java reads them

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

/// The value as it is written: as the patch has it, with its escapes, but for blanks before it, which would be lost
pub(super) fn rendered(value: &str) -> String {
    if value.starts_with([' ', '\t', '\u{c}']) {
        format!("\\{value}")
    } else {
        value.to_owned()
    }
}

/// What a value means once it is written; `None` if it would not end with its line
pub(super) fn meaning(value: &str) -> Option<String> {
    let read = entries(&format!("a={}\nb=\n", rendered(value))).ok()?;
    match read.as_slice() {
        [entry, _] => Some(entry.value.clone()),
        _ => None,
    }
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
        line.push(character);
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
                    let digits = self.text.get(self.at + 1..self.at + 5).unwrap_or_default();
                    let is_code = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    if !is_code {
                        return Err(format!("line {}: \\u needs four hexadecimal digits", self.line));
                    }
                    // Halves of a pair are characters of their own to Java; only whether they change matters here.
                    text.push_str("\\u");
                    text.push_str(&digits.to_ascii_lowercase());
                    self.at += 5;
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
}
