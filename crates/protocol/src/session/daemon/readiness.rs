//! What servers that start still wait for, and what their plugins say

use prexorcloud_proto::InstanceReady;

use super::{DaemonEvent, DaemonSession};
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::limits;
use crate::session::{Anomaly, error_code};
use crate::verdict::DeniedReason;

/// What one start waits for
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    incarnation: Incarnation,
    text: String,
}

impl DaemonSession {
    /// Says to people what a server that starts still waits for. It is told with `STARTING`, on this stream and on later ones,
    /// until the start is over.
    pub fn waiting_for(&mut self, instance: InstanceId, incarnation: Incarnation, text: impl Into<String>) {
        let Some(facts) = self.hosted.get(instance) else {
            return;
        };
        if facts.incarnation != incarnation || !facts.state.is_coming_up() {
            return;
        }
        let mut text = text.into();
        limits::shorten(&mut text, limits::WAITING_FOR);
        if text == self.awaited_text(instance, incarnation) {
            return;
        }
        self.awaited.insert(instance, Awaited { incarnation, text });
        if facts.state == State::Starting && self.is_established() {
            self.tell_current(instance);
        }
    }

    /// What is told with `STARTING`.
    pub(super) fn awaited_text(&self, instance: InstanceId, incarnation: Incarnation) -> &str {
        self.awaited
            .get(&instance)
            .filter(|awaited| awaited.incarnation == incarnation)
            .map_or("", |awaited| &awaited.text)
    }

    /// A start is over, one way or the other.
    pub(super) fn forget_awaited(&mut self, instance: InstanceId, state: State) {
        if !state.is_coming_up() {
            self.awaited.remove(&instance);
        }
    }

    /// After a handshake, which lists no reasons: the servers that still start tell theirs.
    pub(super) fn tell_awaited(&mut self) {
        let mut waiting: Vec<_> = self.awaited.keys().copied().collect();
        waiting.retain(|instance| self.hosted.tell_again(*instance));
        waiting.sort_unstable();
        self.to_tell.extend(waiting);
    }

    pub(super) fn handle_ready(&mut self, ready: &InstanceReady) {
        let Ok(instance) = InstanceId::new(&ready.instance_id) else {
            return;
        };
        let given = Incarnation::new(ready.incarnation);
        match self.hosted.command(instance, given) {
            Ok(incarnation) => {
                let facts = self.hosted.get(instance);
                // A plugin repeats itself every few seconds.
                if facts.is_some_and(|facts| facts.state == State::Starting) {
                    self.events.push_back(DaemonEvent::PluginReady {
                        instance,
                        incarnation,
                    });
                }
            }
            // The call has crossed the end of the instance, or comes before its process.
            Err(DeniedReason::WrongState { .. }) => {}
            Err(reason) => {
                let code = match reason {
                    DeniedReason::UnknownInstance => error_code::UNKNOWN_INSTANCE,
                    _ => error_code::STALE_INCARNATION,
                };
                let anomaly = Anomaly::Denied {
                    what: "InstanceReady",
                    reason,
                };
                self.note(anomaly, Some(code), instance.as_str());
            }
        }
    }
}
