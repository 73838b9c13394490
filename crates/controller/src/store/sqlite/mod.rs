//! The store of a single controller: one SQLite file
//!
//! ```text
//!   txn() ──▶ bounded channel ──▶ writer thread ──▶ one COMMIT for all that were waiting ──▶ replies, change log
//!   get(), list() ──▶ a few read-only connections on the blocking pool
//! ```
//!
//! Write-ahead log with `synchronous=FULL`: a reply means that the change survives a power cut. Batching is what makes
//! that affordable, since waiting transactions share one flush.

mod file;
mod logged;
mod reader;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use self::{reader::Readers, writer::Request};
use super::{
    Entry, Listing, OpenError, Query, Revision, Store, StoreError, StoreFuture, Txn, TxnOutcome, Watch,
    change_log::ChangeLog,
};

/// How a [`SqliteStore`] uses its file; the defaults suit a controller
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The file may not grow beyond this many bytes; writes then fail with [`StoreError::DiskFull`]. Default: no limit
    pub max_bytes: Option<u64>,
    /// Commits that [`Store::watch`] can replay. Default 4096
    pub watch_commits: usize,
    /// Bytes of values that [`Store::watch`] can replay. Default 16 MiB
    pub watch_bytes: usize,
    /// Appended entries that are kept. Default 65,536
    pub logged_entries: u64,
    /// Bytes of appended entries that are kept; the newest entry is, however large it is. Default 32 MiB
    pub logged_bytes: u64,
    /// Longest wait for a transaction, queueing included. Default 30 s
    pub txn_timeout: Duration,
    /// Take a file whose log is missing, with what is in it. Default no
    pub without_log: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_bytes: None,
            watch_commits: 4096,
            watch_bytes: 16 * 1024 * 1024,
            logged_entries: 65_536,
            logged_bytes: 32 * 1024 * 1024,
            txn_timeout: Duration::from_secs(30),
            without_log: false,
        }
    }
}

/// [`Store`] in one SQLite file, for one process
///
/// Dropping it lets the writer thread finish what was handed over; [`Store::close`] waits for that.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    readers: Arc<Readers>,
    // Taken by `close`, so that watches end.
    log: Mutex<Option<Arc<ChangeLog>>>,
    txn_timeout: Duration,
    is_closing: AtomicBool,
}

impl SqliteStore {
    /// Transactions that may wait for the writer before callers wait for room
    const QUEUE: usize = 1024;

    /// Opens the file at `path`, creating it (mode 0600) in an existing folder
    ///
    /// Checks that the file is ours, brings an older schema up to date and runs SQLite's quick check. Blocks the
    /// calling thread while it does.
    ///
    /// # Errors
    /// [`OpenError`] says whether the file is foreign, newer, damaged, in use, or not writable.
    pub fn open(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let connection = file::open_for_writing(&path, options)?;
        let revision = file::revision(&connection).map_err(|error| file::open_error(&path, &error))?;
        let log = Arc::new(ChangeLog::starting_at(
            revision,
            options.watch_commits,
            options.watch_bytes,
        ));
        let logged = logged::Logged::load(&connection, options.logged_entries, options.logged_bytes)
            .map_err(|error| file::open_error(&path, &error))?;
        let (requests, waiting) = mpsc::channel(Self::QUEUE);
        let writer = writer::Writer::new(connection, revision, logged, Arc::downgrade(&log));
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| OpenError::Io {
                path: path.clone(),
                detail: error.to_string(),
            })?;
        Ok(Self {
            readers: Arc::new(Readers::new(path.clone())),
            path,
            requests,
            log: Mutex::new(Some(log)),
            txn_timeout: options.txn_timeout,
            is_closing: AtomicBool::new(false),
        })
    }

    /// The file
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a consistent copy of the store to `target`, while reads and writes go on
    ///
    /// The copy is complete and durable before it gets its name. An existing file is not overwritten.
    ///
    /// # Errors
    /// [`StoreError::Io`] when `target` exists or cannot be written, [`StoreError::DiskFull`] when it does not fit.
    pub async fn backup(&self, target: impl AsRef<Path>) -> Result<(), StoreError> {
        let target = target.as_ref().to_path_buf();
        self.readers
            .read(move |connection| file::backup(connection, &target))
            .await
    }

    /// The same for a file that this or another process may have open; blocks the calling thread
    ///
    /// # Errors
    /// As [`backup`](Self::backup).
    pub fn copy(source: &Path, target: &Path) -> Result<(), StoreError> {
        let mut connection = file::open_for_reading(source).map_err(file::store_error)?;
        file::backup(&mut connection, target)
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(make(reply)).await.map_err(|_| self.ended())?;
            answer.await.map_err(|_| self.ended())?
        };
        tokio::time::timeout(self.txn_timeout, exchange)
            .await
            .unwrap_or(Err(StoreError::Timeout))
    }

    /// Why nobody takes requests any more
    fn ended(&self) -> StoreError {
        if self.is_closing.load(Ordering::Acquire) {
            StoreError::Closed
        } else {
            StoreError::WriterDied
        }
    }

    /// What cannot be written is not to be read as if all were well
    fn is_there(&self) -> Result<(), StoreError> {
        if self.requests.is_closed() {
            return Err(self.ended());
        }
        Ok(())
    }

    fn log(&self) -> Option<Arc<ChangeLog>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        let key = key.to_owned();
        Box::pin(async move {
            self.is_there()?;
            self.readers
                .read(move |connection| reader::get(connection, key))
                .await
        })
    }

    fn list(&self, query: Query) -> StoreFuture<'_, Listing> {
        Box::pin(async move {
            self.is_there()?;
            self.readers
                .read(move |connection| reader::list(connection, &query))
                .await
        })
    }

    fn count<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, usize> {
        Box::pin(async move {
            self.is_there()?;
            let prefix = prefix.to_owned();
            self.readers
                .read(move |connection| reader::count(connection, &prefix))
                .await
        })
    }

    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnOutcome> {
        Box::pin(async move {
            txn.validate()?;
            self.request(|reply| Request::Apply { txn, reply }).await
        })
    }

    fn probe(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.request(|reply| Request::Probe { reply }))
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        match self.log() {
            Some(log) => log.watch(prefix, from),
            None => Box::pin(futures_util::stream::once(async {
                Err(super::WatchError::Closed)
            })),
        }
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.is_closing.store(true, Ordering::Release);
            let closed = self.request(|reply| Request::Close { reply }).await;
            self.readers.close();
            self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
            match closed {
                // Closing twice is harmless.
                Err(StoreError::Closed) => Ok(()),
                other => other,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_dead_writer_is_no_closed_store_and_nothing_is_read_as_if_all_were_well() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("controller.db");
        let mut store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
        assert_eq!(store.get("a").await, Ok(None));
        // What remains of a thread that has died: nobody receives.
        store.requests = mpsc::channel(1).0;
        assert_eq!(store.probe().await, Err(StoreError::WriterDied));
        assert_eq!(
            store.txn(Txn::new().put("a", "1")).await,
            Err(StoreError::WriterDied)
        );
        assert_eq!(store.get("a").await, Err(StoreError::WriterDied));
        let listed = store.list(Query::prefix("")).await;
        assert_eq!(listed, Err(StoreError::WriterDied));
        assert!(StoreError::WriterDied.is_final());
        assert_eq!(store.close().await, Ok(()));
        assert_eq!(store.get("a").await, Err(StoreError::Closed));
    }
}
