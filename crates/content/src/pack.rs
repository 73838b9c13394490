//! From a manifest to an archive

use std::io::{self, Read, Write};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use crate::digest::{Digest, Hasher};
use crate::limits::Limits;
use crate::manifest::{Blob, Kind, Manifest};
use crate::path::EntryPath;
use crate::tree::Refusal;

/// 2024-01-01T00:00:00Z, the time that the Java controller gives every entry.
const EVERY_TIME: u64 = 1_704_067_200;

/// Most bytes of a template are jars and worlds, which are compressed already: trying hard costs minutes and gains nothing.
const LEVEL: Compression = Compression::new(2);

/// What came of packing
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the archive
    pub sha256: Digest,
    /// Bytes of the archive
    pub bytes: u64,
}

/// Why an archive could not be made
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// It would be refused wherever it is unpacked
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file is not what the manifest says
    #[error("{path:?} is not the file that the manifest names: its bytes have changed")]
    Changed {
        /// The file
        path: EntryPath,
    },
    /// A file could not be read
    #[error("{path:?} cannot be read: {error}")]
    Read {
        /// The file
        path: EntryPath,
        /// What the system said
        error: io::Error,
    },
    /// The archive could not be written
    #[error("the archive cannot be written: {0}")]
    Write(io::Error),
}

/// Writes the archive of `manifest`, a gzip tar, to `out`
///
/// The same manifest gives the same bytes from the same build of this crate: entries stand in its order, and every time, owner and mode is
/// fixed but for the permission to execute. Files are streamed from `open` and held to their size and digest. `out` is neither flushed
/// nor synced.
///
/// # Errors
/// [`PackError`]; what was written until then is no archive.
pub fn pack<R: Read>(
    manifest: &Manifest,
    limits: &Limits,
    mut open: impl FnMut(&EntryPath, &Blob) -> io::Result<R>,
    out: impl Write,
) -> Result<Packed, PackError> {
    let out = Counted {
        out,
        hasher: Hasher::default(),
        bytes: 0,
    };
    // Times and names of the origin stay out of the header.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(out, LEVEL);
    let mut archive = tar::Builder::new(gzip);
    for entry in manifest.entries() {
        let path = entry.path.as_str();
        let mut header = Header::new_gnu();
        header.set_mtime(EVERY_TIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let written = match &entry.kind {
            Kind::Directory => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                archive.append_data(&mut header, format!("{path}/"), io::empty())
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target.as_str())
            }
            Kind::File(blob) => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if blob.executable { 0o755 } else { 0o644 });
                header.set_size(blob.size);
                let file = open(&entry.path, blob).map_err(|error| PackError::Read {
                    path: entry.path.clone(),
                    error,
                })?;
                let mut file = Held {
                    file,
                    left: blob.size,
                    hasher: Hasher::default(),
                    failed: None,
                };
                let written = archive.append_data(&mut header, path, &mut file);
                if let Some(error) = file.failed {
                    return Err(PackError::Read {
                        path: entry.path.clone(),
                        error,
                    });
                }
                if written.is_ok() && !file.was_all_of(blob) {
                    return Err(PackError::Changed {
                        path: entry.path.clone(),
                    });
                }
                written
            }
        };
        written.map_err(PackError::Write)?;
    }
    let gzip = archive.into_inner().map_err(PackError::Write)?;
    let out = gzip.finish().map_err(PackError::Write)?;
    if limits.is_bomb(out.bytes, manifest.total_bytes()) {
        return Err(Refusal::Bomb { ratio: limits.ratio }.into());
    }
    Ok(Packed {
        sha256: out.hasher.finish(),
        bytes: out.bytes,
    })
}

struct Counted<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file of which exactly so many bytes are read, whatever it has become: the header before them has promised that number
struct Held<R> {
    file: R,
    left: u64,
    hasher: Hasher,
    /// The error of the file, apart from those of the archive
    failed: Option<io::Error>,
}

impl<R: Read> Held<R> {
    fn was_all_of(mut self, blob: &Blob) -> bool {
        self.left == 0 && self.hasher.finish() == blob.sha256 && matches!(self.file.read(&mut [0]), Ok(0))
    }
}

impl<R: Read> Read for Held<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most]) {
            // Fewer bytes than promised: the rest is made up, since the archive is thrown away in any case.
            Ok(0) => {
                buffer[..most].fill(0);
                self.hasher.update(&buffer[..most]);
                self.left -= most as u64;
                Ok(most)
            }
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
