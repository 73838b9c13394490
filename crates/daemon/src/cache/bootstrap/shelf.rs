//! What warm-ups have made, on disk: one folder for each jar, under the jar's SHA-256
//!
//! ```text
//!  <sha256 of the jar>/entry.json          what it is, and the digest of the next one
//!                      files.json          the manifest of what is in files/
//!                      files/              cache, versions, libraries, bundler
//!                      <name>.jsa, .json   class archives, each for one build of the JVM and one name of the jar
//!  .staging-…  .gone-…                     on their way in or out, of no use to the next daemon
//! ```
//!
//! A folder comes to its name by a rename, when it is complete. Nothing is synced: what a power failure takes is found by its digest when it
//! is used, like any other damage, and can be made again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prexorcloud_content::{Blob, Digest, EntryPath, Limits, Manifest};
use prexorcloud_protocol::content::eviction::{CacheEntry, evicted};
use serde::{Deserialize, Serialize};

use super::jvm::Stamp;
use crate::process::working_below;
use crate::wall_clock::milliseconds;
use crate::{durable, foreign, reflink};

const ENTRY: &str = "entry.json";
const MANIFEST: &str = "files.json";
pub(super) const FILES: &str = "files";
const STAGING: &str = ".staging-";
const GONE: &str = ".gone-";

/// Larger records and manifests are none of ours
const MAX_RECORD: u64 = 16 * 1024;
const MAX_MANIFEST: u64 = 16 << 20;

/// What a jar is, for those who look at the cache
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The number of the `ConfigFormat`
    pub(super) format: i32,
    pub(super) version: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    origin: Origin,
    files: Digest,
}

/// What a build of the JVM made of a jar of one name
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Archive {
    pub(super) build: String,
    pub(super) jar_file: String,
    pub(super) java: Stamp,
    /// Absent if it made none, and would not at another time
    pub(super) made: Option<Made>,
}

/// A class archive
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
}

/// The name of an archive: by the build of the JVM, and by the jar's name, which is its class path
pub(super) fn archive_name(build: &str, jar_file: &str) -> Digest {
    Digest::of(format!("{build}\0{jar_file}").as_bytes())
}

#[derive(Debug)]
struct Book {
    origin: Origin,
    files: Arc<Manifest>,
    bytes: u64,
    archives: BTreeMap<Digest, Archive>,
    last_used_ms: u64,
    users: usize,
    /// Another one each time that the entry is put there
    writing: u64,
}

impl Book {
    fn total(&self) -> u64 {
        let archives = self.archives.values().filter_map(|archive| archive.made);
        archives.map(|made| made.bytes).sum::<u64>() + self.bytes
    }
}

#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    pub(super) max_bytes: u64,
    next: AtomicU64,
    books: Mutex<BTreeMap<Digest, Book>>,
}

/// An entry that stays as long as somebody works with it
#[derive(Debug)]
pub(crate) struct Held {
    shelf: Arc<Shelf>,
    sha256: Digest,
    files: Arc<Manifest>,
    archive: Option<PathBuf>,
    writing: u64,
}

impl Held {
    /// The files that it has
    pub(crate) fn files(&self) -> impl Iterator<Item = (&EntryPath, &Blob)> {
        self.files.files()
    }

    /// The class archive for the JVM, verified
    pub(crate) fn archive(&self) -> Option<&Path> {
        self.archive.as_deref()
    }

    /// Copies one of the files to an empty one that is open to be read, too
    ///
    /// It is a copy, or shares blocks that are copied when somebody writes: a server may write to what it has, and a second
    /// name of the same file would bring that to all others.
    ///
    /// # Errors
    /// Damage, as [`durable::is_damage`] tells, if the file is not what it was; else what the file system says.
    pub(crate) fn copy(&self, path: &EntryPath, blob: &Blob, to: &File) -> io::Result<()> {
        let damaged = |problem: String| {
            let text = format!("{path} of the kept files of {}: {problem}", self.sha256);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let from = self.shelf.path(&self.sha256).join(FILES).join(path.as_str());
        let from = durable::open_regular(&from, File::options().read(true));
        let from = from.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("it is gone".to_owned()),
            _ => error,
        })?;
        if reflink::copy(&from, to)? != blob.sha256 {
            return Err(damaged("it has other bytes than were written".to_owned()));
        }
        Ok(())
    }

    /// Removes it, since it is damaged: whoever wants it next has it made again
    pub(crate) fn reject(&self, problem: &dyn std::fmt::Display) {
        // Deleted when the lock is open again, like all that goes.
        let _gone;
        let mut books = self.shelf.books();
        if books
            .get(&self.sha256)
            .is_some_and(|book| book.writing == self.writing)
        {
            tracing::warn!(jar = %self.sha256, "what was prepared for a jar is damaged, and is made again: {problem}");
            books.remove(&self.sha256);
            _gone = self.shelf.take_out(&self.sha256);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _gone;
        let mut books = self.shelf.books();
        if let Some(book) = books
            .get_mut(&self.sha256)
            .filter(|book| book.writing == self.writing)
        {
            book.users = book.users.saturating_sub(1);
        }
        _gone = self.shelf.evict(&mut books);
    }
}

/// An entry that nobody finds any more; it is deleted with this value, which outlives the lock: a thousand files take their time
#[derive(Debug)]
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A folder in which an entry comes to be; it goes with this value
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Shelf {
    /// What is there, after a sweep of what an earlier daemon left half-done; a folder that cannot be read is an empty one
    pub(super) fn open(folder: PathBuf, max_bytes: u64) -> Self {
        let shelf = Self {
            folder,
            max_bytes,
            next: AtomicU64::new(1),
            books: Mutex::default(),
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
                tracing::warn!(%folder, %error, "what was prepared for jars cannot be read, and is made again");
            }
        }
        shelf
    }

    fn read(&self) -> io::Result<BTreeMap<Digest, Book>> {
        let mut books = BTreeMap::new();
        let Some(entries) = durable::list(&self.folder)? else {
            return Ok(books);
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.parse::<Digest>() {
                Ok(sha256) => match self.read_book(&path) {
                    Some(book) => drop(books.insert(sha256, book)),
                    None => remove(&path),
                },
                // A warm-up outlives a daemon that was killed.
                Err(_) if name.starts_with(STAGING) => {
                    end_those_in(&path);
                    remove(&path);
                }
                Err(_) if name.starts_with(GONE) => remove(&path),
                Err(_) => {}
            }
        }
        Ok(books)
    }

    fn read_book(&self, folder: &Path) -> Option<Book> {
        let record = durable::read_bounded(&folder.join(ENTRY), MAX_RECORD).ok()??;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let bytes = durable::read_bounded(&folder.join(MANIFEST), MAX_MANIFEST).ok()??;
        let files = Manifest::from_json(&bytes, &Limits::default()).ok()?;
        if Digest::of(&bytes) != record.files {
            return None;
        }
        let used = fs::metadata(folder.join(ENTRY)).and_then(|metadata| metadata.modified());
        let mut archives = BTreeMap::new();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<Digest>().ok());
            if let Some(name) = name.filter(|_| path.extension().is_some_and(|suffix| suffix == "json")) {
                let bytes = durable::read_bounded(&path, MAX_RECORD).ok().flatten();
                let archive = bytes.and_then(|bytes| serde_json::from_slice::<Archive>(&bytes).ok());
                archives.extend(archive.map(|archive| (name, archive)));
            }
        }
        Some(Book {
            origin: record.origin,
            bytes: files.total_bytes() + bytes.len() as u64,
            files: Arc::new(files),
            archives,
            last_used_ms: milliseconds(used.ok()?),
            users: 0,
            writing: self.next.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn books(&self) -> MutexGuard<'_, BTreeMap<Digest, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha256: &Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    /// Whether there are files for a jar, and whether it is known what an archive of that name would be
    pub(super) fn has(&self, sha256: &Digest, archive: Option<&Digest>) -> (bool, bool) {
        let books = self.books();
        let Some(book) = books.get(sha256) else {
            return (false, false);
        };
        (true, archive.is_none_or(|name| book.archives.contains_key(name)))
    }

    /// What there is for a jar, with the archive of that name if there is one and it is what it was; may block
    pub(super) fn take(self: &Arc<Self>, sha256: &Digest, archive: Option<&Digest>) -> Option<Held> {
        let (mut held, made) = {
            let mut books = self.books();
            let book = books.get_mut(sha256)?;
            book.users += 1;
            book.last_used_ms = milliseconds(SystemTime::now());
            let held = Held {
                shelf: Arc::clone(self),
                sha256: *sha256,
                files: Arc::clone(&book.files),
                archive: None,
                writing: book.writing,
            };
            (
                held,
                archive.and_then(|name| Some((name, book.archives.get(name)?.made?))),
            )
        };
        let folder = self.path(sha256);
        // Only the order in which entries go depends on it.
        let record = File::options().write(true).open(folder.join(ENTRY));
        let _ = record.and_then(|record| record.set_modified(SystemTime::now()));
        if let Some((name, made)) = made {
            let path = archive_path(&folder, name);
            let opened = durable::open_regular(&path, File::options().read(true));
            // A JVM does not look at all of it, and a damaged one may end it.
            match opened.and_then(Digest::of_reader) {
                Ok(found) if found == made.sha256 => held.archive = std::path::absolute(path).ok(),
                _ => self.forget_archive(sha256, name),
            }
        }
        Some(held)
    }

    fn forget_archive(&self, sha256: &Digest, name: &Digest) {
        tracing::warn!(jar = %sha256, "a class archive is damaged, and is made again");
        let folder = self.path(sha256);
        if let Some(book) = self.books().get_mut(sha256) {
            book.archives.remove(name);
        }
        for path in [archive_record(&folder, name), archive_path(&folder, name)] {
            let _ = fs::remove_file(path);
        }
    }

    /// A new folder
    pub(super) fn staging(&self) -> io::Result<Staging> {
        durable::private_folder(&self.folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self
            .folder
            .join(format!("{STAGING}{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Staging(std::path::absolute(path)?))
    }

    /// Keeps what is in [`FILES`] of the folder `made`, which is used up
    pub(super) fn put(
        &self,
        sha256: &Digest,
        made: &Path,
        origin: Origin,
        files: Manifest,
    ) -> io::Result<()> {
        let json = files.to_json()?;
        let record = Record {
            files: Digest::of(&json),
            origin,
        };
        fs::write(made.join(MANIFEST), &json)?;
        fs::write(made.join(ENTRY), serde_json::to_vec(&record)?)?;
        let bytes = files.total_bytes() + json.len() as u64;
        let _gone;
        let mut books = self.books();
        books.remove(sha256);
        _gone = self.take_out(sha256);
        fs::rename(made, self.path(sha256))?;
        let book = Book {
            origin: record.origin,
            files: Arc::new(files),
            bytes,
            archives: BTreeMap::new(),
            last_used_ms: milliseconds(SystemTime::now()),
            users: 0,
            writing: self.next.fetch_add(1, Ordering::Relaxed),
        };
        books.insert(*sha256, book);
        Ok(())
    }

    /// Keeps what a JVM made of a jar whose files are kept; `made` is used up
    pub(super) fn put_archive(&self, sha256: &Digest, archive: Archive, made: &Path) -> io::Result<()> {
        let name = archive_name(&archive.build, &archive.jar_file);
        let folder = self.path(sha256);
        let _gone;
        let mut books = self.books();
        let Some(book) = books.get_mut(sha256) else {
            return Ok(());
        };
        if archive.made.is_some() {
            fs::set_permissions(made, fs::Permissions::from_mode(0o400))?;
            fs::rename(made, archive_path(&folder, &name))?;
        }
        let record = archive_record(&folder, &name);
        let written = record.with_extension("new");
        fs::write(&written, serde_json::to_vec(&archive)?)?;
        fs::rename(&written, record)?;
        book.archives.insert(name, archive);
        _gone = self.evict(&mut books);
        Ok(())
    }

    /// Gives an entry another name, by which nobody finds it; `None` if there is none
    #[must_use = "it is deleted when this goes"]
    fn take_out(&self, sha256: &Digest) -> Option<Gone> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let gone = self.folder.join(format!("{GONE}{}-{number}", std::process::id()));
        match fs::rename(self.path(sha256), &gone) {
            Ok(()) => Some(Gone(gone)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(jar = %sha256, %error, "what was prepared for a jar cannot be deleted");
                None
            }
        }
    }

    /// Takes out what there is no room for
    #[must_use = "it is deleted when this goes"]
    fn evict(&self, books: &mut BTreeMap<Digest, Book>) -> Vec<Gone> {
        let entries: Vec<CacheEntry> = books
            .values()
            .map(|book| CacheEntry {
                bytes: book.total(),
                last_used: book.last_used_ms,
                in_use: book.users > 0,
            })
            .collect();
        let jars: Vec<Digest> = books.keys().copied().collect();
        let mut gone = Vec::new();
        for sha256 in evicted(&entries, self.max_bytes)
            .into_iter()
            .filter_map(|place| jars.get(place))
        {
            tracing::info!(jar = %sha256, "the cache is full, what was prepared for a jar is forgotten");
            books.remove(sha256);
            gone.extend(self.take_out(sha256));
        }
        gone
    }

    /// What there is: the origin, the bytes, and whether there is an archive for the JVM at that path
    pub(super) fn entries(&self, java: Option<&Stamp>) -> Vec<(Origin, u64, bool)> {
        let books = self.books();
        let fits = |archive: &Archive| archive.made.is_some() && Some(&archive.java) == java;
        let entries = books.values().map(|book| {
            (
                book.origin.clone(),
                book.total(),
                book.archives.values().any(fits),
            )
        });
        entries.collect()
    }
}

fn archive_path(folder: &Path, name: &Digest) -> PathBuf {
    folder.join(format!("{name}.jsa"))
}

fn archive_record(folder: &Path, name: &Digest) -> PathBuf {
    folder.join(format!("{name}.json"))
}

fn remove(folder: &Path) {
    if let Err(error) = foreign::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a leftover cannot be deleted");
    }
}

fn end_those_in(folder: &Path) {
    let found = working_below(folder);
    for process in found.unwrap_or_default() {
        tracing::warn!(pid = process.pid, "a warm-up of an earlier daemon is ended");
        if let Ok(Some(pidfd)) = process.open() {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
    }
}
