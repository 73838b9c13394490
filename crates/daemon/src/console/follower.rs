//! Reads the lines of a log that another process appends to

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::cursor::Cursor;
use super::line::{self, ConsoleLine};
use crate::durable::{is_own, open_regular};
use crate::process::descriptors::{self, Convenience};

/// Bytes that one [`Follower::read`] looks at, and the longest line that is told apart
///
/// Far above the longest line that is forwarded, so that a cut line is cut by the limit and not by this.
const WINDOW: usize = 64 * 1024;

/// Space is given back in steps of this size: a hole costs a system call and splits the file's extents
const PUNCH_STEP: u64 = 1024 * 1024;

/// A backlog so many times larger than it may be is given up without reading it over
///
/// One write far behind the end makes a log of any size in an instant.
const COUNTED: u64 = 4;

/// No backlog below this is too large to be read over
const ALWAYS_COUNTED: u64 = 256 * 1024 * 1024;

/// What [`Follower::shed`] gave up
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// How many lines, as far as they were counted
    pub lines: u64,
    /// Bytes that were passed over without counting their lines
    pub uncounted_bytes: u64,
}

impl Shed {
    /// Whether nothing was given up
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// How much of a console stays on disk
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes at the end that are always kept: the tail of a crash report comes from there
    pub tail: u64,
    /// Bytes that may wait to be handed over; beyond, the oldest half is given up
    pub backlog: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            tail: 16 * 1024 * 1024,
            backlog: 64 * 1024 * 1024,
        }
    }
}

/// A reader of complete lines
///
/// It holds no data between calls: every call reads from the cursor on, so a daemon that starts again at a stored cursor
/// sees the same lines under the same numbers.
#[derive(Debug)]
pub struct Follower {
    file: File,
    cursor: Cursor,
    punched: u64,
    can_punch: bool,
}

impl Follower {
    /// Opens the log at `path` for reading from `cursor` on
    ///
    /// # Errors
    /// Failures of the file system, and what is no log: a link is not followed. The log need not be writable, but only a
    /// writable one can be shortened.
    pub fn open(path: &Path, cursor: Cursor) -> io::Result<Self> {
        let (file, can_punch) = match open_regular(path, File::options().read(true).write(true)) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (open_regular(path, File::options().read(true))?, false)
            }
            Err(error) => return Err(error),
        };
        if !descriptors::is_spare(file.as_fd(), Convenience::Console) {
            // Lines wait on disk; stopping an instance, or reaching a controller, cannot wait.
            return Err(rustix::io::Errno::MFILE.into());
        }
        Ok(Self {
            file,
            cursor,
            punched: 0,
            can_punch,
        })
    }

    /// A second reader of the same log at the same place, whatever has become of the path
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            ..*self
        })
    }

    /// The log itself, whatever has become of the path
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Which file this is, among those of its file system
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Whether `path` names this file no longer: something else was put in its place, or it was removed
    ///
    /// # Errors
    /// Failures of the file system other than "not found".
    pub fn is_replaced(&self, path: &Path) -> io::Result<bool> {
        if is_own(path) {
            return Ok(false);
        }
        match std::fs::symlink_metadata(path) {
            Ok(there) => {
                let own = self.file.metadata()?;
                Ok((there.dev(), there.ino()) != (own.dev(), own.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the log is shorter than it was read, because somebody has cut it
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn is_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.cursor.offset)
    }

    /// Begins at the beginning again; gives a number that no line has, for a notice. The numbers go on behind it.
    pub fn restart(&mut self) -> u64 {
        let number = self.cursor.next_sequence;
        self.cursor = Cursor {
            offset: 0,
            next_sequence: number.saturating_add(1),
            inside_overlong: false,
        };
        self.punched = 0;
        number
    }

    /// Where the next line starts
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to another place, one that [`cursor`](Self::cursor) once told
    pub fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// Bytes that were written and not yet read
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn backlog(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(self.cursor.offset))
    }

    /// Appends the next lines to `lines` and moves on; returns whether more can be read at once
    ///
    /// A line that has no end yet is left for later.
    ///
    /// # Errors
    /// Failures of the file system; the cursor has not moved.
    pub fn read(&mut self, now_ms: i64, lines: &mut Vec<ConsoleLine>) -> io::Result<bool> {
        self.step(false, &mut |sequence, raw| {
            lines.push(ConsoleLine {
                sequence,
                text: line::text(raw),
                timestamp_ms: now_ms,
            });
        })
    }

    /// As [`read`](Self::read) for a log that will not grow any more: an unfinished last line counts too
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_to_end(&mut self, now_ms: i64, lines: &mut Vec<ConsoleLine>) -> io::Result<bool> {
        self.step(true, &mut |sequence, raw| {
            lines.push(ConsoleLine {
                sequence,
                text: line::text(raw),
                timestamp_ms: now_ms,
            });
        })
    }

    /// Gives up the oldest lines if more than `retention.backlog` wait, and says how many
    ///
    /// The lines that follow keep their numbers, so a receiver sees the gap. Of a backlog that cannot have come from lines
    /// in the ordinary way the lines are not counted; then the gap has one number.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn shed(&mut self, retention: Retention) -> io::Result<Shed> {
        let backlog = self.backlog()?;
        if backlog <= retention.backlog {
            return Ok(Shed::default());
        }
        let target = self
            .cursor
            .offset
            .saturating_add(backlog.saturating_sub(retention.backlog / 2));
        let first = self.cursor.next_sequence;
        if backlog > retention.backlog.saturating_mul(COUNTED).max(ALWAYS_COUNTED) {
            let uncounted_bytes = target.saturating_sub(self.cursor.offset);
            self.cursor = Cursor {
                offset: target,
                next_sequence: first.saturating_add(1),
                // The place is anywhere in a line, so the rest of that belongs to no line.
                inside_overlong: true,
            };
            return Ok(Shed {
                lines: 0,
                uncounted_bytes,
            });
        }
        while self.cursor.offset < target && self.step(false, &mut |_, _| {})? {}
        Ok(Shed {
            lines: self.cursor.next_sequence.saturating_sub(first),
            uncounted_bytes: 0,
        })
    }

    /// Gives disk space back that holds neither unread lines nor the tail; returns the bytes given back
    ///
    /// The file keeps its length and its offsets: the writer appends to it all the while, so it cannot be rotated. A
    /// file system without holes keeps everything.
    ///
    /// # Errors
    /// Failures of the file system other than "not supported".
    pub fn punch(&mut self, before: Cursor, retention: Retention) -> io::Result<u64> {
        if !self.can_punch {
            return Ok(0);
        }
        let length = self.file.metadata()?.len();
        let end = length
            .saturating_sub(retention.tail)
            .min(before.offset)
            .min(self.cursor.offset)
            / PUNCH_STEP
            * PUNCH_STEP;
        if end <= self.punched {
            return Ok(0);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, self.punched, end - self.punched) {
            Ok(()) => {
                let freed = end - self.punched;
                self.punched = end;
                Ok(freed)
            }
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                self.can_punch = false;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one window and shows each line in it; returns whether the window moved
    fn step(&mut self, at_end: bool, show: &mut dyn FnMut(u64, &[u8])) -> io::Result<bool> {
        let mut window = vec![0; WINDOW];
        let mut filled = 0;
        while let Some(free) = window.get_mut(filled..).filter(|free| !free.is_empty()) {
            let position = self.cursor.offset.saturating_add(filled as u64);
            match self.file.read_at(free, position) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        window.truncate(filled);
        let is_full = filled == WINDOW;
        let mut rest = window.as_slice();
        let before = self.cursor.offset;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (raw, after) = rest.split_at(end);
            self.line(raw, show);
            self.cursor.inside_overlong = false;
            self.advance(raw.len() + 1);
            rest = after.get(1..).unwrap_or_default();
        }
        if rest.is_empty() {
            return Ok(self.cursor.offset > before);
        }
        if self.cursor.inside_overlong {
            self.advance(rest.len());
        } else if at_end && !is_full {
            self.line(rest, show);
            self.advance(rest.len());
        } else if rest.len() == WINDOW {
            // No end in sight: the line is shown cut, and the rest of it is passed over as it comes.
            self.line(rest, show);
            self.cursor.inside_overlong = true;
            self.advance(rest.len());
        }
        Ok(self.cursor.offset > before)
    }

    fn line(&mut self, raw: &[u8], show: &mut dyn FnMut(u64, &[u8])) {
        if self.cursor.inside_overlong {
            return;
        }
        for piece in line::split(raw) {
            show(self.cursor.next_sequence, piece);
            self.cursor.next_sequence = self.cursor.next_sequence.saturating_add(1);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.cursor.offset = self.cursor.offset.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::OpenOptions;
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn log() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        std::fs::write(&path, "").unwrap();
        (folder, path)
    }

    fn append(path: &Path, bytes: &[u8]) {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn drain(follower: &mut Follower, at_end: bool) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        while if at_end {
            follower.read_to_end(7, &mut lines).unwrap()
        } else {
            follower.read(7, &mut lines).unwrap()
        } {}
        lines.into_iter().map(|line| (line.sequence, line.text)).collect()
    }

    #[test]
    fn an_unfinished_line_waits_for_its_end() {
        let (_folder, path) = log();
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        append(&path, b"one\ntw");
        assert_eq!(drain(&mut follower, false), [(1, "one".to_owned())]);
        append(&path, b"o\r\n> prompt");
        assert_eq!(drain(&mut follower, false), [(2, "two".to_owned())]);
        assert_eq!(drain(&mut follower, true), [(3, "> prompt".to_owned())]);
        assert_eq!(drain(&mut follower, true), []);
    }

    #[test]
    fn a_line_without_end_is_shown_once_and_does_not_stop_the_reader() {
        let (_folder, path) = log();
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        append(&path, &vec![b'x'; 3 * WINDOW + 5]);
        let lines = drain(&mut follower, false);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.ends_with(line::TRUNCATION_MARKER));
        assert_eq!(follower.backlog().unwrap(), 0, "a line without end is not kept");
        append(&path, b"xxx\nnext\n");
        assert_eq!(drain(&mut follower, false), [(2, "next".to_owned())]);
    }

    #[test]
    fn shedding_keeps_the_numbers_of_what_remains() {
        let (_folder, path) = log();
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        for number in 1..=10_000 {
            append(&path, format!("line {number}\n").as_bytes());
        }
        let retention = Retention {
            tail: 0,
            backlog: 1000,
        };
        let shed = follower.shed(retention).unwrap();
        assert!(shed.lines > 0 && shed.uncounted_bytes == 0);
        for (sequence, text) in drain(&mut follower, false) {
            assert_eq!(text, format!("line {sequence}"));
        }
        assert_eq!(follower.cursor().next_sequence, 10_001);
    }

    #[test]
    fn a_log_that_one_write_made_huge_is_not_read_over() {
        let (_folder, path) = log();
        append(&path, b"one\n");
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        assert_eq!(drain(&mut follower, false), [(1, "one".to_owned())]);
        let huge = 1 << 40;
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(huge)
            .unwrap();
        append(&path, b"rest\nafter\n");
        let retention = Retention {
            tail: 0,
            backlog: 1 << 20,
        };
        let shed = follower.shed(retention).unwrap();
        assert_eq!(shed.uncounted_bytes, huge - 4 + 11 - (1 << 19));
        assert_eq!(drain(&mut follower, false), [(3, "after".to_owned())]);
    }

    #[test]
    fn a_log_that_was_cut_begins_again_under_new_numbers() {
        let (_folder, path) = log();
        append(&path, b"one\ntwo\n");
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        assert_eq!(drain(&mut follower, false).len(), 2);
        assert!(!follower.is_cut().unwrap());
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        append(&path, b"three\n");
        assert!(follower.is_cut().unwrap());
        assert_eq!(follower.restart(), 3);
        assert_eq!(drain(&mut follower, false), [(4, "three".to_owned())]);
    }

    #[test]
    fn another_file_in_its_place_is_noticed_and_the_old_one_is_still_read() {
        let (_folder, path) = log();
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        assert!(!follower.is_replaced(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(follower.is_replaced(&path).unwrap());
        std::fs::write(&path, "forged\n").unwrap();
        assert!(follower.is_replaced(&path).unwrap());
        writer.write_all(b"true\n").unwrap();
        assert_eq!(drain(&mut follower, false), [(1, "true".to_owned())]);
    }

    #[test]
    fn punching_frees_blocks_and_keeps_offsets_and_tail() {
        let (_folder, path) = log();
        let mut follower = Follower::open(&path, Cursor::START).unwrap();
        let line = format!("{}\n", "y".repeat(1023));
        append(&path, line.repeat(8 * 1024).as_bytes());
        let retention = Retention {
            tail: 2 * 1024 * 1024,
            backlog: u64::MAX,
        };
        assert_eq!(
            follower.punch(follower.cursor(), retention).unwrap(),
            0,
            "unread lines stay"
        );
        drain(&mut follower, false);
        let freed = follower.punch(follower.cursor(), retention).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 8 * 1024 * 1024);
        if freed > 0 {
            assert_eq!(freed, 6 * 1024 * 1024);
            assert!(metadata.blocks() * 512 <= 3 * 1024 * 1024);
        }
        append(&path, b"after\n");
        assert_eq!(drain(&mut follower, false), [(8193, "after".to_owned())]);
    }

    proptest! {
        /// Whatever is written in whatever pieces, and wherever the reader starts again, the lines and their numbers
        /// are those that one look at the whole file gives.
        #[test]
        fn lines_do_not_depend_on_when_they_are_read(
            pieces in proptest::collection::vec("[ab\r\n\u{e4}]{0,12}", 0..20),
        ) {
            let (_folder, path) = log();
            let mut follower = Follower::open(&path, Cursor::START).unwrap();
            let mut seen = Vec::new();
            for piece in &pieces {
                append(&path, piece.as_bytes());
                seen.extend(drain(&mut follower, false));
                follower = Follower::open(&path, follower.cursor()).unwrap();
            }
            seen.extend(drain(&mut follower, true));
            let mut whole = Follower::open(&path, Cursor::START).unwrap();
            prop_assert_eq!(seen, drain(&mut whole, true));
        }
    }
}
