//! What is in a file

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use prexorcloud_proto::{InstanceFileContent, ReadInstanceFile};
use rustix::io::Errno;

use super::{FilesError, beneath};

/// Bytes that are given where the controller does not say how many
const USUAL_BYTES: usize = 65_536;

/// The most bytes of one answer, as the contract has it
const MAX_BYTES: usize = 1_048_576;

pub(super) fn read(folder: &OwnedFd, asked: &ReadInstanceFile) -> Result<InstanceFileContent, FilesError> {
    let path = path_of(&asked.path)?;
    let file = beneath::open_file(folder.as_fd(), &path).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => FilesError::FileNotFound,
        Errno::XDEV => FilesError::PathOutsideInstance,
        // A link at the end, or a socket.
        Errno::LOOP | Errno::NXIO | Errno::ISDIR => FilesError::NotRegularFile,
        _ => FilesError::FileUnreadable,
    })?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|_| FilesError::FileUnreadable)?;
    if !metadata.is_file() {
        return Err(FilesError::NotRegularFile);
    }
    let most = match usize::try_from(asked.max_bytes) {
        Ok(bytes) if bytes > 0 => bytes.min(MAX_BYTES),
        _ => USUAL_BYTES,
    };
    let size = metadata.len();
    let most_bytes = u64::try_from(most).unwrap_or(u64::MAX);
    let from = match asked.tail {
        true => size.saturating_sub(most_bytes),
        false => 0,
    };
    let wanted = usize::try_from((size - from).min(most_bytes)).unwrap_or(most);
    let content = read_at(&file, from, wanted).map_err(|_| FilesError::FileUnreadable)?;
    let returned = u64::try_from(content.len()).unwrap_or(u64::MAX);
    Ok(InstanceFileContent {
        content: content.into(),
        total_size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        truncated: size > returned,
        ..InstanceFileContent::default()
    })
}

/// The path below the folder that is asked for, with what can be decided without looking decided
fn path_of(asked: &str) -> Result<PathBuf, FilesError> {
    if asked.trim().is_empty() || asked.contains('\0') {
        return Err(FilesError::InvalidRequest);
    }
    let asked = asked.replace('\\', "/");
    if Path::new(&asked).is_absolute() {
        return Err(FilesError::PathOutsideInstance);
    }
    let mut names: Vec<&str> = Vec::new();
    for name in asked.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop().ok_or(FilesError::PathOutsideInstance)?;
            }
            name => names.push(name),
        }
    }
    if names.is_empty() {
        return Err(FilesError::NotRegularFile);
    }
    Ok(names.iter().collect())
}

/// As many bytes as there are; a file may have become shorter since
fn read_at(file: &File, from: u64, wanted: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; wanted];
    let mut filled = 0;
    while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = from.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn asked(path: &str, max_bytes: i32, tail: bool) -> ReadInstanceFile {
        ReadInstanceFile {
            path: path.to_owned(),
            max_bytes,
            tail,
            ..ReadInstanceFile::default()
        }
    }

    #[test]
    fn a_file_is_given_from_either_end_and_no_more_than_asked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        fs::write(folder.path().join("logs/latest.log"), "0123456789").unwrap();
        fs::write(folder.path().join("large"), vec![b'x'; 3 << 20]).unwrap();
        let root = beneath::open_root(folder.path()).unwrap();
        for (path, max, tail, content, truncated) in [
            ("logs/latest.log", 0, false, "0123456789", false),
            ("logs\\latest.log", 10, true, "0123456789", false),
            ("./logs/../logs//latest.log", 4, false, "0123", true),
            ("logs/latest.log", 4, true, "6789", true),
        ] {
            let found = read(&root, &asked(path, max, tail)).unwrap();
            assert_eq!(
                (&found.content[..], found.truncated),
                (content.as_bytes(), truncated),
                "{path}"
            );
            assert_eq!((found.total_size_bytes, found.error.as_str()), (10, ""));
        }
        for (max, given) in [(0, USUAL_BYTES), (-1, USUAL_BYTES), (i32::MAX, MAX_BYTES)] {
            let found = read(&root, &asked("large", max, false)).unwrap();
            assert_eq!((found.content.len(), found.truncated), (given, true));
        }
    }

    #[test]
    fn what_is_no_file_of_the_instance_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("world")).unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        fs::write(inside.join("locked"), "locked").unwrap();
        fs::set_permissions(inside.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        mknodat(CWD, inside.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        let root = beneath::open_root(&inside).unwrap();
        let long = "x".repeat(300);
        for (path, error) in [
            ("", FilesError::InvalidRequest),
            (" ", FilesError::InvalidRequest),
            ("a\0b", FilesError::InvalidRequest),
            ("../secret", FilesError::PathOutsideInstance),
            ("world/../../secret", FilesError::PathOutsideInstance),
            ("/etc/passwd", FilesError::PathOutsideInstance),
            ("up/secret", FilesError::PathOutsideInstance),
            ("missing", FilesError::FileNotFound),
            ("locked/deeper", FilesError::FileNotFound),
            (&long, FilesError::FileNotFound),
            ("world", FilesError::NotRegularFile),
            (".", FilesError::NotRegularFile),
            ("link", FilesError::NotRegularFile),
            ("pipe", FilesError::NotRegularFile),
            ("socket", FilesError::NotRegularFile),
        ] {
            assert_eq!(
                read(&root, &asked(path, 0, false)).unwrap_err(),
                error,
                "{path:?}"
            );
        }
        if !rustix::process::geteuid().is_root() {
            assert_eq!(
                read(&root, &asked("locked", 0, false)).unwrap_err(),
                FilesError::FileUnreadable
            );
        }
    }
}
