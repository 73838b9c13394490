//! Reads: a few read-only connections, used on the blocking pool

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::Semaphore;

use super::file::{self, store_error};
use crate::store::{Entry, Listing, Query, Revision, StoreError, prefix_end};

/// Connections that read at the same time; more callers wait their turn
const CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let readers = std::sync::Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let idle = readers.idle().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => file::open_for_reading(&readers.path).map_err(store_error)?,
            };
            let result = work(&mut connection)?;
            // After a failure the connection is dropped instead: its state is not worth guessing.
            let mut idle = readers.idle();
            if !readers.permits.is_closed() && idle.len() < CONNECTIONS {
                idle.push(connection);
            }
            drop(idle);
            Ok(result)
        });
        done.await.unwrap_or_else(|stopped| {
            Err(StoreError::Io {
                detail: format!("a read did not finish: {stopped}"),
            })
        })
    }

    pub(super) fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn get(connection: &Connection, key: String) -> Result<Option<Entry>, StoreError> {
    connection
        .prepare_cached("SELECT key, value, revision FROM entries WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key], entry).optional())
        .map_err(store_error)
}

pub(super) fn list(connection: &mut Connection, query: &Query) -> Result<Listing, StoreError> {
    // One read transaction, so that the revision belongs to the rows.
    let snapshot = connection.transaction().map_err(store_error)?;
    let revision = file::revision(&snapshot).map_err(store_error)?;
    let entries = rows(&snapshot, query).map_err(store_error)?;
    snapshot.finish().map_err(store_error)?;
    Ok(Listing { entries, revision })
}

pub(super) fn count(connection: &Connection, prefix: &str) -> Result<usize, StoreError> {
    let sql = "SELECT count(*) FROM entries WHERE key >= ?1 AND (?2 IS NULL OR key < ?2)";
    let count: i64 = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row(params![prefix, prefix_end(prefix)], |row| row.get(0)))
        .map_err(store_error)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn rows(connection: &Connection, query: &Query) -> rusqlite::Result<Vec<Entry>> {
    let sql = if query.descending {
        "SELECT key, value, revision FROM entries
         WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND (?3 IS NULL OR key < ?3)
         ORDER BY key DESC LIMIT ?4 OFFSET ?5"
    } else {
        "SELECT key, value, revision FROM entries
         WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND (?3 IS NULL OR key > ?3)
         ORDER BY key LIMIT ?4 OFFSET ?5"
    };
    // A negative limit means none.
    let limit = query
        .limit
        .map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let skipped = i64::try_from(query.skipped).unwrap_or(i64::MAX);
    let end = prefix_end(&query.prefix);
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![query.prefix, end, query.after, limit, skipped], entry)?;
    rows.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let value: Vec<u8> = row.get(1)?;
    let revision: i64 = row.get(2)?;
    Ok(Entry {
        key: row.get(0)?,
        value: Bytes::from(value),
        revision: Revision(u64::try_from(revision).unwrap_or(0)),
    })
}
