//! The characters of a text file, and how they are written back

use std::fmt::Write as _;

/// How a file writes its characters
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// Nothing in it tells which one it is
    Ascii,
    Utf8,
    /// What is not UTF-8: each byte is a character, so nothing is lost on the way back
    Latin1,
}

/// The characters of a file; a byte order mark is one of them
pub(super) fn decode(bytes: &[u8]) -> (String, Charset) {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => (text.to_owned(), Charset::Ascii),
        Ok(text) => (text.to_owned(), Charset::Utf8),
        Err(_) => (bytes.iter().copied().map(char::from).collect(), Charset::Latin1),
    }
}

/// The bytes of a text
///
/// `escapes` allows `\uXXXX` for what the character set has not. Without it, a text in ASCII becomes one in UTF-8.
///
/// # Errors
/// If there is a character that the character set has not.
pub(super) fn encode(text: &str, charset: Charset, escapes: bool) -> Result<Vec<u8>, String> {
    let last = match charset {
        Charset::Utf8 => return Ok(text.as_bytes().to_vec()),
        Charset::Ascii if !escapes => return Ok(text.as_bytes().to_vec()),
        Charset::Ascii => '\u{7f}',
        Charset::Latin1 => '\u{ff}',
    };
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u8::try_from(u32::from(character)) {
            Ok(byte) if character <= last => bytes.push(byte),
            _ if escapes => bytes.extend_from_slice(escaped(character).as_bytes()),
            _ => return Err(format!("its character set has no {character:?}")),
        }
    }
    Ok(bytes)
}

/// A character as Java's files escape it: `\uXXXX`, twice for those beyond the first 65,536
pub(super) fn escaped(character: char) -> String {
    let mut escaped = String::new();
    for unit in character.encode_utf16(&mut [0; 2]) {
        let _ = write!(escaped, "\\u{unit:04x}");
    }
    escaped
}
