//! The hash by which Java peers know a template

use std::io::{self, Read};

use crate::digest::{Digest, Hasher};
use crate::manifest::{Blob, Manifest};
use crate::path::EntryPath;

/// The hash by which a Java controller names the files of `manifest`, for the sake of caches that were filled under it
///
/// It is the SHA-256 over all files, sorted by path as Java compares strings, each as the bytes of its path and then its own, with nothing in
/// between. Modes, folders and links do not count, and two different templates can have the same: it serves to hit a cache, never to verify.
/// `None` is a template without files, which Java peers name by an empty text.
///
/// # Errors
/// What `open` or a read fails with, and [`io::ErrorKind::InvalidData`] if a file has another size than the manifest says.
pub fn java_content_hash<R: Read>(
    manifest: &Manifest,
    mut open: impl FnMut(&EntryPath, &Blob) -> io::Result<R>,
) -> io::Result<Option<Digest>> {
    let mut files: Vec<_> = manifest.files().collect();
    files.sort_by(|(a, _), (b, _)| a.as_str().encode_utf16().cmp(b.as_str().encode_utf16()));
    if files.is_empty() {
        return Ok(None);
    }
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    for (path, blob) in files {
        hasher.update(path.as_str().as_bytes());
        let mut bytes = open(path, blob)?;
        let mut seen = 0u64;
        loop {
            let count = match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            seen += count as u64;
            if seen > blob.size {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        if seen != blob.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path:?} has not the {} bytes that the manifest says", blob.size),
            ));
        }
    }
    Ok(Some(hasher.finish()))
}
