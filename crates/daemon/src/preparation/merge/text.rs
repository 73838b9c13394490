//! A text file and what is kept of it: mark, character set, line ends

use super::super::encoding::{Charset, decode, encode};

const MARK: &[u8] = b"\xef\xbb\xbf";

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
        let (content, charset) = decode(body);
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
        let charset = match self.charset {
            Charset::Ascii if newer == Charset::Latin1 && !self.has_mark => Charset::Latin1,
            Charset::Ascii => Charset::Utf8,
            known => known,
        };
        let mut bytes = if self.has_mark { MARK.to_vec() } else { Vec::new() };
        bytes.extend_from_slice(&encode(&text, charset, escapes)?);
        Ok(bytes)
    }
}
