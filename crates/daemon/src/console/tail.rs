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
/// An unfinished last line counts. A log that does not exist has no lines, and a link in its place is not followed.
///
/// # Errors
/// Failures of the file system other than "not found", and what is no log.
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
        let filled = read_at(&file, &mut chunk, from)?;
        if filled < chunk.len() {
            // It was cut meanwhile: what stood behind is gone, and what is before is the end.
            chunk.truncate(filled);
            chunks.clear();
            newlines = 0;
        }
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

/// Reads until `buffer` is full or the file is over
fn read_at(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match file.read_at(free, from.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
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
    fn a_link_or_a_fifo_is_no_log() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, link, fifo) = (
            folder.path().join("secret"),
            folder.path().join("link"),
            folder.path().join("fifo"),
        );
        std::fs::write(&secret, "secret\n").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for path in [link, fifo] {
            let error = tail(&path, 5).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
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
