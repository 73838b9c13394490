//! The daemon's side of the handshake

use std::time::{Duration, Instant};

use prexorcloud_compat as compat;
use prexorcloud_proto::{ControllerMessage, HandshakeAck};

use super::{HELD_MESSAGES, Held};
use crate::capability::Capabilities;
use crate::fence::{EpochFence, EpochOutOfRange, EpochRefused, StaleEpoch};
use crate::heartbeat;
use crate::id::Epoch;
use crate::peer::ControllerPeer;
use crate::time::{Deadline, after};

/// What the controller's acknowledgement said
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The controller's name for this session; for logs.
    pub session_id: String,
    /// How often the controller pings, and how often `NodeStatus` is due.
    pub heartbeat_interval: Duration,
    /// The controller's HTTP port; 0 if it has none.
    pub controller_api_port: u16,
    /// The controller's epoch; [`Epoch::UNFENCED`] if it does not fence.
    pub epoch: Epoch,
    /// The addresses (`host:port`) of all controllers, for later reconnects; may be empty.
    pub controllers: Vec<String>,
    /// What both sides can do beyond protocol version 1.
    pub capabilities: Capabilities,
    /// What may be assumed of the controller; made of [`capabilities`](Self::capabilities).
    pub peer: ControllerPeer,
    /// Whether the controller was built from the same contract. A difference is no obstacle, but worth a line in the log.
    pub contract: compat::ContractMatch,
    /// The contract digest that the controller announced, as received, if it has the form of one.
    pub contract_digest: Option<String>,
}

/// Why the handshake did not lead to a session
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// One of the two must be upgraded. Nobody misbehaved: tell the operator, and try another controller later.
    #[error(transparent)]
    UpgradeRequired(#[from] compat::Incompatible),
    /// This controller is not the leader. Dial `to` next.
    #[error("this controller is not the leader; redirected to {to}")]
    Redirected {
        /// The leader's address, as `host:port`.
        to: String,
        /// All controllers that this one knows.
        controllers: Vec<String>,
    },
    /// No acknowledgement came in time. Try the next controller.
    #[error("no handshake acknowledgement within {} s", waited.as_secs())]
    AckTimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// The controller has been superseded. Try the next controller.
    #[error(transparent)]
    Stale(#[from] StaleEpoch),
    /// The controller has an epoch that nobody can have. Tell the operator, and try the next controller.
    #[error(transparent)]
    EpochOutOfRange(#[from] EpochOutOfRange),
    /// A controller with an epoch has been obeyed before, and this one has none and names no leader: it is a follower
    /// that knows no leader. Try the next controller.
    ///
    /// To hand a node over to a controller that never fences, forget the persisted epoch.
    #[error(
        "this controller is not the leader and knows none: it sent no epoch, and epoch {obeyed} has been obeyed; try another"
    )]
    Leaderless {
        /// The highest epoch obeyed so far.
        obeyed: Epoch,
    },
    /// The controller sent more before its acknowledgement than is held.
    #[error("the controller sent more than {HELD_MESSAGES} messages before its acknowledgement")]
    TooEarly,
}

impl From<EpochRefused> for HandshakeFailure {
    fn from(refused: EpochRefused) -> Self {
        match refused {
            EpochRefused::Stale(stale) => stale.into(),
            EpochRefused::OutOfRange(given) => given.into(),
        }
    }
}

/// The daemon's side of one handshake; a part of [`DaemonSession`](crate::DaemonSession)
#[derive(Clone, Debug)]
pub struct DaemonHandshake {
    timeout: Duration,
    deadline: Instant,
    held: Held<ControllerMessage>,
}

impl DaemonHandshake {
    /// The handshake has been queued; the acknowledgement must arrive within `timeout`.
    #[must_use]
    pub fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            timeout,
            deadline: after(now, timeout),
            held: Held::of(crate::limits::MAX_MESSAGE_BYTES),
        }
    }

    /// Keeps a message that arrived before the acknowledgement.
    ///
    /// # Errors
    /// [`HandshakeFailure::TooEarly`] if too much is held already.
    pub fn hold(&mut self, message: ControllerMessage) -> Result<(), HandshakeFailure> {
        self.held.push(message).map_err(|_| HandshakeFailure::TooEarly)
    }

    /// Judges the acknowledgement; on success the held messages are due.
    ///
    /// The epoch of an acknowledgement stands in the acknowledgement (Java) or on its envelope; the higher one counts.
    /// It raises the fence whatever else is wrong with the acknowledgement: a redirect names the leadership that it
    /// redirects to. Compare [`EpochFence::highest`] before and after to learn whether a new epoch must be persisted.
    ///
    /// # Errors
    /// [`HandshakeFailure`] says what ends this stream.
    pub fn handle_ack(
        &mut self,
        ack: HandshakeAck,
        envelope_epoch: Epoch,
        ours: Capabilities,
        fence: &mut EpochFence,
    ) -> Result<Acknowledged, HandshakeFailure> {
        let epoch = envelope_epoch.max(Epoch::new(ack.epoch));
        fence.admit(epoch)?;
        if let compat::Negotiation::UpgradeRequired(incompatible) =
            compat::judge_ack(ack.protocol_version, ack.protocol_compatible)
        {
            return Err(incompatible.into());
        }
        if !ack.leader_grpc_addr.trim().is_empty() {
            return Err(HandshakeFailure::Redirected {
                to: ack.leader_grpc_addr,
                controllers: ack.controller_grpc_addrs,
            });
        }
        if !epoch.is_fenced() && fence.highest().is_fenced() {
            return Err(HandshakeFailure::Leaderless {
                obeyed: fence.highest(),
            });
        }
        let digest = compat::contract::digest_in_capabilities(&ack.capabilities);
        let capabilities = ours.intersection(Capabilities::from_wire(&ack.capabilities));
        let connected = Connected {
            peer: ControllerPeer::of(capabilities),
            contract: compat::ContractMatch::of(digest),
            contract_digest: digest.filter(|digest| is_digest(digest)).map(str::to_owned),
            session_id: ack.session_id,
            heartbeat_interval: heartbeat::interval_from_wire(ack.heartbeat_interval_ms),
            controller_api_port: u16::try_from(ack.controller_api_port).unwrap_or(0),
            epoch,
            controllers: ack.controller_grpc_addrs,
            capabilities,
        };
        Ok(Acknowledged {
            connected,
            held: self.held.take(),
        })
    }

    /// Whether the acknowledgement is overdue.
    ///
    /// # Errors
    /// [`HandshakeFailure::AckTimedOut`] if it is.
    pub fn handle_timeout(&self, now: Instant) -> Result<(), HandshakeFailure> {
        if now >= self.deadline {
            Err(HandshakeFailure::AckTimedOut { waited: self.timeout })
        } else {
            Ok(())
        }
    }

    /// When the acknowledgement is overdue.
    #[must_use]
    pub const fn poll_timeout(&self) -> Deadline<()> {
        Deadline {
            at: self.deadline,
            timer: (),
        }
    }
}

/// A handshake that led to a session
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// What the acknowledgement said.
    pub connected: Connected,
    /// The messages that arrived early, in order; they are due now.
    pub held: Vec<ControllerMessage>,
}

/// Whether a text from a peer is a sha256 in hexadecimal, and so harmless in a log.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
