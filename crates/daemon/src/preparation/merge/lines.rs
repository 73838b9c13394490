//! Files that are lists of lines

use std::collections::HashSet;

/// The file with the lines of `overlay` that are not in it yet
///
/// Lines that are blank are there: the file of a static instance would grow with every start.
pub(super) fn append(base: &[u8], overlay: &[u8]) -> Vec<u8> {
    let mut known: HashSet<&[u8]> = lines(base).collect();
    let ends_in_crlf = base.windows(2).any(|pair| pair == b"\r\n");
    let end: &[u8] = if ends_in_crlf { b"\r\n" } else { b"\n" };
    let mut bytes = base.to_vec();
    let overlay = overlay.strip_prefix(b"\xef\xbb\xbf").unwrap_or(overlay);
    for line in lines(overlay) {
        if line.trim_ascii().is_empty() || !known.insert(line) {
            continue;
        }
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            bytes.extend_from_slice(end);
        }
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(end);
    }
    bytes
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}
