//! The application's answer to a handshake, and the end of a session

use std::time::Instant;

use prexorcloud_compat as compat;
use prexorcloud_proto::{HandshakeAck, controller_message};

use super::{Admission, ControllerEvent, ControllerOutcome, ControllerSession, Link, Live};
use crate::handshake::controller::Hello;
use crate::heartbeat::Prober;
use crate::peer::DaemonPeer;
use crate::reconcile::ReconcilePolicy;
use crate::roster::Roster;
use crate::session::{Close, Code, wire_millis};

impl ControllerSession {
    /// Admits the node: acknowledges, reconciles, and goes on with what the roster has to do.
    ///
    /// # Errors
    /// Gives the roster back if no handshake waits for a decision (the stream has ended meanwhile, say).
    pub fn accept(
        &mut self,
        now: Instant,
        hello: &Hello,
        admission: Admission,
        mut roster: Roster,
    ) -> Result<(), Box<Roster>> {
        let Link::Handshaking(handshake) = &mut self.link else {
            return Err(Box::new(roster));
        };
        let Some(held) = handshake.complete() else {
            return Err(Box::new(roster));
        };
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
            capabilities: self.config.capabilities.to_wire(),
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
        self.events.push_back(ControllerEvent::Established);
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
                capabilities: self.config.capabilities.to_wire(),
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
