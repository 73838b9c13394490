//! The last lines of a finished log

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::line;
use crate::durable::open_regular;

/// The most lines that a crash report may carry
pub const MAX_TAIL_LINES: usize = 500;

/// Bytes of the log that are looked at for a tail
///
/// [`MAX_TAIL_LINES`] lines of the greatest length take 12 MiB at most.
const MAX_TAIL_BYTES: u64 = 12 * 1024 * 1024;

/// Bytes read at a time, from the end backwards
const STEP: u64 = 64 * 1024;

/// The last `max_lines` lines of the log at `path`, oldest first, each cut as for the console
///
/// An unfinished last line counts. A log that does not exist has no lines.
///
/// # Errors
/// Failures of the file system other than "not found".
pub fn tail(path: &Path, max_lines: usize) -> io::Result<Vec<String>> {
    let file = match open_regular(path, File::options().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let floor = length.saturating_sub(MAX_TAIL_BYTES);
    let mut start = length;
    let mut chunks = Vec::new();
    let mut newlines = 0;
    // One newline more than lines are wanted: it ends the line before the first one.
    while start > floor && newlines <= max_lines {
        let from = start.saturating_sub(STEP).max(floor);
        let mut chunk = vec![0; usize::try_from(start - from).unwrap_or(0)];
        file.read_exact_at(&mut chunk, from)?;
        newlines += chunk.iter().filter(|byte| **byte == b'\n').count();
        chunks.push(chunk);
        start = from;
    }
    chunks.reverse();
    let bytes = chunks.concat();
    let mut bytes = bytes.as_slice();
    if start > 0 {
        // What stands before the first newline began earlier.
        let first = bytes.iter().position(|byte| *byte == b'\n');
        bytes = first.and_then(|end| bytes.get(end + 1..)).unwrap_or(bytes);
    }
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let pieces: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').flat_map(line::split).collect();
    let skip = pieces.len().saturating_sub(max_lines);
    Ok(pieces.into_iter().skip(skip).map(line::text).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn tail_of(content: &[u8], lines: usize) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        tail(file.path(), lines).unwrap()
    }

    #[test]
    fn the_last_lines_come_oldest_first() {
        assert_eq!(tail_of(b"a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(tail_of(b"a\nb\nc", 2), ["b", "c"], "an unfinished line counts");
        assert_eq!(tail_of(b"a\r\nb\r\n", 5), ["a", "b"]);
        assert_eq!(tail_of(b"\n\n", 5), ["", ""]);
        assert!(tail_of(b"", 5).is_empty());
        assert!(tail(Path::new("/does/not/exist"), 5).unwrap().is_empty());
    }

    #[test]
    fn lines_across_reading_steps_are_whole() {
        let text: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
        let lines = tail_of(text.as_bytes(), 10_000);
        assert_eq!(lines.len(), 10_000);
        assert_eq!(lines[0], "line 10000");
        assert_eq!(lines[9999], "line 19999");
    }

    #[test]
    fn one_endless_line_is_cut_and_not_lost() {
        let lines = tail_of(&vec![b'z'; 13 * 1024 * 1024], 500);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].len(), line::MAX_LINE_UNITS);
    }
}
