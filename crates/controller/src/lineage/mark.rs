//! The mark beside the authority: whose it is, and how far its records had come

use std::path::Path;

use prexorcloud_security::files::{self, FileError};
use serde::{Deserialize, Serialize};

use super::{LineageError, Progress};
use crate::{records::ControllerRecord, store::Revision};

pub(super) const MARK_FILE: &str = "cluster.json";

/// Longest mark that is read
const MAX_BYTES: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) cluster_id: String,
    /// Whether records of this cluster were ever committed
    pub(super) committed: bool,
    pub(super) epoch: u64,
    pub(super) revision: u64,
}

impl Mark {
    /// Of a cluster that has nothing yet but its name
    pub(super) fn of_first_start() -> Self {
        Self {
            cluster_id: uuid::Uuid::new_v4().to_string(),
            committed: false,
            epoch: 0,
            revision: 0,
        }
    }

    pub(super) fn of(record: &ControllerRecord, revision: Revision) -> Self {
        Self {
            cluster_id: record.cluster_id.clone(),
            committed: true,
            epoch: record.epoch,
            revision: revision.0,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            epoch: self.epoch,
            revision: self.revision,
        }
    }

    /// The one in this folder; `None` if there is none
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, LineageError> {
        let path = folder.join(MARK_FILE);
        let text = match files::read_text(&path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_str(&text) {
            Ok(mark) => Ok(Some(mark)),
            Err(error) => Err(LineageError::MarkDamaged {
                mark: path,
                detail: error.to_string(),
            }),
        }
    }

    /// Writes it into a folder that exists: one that was removed is not made again by a controller that still runs
    pub(super) fn write(&self, folder: &Path) -> Result<(), FileError> {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        files::write_secret(&folder.join(MARK_FILE), text.as_bytes())
    }
}
