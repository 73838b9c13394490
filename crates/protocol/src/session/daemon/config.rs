//! What a daemon says about itself

use std::collections::HashMap;
use std::time::Duration;

use prexorcloud_proto::HostInfo;

use crate::capability::Capabilities;
use crate::id::NodeId;
use crate::outbox::Bounds;
use crate::peer;

/// What a daemon says about itself
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DaemonConfig {
    /// The node's name, as in its certificate.
    pub node_id: NodeId,
    /// The daemon's version, for operators; must not be blank.
    pub version: String,
    /// Memory that all instances together may use, in MiB. 0 = not told.
    pub total_memory_mb: i64,
    /// Logical processors that instances may use. 0 = not told.
    pub available_cpus: i32,
    /// Labels for placement, at most [`limits::LABELS`](crate::limits::LABELS).
    pub labels: HashMap<String, String>,
    /// The address that players and other nodes reach this host by; empty: the controller uses the peer's address.
    pub advertise_address: String,
    /// The host's hardware and software, for operators.
    pub host_info: Option<HostInfo>,
    /// Names this process of the daemon; made anew at each start, at most 64 characters. Empty: not announced.
    pub boot_id: String,
    /// How long the daemon waits between the polite signal and the kill; told in whole seconds.
    pub kill_timeout: Duration,
    /// What is announced beyond protocol version 1, beside the contract's digest, which always is.
    /// [`Capabilities::SESSION`]; announce more only where the application does it.
    pub capabilities: Capabilities,
    /// How long the acknowledgement of the handshake may take. 10 s.
    pub ack_timeout: Duration,
    /// How much may wait for a controller that reads slowly.
    pub bounds: Bounds,
    /// The application tells console lines that have not [arrived](super::DaemonEvent::ConsoleArrived) again on the next
    /// stream, so those that wait when a stream ends are dropped: they would come before the lines that they follow.
    /// Otherwise the newest are kept. False.
    pub refills_console: bool,
}

impl DaemonConfig {
    /// A configuration with the defaults: [`Capabilities::SESSION`], 10 s for the acknowledgement.
    pub fn new(node_id: NodeId, version: impl Into<String>) -> Self {
        Self {
            node_id,
            version: version.into(),
            total_memory_mb: 0,
            available_cpus: 0,
            labels: HashMap::new(),
            advertise_address: String::new(),
            host_info: None,
            boot_id: String::new(),
            kill_timeout: peer::KILL_TIMEOUT,
            capabilities: Capabilities::SESSION,
            ack_timeout: Duration::from_secs(10),
            bounds: Bounds::default(),
            refills_console: false,
        }
    }
}
