//! A copy of a data folder from which a controller can go on

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prexorcloud_security::files::{self, FileError};

use super::{AUTHORITY_FOLDER, STORE_FILE, mark::MARK_FILE};
use crate::{
    content::{CONTENT_FOLDER, FolderBlobs},
    store::{SqliteStore, StoreError},
};

/// The files of an authority's folder; `ca.pem` and `ca.key` are the authority
///
/// An activation moves what is in `next` there, so that is read first.
const AUTHORITY_FILES: [&str; 7] = [
    "next/ca.pem",
    "next/ca.key",
    "former.pem",
    "ca.pem",
    "ca.key",
    "records.key",
    MARK_FILE,
];

/// Folder of the authority that is to sign next
const NEXT_FOLDER: &str = "next";

/// Largest of these files that is copied
const MAX_BYTES: u64 = 64 * 1024;

/// Why there is no backup
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is no database to copy
    #[error("{} does not exist: is this the data folder of a controller?", .0.display())]
    Nothing(PathBuf),
    /// The target is in use
    #[error("{} is not empty: choose another folder for the backup", .0.display())]
    NotEmpty(PathBuf),
    /// A file cannot be copied
    #[error(transparent)]
    File(#[from] FileError),
    /// The target cannot be listed
    #[error("{}: {source}", path.display())]
    Target {
        /// The folder
        path: PathBuf,
        /// What the system said
        source: io::Error,
    },
    /// The database cannot be copied
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Copies authority, database and content of `data_dir` into the empty folder `target`, whether a controller runs or not; blocks
///
/// The authority's folder first: its mark may lag behind the records and not the other way round.
///
/// # Errors
/// [`BackupError`]; what is in `target` then is no backup.
pub fn backup(data_dir: &Path, target: &Path) -> Result<(), BackupError> {
    let database = data_dir.join(STORE_FILE);
    if !database.exists() {
        return Err(BackupError::Nothing(database));
    }
    files::ensure_private_dir(target)?;
    let mut inside = fs::read_dir(target).map_err(|source| BackupError::Target {
        path: target.to_path_buf(),
        source,
    })?;
    if inside.next().is_some() {
        return Err(BackupError::NotEmpty(target.to_path_buf()));
    }
    let (from, to) = (data_dir.join(AUTHORITY_FOLDER), target.join(AUTHORITY_FOLDER));
    files::ensure_private_dir(&to)?;
    if from.join(NEXT_FOLDER).is_dir() {
        files::ensure_private_dir(&to.join(NEXT_FOLDER))?;
    }
    for name in AUTHORITY_FILES {
        match files::read(&from.join(name), MAX_BYTES) {
            Ok(bytes) => files::write_secret(&to.join(name), &bytes)?,
            Err(error) if error.is_not_found() && !name.starts_with("ca.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    SqliteStore::copy(&database, &target.join(STORE_FILE))?;
    // After the records: what they refer to is there before them.
    let content = target.join(CONTENT_FOLDER);
    FolderBlobs::copy(&data_dir.join(CONTENT_FOLDER), &content).map_err(|source| BackupError::Target {
        path: content,
        source,
    })
}
