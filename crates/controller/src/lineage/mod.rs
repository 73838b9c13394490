//! Whether the parts of a data folder are one cluster's, and its newest state
//!
//! Daemons believe one authority and obey the highest epoch that they have seen. A controller that made either anew
//! beside what is left of a cluster would cut off every node, or let revoked ones back in, without a word. So the folder of
//! the authority has a mark that names the cluster and how far its records had come, and a start goes on only
//! when authority, mark and records fit:
//!
//! | Records | Authority | Mark | |
//! |---|---|---|---|
//! | none | none | none, or of a start that did not get far | a first start |
//! | none | there | of a first start that was cut short | goes on with it |
//! | none | there | anything else | [`LineageError::RecordsMissing`] |
//! | none or some | none | of a cluster | [`LineageError::AuthorityMissing`] |
//! | some | none | none | [`LineageError::AuthorityMissing`] |
//! | some | there | none | an earlier release: the mark is made |
//! | some | there | of another cluster | [`LineageError::Foreign`] |
//! | some | there | further than they are | [`LineageError::RecordsOld`] |
//! | some | another than they name | any | [`LineageError::AnotherAuthority`] |
//!
//! That a whole folder is older than the daemons' memory shows only when one of them answers `STALE_EPOCH`; then the log
//! says so. [`recover`] is the one way past all of these, and an operator's decision.

mod backup;
mod mark;
mod recover;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prexorcloud_protocol::Epoch;
use prexorcloud_security::{
    certificate::Fingerprint,
    files::{self, FileError},
};
use tokio_util::sync::CancellationToken;

use self::mark::{MARK_FILE, Mark};
pub use self::{
    backup::{BackupError, backup},
    recover::{RecoverError, RecoverOptions, Recovered, open_records, recover},
};
use crate::{
    records::ControllerRecord,
    store::{self, Query, Record as _, Revision, Store, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// Name of the store's file in the data folder
pub(crate) const STORE_FILE: &str = "controller.db";

/// Name of the authority's folder in the data folder
pub(crate) const AUTHORITY_FOLDER: &str = "ca";

/// The certificate without which there is no authority
const AUTHORITY_CERTIFICATE: &str = "ca.pem";

/// Between two looks at how far the records have come
const FOLLOW: Duration = Duration::from_secs(30);

/// A report of a daemon that is further ahead than this is not believed: epochs count starts
const PLAUSIBLE: u64 = 1_000_000;

/// Times that a counter is tried anew because somebody else wrote it
const ATTEMPTS: usize = 16;

/// Why a controller does not go on with a data folder: what does not fit, and the command that goes on
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// There is an authority, and nothing that it signed is known
    #[error(
        "{} has no records, but {} is the authority of a cluster: nothing is begun anew beside it. Restore {} from a \
         backup, or go on without its records (nodes, instances, tokens and revocations are forgotten): {}",
        database.display(), authority.display(), database.display(), command(database, " --without-records")
    )]
    RecordsMissing {
        /// The database
        database: PathBuf,
        /// The authority's folder
        authority: PathBuf,
    },
    /// There are records of a cluster, and not the authority that its nodes believe
    #[error(
        "{}/{AUTHORITY_CERTIFICATE} is missing; restore it from a backup ({} knows its cluster, and a new authority would \
         cut off every node), or choose an empty data_dir to begin another cluster",
        authority.display(), known_by.display()
    )]
    AuthorityMissing {
        /// The authority's folder
        authority: PathBuf,
        /// What knows the cluster
        known_by: PathBuf,
    },
    /// Authority and records belong to two clusters
    #[error(
        "{} and {} belong to two different clusters: restore both from one backup",
        database.display(), authority.display()
    )]
    Foreign {
        /// The database
        database: PathBuf,
        /// The authority's folder
        authority: PathBuf,
    },
    /// The certificates of this cluster were signed by another authority
    #[error(
        "{}/{AUTHORITY_CERTIFICATE} is not the authority that {} names ({found}, it was {named}): every node would refuse this \
         controller. Restore ca.pem and ca.key from a backup of this cluster",
        authority.display(), database.display()
    )]
    AnotherAuthority {
        /// The database
        database: PathBuf,
        /// The authority's folder
        authority: PathBuf,
        /// The fingerprint of what is there
        found: String,
        /// The fingerprint that is recorded
        named: String,
    },
    /// The records are older than the authority's folder
    #[error(
        "{} is older than {} remembers ({found}, it was at {remembered}): it was restored from a backup, or copied without \
         its log ({}-wal). Restore a newer one, or go on with this one (what it lacks is forgotten, revocations included): {}",
        database.display(), authority.display(), database.display(), command(database, "")
    )]
    RecordsOld {
        /// The database
        database: PathBuf,
        /// The authority's folder
        authority: PathBuf,
        /// How far the records are
        found: Progress,
        /// How far they had come
        remembered: Progress,
    },
    /// The mark is not readable as one
    #[error("{} is damaged ({detail}): restore the folder from a backup, or go on: {}", mark.display(), command(mark.parent().unwrap_or(mark), ""))]
    MarkDamaged {
        /// The file
        mark: PathBuf,
        /// What is wrong with it
        detail: String,
    },
    /// The mark cannot be read or written
    #[error(transparent)]
    File(#[from] FileError),
}

/// The command that goes on in the folder of this database
pub(crate) fn command(database: &Path, options: &str) -> String {
    let folder = database.parent().unwrap_or(Path::new("."));
    format!(
        "`prexorcloud controller recover --data-dir {}{options}`",
        folder.display()
    )
}

/// How far a cluster's records have come
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Starts of a controller
    pub epoch: u64,
    /// Changes
    pub revision: u64,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "start {}, change {}", self.epoch, self.revision)
    }
}

/// The records' own word on what they are
pub(crate) struct Known {
    pub(crate) record: Option<Stored<ControllerRecord>>,
    pub(crate) revision: Revision,
}

impl Known {
    pub(crate) async fn of(store: &dyn Store) -> Result<Self, StoreError> {
        let listing = store.list(Query::prefix(ControllerRecord::PREFIX)).await?;
        let own = ControllerRecord::key_of(ControllerRecord::ONLY);
        let entry = listing.entries.into_iter().find(|entry| entry.key == own);
        Ok(Self {
            record: entry.map(Stored::decode).transpose()?,
            revision: listing.revision,
        })
    }

    /// SHA-256 of the authority that signs, as hex; empty if that was not noted yet
    pub(crate) fn authority(&self) -> &str {
        self.record
            .as_ref()
            .map_or("", |found| found.record.authority.as_str())
    }

    fn progress(&self) -> Progress {
        Progress {
            epoch: self.record.as_ref().map_or(0, |found| found.record.epoch),
            revision: self.revision.0,
        }
    }
}

/// One cluster's data folder
#[derive(Debug)]
pub(crate) struct Lineage {
    folder: PathBuf,
    mark: Mutex<Mark>,
    is_first_start: bool,
}

impl Lineage {
    /// Judges what is in `data_dir`; blocks for the disk
    ///
    /// A first start leaves its mark before there is an authority, so that one that is cut short is known as such.
    pub(crate) fn examine(data_dir: &Path, known: &Known) -> Result<Self, LineageError> {
        let (folder, database) = (data_dir.join(AUTHORITY_FOLDER), data_dir.join(STORE_FILE));
        let mark = Mark::read(&folder)?;
        let has_authority = folder.join(AUTHORITY_CERTIFICATE).exists();
        let authority = folder.clone();
        let at = |mark, is_first_start| Self {
            folder: folder.clone(),
            mark: Mutex::new(mark),
            is_first_start,
        };
        let Some(found) = &known.record else {
            return match mark {
                Some(mark) if !mark.committed => Ok(at(mark, true)),
                Some(_) if !has_authority => Err(LineageError::AuthorityMissing {
                    known_by: folder.join(MARK_FILE),
                    authority,
                }),
                None if !has_authority => {
                    let mark = Mark::of_first_start();
                    files::ensure_private_dir(&folder)?;
                    mark.write(&folder)?;
                    Ok(at(mark, true))
                }
                _ => Err(LineageError::RecordsMissing { database, authority }),
            };
        };
        if !has_authority {
            return Err(LineageError::AuthorityMissing {
                known_by: database,
                authority,
            });
        }
        let own = Mark::of(&found.record, known.revision);
        let Some(mark) = mark else {
            return Ok(at(own, false));
        };
        if mark.cluster_id != found.record.cluster_id {
            return Err(LineageError::Foreign { database, authority });
        }
        let (found, remembered) = (known.progress(), mark.progress());
        if found.epoch < remembered.epoch || found.revision < remembered.revision {
            return Err(LineageError::RecordsOld {
                database,
                authority,
                found,
                remembered,
            });
        }
        Ok(at(own, false))
    }

    /// Whether the authority is the one that the records name; those of an earlier release name none
    pub(crate) fn require_signer(&self, known: &Known, found: Fingerprint) -> Result<(), LineageError> {
        let named = known.authority();
        let found = found.to_string();
        if named.is_empty() || named == found {
            return Ok(());
        }
        Err(LineageError::AnotherAuthority {
            database: self.folder.with_file_name(STORE_FILE),
            authority: self.folder.clone(),
            found,
            named: named.to_owned(),
        })
    }

    /// Whether there was no cluster here before
    pub(crate) fn is_first_start(&self) -> bool {
        self.is_first_start
    }

    pub(crate) fn authority_folder(&self) -> &Path {
        &self.folder
    }

    /// Counts this start: daemons obey the highest epoch they have seen
    pub(crate) async fn next_epoch(
        &self,
        store: &dyn Store,
        authority: Fingerprint,
    ) -> Result<Epoch, StoreError> {
        let cluster_id = self.mark().cluster_id;
        let raised = change_record(store, |record| {
            if record.cluster_id.is_empty() {
                record.cluster_id.clone_from(&cluster_id);
                record.created_at_ms = now_millis();
            }
            record.epoch += 1;
            record.authority = authority.to_string();
        });
        let record = raised.await?;
        self.note(store).await;
        Ok(Epoch::new(record.epoch))
    }

    /// Writes down how far the records have come, if they have
    ///
    /// A failure is no reason to stop: the mark only lags behind, which says less and nothing wrong.
    pub(crate) async fn note(&self, store: &dyn Store) {
        let known = match Known::of(store).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "how far the records have come is not known");
                return;
            }
        };
        let Some(found) = &known.record else { return };
        let mark = Mark::of(&found.record, known.revision);
        if *self.mark.lock().unwrap_or_else(PoisonError::into_inner) == mark {
            return;
        }
        let (folder, writing) = (self.folder.clone(), mark.clone());
        let written = tokio::task::spawn_blocking(move || writing.write(&folder)).await;
        match written {
            Ok(Ok(())) => *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the mark beside the authority lags behind the records");
            }
            Err(_) => {}
        }
    }

    /// Keeps the mark not far behind the records
    pub(crate) async fn follow(&self, store: &dyn Store, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(FOLLOW) => {}
            }
            self.note(store).await;
        }
    }

    fn mark(&self) -> Mark {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A daemon obeys a higher epoch than this controller's: says so, and what to do, and remembers it for [`recover`]
pub(crate) async fn note_fence(store: &dyn Store, data_dir: &Path, node: &str, own: Epoch, highest: u64) {
    if highest - own.get().min(highest) > PLAUSIBLE {
        tracing::error!(
            node,
            epoch = own.get(),
            obeyed = highest,
            "the node says that it obeys an epoch that no controller of this cluster can have had"
        );
        return;
    }
    let database = data_dir.join(STORE_FILE);
    tracing::error!(
        node,
        epoch = own.get(),
        obeyed = highest,
        "the node obeys a later start of this cluster's controller and refuses this one: {} was restored from a backup, or \
         another controller serves. If this is the one that is to go on, stop it and raise its epoch: {}",
        data_dir.display(),
        command(&database, "")
    );
    let noted = change_record(store, |record| {
        if highest > record.fence {
            record.fence = highest;
            node.clone_into(&mut record.fence_node);
        }
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the epoch that a node obeys could not be recorded");
    }
}

/// Changes the controller's own record, creating it if need be
async fn change_record(
    store: &dyn Store,
    change: impl Fn(&mut ControllerRecord),
) -> Result<ControllerRecord, StoreError> {
    for _ in 0..ATTEMPTS {
        let found = store::load::<ControllerRecord>(store, ControllerRecord::ONLY).await?;
        let (mut record, revision) =
            found.map_or_else(Default::default, |found| (found.record, Some(found.revision)));
        let before = record.clone();
        change(&mut record);
        if record == before {
            return Ok(record);
        }
        let txn = match revision {
            Some(revision) => Txn::new().replace(revision, &record),
            None => Txn::new().create(&record),
        };
        if store.txn(txn).await?.committed().is_some() {
            return Ok(record);
        }
    }
    Err(StoreError::Io {
        detail: "the controller's record is changed by too many at once".to_owned(),
    })
}
