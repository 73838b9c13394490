//! What a module prints, in two files of bounded size, and in the log of the daemon at a bounded rate
//!
//! A thread of its own writes, so that a disk that hangs holds up nobody. What comes faster than it may be kept is left out, and how
//! much that was is written in its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use crate::durable;

/// Bytes of the file that is written; the former one stays beside it
const MAX_FILE: u64 = 1024 * 1024;

/// Bytes of the longest line that is kept
pub(super) const MAX_LINE: usize = 8 * 1024;

/// Lines that wait for the disk
const WAITING: usize = 256;

/// Lines that reach the log at once, and each second
const LOGGED: (f64, f64) = (50.0, 5.0);

/// Bytes that are kept at once, and each second
const KEPT: (f64, f64) = (1024.0 * 1024.0, 128.0 * 1024.0);

/// The file that is written
pub const FILE: &str = "console.log";

/// The one before
const FORMER: &str = "console.old.log";

/// Takes the lines of one module
#[derive(Debug)]
pub(super) struct Console {
    module: String,
    lines: SyncSender<String>,
    kept: Allowance,
    logged: Allowance,
    left_out: u64,
    not_logged: u64,
}

impl Console {
    pub(super) fn open(folder: &Path, module: &str) -> io::Result<Self> {
        durable::private_folder(folder)?;
        let mut file = Rolling::open(folder)?;
        let (lines, received): (_, Receiver<String>) = sync_channel(WAITING);
        std::thread::Builder::new().name("module-console".into()).spawn(move || {
            let mut is_told = false;
            for line in received {
                // Diagnostics never stop the work.
                if let Err(error) = file.write(&line)
                    && !std::mem::replace(&mut is_told, true)
                {
                    tracing::warn!(folder = %file.folder.display(), %error, "what a module prints cannot be kept");
                }
            }
        })?;
        let now = Instant::now();
        Ok(Self {
            module: module.to_owned(),
            lines,
            kept: Allowance::new(now, KEPT),
            logged: Allowance::new(now, LOGGED),
            left_out: 0,
            not_logged: 0,
        })
    }

    /// Keeps a line, which is made printable
    pub(super) fn line(&mut self, now: Instant, level: &str, text: &str) {
        let text = printable(text);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a line has at most some thousand bytes"
        )]
        let size = text.len() as f64 + 8.0;
        if !self.kept.take(now, size) {
            self.left_out += 1;
        } else {
            if self.left_out > 0 && self.keep(format!("WARN  {} lines were left out here\n", self.left_out)) {
                self.left_out = 0;
            }
            if !self.keep(format!("{level:<5} {text}\n")) {
                self.left_out += 1;
            }
        }
        if !self.logged.take(now, 1.0) {
            self.not_logged += 1;
            return;
        }
        let module = self.module.as_str();
        if self.not_logged > 0 {
            let lines = std::mem::take(&mut self.not_logged);
            tracing::warn!(target: "module", module, lines, "the module prints too much: lines are in its console only");
        }
        match level {
            "ERROR" => tracing::error!(target: "module", module, "{text}"),
            "WARN" => tracing::warn!(target: "module", module, "{text}"),
            "DEBUG" => tracing::debug!(target: "module", module, "{text}"),
            "TRACE" => tracing::trace!(target: "module", module, "{text}"),
            _ => tracing::info!(target: "module", module, "{text}"),
        }
    }

    fn keep(&self, line: String) -> bool {
        !matches!(self.lines.try_send(line), Err(TrySendError::Full(_)))
    }
}

/// The text without what moves a reader's cursor, and not too long
pub(super) fn printable(text: &str) -> String {
    let mut end = text.len().min(MAX_LINE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    text.chars()
        .map(|letter| match letter {
            '\t' => ' ',
            letter if letter.is_control() => '\u{fffd}',
            letter => letter,
        })
        .collect()
}

/// A bucket that fills with time
#[derive(Debug)]
struct Allowance {
    left: f64,
    most: f64,
    each_second: f64,
    since: Instant,
}

impl Allowance {
    fn new(now: Instant, (most, each_second): (f64, f64)) -> Self {
        Self {
            left: most,
            most,
            each_second,
            since: now,
        }
    }

    fn take(&mut self, now: Instant, amount: f64) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = passed.mul_add(self.each_second, self.left).min(self.most);
        self.since = now;
        let is_there = self.left >= amount;
        if is_there {
            self.left -= amount;
        }
        is_there
    }
}

/// A file that makes way for the next one
#[derive(Debug)]
struct Rolling {
    folder: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Rolling {
    fn open(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(durable::PRIVATE_FILE);
        let file = durable::open_regular(&folder.join(FILE), &mut options)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            length: file.metadata()?.len(),
            file: Some(file),
        })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.length >= MAX_FILE || self.file.is_none() {
            self.file = None;
            fs::rename(self.folder.join(FILE), self.folder.join(FORMER))?;
            *self = Self::open(&self.folder)?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(line.as_bytes())?;
            self.length += line.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_bounded_in_its_rate_and_on_disk() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now, (10.0, 2.0));
        assert_eq!((0..100).filter(|_| allowance.take(now, 1.0)).count(), 10);
        let later = now + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| allowance.take(later, 1.0)).count(), 6);
        let folder = tempfile::tempdir().unwrap();
        let mut file = Rolling::open(folder.path()).unwrap();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..5000 {
            file.write(&line).unwrap();
        }
        let sizes: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!((MAX_FILE..=2 * MAX_FILE).contains(&sizes), "{sizes}");
        file.write("the last one\n").unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.ends_with("the last one\n"));
    }

    #[test]
    fn what_is_kept_is_printable_and_short() {
        assert_eq!(printable("a\u{1b}[2Jb\tc"), "a\u{fffd}[2Jb c");
        assert!(printable(&"ü".repeat(MAX_LINE)).len() <= MAX_LINE);
    }
}
