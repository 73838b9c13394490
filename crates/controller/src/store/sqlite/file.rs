//! The file itself: whose it is, which version, whether it is sound, and copies of it

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, backup::Backup, config::DbConfig};

use super::SqliteOptions;
use crate::store::{OpenError, Revision, StoreError};

/// "PXRC": what SQLite keeps in the file header to tell our files from others
const APPLICATION_ID: i64 = 0x5058_5243;

/// One entry per schema version, applied in order to reach the newest
const MIGRATIONS: &[&str] = &["
    CREATE TABLE entries (
        key TEXT PRIMARY KEY NOT NULL,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE counters (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT;
    INSERT INTO counters (name, value) VALUES ('revision', 0);
"];

/// Wait for a lock that another connection of this process, or a backup tool, holds
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the file, and notes in it that it is in use
///
/// While it is, what was committed last stands in its log only. A file that was in use and has no log is an old state that
/// looks like a whole one, so it is refused unless `options` take it.
pub(super) fn open_for_writing(path: &Path, options: &SqliteOptions) -> Result<Connection, OpenError> {
    let had_log = log_of(path).exists();
    create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| open_error(path, &error))?;
    refuse_if_not_ours(&connection, path)?;
    prepare(&mut connection, path, options.max_bytes)
        .map_err(|error| open_error(path, &error))?
        .map_or(Ok(()), Err)?;
    let was_in_use = is_in_use(&connection).map_err(|error| open_error(path, &error))?;
    if was_in_use && !had_log && !options.without_log {
        return Err(OpenError::LogMissing {
            path: path.to_path_buf(),
            log: log_of(path),
        });
    }
    set_in_use(&connection, true)
        .and_then(|()| checkpoint(&connection))
        // Only an end in good order folds the log in, or a file without one would not tell that it lacks something.
        .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true))
        .map_err(|error| open_error(path, &error))?;
    Ok(connection)
}

/// Folds the log into the file, which is whole from then on
pub(super) fn settle(connection: &Connection) -> rusqlite::Result<()> {
    set_in_use(connection, false)?;
    checkpoint(connection)
}

fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn is_in_use(connection: &Connection) -> rusqlite::Result<bool> {
    let value: Option<i64> = connection
        .query_row("SELECT value FROM counters WHERE name = 'in_use'", [], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(value.is_some_and(|value| value != 0))
}

fn set_in_use(connection: &Connection, in_use: bool) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO counters (name, value) VALUES ('in_use', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1",
            [i64::from(in_use)],
        )
        .map(drop)
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push("-wal");
    path.with_file_name(name)
}

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// SQLite would create the file with the umask's permissions; it holds secrets' hashes, so we create it first.
fn create(path: &Path) -> Result<(), OpenError> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => sync_parent(path).map_err(|error| create_error(path, &error)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(create_error(path, &error)),
    }
}

fn create_error(path: &Path, error: &io::Error) -> OpenError {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::DiskFull { path },
        _ => OpenError::Io {
            path,
            detail: error.to_string(),
        },
    }
}

/// Reads the header only: nothing is written to a file that is not ours.
fn refuse_if_not_ours(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let (application, version, tables) = header(connection).map_err(|error| open_error(path, &error))?;
    let supported = newest_schema();
    match application {
        APPLICATION_ID if version > supported => Err(OpenError::NewerSchema {
            path: path.to_path_buf(),
            found: version,
            supported,
        }),
        APPLICATION_ID => Ok(()),
        0 if version == 0 && tables == 0 => Ok(()),
        _ => Err(OpenError::ForeignFile {
            path: path.to_path_buf(),
        }),
    }
}

fn header(connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((application, version, tables))
}

/// What is deleted leaves the file, too; a file of an earlier release is rewritten once
fn give_space_back(connection: &Connection) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if mode == INCREMENTAL {
        return Ok(());
    }
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    connection.execute_batch("VACUUM")
}

fn prepare(
    connection: &mut Connection,
    path: &Path,
    max_bytes: Option<u64>,
) -> rusqlite::Result<Option<OpenError>> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let detail = format!("the file system does not support a write-ahead log (journal mode {mode})");
        return Ok(Some(OpenError::Io {
            path: path.to_path_buf(),
            detail,
        }));
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
    if let Some(max_bytes) = max_bytes {
        let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(max_bytes).unwrap_or(i64::MAX) / page_size.max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(Some(OpenError::Corrupt {
            path: path.to_path_buf(),
            detail: verdict,
        }));
    }
    if let Err(error) = give_space_back(connection) {
        // It needs as much space again; without it the file only never shrinks.
        tracing::warn!(%error, "the store cannot be rewritten so that it gives space back; the next start tries again");
    }
    migrate(connection)?;
    Ok(None)
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let step = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        step.commit()?;
    }
    Ok(())
}

fn newest_schema() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

pub(super) fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let value: i64 = connection
        .prepare_cached("SELECT value FROM counters WHERE name = 'revision'")?
        .query_row([], |row| row.get(0))?;
    Ok(Revision(u64::try_from(value).unwrap_or(0)))
}

pub(super) fn backup(connection: &mut Connection, target: &Path) -> Result<(), StoreError> {
    let io_error = |error: &io::Error| StoreError::Io {
        detail: format!("{}: {error}", target.display()),
    };
    if target.exists() {
        return Err(StoreError::Io {
            detail: format!("{} exists already", target.display()),
        });
    }
    let unfinished = unfinished_name(target);
    let copied = copy_to(connection, &unfinished);
    if copied.is_err() {
        // The copy is useless; a failure to remove it is less important than why the copy failed.
        let _ = fs::remove_file(&unfinished);
    }
    copied?;
    File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error(&error))?;
    fs::rename(&unfinished, target).map_err(|error| io_error(&error))?;
    sync_parent(target).map_err(|error| io_error(&error))
}

fn copy_to(connection: &Connection, unfinished: &Path) -> Result<(), StoreError> {
    let created = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished);
    created.map_err(|error| StoreError::Io {
        detail: format!("{}: {error}", unfinished.display()),
    })?;
    let mut copy = Connection::open(unfinished).map_err(store_error)?;
    {
        let backup = Backup::new(connection, &mut copy).map_err(store_error)?;
        backup
            .run_to_completion(256, Duration::ZERO, None)
            .map_err(store_error)?;
    }
    // The copy is whole, whoever has the original open.
    set_in_use(&copy, false).map_err(store_error)?;
    copy.close().map_err(|(_, error)| store_error(error))
}

fn unfinished_name(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".unfinished");
    target.with_file_name(name)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

pub(super) fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_path_buf();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::ForeignFile { path },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Corrupt {
            path,
            detail: error.to_string(),
        },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => OpenError::ReadOnly { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
        Some(ErrorCode::DiskFull) => OpenError::DiskFull { path },
        _ => OpenError::Io {
            path,
            detail: error.to_string(),
        },
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
pub(super) fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt {
            detail: error.to_string(),
        },
        _ => StoreError::Io {
            detail: error.to_string(),
        },
    }
}
