//! How far a console was read, kept beside it

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::durable;

/// A place between two lines of the log
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Byte offset in the log
    pub offset: u64,
    /// Number of the line that starts there
    pub next_sequence: u64,
    /// The place is inside a line that was too long to hold; the rest of it belongs to no line
    pub inside_overlong: bool,
}

impl Cursor {
    /// The beginning of the log
    pub const START: Self = Self {
        offset: 0,
        next_sequence: 1,
        inside_overlong: false,
    };
}

/// The two places that outlive the daemon
///
/// A line that was handed over may still be in a buffer when the connection breaks or the daemon is killed. What stands
/// before `settled` is known to have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything before was handed over
    pub delivered: Cursor,
    /// Everything before has arrived
    pub settled: Cursor,
}

impl Progress {
    /// Nothing was handed over
    pub const START: Self = Self {
        delivered: Cursor::START,
        settled: Cursor::START,
    };
}

/// The file that holds a [`Progress`]
///
/// It is overwritten in place by one small write and not synced: a killed daemon leaves the page cache whole, and a
/// machine that loses power loses the instance too. It is open only while it is written: each server has one.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
    last: Progress,
    inode: u64,
}

/// Bytes of the file: seven fields of 20 digits at most, blanks, newline
const LENGTH: usize = 160;

impl ProgressFile {
    /// Opens the file, and reads what it holds; a missing or damaged file means the start
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        let length = opened(path)?.read_at(&mut bytes, 0)?;
        let (last, inode) = bytes
            .get(..length)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .and_then(parse)
            .unwrap_or((Progress::START, 0));
        Ok(Self {
            path: path.to_path_buf(),
            last,
            inode,
        })
    }

    /// Says which file is read; returns whether another one was before
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn reads(&mut self, inode: u64) -> io::Result<bool> {
        let before = std::mem::replace(&mut self.inode, inode);
        if before != inode {
            opened(&self.path)?.write_all_at(format(self.last, inode).as_bytes(), 0)?;
        }
        Ok(before != 0 && before != inode)
    }

    /// What was written last
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.last
    }

    /// Writes `progress` if it is news
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn write(&mut self, progress: Progress) -> io::Result<()> {
        if progress != self.last {
            opened(&self.path)?.write_all_at(format(progress, self.inode).as_bytes(), 0)?;
            self.last = progress;
        }
        Ok(())
    }
}

fn opened(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    durable::open_regular(path, options.mode(durable::PRIVATE_FILE))
}

fn format(progress: Progress, inode: u64) -> String {
    let cursor = |cursor: Cursor| {
        format!(
            "{} {} {}",
            cursor.offset,
            cursor.next_sequence,
            u8::from(cursor.inside_overlong)
        )
    };
    let text = format!(
        "{} {} {inode}",
        cursor(progress.delivered),
        cursor(progress.settled)
    );
    format!("{text:<width$}\n", width = LENGTH - 1)
}

/// The places, and the file that they are in: 0 if that is not told
fn parse(text: &str) -> Option<(Progress, u64)> {
    let text = text.strip_suffix('\n')?;
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut cursor = || -> Option<Cursor> {
        let cursor = Cursor {
            offset: fields.next()?.ok()?,
            next_sequence: fields.next()?.ok()?,
            inside_overlong: fields.next()?.ok()? == 1,
        };
        (cursor.next_sequence > 0).then_some(cursor)
    };
    let progress = Progress {
        delivered: cursor()?,
        settled: cursor()?,
    };
    let inode = fields.next().and_then(Result::ok).unwrap_or(0);
    Some((progress, inode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn progress_survives_and_shorter_numbers_overwrite_longer_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut file = ProgressFile::open(&path).unwrap();
        assert_eq!(file.progress(), Progress::START);
        let far = Progress {
            delivered: Cursor {
                offset: u64::MAX,
                next_sequence: u64::MAX,
                inside_overlong: true,
            },
            settled: Cursor {
                offset: 9,
                next_sequence: 2,
                inside_overlong: false,
            },
        };
        file.write(far).unwrap();
        assert_eq!(ProgressFile::open(&path).unwrap().progress(), far);
        file.write(Progress::START).unwrap();
        assert_eq!(ProgressFile::open(&path).unwrap().progress(), Progress::START);
        assert!(!file.reads(u64::MAX).unwrap(), "no other was read before");
        file.write(far).unwrap();
        let mut file = ProgressFile::open(&path).unwrap();
        assert_eq!(file.progress(), far);
        assert!(!file.reads(u64::MAX).unwrap());
        assert!(file.reads(5).unwrap());
        assert!(!ProgressFile::open(&path).unwrap().reads(5).unwrap());
    }

    #[test]
    fn a_damaged_file_means_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        for damage in ["", "12 3", "1 0 0 1 0 0\n", "a b c d e f\n", "\u{0}\u{0}\n"] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(ProgressFile::open(&path).unwrap().progress(), Progress::START);
        }
    }
}
