//! The application's answer to a handshake, and the end of a session

use std::time::Instant;

use prexorcloud_compat as compat;
use prexorcloud_proto::{HandshakeAck, controller_message};

use super::{Admission, ControllerEvent, ControllerOutcome, ControllerSession, Link, Live};
use crate::handshake::controller::Hello;
use crate::heartbeat::Prober;
use crate::id::NodeId;
use crate::peer::DaemonPeer;
use crate::reconcile::ReconcilePolicy;
use crate::roster::Roster;
use crate::session::{Close, Code, wire_millis};

/// Why a node was not admitted
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// No handshake waits for a decision: the stream has ended meanwhile, or the decision has been made.
    #[error("no handshake of this stream waits for a decision")]
    NotAwaited,
    /// The handshake came on another stream.
    #[error("the handshake belongs to another stream")]
    ForeignHello,
    /// The roster is of another node.
    #[error("the roster belongs to node {0}")]
    ForeignRoster(NodeId),
    /// A stream that the daemon opened later has been admitted before; this one has been closed.
    #[error("a newer stream of the same node was admitted before")]
    Superseded,
}

/// A roster that comes back, because the node was not admitted
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct NotAccepted {
    /// The roster, as it was.
    pub roster: Roster,
    /// Why.
    #[source]
    pub error: AcceptError,
}

impl ControllerSession {
    /// Admits the node: acknowledges, reconciles, and goes on with what the roster has to do.
    ///
    /// `hello` is the decision's ticket: it is taken, and it admits no other stream than the one that it came on.
    ///
    /// # Errors
    /// [`NotAccepted`] gives the roster back. After [`AcceptError::Superseded`] the stream ends; ask
    /// [`Roster::admits`] before a live session is made to give its roster up.
    pub fn accept(
        &mut self,
        now: Instant,
        hello: Box<Hello>,
        admission: Admission,
        mut roster: Roster,
    ) -> Result<(), Box<NotAccepted>> {
        let refuse = |roster, error| Err(Box::new(NotAccepted { roster, error }));
        if !self.is_awaiting_admission() {
            return refuse(roster, AcceptError::NotAwaited);
        }
        if hello.node_id != self.identity || hello.stream.accepted() != self.accepted {
            return refuse(roster, AcceptError::ForeignHello);
        }
        if roster.node() != self.identity {
            let node = roster.node();
            return refuse(roster, AcceptError::ForeignRoster(node));
        }
        if !roster.admits(&hello.stream) {
            let close = Close::new(Code::Aborted, AcceptError::Superseded.to_string());
            self.close_with(close);
            return refuse(roster, AcceptError::Superseded);
        }
        let held = match &mut self.link {
            Link::Handshaking(handshake) => handshake.complete(),
            _ => None,
        };
        let Some(held) = held else {
            return refuse(roster, AcceptError::NotAwaited);
        };
        roster.admit(&hello.stream);
        let Admission {
            session_id,
            epoch,
            controller_api_port,
            controller_grpc_addrs,
            elsewhere,
            groups,
        } = admission;
        let ack = HandshakeAck {
            session_id,
            heartbeat_interval_ms: wire_millis(self.config.heartbeat.interval),
            controller_api_port: i32::from(controller_api_port),
            protocol_version: hello.agreement.version,
            protocol_compatible: true,
            leader_grpc_addr: String::new(),
            epoch: epoch.get(),
            controller_grpc_addrs,
            capabilities: self.config.capabilities.announcement(),
        };
        let policy = ReconcilePolicy {
            elsewhere,
            groups,
            peer: DaemonPeer::of(hello.capabilities),
        };
        let prober = Prober::new(now, self.config.heartbeat);
        roster.handle_handshake(now, &hello.handshake.running_instances, &policy);
        self.link = Link::Established(Box::new(Live {
            epoch,
            capabilities: hello.capabilities,
            prober,
            roster,
        }));
        self.push(controller_message::Payload::HandshakeAck(Box::new(ack)));
        self.tell(ControllerEvent::Established);
        self.pump();
        for message in held {
            self.handle_established(now, message);
        }
        Ok(())
    }

    /// Sends the daemon to the leader, and ends the stream.
    pub fn redirect(&mut self, leader: String, controllers: Vec<String>) {
        let Link::Handshaking(handshake) = &mut self.link else {
            return;
        };
        if handshake.complete().is_none() {
            return;
        }
        self.push(controller_message::Payload::HandshakeAck(Box::new(
            HandshakeAck {
                heartbeat_interval_ms: wire_millis(self.config.heartbeat.interval),
                protocol_version: compat::PROTOCOL_VERSION,
                protocol_compatible: true,
                leader_grpc_addr: leader.clone(),
                controller_grpc_addrs: controllers,
                capabilities: self.config.capabilities.announcement(),
                ..Default::default()
            },
        )));
        let close = Close::new(
            Code::Unavailable,
            format!("this controller is not the leader; connect to {leader}"),
        );
        self.begin_closing(close, ControllerOutcome::Redirected { to: leader });
    }

    /// Refuses the node, or ends its session: a revoked certificate, a lost leadership, an operator's order.
    pub fn close_with(&mut self, close: Close) {
        self.begin_closing(close.clone(), ControllerOutcome::Ended(close));
    }

    /// A newer stream of the same node takes over: ends this one and gives the roster for the other.
    pub fn replace(&mut self) -> Option<Roster> {
        let close = Close::new(Code::Aborted, ControllerOutcome::Replaced.to_string());
        self.begin_closing(close, ControllerOutcome::Replaced);
        self.released.take()
    }
}
