//! The file: who may open it, what is refused, limits, copies, slow watchers

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use futures_util::StreamExt as _;
use prexorcloud_controller::store::{
    OpenError, Query, Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn, WatchError,
};

use crate::conformance::within;

fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, &SqliteOptions::default())
}

#[tokio::test]
async fn values_survive_a_restart_and_the_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    let store = open(&path).unwrap();
    within(store.txn(Txn::new().put("a", "1")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let log = folder.path().join("controller.db-wal");
    assert_eq!(fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);
    within(store.close()).await.unwrap();

    let store = open(&path).unwrap();
    let listing = within(store.list(Query::prefix(""))).await.unwrap();
    assert_eq!((listing.revision, listing.entries.len()), (Revision(1), 1));
    // What happened before the start is not in the log of changes.
    let mut watch = store.watch("", Revision::ZERO);
    assert_eq!(
        within(watch.next()).await.unwrap(),
        Err(WatchError::Lagged {
            position: Revision::ZERO,
            oldest: Revision(1)
        })
    );
}

#[test]
fn files_of_others_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(
        &text,
        "these are my notes, not a database, and long enough to be read as a header of one. ".repeat(20),
    )
    .unwrap();
    let database = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("CREATE TABLE invoices (id INTEGER)").unwrap();
    other.close().unwrap();
    for path in [text, database] {
        let before = fs::read(&path).unwrap();
        assert!(
            matches!(open(&path), Err(OpenError::ForeignFile { .. })),
            "{}",
            path.display()
        );
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_file_of_a_newer_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    drop(open(&path).unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    newer.close().unwrap();
    assert!(matches!(
        open(&path),
        Err(OpenError::NewerSchema {
            found: 99,
            supported: 1,
            ..
        })
    ));
}

#[tokio::test]
async fn a_damaged_file_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    let store = open(&path).unwrap();
    for index in 0..64 {
        let txn = Txn::new().put(format!("k/{index}"), vec![7_u8; 4000]);
        within(store.txn(txn)).await.unwrap().committed().unwrap();
    }
    within(store.close()).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 100_000);
    for page in bytes.chunks_mut(4096).skip(1) {
        page[..64].fill(0xAB);
    }
    fs::write(&path, bytes).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [
        file.join("controller.db"),
        folder.path().join("missing/controller.db"),
    ] {
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    // A folder where even the superuser cannot create files.
    assert!(open(Path::new("/proc/controller.db")).is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        max_bytes: Some(256 * 1024),
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open(folder.path().join("controller.db"), &options).unwrap();
    within(store.txn(Txn::new().put("keep", "me")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    let big = vec![1_u8; 512 * 1024];
    assert_eq!(
        within(store.txn(Txn::new().put("big", big).put("also", "no"))).await,
        Err(StoreError::DiskFull)
    );
    let listing = within(store.list(Query::prefix(""))).await.unwrap();
    assert_eq!((listing.revision, listing.entries.len()), (Revision(1), 1));
    // There is room for small things, and the counter did not skip.
    assert_eq!(
        within(store.txn(Txn::new().put("small", "1")))
            .await
            .unwrap()
            .committed(),
        Some(Revision(2))
    );
}

#[tokio::test]
async fn a_watcher_that_reads_too_slowly_must_list_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        watch_commits: 8,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open(folder.path().join("controller.db"), &options).unwrap();
    let mut watch = store.watch("", Revision::ZERO);
    for index in 0..20 {
        within(store.txn(Txn::new().put(format!("k/{index}"), "1")))
            .await
            .unwrap()
            .committed()
            .unwrap();
    }
    assert_eq!(
        within(watch.next()).await.unwrap(),
        Err(WatchError::Lagged {
            position: Revision::ZERO,
            oldest: Revision(12)
        })
    );
    let listing = within(store.list(Query::prefix(""))).await.unwrap();
    let mut watch = store.watch("", listing.revision);
    within(store.txn(Txn::new().put("k/next", "1")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert_eq!(
        within(watch.next()).await.unwrap().unwrap().revision,
        Revision(21)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_complete_store_taken_while_writing() {
    let folder = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open(&folder.path().join("controller.db")).unwrap());
    for index in 0..100 {
        within(store.txn(Txn::new().put(format!("k/{index:03}"), vec![1_u8; 2000])))
            .await
            .unwrap()
            .committed()
            .unwrap();
    }
    let writer = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        async move {
            for index in 100..200 {
                let txn = Txn::new().put(format!("k/{index:03}"), vec![1_u8; 2000]);
                store.txn(txn).await.unwrap().committed().unwrap();
            }
        }
    });
    let target = folder.path().join("backup.db");
    within(store.backup(&target)).await.unwrap();
    writer.await.unwrap();
    assert!(
        matches!(within(store.backup(&target)).await, Err(StoreError::Io { .. })),
        "never overwrites"
    );
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);

    let copy = open(&target).unwrap();
    let listing = within(copy.list(Query::prefix(""))).await.unwrap();
    assert!(listing.entries.len() >= 100);
    assert_eq!(
        listing.revision.0,
        listing.entries.len() as u64,
        "a snapshot between two transactions"
    );
}

#[tokio::test]
async fn a_transaction_that_gets_no_answer_in_time_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    let options = SqliteOptions {
        txn_timeout: Duration::from_millis(100),
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open(&path, &options).unwrap();
    // Another connection holds the write lock for longer than that.
    let blocker = rusqlite::Connection::open(&path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(
        within(store.txn(Txn::new().put("a", "1"))).await,
        Err(StoreError::Timeout)
    );
    blocker.execute_batch("ROLLBACK").unwrap();
}

/// How large the file is once its log is folded in
async fn size_after_close(store: SqliteStore) -> u64 {
    let path = store.path().to_path_buf();
    within(store.close()).await.unwrap();
    fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn what_is_deleted_leaves_the_file_also_of_an_earlier_release() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    within(open(&path).unwrap().close()).await.unwrap();
    for earlier in [false, true] {
        if earlier {
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection
                .execute_batch("PRAGMA auto_vacuum = 0; VACUUM")
                .unwrap();
        }
        let store = open(&path).unwrap();
        for number in 0..16 {
            let txn = Txn::new().put(format!("crashes/{number}"), vec![7; MIB]);
            let _ = within(store.txn(txn)).await.unwrap();
        }
        let full = size_after_close(store).await;
        assert!(full > 16 * MIB as u64, "{full}");
        let store = open(&path).unwrap();
        for number in 0..16 {
            let _ = within(store.txn(Txn::new().delete(format!("crashes/{number}"))))
                .await
                .unwrap();
        }
        let empty = size_after_close(store).await;
        assert!(empty < 2 * MIB as u64, "{earlier}: {empty}");
    }
}
