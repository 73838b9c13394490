//! What a caller asks a store to do at once, and the limits of it

use std::collections::HashSet;

use bytes::Bytes;

use super::{InvalidTxn, Record, Revision};

/// What must hold for a key before a transaction may change anything
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist
    Absent,
    /// The key exists, whatever its value
    Present,
    /// The key was last written at exactly this revision
    At(Revision),
}

impl Expect {
    /// Whether a key that was last written at `found` (`None` = absent) satisfies this
    #[must_use]
    pub fn is_met_by(self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

/// One condition of a transaction
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key
    pub key: String,
    /// What must hold for it
    pub expect: Expect,
}

/// A group of changes that happen together or not at all
///
/// ```
/// use prexorcloud_controller::store::{Expect, Revision, Txn};
///
/// let txn = Txn::new()
///     .expect("tokens/1", Expect::At(Revision(7)))
///     .put("tokens/1", "consumed")
///     .delete("tokens/0");
/// assert!(txn.validate().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub(crate) compares: Vec<Compare>,
    pub(crate) puts: Vec<(String, Bytes)>,
    pub(crate) deletes: Vec<String>,
    pub(crate) appends: Vec<Bytes>,
}

impl Txn {
    /// The longest key in bytes
    pub const MAX_KEY_BYTES: usize = 512;
    /// The largest value in bytes
    pub const MAX_VALUE_BYTES: usize = 8 * 1024 * 1024;
    /// The most comparisons, puts and deletes together
    pub const MAX_OPERATIONS: usize = 1024;

    /// A transaction that does nothing yet
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.compares.push(Compare {
            key: key.into(),
            expect,
        });
        self
    }

    /// Adds a value to write
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Adds a record to write under its own key
    #[must_use]
    pub fn put_record<R: Record>(self, record: &R) -> Self {
        self.put(record.key(), record.encode_to_vec())
    }

    /// Adds a record that must not exist yet
    #[must_use]
    pub fn create<R: Record>(self, record: &R) -> Self {
        self.expect(record.key(), Expect::Absent).put_record(record)
    }

    /// Adds a record that replaces the one written at `revision`
    #[must_use]
    pub fn replace<R: Record>(self, revision: Revision, record: &R) -> Self {
        self.expect(record.key(), Expect::At(revision)).put_record(record)
    }

    /// Adds a key to delete; an absent key is fine
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// Adds an entry at the end of the log: it gets the next number, and stands under [`logged_key`](super::logged_key)
    ///
    /// The number is one higher than that of the entry before, and is never given out again. The store deletes the oldest
    /// entries by itself when the log is full; watches are not told of that.
    #[must_use]
    pub fn append(mut self, value: impl Into<Bytes>) -> Self {
        self.appends.push(value.into());
        self
    }

    /// Whether this transaction writes or deletes nothing
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.appends.is_empty()
    }

    /// Checks the limits that every store enforces before it touches its storage
    ///
    /// # Errors
    /// [`InvalidTxn`] names the first limit that is broken.
    pub fn validate(&self) -> Result<(), InvalidTxn> {
        let operations = self.compares.len() + self.puts.len() + self.deletes.len() + self.appends.len();
        if operations > Self::MAX_OPERATIONS {
            return Err(InvalidTxn::TooManyOperations { operations });
        }
        let written = self.puts.iter().map(|(key, _)| key).chain(&self.deletes);
        for key in self
            .compares
            .iter()
            .map(|compare| &compare.key)
            .chain(written.clone())
        {
            validate_key(key)?;
        }
        if let Some((key, value)) = self
            .puts
            .iter()
            .find(|(_, value)| value.len() > Self::MAX_VALUE_BYTES)
        {
            return Err(InvalidTxn::ValueTooLarge {
                key: key.clone(),
                bytes: value.len(),
            });
        }
        if let Some(value) = self
            .appends
            .iter()
            .find(|value| value.len() > Self::MAX_VALUE_BYTES)
        {
            return Err(InvalidTxn::ValueTooLarge {
                key: super::LOGGED.to_owned(),
                bytes: value.len(),
            });
        }
        let mut seen = HashSet::new();
        for key in written {
            if key.starts_with(super::LOGGED) {
                return Err(InvalidTxn::Logged { key: key.clone() });
            }
            if !seen.insert(key) {
                return Err(InvalidTxn::WrittenTwice { key: key.clone() });
            }
        }
        Ok(())
    }
}

/// What became of a transaction that the storage could process
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum TxnOutcome {
    /// It is durable
    Committed {
        /// The revision it got, or the current one if there was nothing to change
        revision: Revision,
    },
    /// A condition did not hold and nothing was changed
    Conflict {
        /// The first key whose condition failed
        key: String,
        /// When that key was last written, `None` if it does not exist
        found: Option<Revision>,
    },
}

impl TxnOutcome {
    /// The revision if the transaction was committed
    #[must_use]
    pub fn committed(&self) -> Option<Revision> {
        match self {
            Self::Committed { revision } => Some(*revision),
            Self::Conflict { .. } => None,
        }
    }
}

fn validate_key(key: &str) -> Result<(), InvalidTxn> {
    if key.is_empty() || key.len() > Txn::MAX_KEY_BYTES {
        return Err(InvalidTxn::KeyLength { bytes: key.len() });
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidTxn::KeyCharacters {
            key: key.escape_debug().to_string(),
        });
    }
    Ok(())
}
