//! What the rest of the controller can ask of a node's task

use std::{collections::HashMap, time::Duration};

use prexorcloud_proto::ShutdownNodeAck;
use prexorcloud_protocol::{Close, ControllerSession, GroupName, InstanceId, handshake::controller::Hello};
use prexorcloud_transport::{Peer, SessionHandle};
use tokio::sync::oneshot;

use super::NodeStatus;
use crate::{records::InstanceRecord, store::StoreError};

/// Where an answer goes; nobody may be waiting for it any more
pub(super) type Reply<T> = oneshot::Sender<Result<T, OrderError>>;

pub(super) enum Order {
    /// A stream whose handshake waits for admission
    Join {
        hello: Box<Hello>,
        session: SessionHandle<ControllerSession>,
        peer: Peer,
    },
    /// Read the node's record if it is not known yet
    Introduce {
        reply: Reply<()>,
    },
    Start {
        order: Box<StartOrder>,
        reply: Reply<InstanceRecord>,
    },
    Stop {
        instance: InstanceId,
        force: bool,
        reply: Reply<StopAnswer>,
    },
    Command {
        instance: InstanceId,
        line: String,
        reply: Reply<()>,
    },
    /// Give up an instance whose node stays away
    DeclareLost {
        instance: InstanceId,
        reply: Reply<()>,
    },
    /// Delete an instance that has ended
    Forget {
        instance: InstanceId,
        reply: Reply<()>,
    },
    Cordon {
        cordoned: bool,
        reply: Reply<NodeStatus>,
    },
    Drain {
        shutdown: bool,
        timeout: Duration,
        reply: Reply<usize>,
    },
    Undrain {
        reply: Reply<NodeStatus>,
    },
    /// Tell the daemon to shut down; the answer is the receiver of its acknowledgement
    ShutDown {
        reason: String,
        reply: Reply<oneshot::Receiver<ShutdownNodeAck>>,
    },
    /// End the present session
    Close {
        close: Close,
        reply: Reply<()>,
    },
}

/// A start that was validated and placed
#[derive(Clone, Debug)]
pub(crate) struct StartOrder {
    pub(crate) instance: InstanceId,
    pub(crate) group: GroupName,
    /// An absolute path on the node, or an http(s) URL
    pub(crate) jar: String,
    /// Lower-case hex, or empty
    pub(crate) sha256: String,
    pub(crate) memory_mb: i32,
    pub(crate) jvm_args: Vec<String>,
    pub(crate) env: HashMap<String, String>,
    /// `None` = one of the configured range
    pub(crate) port: Option<u16>,
    pub(crate) startup_timeout: Option<Duration>,
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
}

/// What a stop did
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopAnswer {
    Stopping,
    ForceStopping,
    AlreadyStopped,
}

/// Why an order was not carried out
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("no such node")]
    UnknownNode,
    #[error("no such instance")]
    UnknownInstance,
    #[error("the node is not connected")]
    NotConnected,
    #[error("the node is {0}")]
    NotSchedulable(&'static str),
    #[error("{0}")]
    Conflict(String),
    #[error("no node is ready")]
    NoNode,
    #[error("no free port from {first} to {last}")]
    NoFreePort { first: u16, last: u16 },
    #[error("{0}")]
    Invalid(String),
    #[error("the node's task did not answer in time")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}
