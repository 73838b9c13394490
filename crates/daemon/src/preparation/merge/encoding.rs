//! The bytes of a text file and what is kept of them: mark, character set, line ends

use std::fmt::Write as _;

const MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// Nothing in it tells which one it is
    Ascii,
    Utf8,
    /// What is not UTF-8: each byte is a character, so nothing is lost on the way back
    Latin1,
}

/// A file as text with `\n` as line ends, if it has one kind of them
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) content: String,
    pub(super) charset: Charset,
    has_mark: bool,
    has_crlf: bool,
}

impl Text {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let body = bytes.strip_prefix(MARK).unwrap_or(bytes);
        let (content, charset) = match std::str::from_utf8(body) {
            Ok(text) if text.is_ascii() => (text.to_owned(), Charset::Ascii),
            Ok(text) => (text.to_owned(), Charset::Utf8),
            Err(_) => (body.iter().copied().map(char::from).collect(), Charset::Latin1),
        };
        let line_ends = content.matches('\n').count();
        let has_crlf = line_ends > 0 && content.matches("\r\n").count() == line_ends;
        Self {
            content: if has_crlf {
                content.replace("\r\n", "\n")
            } else {
                content
            },
            charset,
            has_mark: body.len() < bytes.len(),
            has_crlf,
        }
    }

    /// The bytes of `content` as this file has them; `newer` is the character set of what was put into it
    ///
    /// `escapes` allows `\uXXXX` for what the character set has not.
    pub(super) fn write(&self, content: &str, newer: Charset, escapes: bool) -> Result<Vec<u8>, String> {
        // Line ends that came with the newer file.
        let mut text = content.replace("\r\n", "\n");
        if self.has_crlf {
            text = text.replace('\n', "\r\n");
        } else if self.content.contains("\r\n") {
            text = content.to_owned();
        }
        let is_latin = match self.charset {
            Charset::Latin1 => true,
            Charset::Utf8 => false,
            Charset::Ascii => newer == Charset::Latin1 && !self.has_mark,
        };
        let mut bytes = if self.has_mark { MARK.to_vec() } else { Vec::new() };
        if !is_latin {
            bytes.extend_from_slice(text.as_bytes());
            return Ok(bytes);
        }
        for character in text.chars() {
            match u8::try_from(u32::from(character)) {
                Ok(byte) => bytes.push(byte),
                Err(_) if escapes => {
                    let mut escaped = String::new();
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(escaped, "\\u{unit:04x}");
                    }
                    bytes.extend_from_slice(escaped.as_bytes());
                }
                Err(_) => return Err(format!("its character set has no {character:?}")),
            }
        }
        Ok(bytes)
    }
}
