//! Controller events on this node: who listens to which, and how far the node is in the controller's log of them
//!
//! ```text
//!   hosts ──types──> Events ──subscriptions, with the cursor──> session
//!   session ──ModuleEvent──> Events ──given to whoever listens──> hosts
//! ```
//!
//! The cursor is that of the last event that was given to the modules. It goes back in the first subscription of a stream, so
//! that what happened meanwhile comes then; it is kept on disk, a little behind, so that the same is true after this program
//! has ended: what was given and not noted comes again, with its number. A first subscription waits until the modules that
//! listened before listen again, or else their events would be looked at before they do.
//!
//! A controller without `events/1` (Java) has no numbers: it sends what happens from a subscription on, and nothing is resumed.

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_proto::{EventSubscribe, EventUnsubscribe, ModuleEvent, daemon_message};
use serde::{Deserialize, Serialize};

/// What is kept of it on disk
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsRecord {
    /// The number of the last event that was given to the modules; 0 for none
    sequence: u64,
    /// What tells it from an event of the same number in another log
    check: u64,
    /// What each module listens to
    listening: BTreeMap<String, BTreeSet<String>>,
}

/// What is to be done with an event
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether whoever listens to it gets it
    pub(crate) is_given: bool,
    /// How many events before it are missing, at most; whoever listens to anything is told
    pub(crate) missed: u64,
}

/// Who listens, and how far the node is
#[derive(Debug, Default)]
pub(crate) struct Events {
    record: EventsRecord,
    /// Modules that listened when the program before this one ended, and do not yet
    awaited: BTreeSet<String>,
    is_connected: bool,
    /// Events of modules that have no host at the moment
    away: BTreeMap<String, u64>,
}

impl Events {
    /// Goes on where the program before this one was, with those of its modules that are still here
    pub(crate) fn restore(mut record: EventsRecord, ids: &[String]) -> Self {
        record.listening.retain(|id, _| ids.contains(id));
        let mut events = Self {
            awaited: record.listening.keys().cloned().collect(),
            record,
            ..Self::default()
        };
        events.forget_if_nobody_listens();
        events
    }

    /// What is to be kept
    pub(crate) fn record(&self) -> &EventsRecord {
        &self.record
    }

    /// Replaces what a module listens to; gives what the controller is to be told, if that makes a difference to it
    pub(crate) fn set(&mut self, id: &str, mut types: BTreeSet<String>) -> Vec<daemon_message::Payload> {
        let before = self.all();
        let was_waiting = !self.awaited.is_empty();
        if self.awaited.contains(id) {
            let former = self.record.listening.get(id).cloned().unwrap_or_default();
            if types.is_empty() || types.is_superset(&former) {
                self.awaited.remove(id);
            } else {
                // It says so piece by piece, and the rest is on its way.
                types.extend(former);
            }
        }
        match types.is_empty() {
            true => {
                self.record.listening.remove(id);
                self.away.remove(id);
            }
            false => drop(self.record.listening.insert(id.to_owned(), types)),
        }
        let now = self.all();
        self.forget_if_nobody_listens();
        if was_waiting {
            return self.open();
        }
        let mut messages = Vec::new();
        let gone: Vec<String> = before.difference(&now).cloned().collect();
        if !gone.is_empty() {
            messages.push(daemon_message::Payload::EventUnsubscribe(EventUnsubscribe {
                event_types: gone,
            }));
        }
        messages.extend(self.subscribe(now.difference(&before).cloned().collect()));
        messages
    }

    /// Waits no longer for modules that do not listen again; gives what the controller is to be told
    pub(crate) fn stop_waiting(&mut self) -> Vec<daemon_message::Payload> {
        match std::mem::take(&mut self.awaited).is_empty() {
            true => Vec::new(),
            false => self.open(),
        }
    }

    /// Whether modules are waited for
    pub(crate) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// A session begins; gives what its controller is to be told, which knows nothing
    pub(crate) fn handle_connected(&mut self) -> Vec<daemon_message::Payload> {
        self.is_connected = true;
        self.open()
    }

    /// The session is over
    pub(crate) fn handle_disconnected(&mut self) {
        self.is_connected = false;
    }

    /// Takes what a controller sent: moves on, and notices what did not come
    pub(crate) fn take(&mut self, event: &ModuleEvent) -> Taken {
        let nothing = Taken {
            is_given: false,
            missed: 0,
        };
        if self.record.listening.is_empty() {
            return nothing;
        }
        let is_event = !event.event_type.is_empty();
        if event.sequence == 0 {
            return Taken {
                is_given: is_event,
                ..nothing
            };
        }
        let cursor = self.record.sequence;
        if cursor != 0 && event.previous < cursor && event.sequence <= cursor {
            // Of a stream that began before what has been given since.
            return nothing;
        }
        let did_not_come = match cursor {
            0 => 0,
            _ => event.previous.saturating_sub(cursor),
        };
        self.record.sequence = event.sequence;
        self.record.check = event.check;
        Taken {
            is_given: is_event,
            missed: event.missed.saturating_add(did_not_come),
        }
    }

    /// The modules that listen to this type
    pub(crate) fn to(&self, event_type: &str) -> Vec<String> {
        let listens = |(_, types): &(&String, &BTreeSet<String>)| types.contains(event_type);
        let those = self.record.listening.iter().filter(listens);
        those.map(|(id, _)| id.clone()).collect()
    }

    /// All modules that listen to anything
    pub(crate) fn listeners(&self) -> Vec<String> {
        self.record.listening.keys().cloned().collect()
    }

    /// A module that listens has no host that could be given these
    pub(crate) fn keep_away(&mut self, id: &str, events: u64) {
        let away = self.away.entry(id.to_owned()).or_default();
        *away = away.saturating_add(events);
    }

    /// How many those were, for the host that is there now
    pub(crate) fn was_away(&mut self, id: &str) -> u64 {
        self.away.remove(id).unwrap_or(0)
    }

    fn open(&self) -> Vec<daemon_message::Payload> {
        if !self.is_connected || self.is_waiting() {
            return Vec::new();
        }
        self.subscribe(self.all().into_iter().collect())
            .into_iter()
            .collect()
    }

    fn subscribe(&self, event_types: Vec<String>) -> Option<daemon_message::Payload> {
        let message = EventSubscribe {
            event_types,
            after_sequence: self.record.sequence,
            after_check: self.record.check,
        };
        (!message.event_types.is_empty()).then_some(daemon_message::Payload::EventSubscribe(message))
    }

    /// Whoever listens next wants what happens from then on
    fn forget_if_nobody_listens(&mut self) {
        if self.record.listening.is_empty() {
            (self.record.sequence, self.record.check) = (0, 0);
        }
    }

    fn all(&self) -> BTreeSet<String> {
        self.record.listening.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use daemon_message::Payload::{EventSubscribe as Subscribe, EventUnsubscribe as Unsubscribe};

    use super::*;

    fn types(types: &[&str]) -> BTreeSet<String> {
        types.iter().map(|name| (*name).to_owned()).collect()
    }

    fn subscribe(names: &[&str], sequence: u64) -> daemon_message::Payload {
        Subscribe(EventSubscribe {
            event_types: names.iter().map(|name| (*name).to_owned()).collect(),
            after_sequence: sequence,
            after_check: sequence,
        })
    }

    fn unsubscribe(name: &str) -> daemon_message::Payload {
        Unsubscribe(EventUnsubscribe {
            event_types: vec![name.to_owned()],
        })
    }

    fn event(event_type: &str, previous: u64, sequence: u64) -> ModuleEvent {
        ModuleEvent {
            event_type: event_type.to_owned(),
            sequence,
            previous,
            check: sequence,
            ..ModuleEvent::default()
        }
    }

    const GIVEN: Taken = Taken {
        is_given: true,
        missed: 0,
    };
    const NOTHING: Taken = Taken {
        is_given: false,
        missed: 0,
    };

    #[test]
    fn the_first_listener_subscribes_and_the_last_one_unsubscribes() {
        let mut events = Events::default();
        assert_eq!(events.handle_connected(), []);
        assert_eq!(events.set("a", types(&["x", "y"])), [subscribe(&["x", "y"], 0)]);
        assert_eq!(events.set("b", types(&["y"])), []);
        assert_eq!(events.to("y"), ["a", "b"]);
        assert_eq!(events.handle_connected(), [subscribe(&["x", "y"], 0)]);
        assert_eq!(
            events.set("a", types(&["z"])),
            [unsubscribe("x"), subscribe(&["z"], 0)]
        );
        assert_eq!(events.set("b", types(&[])), [unsubscribe("y")]);
        assert_eq!(events.to("y"), [""; 0]);
    }

    #[test]
    fn a_stream_goes_on_after_the_last_that_was_given() {
        let mut events = Events::default();
        events.handle_connected();
        assert_eq!(events.take(&event("", 4, 4)), NOTHING, "nobody listens");
        events.set("a", types(&["x"]));
        assert_eq!(events.take(&event("", 4, 4)), NOTHING);
        assert_eq!(events.take(&event("x", 4, 7)), GIVEN);
        events.handle_disconnected();
        assert_eq!(events.handle_connected(), [subscribe(&["x"], 7)]);
        assert_eq!(events.take(&event("x", 4, 7)), NOTHING, "once");
        // One that was shed on the way is noticed by the next.
        let taken = events.take(&event("x", 9, 10));
        assert_eq!((taken.is_given, taken.missed), (true, 2));
        // So is what the log has let go of, and a log that is another one, whose numbers may be lower.
        let gone = ModuleEvent {
            missed: 3,
            ..event("", 10, 5)
        };
        let taken = events.take(&gone);
        assert_eq!((taken.is_given, taken.missed), (false, 3));
        assert_eq!(events.take(&event("x", 5, 6)), GIVEN);
        // Whoever listens after a time in which nobody did wants what happens from then on.
        events.set("a", types(&[]));
        assert_eq!(events.take(&event("", 6, 262)), NOTHING);
        assert_eq!(events.set("a", types(&["x"])), [subscribe(&["x"], 0)]);
        // A Java controller has no numbers.
        let plain = ModuleEvent {
            event_type: "x".to_owned(),
            ..ModuleEvent::default()
        };
        assert_eq!(events.take(&plain), GIVEN);
        assert_eq!(events.take(&plain), GIVEN);
    }

    #[test]
    fn nothing_is_subscribed_to_before_all_listen_again() {
        let mut events = Events::default();
        events.handle_connected();
        events.set("a", types(&["x", "y"]));
        events.set("b", types(&["z"]));
        events.set("gone", types(&["w"]));
        events.take(&event("x", 4, 7));
        let record = events.record().clone();

        let ids = ["a".to_owned(), "b".to_owned()];
        let mut events = Events::restore(record.clone(), &ids);
        assert_eq!(events.handle_connected(), []);
        assert_eq!(events.set("b", types(&["z"])), []);
        assert_eq!(events.set("a", types(&["y"])), [], "half of it");
        assert_eq!(
            events.set("a", types(&["x", "y"])),
            [subscribe(&["x", "y", "z"], 7)]
        );
        assert_eq!(events.stop_waiting(), []);

        // What does not listen again holds nobody up for ever.
        let mut events = Events::restore(record.clone(), &ids);
        events.set("b", types(&["z"]));
        assert_eq!(events.stop_waiting(), [], "nobody is there to be told");
        assert_eq!(events.handle_connected(), [subscribe(&["x", "y", "z"], 7)]);

        let mut events = Events::restore(record, &[]);
        assert!(!events.is_waiting());
        events.handle_connected();
        assert_eq!(events.set("a", types(&["x"])), [subscribe(&["x"], 0)]);
    }

    #[test]
    fn what_a_module_without_a_host_missed_is_told_to_the_next() {
        let mut events = Events::default();
        events.set("a", types(&["x"]));
        events.keep_away("a", 2);
        events.keep_away("a", 1);
        assert_eq!((events.was_away("a"), events.was_away("a")), (3, 0));
    }
}
