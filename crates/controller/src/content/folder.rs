//! Blobs as files beside the database
//!
//! `blobs/ab/ab12…` are whole and named by their digest; `incoming/` has what is not whole yet, and is emptied at the start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prexorcloud_content::{Digest, Hasher};

use super::{BlobError, Blobs, Incoming};

/// Bytes of the volume that content leaves to the database
const RESERVE: u64 = 256 << 20;

/// Blobs in a folder of this controller
#[derive(Debug)]
pub struct FolderBlobs {
    blobs: PathBuf,
    incoming: PathBuf,
    next: Arc<AtomicU64>,
}

impl FolderBlobs {
    /// In this folder, which is made if it is not there; blocks
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let (blobs, incoming) = (folder.join("blobs"), folder.join("incoming"));
        let mut private = DirBuilder::new();
        let private = private.recursive(true).mode(0o700);
        private.create(&blobs)?;
        private.create(&incoming)?;
        // Made and synced before any blob is in them.
        for shard in 0..=u8::MAX {
            private.create(blobs.join(format!("{shard:02x}")))?;
        }
        File::open(&blobs)?.sync_all()?;
        if fs::metadata(&blobs)?.dev() != fs::metadata(&incoming)?.dev() {
            return Err(io::Error::other(format!(
                "{} and {} are on two file systems, and a blob is moved from one to the other: put them on one",
                incoming.display(),
                blobs.display()
            )));
        }
        for left in fs::read_dir(&incoming)? {
            fs::remove_file(left?.path())?;
        }
        File::open(folder)?.sync_all()?;
        Ok(Self {
            blobs,
            incoming,
            next: Arc::default(),
        })
    }

    /// Copies what is whole in `folder` into `target`, which has none of it; blocks
    ///
    /// It may be in use: what is removed meanwhile was needed by nobody.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn copy(folder: &Path, target: &Path) -> io::Result<()> {
        let from = folder.join("blobs");
        let shards = match shards(&from) {
            Ok(shards) => shards,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let to = Self::open(target)?.blobs;
        for shard in shards {
            let into = to.join(shard.file_name().unwrap_or_default());
            DirBuilder::new().recursive(true).mode(0o700).create(&into)?;
            for blob in fs::read_dir(shard)? {
                let blob = blob?;
                let copy = into.join(blob.file_name());
                match fs::copy(blob.path(), &copy) {
                    Ok(_) => File::open(&copy)?.sync_all()?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            File::open(&into)?.sync_all()?;
        }
        File::open(&to)?.sync_all()
    }

    fn path(&self, name: Digest) -> PathBuf {
        let name = name.to_string();
        self.blobs.join(&name[..2]).join(name)
    }

    fn age(&self, name: Digest) -> io::Result<Option<Duration>> {
        match fs::metadata(self.path(name)) {
            Ok(metadata) => Ok(Some(
                SystemTime::now()
                    .duration_since(metadata.modified()?)
                    .unwrap_or_default(),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The folders of blobs; what else somebody put beside them is not ours to judge
fn shards(blobs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            shards.push(entry.path());
        }
    }
    Ok(shards)
}

impl Blobs for FolderBlobs {
    fn begin(&self, size: u64) -> Result<Box<dyn Incoming>, BlobError> {
        let volume = rustix::fs::statvfs(&self.incoming).map_err(io::Error::from)?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        if free < size.saturating_add(RESERVE) {
            return Err(BlobError::NoSpace);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.incoming.join(format!("{number}.part"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Box::new(Part {
            file,
            path,
            blobs: self.blobs.clone(),
            hasher: Hasher::default(),
            bytes: 0,
        }))
    }

    fn open(&self, name: Digest, offset: u64) -> Result<Option<Box<dyn Read + Send>>, BlobError> {
        match File::open(self.path(name)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset))?;
                Ok(Some(Box::new(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn renew(&self, name: Digest) -> Result<Option<u64>, BlobError> {
        match OpenOptions::new().write(true).open(self.path(name)) {
            Ok(file) => {
                file.set_modified(SystemTime::now())?;
                Ok(Some(file.metadata()?.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn delete(&self, name: Digest) -> Result<(), BlobError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn older_than(&self, age: Duration) -> Result<Vec<Digest>, BlobError> {
        let mut old = Vec::new();
        for shard in shards(&self.blobs)? {
            for blob in fs::read_dir(shard)? {
                // What has another name is not ours to judge.
                if let Some(Ok(name)) = blob?.file_name().to_str().map(str::parse)
                    && self.age(name)?.is_some_and(|its| its >= age)
                {
                    old.push(name);
                }
            }
        }
        Ok(old)
    }

    fn is_older_than(&self, name: Digest, age: Duration) -> Result<bool, BlobError> {
        Ok(self.age(name)?.is_some_and(|its| its >= age))
    }
}

struct Part {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    hasher: Hasher,
    bytes: u64,
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming for Part {
    fn finish(self: Box<Self>, expected: Option<(Digest, u64)>) -> Result<Digest, BlobError> {
        let name = self.hasher.clone().finish();
        if expected.is_some_and(|expected| expected != (name, self.bytes)) {
            return Err(BlobError::Mismatch);
        }
        let text = name.to_string();
        let shard = self.blobs.join(&text[..2]);
        match DirBuilder::new().mode(0o700).create(&shard) {
            Ok(()) => File::open(&self.blobs)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        self.file.sync_all()?;
        fs::rename(&self.path, shard.join(text))?;
        File::open(&shard)?.sync_all()?;
        Ok(name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Once it has its name, nothing is left here.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an unfinished upload could not be removed; the next start of the controller does");
        }
    }
}
