//! What can go wrong with a store, and what to do about it

use std::path::PathBuf;

use super::Revision;

/// Why a transaction was refused before it reached the storage: the caller's mistake
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTxn {
    /// More comparisons and writes than one transaction may hold
    #[error(
        "a transaction may hold {} operations, this one has {operations}",
        super::Txn::MAX_OPERATIONS
    )]
    TooManyOperations {
        /// How many it has
        operations: usize,
    },
    /// A key is empty or too long
    #[error("a key has 1 to {} bytes, this one has {bytes}", super::Txn::MAX_KEY_BYTES)]
    KeyLength {
        /// Its length
        bytes: usize,
    },
    /// A key has blanks, control characters or anything beyond ASCII
    #[error("a key is printable ASCII without blanks, this one is not: {key}")]
    KeyCharacters {
        /// The key, escaped
        key: String,
    },
    /// A value is too large
    #[error(
        "a value has at most {} bytes, {key} has {bytes}",
        super::Txn::MAX_VALUE_BYTES
    )]
    ValueTooLarge {
        /// The key of the value
        key: String,
        /// Its length
        bytes: usize,
    },
    /// A key of the log is put or deleted
    #[error("{key} belongs to the log, which is only appended to")]
    Logged {
        /// The key
        key: String,
    },
    /// The same key is put or deleted more than once
    #[error("{key} is written twice in one transaction")]
    WrittenTwice {
        /// The key
        key: String,
    },
}

/// Why a store operation failed
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The caller's transaction breaks a limit
    #[error(transparent)]
    InvalidTxn(#[from] InvalidTxn),
    /// No room on the volume, or the configured size limit is reached; nothing was changed
    #[error("no space left for the controller's state: free disk space, nothing was changed")]
    DiskFull,
    /// The folder or the file cannot be written; nothing was changed
    #[error("the controller's state cannot be written: check the permissions of the data folder")]
    ReadOnly,
    /// The file is damaged
    #[error("the controller's state is damaged ({detail}): stop, keep a copy, restore a backup")]
    Corrupt {
        /// What the storage engine said
        detail: String,
    },
    /// A stored value is not the message it should be
    #[error("the record {key} cannot be read: {detail}")]
    Undecodable {
        /// The key of the value
        key: String,
        /// What the decoder said
        detail: String,
    },
    /// No answer in time; whether the change happened is unknown, so read before trying again
    #[error("the storage did not answer in time; the outcome is unknown")]
    Timeout,
    /// The store was closed
    #[error("the store is closed")]
    Closed,
    /// What writes has ended, which is a bug; nothing can be written until the next start
    #[error("the thread that writes the controller's state has died; the log says why")]
    WriterDied,
    /// Reading or writing the file failed
    #[error("the storage failed: {detail}")]
    Io {
        /// What the storage engine said
        detail: String,
    },
}

impl StoreError {
    /// Whether no later attempt on this store can succeed: damage does not heal, and nobody opens it again
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. } | Self::Undecodable { .. } | Self::Closed | Self::WriterDied
        )
    }
}

/// Why a watch ended
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Changes between the watcher's position and the log are gone: list again, then watch from that revision
    #[error(
        "changes after revision {position} are no longer in the log, which begins after {oldest}: list again"
    )]
    Lagged {
        /// The last revision that the watcher saw
        position: Revision,
        /// Changes up to and including this one are gone
        oldest: Revision,
    },
    /// The store was closed
    #[error("the store is closed")]
    Closed,
}

/// Why a store could not be opened
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file exists and is not ours
    #[error("{} is a file of another program: choose another data folder", path.display())]
    ForeignFile {
        /// The file
        path: PathBuf,
    },
    /// The file was written by a newer release
    #[error(
        "{} has schema version {found}, this release knows up to {supported}: use the newer release",
        path.display()
    )]
    NewerSchema {
        /// The file
        path: PathBuf,
        /// Its version
        found: i64,
        /// The newest version that this release knows
        supported: i64,
    },
    /// The file is damaged
    #[error("{} is damaged ({detail}): keep a copy and restore a backup", path.display())]
    Corrupt {
        /// The file
        path: PathBuf,
        /// What the check found
        detail: String,
    },
    /// The folder or the file cannot be written
    #[error("{} cannot be written: check the permissions of the data folder", path.display())]
    ReadOnly {
        /// The file
        path: PathBuf,
    },
    /// The file was in use when it was copied, and its log was not copied along
    #[error(
        "{} was copied while it was in use, without its log {}: what was committed last may be missing. Copy the log along, \
         restore another backup, or go on with what is there: {}",
        path.display(), log.display(), crate::lineage::command(path, "")
    )]
    LogMissing {
        /// The file
        path: PathBuf,
        /// The log that should be there
        log: PathBuf,
    },
    /// Another process holds the file
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The file
        path: PathBuf,
    },
    /// No room on the volume
    #[error("no space left to open {}", path.display())]
    DiskFull {
        /// The file
        path: PathBuf,
    },
    /// The file cannot be opened or created
    #[error("{} cannot be opened: {detail}", path.display())]
    Io {
        /// The file
        path: PathBuf,
        /// What the system said
        detail: String,
    },
}
