//! Copies that share their blocks with the original, where the file system can do that
//!
//! Btrfs, XFS and others give a file the blocks of another one at once; whoever writes to either gets blocks of its own, so neither
//! ever sees the other's changes, as hard links would. Elsewhere, and between file systems, the bytes are copied.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use prexorcloud_content::{Digest, Hasher};

const BUFFER: usize = 256 * 1024;

/// Gives the empty file `to` the content of `from` without copying it; `false` if that cannot be done here
pub(crate) fn share(from: &File, to: &File) -> bool {
    // Whatever stands against it, copying says it better, or can do it.
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Copies a file from its beginning to the empty file `to`, which is open to be read too; returns what was copied
///
/// # Errors
/// What the file system says.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<Digest> {
    copy_unless(share, from, to)
}

fn copy_unless(share: impl Fn(&File, &File) -> bool, mut from: &File, mut to: &File) -> io::Result<Digest> {
    if share(from, to) {
        to.rewind()?;
        return Digest::of_reader(to);
    }
    from.rewind()?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(bytes);
        to.write_all(bytes)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_cannot_be_shared_is_copied() {
        let content: Vec<u8> = (0..3 * BUFFER + 7).map(|number| (number % 251) as u8).collect();
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(&content).unwrap();
        // A pipe and a folder are no files to share; a file system that cannot share says no; and so does the test.
        let folder = File::open("/").unwrap();
        assert!(!share(&folder, &tempfile::tempfile().unwrap()));
        type Share = fn(&File, &File) -> bool;
        let ways: [Share; 3] = [
            share,
            |_, _| false,
            |mut from, mut to| {
                from.rewind().unwrap();
                io::copy(&mut from, &mut to).is_ok()
            },
        ];
        for way in ways {
            let mut to = tempfile::tempfile().unwrap();
            assert_eq!(copy_unless(way, &from, &to).unwrap(), Digest::of(&content));
            let mut copied = Vec::new();
            to.rewind().unwrap();
            to.read_to_end(&mut copied).unwrap();
            assert!(copied == content);
        }
    }
}
