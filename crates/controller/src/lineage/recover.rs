//! Going on with a data folder that a start refuses, which is an operator's decision

use std::{path::Path, sync::Arc};

use prexorcloud_protocol::Epoch;
use prexorcloud_security::{
    authority::{Authority, AuthorityPolicy, LoadError},
    files::{DataDirLock, LockError},
};

use super::{
    AUTHORITY_CERTIFICATE, AUTHORITY_FOLDER, Known, LineageError, STORE_FILE, change_record,
    mark::{MARK_FILE, Mark},
};
use crate::{
    audit,
    store::{OpenError, SqliteOptions, SqliteStore, Store, StoreError, Txn},
    wall_clock::now_millis,
};

/// What an operator has decided
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverOptions {
    /// Go on without records where there are none
    pub without_records: bool,
    /// The next start is to have at least this epoch
    pub epoch: Option<u64>,
}

/// What was done
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The epoch of the last start
    pub before: u64,
    /// The epoch that the next start has
    pub next: u64,
    /// A node that reported a higher epoch than the records had, and which
    pub reported: Option<(String, u64)>,
    /// Whether the records were begun anew
    pub without_records: bool,
}

/// Why nothing was done
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A controller runs, or the folder cannot be used
    #[error("{0}; a controller that runs must be stopped first")]
    DataDir(#[from] LockError),
    /// The database cannot be opened
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be read or written
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is there cannot be recovered like this
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The authority's files are no authority
    #[error(transparent)]
    Authority(#[from] LoadError),
    /// There is nothing in the folder
    #[error("{folder} has no cluster: `prexorcloud controller` begins one there")]
    Nothing {
        /// The folder
        folder: String,
    },
    /// There are records, which the operator thinks are lost
    #[error(
        "{database} has the records of this cluster (epoch {epoch}): leave --without-records out to go on with them, or move that file away if it is not the one that you mean"
    )]
    NotLost {
        /// The database
        database: String,
        /// The epoch in it
        epoch: u64,
    },
    /// Daemons would not obey it
    #[error("epoch {wanted} is out of range: daemons obey at most {}", Epoch::MAX_OBEYED)]
    OutOfRange {
        /// What was asked for, or came out
        wanted: u64,
    },
    /// The work was cut short
    #[error("the program is ending")]
    Interrupted,
}

/// Makes the next start go on with what is in `data_dir`, under an epoch that every daemon obeys
///
/// The epoch is raised past the records' own, past what the mark beside the authority remembers, and past what daemons have
/// reported to this folder. No controller may run there.
///
/// # Errors
/// [`RecoverError`]; nothing is changed then, unless the storage failed half way.
pub async fn recover(data_dir: &Path, options: RecoverOptions) -> Result<Recovered, RecoverError> {
    let folder = data_dir.to_path_buf();
    let on_disk = tokio::task::spawn_blocking(move || open(&folder));
    let (_lock, store, mark) = on_disk.await.map_err(|_| RecoverError::Interrupted)??;
    let store: Arc<dyn Store> = Arc::new(store);
    let recovered = raise(&*store, data_dir, mark, options).await;
    let closed = store.close().await;
    let recovered = recovered?;
    closed?;
    Ok(recovered)
}

/// Opens the records of a data folder in which no controller runs, which the caller has locked; blocks
///
/// # Errors
/// [`RecoverError::Nothing`], or what keeps the database from being opened.
pub fn open_records(data_dir: &Path) -> Result<SqliteStore, RecoverError> {
    let database = data_dir.join(STORE_FILE);
    if !database.exists() {
        let folder = data_dir.display().to_string();
        return Err(RecoverError::Nothing { folder });
    }
    Ok(SqliteStore::open(database, &SqliteOptions::default())?)
}

fn open(data_dir: &Path) -> Result<(DataDirLock, SqliteStore, Option<Mark>), RecoverError> {
    let (authority, database) = (data_dir.join(AUTHORITY_FOLDER), data_dir.join(STORE_FILE));
    let mark = match Mark::read(&authority) {
        // What it said is lost; that is what the operator goes on without.
        Err(LineageError::MarkDamaged { .. }) => None,
        read => read?,
    };
    if !authority.join(AUTHORITY_CERTIFICATE).exists() {
        if mark.is_none() && !database.exists() {
            let folder = data_dir.display().to_string();
            return Err(RecoverError::Nothing { folder });
        }
        let known_by = match database.exists() {
            true => database,
            false => authority.join(MARK_FILE),
        };
        return Err(LineageError::AuthorityMissing { authority, known_by }.into());
    }
    let lock = DataDirLock::acquire(data_dir, "controller")?;
    Authority::load(&authority, &AuthorityPolicy::default())?;
    let options = SqliteOptions {
        without_log: true,
        ..SqliteOptions::default()
    };
    Ok((lock, SqliteStore::open(database, &options)?, mark))
}

async fn raise(
    store: &dyn Store,
    data_dir: &Path,
    mark: Option<Mark>,
    options: RecoverOptions,
) -> Result<Recovered, RecoverError> {
    let (authority, database) = (data_dir.join(AUTHORITY_FOLDER), data_dir.join(STORE_FILE));
    let known = Known::of(store).await?;
    let record = known.record.map(|found| found.record).unwrap_or_default();
    let without_records = record.cluster_id.is_empty();
    if without_records && !options.without_records {
        return Err(LineageError::RecordsMissing { database, authority }.into());
    }
    if options.without_records && !without_records {
        let (database, epoch) = (database.display().to_string(), record.epoch);
        return Err(RecoverError::NotLost { database, epoch });
    }
    if let Some(mark) = &mark
        && !without_records
        && mark.cluster_id != record.cluster_id
    {
        return Err(LineageError::Foreign { database, authority }.into());
    }
    let remembered = mark.as_ref().map_or(0, |mark| mark.epoch);
    let past = record.epoch.max(remembered).max(record.fence);
    let next = options.epoch.unwrap_or_default().max(past + 1);
    if Epoch::new(next) > Epoch::MAX_OBEYED {
        return Err(RecoverError::OutOfRange { wanted: next });
    }
    let cluster_id = match (&mark, without_records) {
        (Some(mark), true) => mark.cluster_id.clone(),
        (None, true) => Mark::of_first_start().cluster_id,
        (_, false) => record.cluster_id.clone(),
    };
    let raised = change_record(store, |record| {
        record.cluster_id.clone_from(&cluster_id);
        if record.created_at_ms == 0 {
            record.created_at_ms = now_millis();
        }
        // The start itself counts one further.
        record.epoch = next - 1;
        record.fence = 0;
        record.fence_node.clear();
    })
    .await?;
    let detail = format!("epoch {} to {next}", record.epoch);
    let entry = audit::entry("operator:host", "controller.recover", &cluster_id, &detail);
    let _ = store.txn(Txn::new().put_record(&entry)).await?;
    let revision = Known::of(store).await?.revision;
    Mark::of(&raised, revision)
        .write(&authority)
        .map_err(LineageError::from)?;
    let reported = (record.fence > record.epoch).then_some((record.fence_node, record.fence));
    Ok(Recovered {
        before: record.epoch,
        next,
        reported,
        without_records,
    })
}
