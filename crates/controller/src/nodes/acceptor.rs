//! Streams of daemons, from their first byte to the hand-over to their node's task

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prexorcloud_protocol::{
    Capabilities, Close, Code, ControllerConfig, ControllerEvent, ControllerSession,
    heartbeat::HeartbeatConfig,
};
use prexorcloud_security::revocation::SharedRevocations;
use prexorcloud_transport::{NodeAcceptor, Peer, SessionHandle};

use super::{Nodes, order::NodeRequest, pacing::Pacing};
use crate::services::node_of;

/// Makes the session of each stream and waits for its handshake
pub(crate) struct StreamAcceptor {
    nodes: Arc<Nodes>,
    revocations: SharedRevocations,
    session: ControllerConfig,
    /// How many streams have been accepted
    accepted: AtomicU64,
    pacing: Arc<Pacing>,
}

impl StreamAcceptor {
    pub(crate) fn new(nodes: Arc<Nodes>, revocations: SharedRevocations) -> Self {
        let heartbeat = &nodes.context().config.heartbeat;
        let mut session = ControllerConfig::default();
        session.capabilities = session
            .capabilities
            .union(Capabilities::EXEC_ACK)
            .union(Capabilities::MODULES)
            .union(Capabilities::EVENTS)
            .union(Capabilities::RENEWAL)
            .union(Capabilities::ARTIFACTS);
        session.heartbeat = HeartbeatConfig {
            interval: heartbeat.interval,
            missed_limit: heartbeat.missed_limit,
        };
        Self {
            nodes,
            revocations,
            session,
            accepted: AtomicU64::new(0),
            pacing: Arc::default(),
        }
    }
}

impl NodeAcceptor for StreamAcceptor {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        if self.nodes.context().stopping.is_cancelled() {
            return Err(Close::new(Code::Unavailable, "the controller is shutting down"));
        }
        let node = node_of(peer, &self.revocations)?;
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(ControllerSession::new(self.session.clone(), node, accepted))
    }

    fn attach(&self, peer: Peer, session: SessionHandle<ControllerSession>) {
        let (nodes, pacing) = (Arc::clone(&self.nodes), Arc::clone(&self.pacing));
        tokio::spawn(async move {
            while let Some(event) = session.next_event().await {
                match event {
                    ControllerEvent::Hello(hello) => {
                        let node = hello.node_id;
                        let turn = match pacing.turn().await {
                            Ok(turn) => turn,
                            Err(close) => {
                                tracing::info!(%node, address = %peer.address(), "a node is to come again: too many are connecting");
                                return session.with(|session, _| session.close_with(close));
                            }
                        };
                        if !session.with(|session, _| session.is_awaiting_admission()) {
                            return tracing::info!(%node, address = %peer.address(), "a stream ended before its handshake could be judged");
                        }
                        let order = NodeRequest::Join {
                            hello,
                            session: session.clone(),
                            peer,
                            turn,
                        };
                        if let Err(error) = nodes.join(node, order).await {
                            let close = Close::new(Code::Unavailable, error.to_string());
                            session.with(|session, _| session.close_with(close));
                        }
                        return;
                    }
                    ControllerEvent::Closed(outcome) => {
                        tracing::info!(address = %peer.address(), %outcome, "a stream ended before its handshake");
                        return;
                    }
                    // Nothing else comes before the handshake.
                    _ => {}
                }
            }
        });
    }
}
