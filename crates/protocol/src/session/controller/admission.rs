//! The application's answer to a handshake, and the end of a session

use std::time::Instant;

use prexorcloud_compat as compat;
use prexorcloud_proto::{HandshakeAck, controller_message};

use super::arrivals::Arrivals;
use super::{Admission, ControllerEvent, ControllerOutcome, ControllerSession, Link, Live};
use crate::handshake::controller::Hello;
use crate::heartbeat::Prober;
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
    /// A stream that the daemon opened later has been admitted before; this one is turned away.
    #[error("a newer stream of the same node was admitted before")]
    Superseded,
}

impl ControllerSession {
    /// Admits the node: acknowledges, and lets the daemon's messages through.
    ///
    /// `hello` is the decision's ticket: it is taken, and it admits no other stream than the one that it came on. Whether
    /// a newer stream of the node stands against it is for its [`ControllerNode`](crate::node::ControllerNode) to say.
    ///
    /// # Errors
    /// [`AcceptError::NotAwaited`] or [`AcceptError::ForeignHello`]; nothing has changed then.
    pub fn accept(
        &mut self,
        now: Instant,
        hello: Box<Hello>,
        admission: Admission,
    ) -> Result<(), AcceptError> {
        if !self.is_awaiting_admission() {
            return Err(AcceptError::NotAwaited);
        }
        if hello.node_id != self.identity || hello.stream.accepted() != self.accepted {
            return Err(AcceptError::ForeignHello);
        }
        let held = match &mut self.link {
            Link::Handshaking(handshake) => handshake.complete(),
            _ => None,
        };
        let held = held.ok_or(AcceptError::NotAwaited)?;
        let ack = HandshakeAck {
            session_id: admission.session_id,
            heartbeat_interval_ms: wire_millis(self.config.heartbeat.interval),
            controller_api_port: i32::from(admission.controller_api_port),
            protocol_version: hello.agreement.version,
            protocol_compatible: true,
            leader_grpc_addr: String::new(),
            epoch: admission.epoch.get(),
            controller_grpc_addrs: admission.controller_grpc_addrs,
            capabilities: self.config.capabilities.announcement(),
        };
        self.link = Link::Established(Box::new(Live {
            epoch: admission.epoch,
            capabilities: hello.capabilities,
            prober: Prober::new(now, self.config.heartbeat),
            waiting: None,
            probe: None,
            arrivals: Arrivals::default(),
        }));
        self.push(controller_message::Payload::HandshakeAck(Box::new(ack)));
        self.tell(ControllerEvent::Established);
        self.pump();
        for message in held {
            self.handle_established(now, message);
        }
        Ok(())
    }

    /// Sends the daemon to the leader, and ends the stream. Addresses are `host:port`; without effect once the handshake is
    /// decided on.
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
}
