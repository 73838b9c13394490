//! Archives on disk, under the name and the hash that the controller gave them
//!
//! Each is two files: the archive, and after it a record that says what it is and which SHA-256 it has. Both are written under
//! another name, synced and renamed, so what is there is whole; what is not, or has changed since, is found by its digest
//! before it is used, and is gone then.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prexorcloud_content::Digest;
use prexorcloud_proto::TemplateCacheEntry;
use prexorcloud_protocol::TemplateName;
use prexorcloud_protocol::content::eviction::{CacheEntry, evicted};
use prexorcloud_protocol::content::requests::Wanted;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::partial::{self, Partial};
use crate::wall_clock::milliseconds;

const ARCHIVE: &str = "tar.gz";
const RECORD: &str = "json";

/// The end of the name of an archive that is being deleted
const GONE: &str = "gone";

/// Larger records are none of ours
const MAX_RECORD: u64 = 4096;

/// What stands beside an archive
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    hash: String,
    sha256: Digest,
    bytes: u64,
}

#[derive(Debug)]
struct Book {
    sha256: Digest,
    bytes: u64,
    last_used_ms: u64,
    users: usize,
    /// Another one each time that the archive is written
    writing: u64,
}

#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    max_bytes: u64,
    /// Numbers what is written
    next: AtomicU64,
    books: Mutex<BTreeMap<Wanted, Book>>,
    /// One writer at a time
    writing: Mutex<()>,
}

/// An archive that is verified and stays open, whatever becomes of the cache
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
    sha256: Digest,
    /// Kept as long as somebody works with it
    in_use: InUse,
}

impl Held {
    /// The archive from its beginning
    pub(crate) fn archive(&mut self) -> io::Result<&File> {
        self.file.rewind()?;
        Ok(&self.file)
    }

    /// Of its bytes
    pub(crate) fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Forgets it, since it is no archive: the next who wants it has it fetched again
    pub(crate) fn reject(&self) {
        self.in_use.reject("it is no archive");
    }
}

/// Keeps an entry from being evicted
#[derive(Debug)]
pub(super) struct InUse {
    shelf: Arc<Shelf>,
    wanted: Wanted,
    /// Which writing of it; `None` if there was nothing to keep
    writing: Option<u64>,
}

impl InUse {
    pub(super) fn of(shelf: &Arc<Shelf>, wanted: Wanted) -> Self {
        let writing = shelf.books().get_mut(&wanted).map(|book| {
            book.users += 1;
            book.writing
        });
        Self {
            shelf: Arc::clone(shelf),
            wanted,
            writing,
        }
    }
}

impl InUse {
    /// Removes what was written then, and nothing that was written since
    fn reject(&self, problem: &str) {
        let _turn = self.shelf.turn();
        let Some(writing) = self.writing else { return };
        let is_it = |book: &Book| book.writing == writing;
        if !self.shelf.books().get(&self.wanted).is_some_and(is_it) {
            return;
        }
        let Wanted { name, hash } = &self.wanted;
        tracing::warn!(template = %name, hash, "a kept template is damaged and is fetched again: {problem}");
        let _gone = self.shelf.take_out(&self.wanted);
        self.shelf.books().remove(&self.wanted);
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::of(&self.shelf, self.wanted.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let _gone;
        let mut books = self.shelf.books();
        // What was written since has users of its own.
        if let Some(writing) = self.writing
            && let Some(book) = books.get_mut(&self.wanted).filter(|book| book.writing == writing)
        {
            book.users = book.users.saturating_sub(1);
        }
        _gone = self.shelf.evict(&mut books);
    }
}

/// An archive that nobody finds any more; it is deleted with this value, which outlives the lock of the books: a large one takes its time
#[derive(Debug)]
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Shelf {
    /// What is there; a folder that cannot be read is an empty one, and is told
    pub(super) fn open(folder: PathBuf, max_bytes: u64) -> Self {
        let shelf = Self {
            books: Mutex::default(),
            writing: Mutex::default(),
            next: AtomicU64::new(1),
            folder,
            max_bytes,
        };
        match shelf.read() {
            Ok(books) => {
                let _gone;
                let mut kept = shelf.books();
                *kept = books;
                _gone = shelf.evict(&mut kept);
            }
            Err(error) => {
                let folder = shelf.folder.display();
                tracing::warn!(%folder, %error, "the kept templates cannot be read and are fetched again");
            }
        }
        shelf
    }

    fn read(&self) -> io::Result<BTreeMap<Wanted, Book>> {
        let mut books = BTreeMap::new();
        let Some(entries) = durable::list(&self.folder)? else {
            return Ok(books);
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                files.push(entry.path());
            }
        }
        let mut ours = HashSet::new();
        for record in files.iter().filter(|path| has_suffix(path, RECORD)) {
            if let Some((wanted, book)) = self.read_record(record) {
                ours.extend([self.path(&wanted, ARCHIVE), record.clone()]);
                books.insert(wanted, book);
            }
        }
        // What was being written when the last daemon ended.
        let is_ours = |path: &&PathBuf| {
            [ARCHIVE, RECORD, "new", GONE]
                .iter()
                .any(|suffix| has_suffix(path, suffix))
        };
        for path in files.iter().filter(is_ours).filter(|path| !ours.contains(*path)) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a leftover cannot be deleted");
            }
        }
        self.sweep_unfinished(|_| false);
        Ok(books)
    }

    fn read_record(&self, path: &Path) -> Option<(Wanted, Book)> {
        let bytes = durable::read_bounded(path, MAX_RECORD).ok()??;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let wanted = Wanted {
            name: TemplateName::new(&record.name).ok()?,
            hash: record.hash,
        };
        let archive = fs::symlink_metadata(self.path(&wanted, ARCHIVE)).ok()?;
        if self.path(&wanted, RECORD) != path || archive.len() != record.bytes {
            return None;
        }
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let book = Book {
            sha256: record.sha256,
            bytes: record.bytes,
            last_used_ms: milliseconds(modified),
            users: 0,
            writing: 0,
        };
        Some((wanted, book))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Deletes what nobody goes on with; tells the bytes of what stays without being in use
    pub(super) fn sweep_unfinished(&self, is_in_use: impl Fn(&Path) -> bool) -> u64 {
        partial::sweep(&self.folder, self.max_bytes, is_in_use)
    }

    /// The hash is the controller's and no file name
    fn path(&self, wanted: &Wanted, suffix: &str) -> PathBuf {
        let Wanted { name, hash } = wanted;
        let digest = Digest::of(format!("{name}\0{hash}").as_bytes());
        self.folder.join(format!("{digest}.{suffix}"))
    }

    fn books(&self) -> MutexGuard<'_, BTreeMap<Wanted, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, wanted: &Wanted) -> bool {
        self.books().contains_key(wanted)
    }

    /// The hash of the content of a template that was used last
    pub(super) fn newest(&self, name: TemplateName) -> Option<String> {
        let books = self.books();
        let of_name = books.iter().filter(|(wanted, _)| wanted.name == name);
        let newest = of_name.max_by_key(|(_, book)| book.last_used_ms);
        newest.map(|(wanted, _)| wanted.hash.clone())
    }

    /// An archive, if it is there and what it was; may block for as long as it takes to read it
    pub(super) fn take(self: &Arc<Self>, wanted: &Wanted) -> io::Result<Option<Held>> {
        let sha256 = {
            let mut books = self.books();
            let Some(book) = books.get_mut(wanted) else {
                return Ok(None);
            };
            book.last_used_ms = milliseconds(SystemTime::now());
            book.sha256
        };
        let in_use = InUse::of(self, wanted.clone());
        let path = self.path(wanted, ARCHIVE);
        let opened = durable::open_regular(&path, fs::OpenOptions::new().read(true));
        let read = opened.and_then(|file| Ok((Digest::of_reader(&file)?, file)));
        let file = match read {
            Ok((found, file)) if found == sha256 => file,
            Ok(_) => {
                in_use.reject("it has other bytes than were written");
                return Ok(None);
            }
            // What says nothing about the file; everything else may never be over.
            Err(error) if is_shortage(&error) => return Err(error),
            Err(error) => {
                in_use.reject(&error.to_string());
                return Ok(None);
            }
        };
        // Only the order in which entries go depends on it.
        let record = fs::OpenOptions::new().write(true).open(self.path(wanted, RECORD));
        let _ = record.and_then(|record| record.set_modified(SystemTime::now()));
        Ok(Some(Held { file, sha256, in_use }))
    }

    /// Where this content grows while it is on its way
    pub(super) fn part_path(&self, wanted: &Wanted, sha256: &Digest) -> PathBuf {
        self.path(wanted, &format!("{sha256}.{}", partial::SUFFIX))
    }

    /// Forgets as much as `bytes` need; what is in use stays
    pub(super) fn make_room(&self, bytes: u64) {
        let gone = self.evict_to(&mut self.books(), self.max_bytes.saturating_sub(bytes));
        drop(gone);
    }

    /// Keeps an archive; may block
    pub(super) fn put(self: &Arc<Self>, wanted: &Wanted, archive: &[u8]) -> io::Result<InUse> {
        self.keep(wanted, Digest::of(archive), archive.len() as u64, |path| {
            durable::replace(path, archive)
        })
    }

    /// Keeps an archive that has come as a file; may block
    pub(super) fn adopt(self: &Arc<Self>, wanted: &Wanted, part: Partial) -> io::Result<InUse> {
        self.keep(wanted, part.digest(), part.length(), |path| part.keep(path))
    }

    fn keep(
        self: &Arc<Self>,
        wanted: &Wanted,
        sha256: Digest,
        bytes: u64,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<InUse> {
        let _turn = self.turn();
        durable::private_folder(&self.folder)?;
        let record = Record {
            name: wanted.name.as_str().to_owned(),
            hash: wanted.hash.clone(),
            sha256,
            bytes,
        };
        // Replacing the record syncs the folder, and with it the name of the archive.
        let written = write(&self.path(wanted, ARCHIVE))
            .and_then(|()| durable::replace(&self.path(wanted, RECORD), &serde_json::to_vec(&record)?));
        if let Err(error) = written {
            // A disk that is full has to get its space back.
            let _gone = self.take_out(wanted);
            self.books().remove(wanted);
            return Err(error);
        }
        {
            let mut books = self.books();
            let users = books.get(wanted).map_or(0, |book| book.users);
            let book = Book {
                sha256: record.sha256,
                bytes: record.bytes,
                last_used_ms: milliseconds(SystemTime::now()),
                users,
                writing: self.next.fetch_add(1, Ordering::Relaxed),
            };
            books.insert(wanted.clone(), book);
        }
        let in_use = InUse::of(self, wanted.clone());
        let gone = self.evict(&mut self.books());
        drop(gone);
        Ok(in_use)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the record, and gives the archive another name: without a record, and by that name, it is a leftover
    #[must_use = "it is deleted when this goes"]
    fn take_out(&self, wanted: &Wanted) -> Option<Gone> {
        remove(&self.path(wanted, RECORD));
        let archive = self.path(wanted, ARCHIVE);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let gone = self.path(wanted, &format!("{}-{number}.{GONE}", std::process::id()));
        for suffix in [ARCHIVE, RECORD] {
            // What a full disk has left of a writing: small, or never filled.
            remove(&self.path(wanted, &format!("{suffix}.new")));
        }
        match fs::rename(&archive, &gone) {
            Ok(()) => Some(Gone(gone)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %archive.display(), %error, "a kept template cannot be renamed to be deleted");
                remove(&archive);
                None
            }
        }
    }

    #[must_use = "it is deleted when this goes"]
    fn evict(&self, books: &mut BTreeMap<Wanted, Book>) -> Vec<Gone> {
        self.evict_to(books, self.max_bytes)
    }

    /// Takes out what is beyond `limit`
    #[must_use = "it is deleted when this goes"]
    fn evict_to(&self, books: &mut BTreeMap<Wanted, Book>, limit: u64) -> Vec<Gone> {
        if books.values().map(|book| book.bytes).sum::<u64>() <= limit {
            return Vec::new();
        }
        let (wanted, entries): (Vec<Wanted>, Vec<CacheEntry>) = books
            .iter()
            .map(|(wanted, book)| {
                let entry = CacheEntry {
                    bytes: book.bytes,
                    last_used: book.last_used_ms,
                    in_use: book.users > 0,
                };
                (wanted.clone(), entry)
            })
            .unzip();
        let mut gone = Vec::new();
        for wanted in evicted(&entries, limit)
            .into_iter()
            .filter_map(|place| wanted.get(place))
        {
            tracing::info!(template = %wanted.name, hash = wanted.hash, "the cache is full, a template is forgotten");
            gone.extend(self.take_out(wanted));
            books.remove(wanted);
        }
        gone
    }

    pub(super) fn bytes(&self) -> u64 {
        let kept: u64 = self.books().values().map(|book| book.bytes).sum();
        kept.saturating_add(partial::bytes(&self.folder))
    }

    pub(super) fn entries(&self) -> Vec<TemplateCacheEntry> {
        let books = self.books();
        let entries = books.iter().map(|(wanted, book)| TemplateCacheEntry {
            name: wanted.name.as_str().to_owned(),
            hash: wanted.hash.clone(),
            size_bytes: i64::try_from(book.bytes).unwrap_or(i64::MAX),
            last_used_ms: i64::try_from(book.last_used_ms).unwrap_or(i64::MAX),
        });
        entries.collect()
    }
}

/// Whether the process lacks something that others may give back
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    lacking
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a kept template cannot be deleted");
    }
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.to_string_lossy().ends_with(&format!(".{suffix}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Read as _;

    use super::*;

    fn wanted(name: &str, hash: &str) -> Wanted {
        Wanted {
            name: TemplateName::new(name).unwrap(),
            hash: hash.to_owned(),
        }
    }

    fn open(folder: &Path, max_bytes: u64) -> Arc<Shelf> {
        Arc::new(Shelf::open(folder.join("templates"), max_bytes))
    }

    fn content(shelf: &Arc<Shelf>, wanted: &Wanted) -> Option<Vec<u8>> {
        let mut held = shelf.take(wanted).unwrap()?;
        let mut bytes = Vec::new();
        held.archive().unwrap().read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn several_contents_of_a_name_outlast_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = open(folder.path(), 1000);
        drop(shelf.put(&wanted("base", "../1"), b"one").unwrap());
        drop(shelf.put(&wanted("base", "2"), b"two").unwrap());
        // Three moments of a daemon that was killed.
        let path = |name: &str| shelf.folder.join(name);
        fs::write(path("abc.tar.gz.new"), "torn").unwrap();
        fs::write(path("abc.tar.gz"), "without a record").unwrap();
        fs::write(path("abc.1-2.gone"), "not deleted yet").unwrap();
        fs::create_dir(path("of-a-java-daemon")).unwrap();
        let shelf = open(folder.path(), 1000);
        assert_eq!(content(&shelf, &wanted("base", "../1")).unwrap(), b"one");
        assert_eq!(content(&shelf, &wanted("base", "2")).unwrap(), b"two");
        assert_eq!(content(&shelf, &wanted("other", "2")), None);
        assert_eq!(shelf.newest(wanted("base", "").name).as_deref(), Some("2"));
        assert_eq!(
            (shelf.bytes(), fs::read_dir(&shelf.folder).unwrap().count()),
            (6, 5)
        );
    }

    #[test]
    fn what_goes_is_deleted_when_the_books_are_open_again() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = open(folder.path(), 1000);
        let base = wanted("base", "1");
        drop(shelf.put(&base, b"one").unwrap());
        let gone = shelf.take_out(&base);
        let names: Vec<_> = fs::read_dir(&shelf.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.len() == 1 && names[0].ends_with(".gone"), "{names:?}");
        // Another one of the same name is none of it.
        drop(shelf.put(&base, b"two").unwrap());
        drop(gone);
        assert_eq!(content(&shelf, &base).unwrap(), b"two");
    }

    #[test]
    fn what_has_changed_on_disk_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, base) = (open(folder.path(), 1000), wanted("base", "1"));
        for damage in [&b"onf"[..], b"on", b""] {
            drop(shelf.put(&base, b"one").unwrap());
            fs::write(shelf.path(&base, ARCHIVE), damage).unwrap();
            assert_eq!(content(&shelf, &base), None);
            assert!(!shelf.has(&base));
        }
        drop(shelf.put(&base, b"one").unwrap());
        fs::remove_file(shelf.path(&base, ARCHIVE)).unwrap();
        assert_eq!(content(&shelf, &base), None);
        drop(shelf.put(&base, b"one").unwrap());
        fs::write(shelf.path(&base, RECORD), "{").unwrap();
        assert!(!open(folder.path(), 1000).has(&base));
    }

    #[test]
    fn what_was_used_longest_ago_goes_but_nothing_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = open(folder.path(), 8);
        let [a, b, c] = ["a", "b", "c"].map(|name| wanted(name, "1"));
        drop(shelf.put(&a, b"aaaa").unwrap());
        let held = shelf.take(&a).unwrap().unwrap();
        drop(shelf.put(&b, b"bbbb").unwrap());
        drop(shelf.put(&c, b"cccc").unwrap());
        assert!(shelf.has(&a) && !shelf.has(&b) && shelf.has(&c));
        drop(held);
        let large = shelf.put(&b, &[0; 100]).unwrap();
        assert!(
            !shelf.has(&a) && !shelf.has(&c) && shelf.has(&b),
            "larger than everything, but in use"
        );
        // Who had the damaged one lets go of that, and not of what came in its place.
        let former = shelf.take(&b).unwrap().unwrap();
        former.reject();
        drop(large);
        let large = shelf.put(&b, &[0; 100]).unwrap();
        drop(former);
        assert!(shelf.has(&b));
        drop(large);
        assert_eq!(
            (shelf.bytes(), fs::read_dir(&shelf.folder).unwrap().count()),
            (0, 0)
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails_the_writer_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("templates"), "a file in its place").unwrap();
        let shelf = open(folder.path(), 1000);
        assert!(shelf.put(&wanted("base", "1"), b"one").is_err());
        assert!(!shelf.has(&wanted("base", "1")));
    }
}
