//! What is alive at the port: handshakes, connections, and the bounds on both
//!
//! A bound that refuses newcomers hands the port to whoever fills it first. So the oldest gives way instead: an honest
//! handshake takes milliseconds and an honest anonymous connection one call, and neither is ever the oldest for long.
//! Connections with a certificate are never displaced; when they alone reach the bound, newcomers are refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::peer::Peer;

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// Notified when the last connection is gone.
    empty: Notify,
}

#[derive(Debug, Default)]
struct State {
    handshakes: BTreeMap<u64, Arc<Notify>>,
    connections: BTreeMap<u64, Peer>,
    anonymous: BTreeMap<u64, ()>,
    closing: bool,
}

/// What a newcomer meets
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// Admitted in place of an older one.
    Displaced,
    Refused,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a handshake; the oldest one is given up when there are `max` already.
    pub(super) fn begin(self: &Arc<Self>, id: u64, closed: Arc<Notify>, max: usize) -> (Slot, Admission) {
        let mut state = self.lock();
        let mut admission = Admission::Admitted;
        if state.closing {
            admission = Admission::Refused;
        } else if state.handshakes.len() >= max.max(1)
            && let Some((_, oldest)) = state.handshakes.pop_first()
        {
            oldest.notify_one();
            admission = Admission::Displaced;
        }
        if admission != Admission::Refused {
            state.handshakes.insert(id, closed);
        }
        drop(state);
        (
            Slot {
                registry: Arc::clone(self),
                id,
            },
            admission,
        )
    }

    /// Turns a handshake into a connection.
    pub(super) fn establish(&self, peer: &Peer, max_connections: usize, max_anonymous: usize) -> Admission {
        let mut state = self.lock();
        let id = peer.connection_id();
        state.handshakes.remove(&id);
        if state.closing {
            return Admission::Refused;
        }
        let anonymous = peer.certificate().is_none();
        let full = state.connections.len() >= max_connections.max(1)
            || (anonymous && state.anonymous.len() >= max_anonymous.max(1));
        let mut admission = Admission::Admitted;
        if full {
            let oldest = state.anonymous.pop_first().map(|(id, ())| id);
            let Some(oldest) = oldest.and_then(|oldest| state.connections.remove(&oldest)) else {
                return Admission::Refused;
            };
            oldest.close();
            admission = Admission::Displaced;
        }
        state.connections.insert(id, peer.clone());
        if anonymous {
            state.anonymous.insert(id, ());
        }
        admission
    }

    pub(super) fn peers(&self) -> Vec<Peer> {
        self.lock().connections.values().cloned().collect()
    }

    /// No newcomer from now on; handshakes under way are given up.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        for (_, handshake) in std::mem::take(&mut state.handshakes) {
            handshake.notify_one();
        }
    }

    /// Completes when no connection is left. Only of use after [`close`](Self::close).
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            if self.lock().connections.is_empty() {
                return;
            }
            notified.await;
        }
    }
}

/// The place of one socket in the registry, for as long as its task runs
#[derive(Debug)]
pub(super) struct Slot {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.handshakes.remove(&self.id);
        state.connections.remove(&self.id);
        state.anonymous.remove(&self.id);
        if state.connections.is_empty() {
            self.registry.empty.notify_waiters();
        }
    }
}
