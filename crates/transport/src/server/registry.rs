//! What is alive at the port: handshakes, connections, and the bounds on both
//!
//! A bound that refuses newcomers hands the port to whoever fills it first, and one that drops the oldest hands it to whoever
//! comes fastest. So the source with the most sockets gives way, and nobody else notices a flood from there.
//!
//! Within that source it is the oldest socket that never said anything, since an honest client speaks at once, or else the
//! oldest: an honest handshake takes milliseconds, so that even beside a flood from its own address it is seldom that.
//! Connections with a certificate are never displaced; when they alone reach the bound, newcomers are refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::peer::Peer;
use super::source::{BySource, Source};

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// Notified when the last connection is gone.
    empty: Notify,
}

#[derive(Debug, Default)]
struct State {
    handshakes: BySource<Newcomer>,
    connections: BTreeMap<u64, Peer>,
    anonymous: BySource<()>,
    closing: bool,
}

/// A socket that has not proven anything
#[derive(Debug)]
pub(super) struct Newcomer {
    id: u64,
    source: Source,
    /// Whether anything has arrived from it that may become a connection.
    pub(super) has_spoken: Arc<AtomicBool>,
    closed: Arc<Notify>,
}

impl Newcomer {
    pub(super) fn new(id: u64, address: IpAddr, closed: Arc<Notify>) -> Self {
        Self {
            id,
            source: Source::of(address),
            has_spoken: Arc::default(),
            closed,
        }
    }
}

/// Which handshake of one source is given up for the newest of them all.
fn expendable(handshakes: &BTreeMap<u64, Newcomer>) -> Option<u64> {
    let is_silent = |newcomer: &Newcomer| !newcomer.has_spoken.load(Ordering::Relaxed);
    let silent = handshakes.iter().find(|(_, newcomer)| is_silent(newcomer));
    let newest = handshakes.last_key_value().map(|(id, _)| *id);
    // Who has just come had no time to speak.
    let silent = silent.filter(|(id, _)| Some(**id) != newest);
    silent.or(handshakes.first_key_value()).map(|(id, _)| *id)
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

    /// Registers a handshake; when there are more than `max`, the busiest source gives one up, which may be this one.
    pub(super) fn begin(self: &Arc<Self>, newcomer: Newcomer, max: usize) -> (Slot, Admission) {
        let mut state = self.lock();
        let (id, source) = (newcomer.id, newcomer.source);
        let mut admission = Admission::Admitted;
        if state.closing {
            admission = Admission::Refused;
        } else {
            state.handshakes.insert(source, id, newcomer);
            if state.handshakes.len() > max.max(1)
                && let Some((displaced, newcomer)) = state.handshakes.displace(expendable)
            {
                newcomer.closed.notify_one();
                admission = match displaced == id {
                    true => Admission::Refused,
                    false => Admission::Displaced,
                };
            }
        }
        drop(state);
        let registry = Arc::clone(self);
        (Slot { registry, id, source }, admission)
    }

    /// Turns a handshake into a connection.
    pub(super) fn establish(&self, peer: &Peer, max_connections: usize, max_anonymous: usize) -> Admission {
        let mut state = self.lock();
        let id = peer.connection_id();
        let source = Source::of(peer.address().ip());
        state.handshakes.remove(source, id);
        if state.closing {
            return Admission::Refused;
        }
        let anonymous = peer.certificate().is_none();
        let full = state.connections.len() >= max_connections.max(1)
            || (anonymous && state.anonymous.len() >= max_anonymous.max(1));
        let mut admission = Admission::Admitted;
        if full {
            let oldest = |sockets: &BTreeMap<u64, ()>| sockets.first_key_value().map(|(id, ())| *id);
            let oldest = state.anonymous.displace(oldest).map(|(id, ())| id);
            let Some(oldest) = oldest.and_then(|oldest| state.connections.remove(&oldest)) else {
                return Admission::Refused;
            };
            oldest.close();
            admission = Admission::Displaced;
        }
        state.connections.insert(id, peer.clone());
        if anonymous {
            state.anonymous.insert(source, id, ());
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
        for newcomer in state.handshakes.take() {
            newcomer.closed.notify_one();
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
    source: Source,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.handshakes.remove(self.source, self.id);
        state.connections.remove(&self.id);
        state.anonymous.remove(self.source, self.id);
        if state.connections.is_empty() {
            self.registry.empty.notify_waiters();
        }
    }
}
