//! Bytes by their SHA-256: what templates are made of, and their archives
//!
//! A blob never changes, and nobody names one but by its digest. So writing one twice is harmless, what is half-written has no name,
//! and the only question is when one may go: [`Content::collect`] answers it.
//!
//! [`Blobs`] is where they are. The one implementation keeps files beside the database ([`FolderBlobs`]); one over a network
//! takes its place by the same few calls.

mod collect;
mod folder;

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use prexorcloud_content::{Digest, Limits, Manifest, PackError, Packed, java_content_hash, pack};
use tokio::sync::{RwLock, Semaphore};

pub use self::{collect::Collected, folder::FolderBlobs};

/// Name of the folder in the data folder that holds content
pub(crate) const CONTENT_FOLDER: &str = "content";

/// Uploads at once; more wait for their turn, or are told
const UPLOADS: usize = 16;

/// Archives that are made at once: each keeps a processor busy
const PACKING: usize = 2;

/// Bytes that are read for one frame of an answer
const FRAME: usize = 256 * 1024;

/// How long a blob that nothing refers to is kept
///
/// A push asks which blobs are there, sends the others, and publishes; a start has its template brought. What either has seen stays for as
/// long as it can take.
pub const KEPT_UNREFERENCED: Duration = Duration::from_secs(24 * 3600);

/// Why bytes could not be kept or given
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// No room on the volume
    #[error("no space left for content: free disk space on the controller, or delete templates")]
    NoSpace,
    /// What came is not what was announced
    #[error(
        "the bytes have another size or another SHA-256 than was announced; the file may have changed meanwhile"
    )]
    Mismatch,
    /// The sender ended early or was too slow
    #[error("the bytes did not come to their end: {detail}")]
    Incomplete {
        /// What happened
        detail: String,
    },
    /// More uploads than at once are taken
    #[error("too many uploads are under way, try again")]
    Busy,
    /// The storage failed
    #[error("the controller's storage of content failed: {detail}")]
    Io {
        /// What it said
        detail: String,
    },
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io {
                detail: error.to_string(),
            },
        }
    }
}

/// Where blobs are
///
/// Every call blocks, and is made where that harms nobody.
pub trait Blobs: Send + Sync + 'static {
    /// Begins to write one of `size` bytes; 0 = nobody knows
    ///
    /// # Errors
    /// [`BlobError::NoSpace`] before anything is written, where that can be known.
    fn begin(&self, size: u64) -> Result<Box<dyn Incoming>, BlobError>;

    /// The bytes of a blob from `offset` on; `None` if it is not there
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn open(&self, name: Digest, offset: u64) -> Result<Option<Box<dyn Read + Send>>, BlobError>;

    /// The size of a blob, which from now on counts as just written; `None` if it is not there
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn renew(&self, name: Digest) -> Result<Option<u64>, BlobError>;

    /// Removes a blob; one that is not there is fine
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn delete(&self, name: Digest) -> Result<(), BlobError>;

    /// Blobs that were written or renewed longer than `age` ago
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn older_than(&self, age: Duration) -> Result<Vec<Digest>, BlobError>;

    /// Whether this blob is still as old as that
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn is_older_than(&self, name: Digest, age: Duration) -> Result<bool, BlobError>;
}

/// A blob on its way in; dropped, it was never there
pub trait Incoming: io::Write + Send {
    /// Gives it its name, durably; says what it is
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] if it is not what `expected` says.
    fn finish(self: Box<Self>, expected: Option<(Digest, u64)>) -> Result<Digest, BlobError>;
}

/// The blobs, with what is being done to them
pub struct Content {
    blobs: Arc<dyn Blobs>,
    /// How often each is pinned
    pins: Mutex<HashMap<Digest, usize>>,
    /// Whoever relies on a blob that is there reads; whoever removes one writes
    relying: RwLock<()>,
    uploads: Semaphore,
    packing: Arc<Semaphore>,
}

/// Keeps a blob from being removed for as long as it lives
pub struct Pin {
    content: Arc<Content>,
    name: Digest,
}

/// Why no archive was made
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The content is refused
    #[error(transparent)]
    Pack(PackError),
    /// The archive could not be kept
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Content {
    /// Over these blobs
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self {
            blobs,
            pins: Mutex::default(),
            relying: RwLock::default(),
            uploads: Semaphore::new(UPLOADS),
            packing: Arc::new(Semaphore::new(PACKING)),
        }
    }

    /// Does something that blocks
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Blobs) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let blobs = Arc::clone(&self.blobs);
        spawn(move || work(&*blobs)).await
    }

    /// The sizes of those blobs that are there; they are kept for [`KEPT_UNREFERENCED`] from now on
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn renew(&self, names: Vec<Digest>) -> Result<HashMap<Digest, u64>, BlobError> {
        let _relying = self.relying.read().await;
        let look = move |blobs: &dyn Blobs| {
            let mut there = HashMap::new();
            for name in names {
                if let Some(size) = blobs.renew(name)? {
                    there.insert(name, size);
                }
            }
            Ok(there)
        };
        self.blocking(look).await
    }

    /// Keeps the blob `name` of `size` bytes that comes in parts
    ///
    /// Each part has to come within `patience`. What is there already is not asked for again by anybody who looked; if it comes all
    /// the same, it is checked and changes nothing.
    ///
    /// # Errors
    /// [`BlobError`]; nothing is kept then.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        name: Digest,
        size: u64,
        patience: Duration,
        parts: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), BlobError> {
        let _turn = match tokio::time::timeout(patience, self.uploads.acquire()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(BlobError::Busy),
        };
        let mut incoming = self.blocking(move |blobs| blobs.begin(size)).await?;
        let mut parts = std::pin::pin!(parts);
        let mut left = size;
        loop {
            let part = match tokio::time::timeout(patience, parts.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(part))) => part,
                Ok(Some(Err(error))) => {
                    return Err(BlobError::Incomplete {
                        detail: error.to_string(),
                    });
                }
                Err(_) => {
                    return Err(BlobError::Incomplete {
                        detail: format!("nothing came for {} s", patience.as_secs()),
                    });
                }
            };
            left = left.checked_sub(part.len() as u64).ok_or(BlobError::Mismatch)?;
            incoming = spawn(move || {
                incoming.write_all(&part)?;
                Ok(incoming)
            })
            .await?;
        }
        spawn(move || incoming.finish(Some((name, size)))).await.map(drop)
    }

    /// Keeps bytes that are here already; says their name
    ///
    /// # Errors
    /// [`BlobError`]; nothing is kept then.
    pub async fn keep(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let put = move |blobs: &dyn Blobs| {
            let mut incoming = blobs.begin(bytes.len() as u64)?;
            incoming.write_all(&bytes)?;
            incoming.finish(None)
        };
        self.blocking(put).await
    }

    /// All bytes of a blob of at most `most`; `None` if it is not there, larger, or not what its name says
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn read(&self, name: Digest, most: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let read = move |blobs: &dyn Blobs| {
            let Some(blob) = blobs.open(name, 0)? else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            blob.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
            let is_whole = bytes.len() as u64 <= most && Digest::of(&bytes) == name;
            Ok(Some(bytes).filter(|_| is_whole))
        };
        self.blocking(read).await
    }

    /// Whether a blob is there and has the bytes that its name says
    ///
    /// # Errors
    /// [`BlobError::Io`] if it cannot be read to its end.
    pub async fn is_whole(&self, name: Digest) -> Result<bool, BlobError> {
        let look = move |blobs: &dyn Blobs| match blobs.open(name, 0)? {
            Some(blob) => Ok(Digest::of_reader(blob)? == name),
            None => Ok(false),
        };
        self.blocking(look).await
    }

    /// Removes a blob that is not what its name says
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn discard(&self, name: Digest) -> Result<(), BlobError> {
        self.blocking(move |blobs| blobs.delete(name)).await
    }

    /// The bytes of a blob from `offset` on, in parts, pinned until they are through; `None` if it is not there
    ///
    /// One part is in memory at a time, however slowly they are taken.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn stream(
        self: &Arc<Self>,
        name: Digest,
        offset: u64,
    ) -> Result<Option<impl Stream<Item = io::Result<Bytes>> + Send + 'static + use<>>, BlobError> {
        let pin = self.pin(name);
        let Some(blob) = self.blocking(move |blobs| blobs.open(name, offset)).await? else {
            return Ok(None);
        };
        Ok(Some(stream::try_unfold(
            (blob, pin),
            |(mut blob, pin)| async move {
                let next = spawn(move || {
                    let mut part = BytesMut::zeroed(FRAME);
                    let mut filled = 0;
                    while let Some(rest) = part.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                        match blob.read(rest)? {
                            0 => break,
                            count => filled += count,
                        }
                    }
                    part.truncate(filled);
                    Ok((part.freeze(), blob))
                });
                let (part, blob) = next.await.map_err(io::Error::other)?;
                Ok((!part.is_empty()).then_some((part, (blob, pin))))
            },
        )))
    }

    /// Makes the archive of a manifest whose blobs are there, and keeps it; says also by what Java peers know its files
    ///
    /// Where a blob is not what its name says, all of them are looked at, and those of which that is true are removed, so that the
    /// next push sends them again.
    ///
    /// # Errors
    /// [`ArchiveError`]; nothing is kept then.
    pub async fn archive(
        &self,
        manifest: Manifest,
        limits: Limits,
    ) -> Result<(Packed, Option<Digest>), ArchiveError> {
        let turn = Arc::clone(&self.packing).acquire_owned().await;
        let turn = turn.map_err(|_| BlobError::Busy)?;
        let blobs = Arc::clone(&self.blobs);
        let packing = move || {
            let _turn = turn;
            let mut incoming = blobs.begin(manifest.total_bytes())?;
            let open = |_: &_, blob: &prexorcloud_content::Blob| match blobs.open(blob.sha256, 0) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(error) => Err(io::Error::other(error)),
            };
            let packed = match pack(&manifest, &limits, &open, &mut incoming) {
                Ok(packed) => packed,
                Err(PackError::Write(error)) => return Ok(Err(ArchiveError::Blob(error.into()))),
                Err(error) => {
                    if matches!(error, PackError::Changed { .. }) {
                        discard_damaged(&*blobs, &manifest)?;
                    }
                    return Ok(Err(ArchiveError::Pack(error)));
                }
            };
            incoming.finish(Some((packed.sha256, packed.bytes)))?;
            let content_hash = java_content_hash(&manifest, open)?;
            Ok(Ok((packed, content_hash)))
        };
        spawn(packing).await?
    }

    /// Keeps a blob from being removed
    pub fn pin(self: &Arc<Self>, name: Digest) -> Pin {
        *self.pinned().entry(name).or_default() += 1;
        Pin {
            content: Arc::clone(self),
            name,
        }
    }

    fn pinned(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.content.pinned();
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

/// Removes those blobs of a manifest that are not what their names say
fn discard_damaged(blobs: &dyn Blobs, manifest: &Manifest) -> Result<(), BlobError> {
    let names: HashSet<Digest> = manifest.files().map(|(_, blob)| blob.sha256).collect();
    for name in names {
        if let Some(blob) = blobs.open(name, 0)?
            && Digest::of_reader(blob)? != name
        {
            tracing::error!(blob = %name, "a blob is damaged and was removed; the next push sends it again");
            blobs.delete(name)?;
        }
    }
    Ok(())
}

/// The blobs that something refers to
pub type Referenced = HashSet<Digest>;

async fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(BlobError::Io {
            detail: "its worker ended".to_owned(),
        }),
    }
}
