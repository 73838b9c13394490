//! The log in the store: numbered entries that a transaction appends, and the oldest of which go when there are too many
//!
//! Only the writer appends and only the writer deletes, both inside the commit of the change that an entry is about. So there
//! is an entry if and only if there was the change, and numbers have no holes but for those that were deleted from the front.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::store::{Change, LOGGED, Revision, logged_key, logged_sequence, prefix_end};

/// What the log holds
#[derive(Clone, Copy, Debug)]
pub(super) struct Logged {
    /// The number of the oldest entry, or the next one if there is none
    first: u64,
    next: u64,
    bytes: u64,
    max_entries: u64,
    max_bytes: u64,
}

impl Logged {
    pub(super) fn load(connection: &Connection, max_entries: u64, max_bytes: u64) -> rusqlite::Result<Self> {
        let given_out: Option<i64> = connection
            .query_row("SELECT value FROM counters WHERE name = 'logged'", [], |row| {
                row.get(0)
            })
            .optional()?;
        let (first, bytes): (Option<String>, i64) = connection.query_row(
            "SELECT min(key), coalesce(sum(length(value)), 0) FROM entries WHERE key >= ?1 AND key < ?2",
            params![LOGGED, prefix_end(LOGGED)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let next = given_out.and_then(|last| u64::try_from(last).ok()).unwrap_or(0) + 1;
        Ok(Self {
            first: first.as_deref().and_then(logged_sequence).unwrap_or(next),
            next,
            bytes: u64::try_from(bytes).unwrap_or(0),
            max_entries: max_entries.max(1),
            max_bytes,
        })
    }

    pub(super) fn append(
        &mut self,
        commit: &Connection,
        revision: Revision,
        value: Bytes,
    ) -> rusqlite::Result<Change> {
        let key = logged_key(self.next);
        commit
            .prepare_cached("INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)")?
            .execute(params![
                key,
                value.as_ref(),
                i64::try_from(revision.0).unwrap_or(i64::MAX)
            ])?;
        self.next += 1;
        self.bytes = self.bytes.saturating_add(value.len() as u64);
        Ok(Change {
            key,
            value: Some(value),
        })
    }

    /// Deletes what is too much, and notes which numbers were given out
    pub(super) fn settle(&mut self, commit: &Connection) -> rusqlite::Result<()> {
        while self.next - self.first > self.max_entries
            || (self.bytes > self.max_bytes && self.next - self.first > 1)
        {
            let deleted: Option<i64> = commit
                .prepare_cached("DELETE FROM entries WHERE key = ?1 RETURNING length(value)")?
                .query_row([logged_key(self.first)], |row| row.get(0))
                .optional()?;
            let deleted = deleted.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
            self.bytes = self.bytes.saturating_sub(deleted);
            self.first += 1;
        }
        commit
            .prepare_cached(
                "INSERT INTO counters (name, value) VALUES ('logged', ?1)
                 ON CONFLICT (name) DO UPDATE SET value = ?1",
            )?
            .execute([i64::try_from(self.next - 1).unwrap_or(i64::MAX)])?;
        Ok(())
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.next == other.next
    }
}
