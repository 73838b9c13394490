//! A file that grows while it comes, with its digest, and that takes its name when it is whole
//!
//! What has come of a content whose digest is known stays in its folder as `*.part` when its transfer ends early, whether the daemon was
//! killed, or the other side broke off: whoever asks for the same content goes on with it, and the digest of all is looked at in the end. What
//! nobody asks for goes: [`sweep`] keeps the four that grew last, as far as they have room, and each for a day.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prexorcloud_content::{Digest, Hasher};
use tempfile::TempPath;

use crate::{durable, reflink};

/// The end of the names of files that are gone on with
pub(crate) const SUFFIX: &str = "part";

/// Most such files in a folder
const MOST: usize = 4;

/// How long one of them stays after its last byte
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A file on its way
#[derive(Debug)]
pub(crate) struct Partial {
    path: TempPath,
    file: File,
    hasher: Hasher,
    length: u64,
}

impl Partial {
    /// Begins a file in the folder of `target`; it goes with this
    pub(crate) fn beside(target: &Path) -> io::Result<Self> {
        let folder = target.parent().unwrap_or_else(|| Path::new("."));
        let temporary = tempfile::Builder::new().prefix(".partial-").tempfile_in(folder)?;
        let (file, path) = temporary.into_parts();
        Ok(Self {
            path,
            file,
            hasher: Hasher::default(),
            length: 0,
        })
    }

    /// Goes on with what has come of a content, in a folder that is there; it stays when this goes
    ///
    /// Reads what is there. What is larger than `most` is none of it.
    pub(crate) fn resume(path: PathBuf, most: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = durable::open_regular(&path, options.mode(durable::PRIVATE_FILE))?;
        let mut path = TempPath::try_from_path(path)?;
        path.disable_cleanup(true);
        let mut partial = Self {
            path,
            file,
            hasher: Hasher::default(),
            length: 0,
        };
        if partial.file.metadata()?.len() > most {
            partial.restart()?;
        }
        partial.take_in(u64::MAX)?;
        Ok(partial)
    }

    /// Takes the blocks of another file, of which no more than a byte beyond `most` counts; `false` if that cannot be done here
    pub(crate) fn share(&mut self, from: &File, most: u64) -> io::Result<bool> {
        let is_shared = reflink::share(from, &self.file);
        if is_shared {
            self.take_in(most.saturating_add(1))?;
        }
        Ok(is_shared)
    }

    /// Looks at what is in the file already
    fn take_in(&mut self, most: u64) -> io::Result<()> {
        let mut file = (&self.file).take(most);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.hasher.update(bytes);
                    self.length = self.length.saturating_add(bytes.len() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that have come
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Of what has come
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Nothing of it is there yet
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }

    /// Appends
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Has it on disk
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives it its name; the caller syncs the folder
    pub(crate) fn keep(self, target: &Path) -> io::Result<()> {
        self.path.persist(target).map_err(|error| error.error)
    }

    /// Nobody goes on with it
    pub(crate) fn discard(mut self) {
        self.path.disable_cleanup(false);
    }
}

/// Deletes what nobody goes on with, but nothing that `is_in_use`; tells the bytes of what stays without being in use
///
/// They are a quarter of `cache_bytes` at most, which is what the folder may hold.
pub(crate) fn sweep(folder: &Path, cache_bytes: u64, is_in_use: impl Fn(&Path) -> bool) -> u64 {
    let mut parts = Vec::new();
    let mut kept = 0_u64;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_part = path.extension().is_some_and(|suffix| suffix == SUFFIX);
        if let Ok(metadata) = entry.metadata()
            && let Ok(grown) = metadata.modified()
            && is_part
            && metadata.is_file()
            && !is_in_use(&path)
        {
            parts.push((grown, metadata.len(), path));
        }
    }
    parts.sort_unstable_by(|one, other| other.cmp(one));
    let now = SystemTime::now();
    for (place, (grown, bytes, path)) in parts.iter().enumerate() {
        let age = now.duration_since(*grown).unwrap_or_default();
        let with_it = kept.saturating_add(*bytes);
        if place < MOST && age <= KEPT && with_it <= cache_bytes / 4 {
            kept = with_it;
        } else if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "what has come of a transfer cannot be deleted");
        }
    }
    kept
}

/// Bytes of all that is on its way or was
pub(crate) fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == SUFFIX));
    parts
        .filter_map(|entry| entry.metadata().ok())
        .fold(0, |sum, metadata| sum.saturating_add(metadata.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_has_come_is_gone_on_with_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("a.part"), folder.path().join("a"));
        let mut partial = Partial::resume(path.clone(), 6).unwrap();
        partial.write(b"abc").unwrap();
        drop(partial);
        let mut partial = Partial::resume(path.clone(), 6).unwrap();
        assert_eq!((partial.length(), partial.digest()), (3, Digest::of(b"abc")));
        partial.write(b"def").unwrap();
        assert_eq!(partial.digest(), Digest::of(b"abcdef"));
        drop(partial);
        // Larger than what is wanted.
        let mut partial = Partial::resume(path.clone(), 5).unwrap();
        assert_eq!(partial.length(), 0);
        partial.write(b"x").unwrap();
        partial.keep(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"x");
        assert!(!path.exists());
        Partial::resume(path.clone(), 5).unwrap().discard();
        let mut partial = Partial::beside(&target).unwrap();
        partial.write(b"y").unwrap();
        drop(partial);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(Partial::resume(path, 5).is_err(), "not through a link");
    }

    #[test]
    fn what_nobody_asks_for_is_bounded_in_number_bytes_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, age) in [
            ("1", 1),
            ("2", 2),
            ("3", 3),
            ("4", 4),
            ("5", 5),
            ("used", 6),
            ("old", 100_000),
        ] {
            let file = File::create(folder.path().join(format!("{name}.part"))).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        fs::write(folder.path().join("whole"), "").unwrap();
        let is_in_use = |path: &Path| path.ends_with("used.part");
        assert_eq!(bytes(folder.path()), 70);
        assert_eq!(sweep(folder.path(), 160, is_in_use), 40);
        assert_eq!(bytes(folder.path()), 50);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["1.part", "2.part", "3.part", "4.part", "used.part", "whole"]
        );
        assert_eq!(sweep(folder.path(), 159, is_in_use), 30);
        assert!(!folder.path().join("4.part").exists());
        for number in 1..=3 {
            let file = File::options()
                .write(true)
                .open(folder.path().join(format!("{number}.part")));
            file.unwrap().set_modified(now - KEPT - KEPT).unwrap();
        }
        assert_eq!(sweep(folder.path(), u64::MAX, |_| false), 10);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_shares_its_blocks_is_looked_at_like_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![7; 300_000];
        let shared = || {
            let mut partial = Partial::beside(&folder.path().join("server.jar")).unwrap();
            // As a file system does that gives it the blocks of another file.
            partial.file.write_all(&content).unwrap();
            partial.file.rewind().unwrap();
            partial
        };
        let mut partial = shared();
        partial.take_in(300_000).unwrap();
        assert_eq!(
            (partial.length(), partial.digest()),
            (300_000, Digest::of(&content))
        );
        let mut partial = shared();
        partial.take_in(299_999).unwrap();
        assert_eq!(partial.length(), 299_999);
    }
}
