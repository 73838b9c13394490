//! The list of what was there, line by line
//!
//! A line is what was remembered at once: a SHA-256, a blank, and a JSON array. It is on disk before anything that it lists changes. So a
//! last line that is torn or has other bytes than its digest says lists nothing that has changed, and one that is followed by
//! another line is damage.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use prexorcloud_content::Digest;
use serde::{Deserialize, Serialize};

use crate::durable;

/// The list; the folder without it means nothing
const NAME: &str = "list.jsonl";

/// Longer lists are none of ours
const MAX_LIST: u64 = 256 * 1024 * 1024;

/// Hexadecimal digits of a digest
const DIGEST: usize = 64;

/// What was at a place below the folder of the instance
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Former {
    /// The file or link that was there has this number now
    Kept { path: String, number: u64 },
    /// Nothing was there
    Absent { path: String },
    /// Nothing was there, and a folder is made
    NoFolder { path: String },
}

/// A list that is being written
#[derive(Debug)]
pub(super) struct List {
    file: File,
    length: u64,
    /// Nothing can be said about what is written after a failure
    is_broken: bool,
}

impl List {
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(folder.join(NAME))?;
        Ok(Self {
            file,
            length: 0,
            is_broken: false,
        })
    }

    /// Adds a line, which is on disk then
    pub(super) fn add(&mut self, formers: &[Former]) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other(
                "the list of changes could not be written before",
            ));
        }
        let line = line(formers)?;
        if let Err(error) = self.file.write_all(&line) {
            // A line that is torn has to be the last one.
            self.is_broken = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += line.len() as u64;
        let synced = self.file.sync_data();
        self.is_broken = synced.is_err();
        synced
    }
}

/// What is listed in a folder, in the order in which it was; nothing if there is no list
pub(super) fn read(folder: &Path) -> io::Result<Vec<Former>> {
    let Some(bytes) = durable::read_bounded(&folder.join(NAME), MAX_LIST)? else {
        return Ok(Vec::new());
    };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut formers = Vec::new();
    while let Some(line) = lines.next() {
        match parse(line) {
            Some(parsed) => formers.extend(parsed),
            None if lines.any(|line| parse(line).is_some()) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the list of changes is damaged",
                ));
            }
            None => break,
        }
    }
    Ok(formers)
}

/// Replaces the list by what is left of it
pub(super) fn shorten(folder: &Path, formers: &[Former]) -> io::Result<()> {
    durable::replace(&folder.join(NAME), &line(formers)?)
}

fn line(formers: &[Former]) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(formers)?;
    let mut line = Digest::of(&json).to_string().into_bytes();
    line.push(b' ');
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

fn parse(line: &[u8]) -> Option<Vec<Former>> {
    let (written, rest) = line.split_at_checked(DIGEST)?;
    let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    if Digest::of(json).to_string().as_bytes() != written {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn absent(path: &str) -> Former {
        Former::Absent { path: path.into() }
    }

    #[test]
    fn a_list_whose_tail_is_torn_is_a_list_without_that_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert_eq!(read(folder.path()).unwrap(), []);
        let mut list = List::create(folder.path()).unwrap();
        list.add(&[absent("a"), absent("b")]).unwrap();
        let first = fs::read(&path).unwrap();
        list.add(&[absent("c")]).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(
            read(folder.path()).unwrap(),
            [absent("a"), absent("b"), absent("c")]
        );
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let expected = match length {
                _ if length < first.len() => 0,
                _ => 2,
            };
            assert_eq!(read(folder.path()).unwrap().len(), expected, "{length}");
        }
        // The length was on disk, and the bytes were not.
        for place in first.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] = 0;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(folder.path()).unwrap().len(), 2, "{place}");
        }
        let mut bytes = whole.clone();
        bytes[first.len() - 4] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn a_shortened_list_is_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut list = List::create(folder.path()).unwrap();
        list.add(&[absent("a"), absent("b")]).unwrap();
        shorten(folder.path(), &[absent("b")]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [absent("b")]);
    }
}
