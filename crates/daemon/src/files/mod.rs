//! The files of an instance, for an operator to look at
//!
//! ```text
//!  WalkInstanceFiles ──> walk ──┐
//!                               ├──> beneath ──> <instances>/<group>/<instance>
//!  ReadInstanceFile  ──> read ──┘
//! ```
//! A server writes its folder as it likes while somebody looks, and may be hostile: no link at any depth leads out, nothing
//! that is not a regular file is opened for its content, and every answer is bounded in entries, in bytes and in time.

mod beneath;
mod read;
mod walk;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prexorcloud_proto::{
    InstanceFileContent, InstanceFileTree, ReadInstanceFile, WalkInstanceFiles, daemon_message,
};
use prexorcloud_protocol::{GroupName, InstanceId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that are worked on at a time; more are told to come again
///
/// Each holds a descriptor for every folder on its path.
const AT_ONCE: usize = 4;

/// How long an answer may take; the controller waits for 20 s
const DEADLINE: Duration = Duration::from_secs(15);

/// The place of a request among those that are worked on
pub(crate) type Turn = OwnedSemaphorePermit;

/// What a controller asks for
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// What there is
    Walk(WalkInstanceFiles),
    /// What is in a file
    Read(ReadInstanceFile),
}

/// Why there is no answer, as the contract names it
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilesError {
    /// A name or a path that is none
    #[error("INVALID_REQUEST")]
    InvalidRequest,
    /// No such folder, or something else in its place
    #[error("INSTANCE_NOT_FOUND")]
    InstanceNotFound,
    /// The folder cannot be read
    #[error("DIR_UNREADABLE")]
    DirUnreadable,
    /// The path, or a link on it, leads elsewhere
    #[error("PATH_OUTSIDE_INSTANCE")]
    PathOutsideInstance,
    /// No such file
    #[error("FILE_NOT_FOUND")]
    FileNotFound,
    /// A folder, a link, a pipe, a device
    #[error("NOT_REGULAR_FILE")]
    NotRegularFile,
    /// The system refuses
    #[error("FILE_UNREADABLE")]
    FileUnreadable,
    /// Too many requests at a time
    #[error("DAEMON_NOT_READY")]
    Busy,
}

/// Looks into the folders of instances
#[derive(Clone, Debug)]
pub(crate) struct InstanceFiles {
    /// Where the groups' folders are
    root: PathBuf,
    turns: Arc<Semaphore>,
}

impl InstanceFiles {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Answers a request, at the latest some time after [`DEADLINE`]; whoever sends the answer gives the turn back then
    pub(crate) async fn answer(&self, asked: Asked) -> (daemon_message::Payload, Option<Turn>) {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return (refusal(&asked, FilesError::Busy), None);
        };
        let files = self.clone();
        let asked_again = asked.clone();
        let looked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a disk that hangs keeps its place, and does not get another one.
            (files.look(&asked), Some(turn))
        });
        looked
            .await
            .unwrap_or_else(|_| (refusal(&asked_again, FilesError::Busy), None))
    }

    fn look(&self, asked: &Asked) -> daemon_message::Payload {
        let answer = match asked {
            Asked::Walk(asked) => {
                let folder = self.folder(&asked.group, &asked.instance_id);
                let walked = folder.and_then(|folder| walk::walk(&folder, asked, DEADLINE));
                let request_id = asked.request_id.clone();
                walked.map(|tree| {
                    daemon_message::Payload::InstanceFileTree(InstanceFileTree { request_id, ..tree })
                })
            }
            Asked::Read(asked) => {
                let folder = self.folder(&asked.group, &asked.instance_id);
                let found = folder.and_then(|folder| read::read(&folder, asked));
                let request_id = asked.request_id.clone();
                found.map(|content| {
                    daemon_message::Payload::InstanceFileContent(InstanceFileContent {
                        request_id,
                        ..content
                    })
                })
            }
        };
        answer.unwrap_or_else(|error| refusal(asked, error))
    }

    fn folder(&self, group: &str, instance: &str) -> Result<OwnedFd, FilesError> {
        let group = GroupName::new(group).map_err(|_| FilesError::InvalidRequest)?;
        let instance = InstanceId::new(instance).map_err(|_| FilesError::InvalidRequest)?;
        let open = || {
            let root = beneath::open_root(&self.root)?;
            let group = beneath::open_folder(&root, group.as_str().as_ref())?;
            beneath::open_folder(&group, instance.as_str().as_ref())
        };
        open().map_err(|_| FilesError::InstanceNotFound)
    }
}

fn refusal(asked: &Asked, error: FilesError) -> daemon_message::Payload {
    match asked {
        Asked::Walk(asked) => daemon_message::Payload::InstanceFileTree(InstanceFileTree {
            request_id: asked.request_id.clone(),
            error: error.to_string(),
            ..InstanceFileTree::default()
        }),
        Asked::Read(asked) => daemon_message::Payload::InstanceFileContent(InstanceFileContent {
            request_id: asked.request_id.clone(),
            error: error.to_string(),
            ..InstanceFileContent::default()
        }),
    }
}
