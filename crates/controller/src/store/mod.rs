//! The controller's durable state: a small revisioned key-value contract
//!
//! Everything that must survive a restart goes through [`Store`], and nothing above it knows SQL. Keys are short ASCII
//! paths (`nodes/node-1`), values are encoded prost messages ([`Record`]). Each transaction that changes
//! something gets the next [`Revision`] of one counter for the whole store, so "did anything change since I looked"
//! is one comparison, and a snapshot from [`Store::list`] continues without a gap in [`Store::watch`].
//!
//! [`SqliteStore`] is the implementation for one controller. A networked store for several controllers implements the
//! same trait and passes the same suite (`tests/store.rs`).
//!
//! The rule for every caller is *write, then act*: an effect on a daemon leaves only after the transaction that records
//! it was acknowledged.

mod change_log;
mod error;
mod record;
mod sqlite;
mod transaction;

use std::{fmt, future::Future, pin::Pin};

use bytes::Bytes;
use futures_util::Stream;

pub use self::{
    error::{InvalidTxn, OpenError, StoreError, WatchError},
    record::{Record, Stored, load, load_all},
    sqlite::{SqliteOptions, SqliteStore},
    transaction::{Compare, Expect, Txn, TxnOutcome},
};

/// What a store operation returns: a boxed future, so that the trait can be used as `dyn Store`
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A stream of committed changes in revision order, one [`ChangeSet`] per transaction
///
/// It ends after the first error. See [`WatchError`] for what to do then.
pub type Watch = Pin<Box<dyn Stream<Item = Result<ChangeSet, WatchError>> + Send>>;

/// The position of a store in its own history: 0 is empty, each transaction that changes something adds one
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that nobody wrote to
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One stored value and the revision of the transaction that wrote it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, for instance `nodes/node-1`
    pub key: String,
    /// The encoded message
    pub value: Bytes,
    /// When it was last written; what [`Expect::At`] compares with
    pub revision: Revision,
}

/// The answer to [`Store::list`]: a consistent snapshot
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries in key order (or reverse key order)
    pub entries: Vec<Entry>,
    /// The store's revision when the snapshot was taken; pass it to [`Store::watch`] to continue from here
    pub revision: Revision,
}

/// Which keys to list, in which order, and how many
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    prefix: String,
    after: Option<String>,
    skipped: usize,
    limit: Option<usize>,
    descending: bool,
}

impl Query {
    /// All keys that start with `prefix`; the empty prefix means every key
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            ..Self::default()
        }
    }

    /// Only keys strictly beyond `key` in the order of the listing
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// Not the first `skipped` entries that match
    #[must_use]
    pub fn skip(mut self, skipped: usize) -> Self {
        self.skipped = skipped;
        self
    }

    /// At most `limit` entries
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// From the last key to the first
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }
}

/// Where the entries are that were [appended](Txn::append)
pub const LOGGED: &str = "events/";

/// The key of the appended entry with this number; keys are in the order of the numbers
#[must_use]
pub fn logged_key(sequence: u64) -> String {
    format!("{LOGGED}{sequence:020}")
}

/// The number of the appended entry under this key
#[must_use]
pub fn logged_sequence(key: &str) -> Option<u64> {
    key.strip_prefix(LOGGED)?.parse().ok()
}

/// What one transaction changed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// The revision that the transaction got
    pub revision: Revision,
    /// Its changes, puts before deletes before appended entries, in the order of the transaction
    pub changes: Vec<Change>,
}

/// One key that a transaction wrote or deleted
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key
    pub key: String,
    /// The new value, or `None` if the key was deleted
    pub value: Option<Bytes>,
}

/// A revisioned key-value store with compare-and-write transactions
///
/// Reads see every transaction that was acknowledged before the read began. A future that is dropped does not undo a
/// transaction that was already handed over.
pub trait Store: Send + Sync + 'static {
    /// The value under `key`, if there is one
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails; never for an absent key.
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>>;

    /// A consistent snapshot of the keys that match `query`
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    fn list(&self, query: Query) -> StoreFuture<'_, Listing>;

    /// How many keys start with `prefix`
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    fn count<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, usize>;

    /// Applies all puts and deletes of `txn`, or none of them
    ///
    /// The answer comes after the change is durable. When one of the comparisons does not hold, nothing is changed and
    /// the answer is [`TxnOutcome::Conflict`], which is not an error: read again and decide anew.
    ///
    /// # Errors
    /// [`StoreError::InvalidTxn`] for a transaction that breaks a limit, [`StoreError::Timeout`] when it is unknown
    /// whether the change happened, and the other variants when the storage failed and nothing was changed.
    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnOutcome>;

    /// Proves that a transaction can be committed now, by a commit that changes no entry and no revision
    ///
    /// # Errors
    /// What a transaction would have failed with.
    fn probe(&self) -> StoreFuture<'_, ()>;

    /// Every change under `prefix` after revision `from`, then live changes as they are committed
    ///
    /// The store keeps a bounded log of recent changes. A watcher that starts before the log, or that reads too slowly,
    /// gets [`WatchError::Lagged`]; it must list again and watch from the listing's revision.
    fn watch(&self, prefix: &str, from: Revision) -> Watch;

    /// Finishes the transactions already handed over and closes the storage; later operations fail with
    /// [`StoreError::Closed`]
    ///
    /// # Errors
    /// [`StoreError`] when the final flush failed; acknowledged transactions are durable even then.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// The smallest key that is greater than every key with `prefix`, or `None` when there is no upper bound
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    let last = end.pop()?;
    // Keys are printable ASCII, so the successor of a key character is always a character.
    end.push(char::from_u32(u32::from(last) + 1)?);
    Some(end)
}
