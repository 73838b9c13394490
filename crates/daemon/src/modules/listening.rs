//! Which events the modules of this node listen to, and who gets them

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_proto::{EventSubscribe, EventUnsubscribe, daemon_message};

/// What all modules listen to
#[derive(Debug, Default)]
pub(super) struct Listening {
    types: BTreeMap<String, BTreeSet<String>>,
}

impl Listening {
    /// Replaces what a module listens to; gives what the controller is to be told, if that makes a difference to it
    pub(super) fn set(&mut self, id: &str, types: BTreeSet<String>) -> Vec<daemon_message::Payload> {
        let before = self.all();
        match types.is_empty() {
            true => self.types.remove(id),
            false => self.types.insert(id.to_owned(), types),
        };
        let now = self.all();
        let mut messages = Vec::new();
        let gone: Vec<String> = before.difference(&now).cloned().collect();
        if !gone.is_empty() {
            messages.push(daemon_message::Payload::EventUnsubscribe(EventUnsubscribe {
                event_types: gone,
            }));
        }
        let new: Vec<String> = now.difference(&before).cloned().collect();
        messages.extend(subscribe(new));
        messages
    }

    /// What the controller of a new session is to be told: it knows nothing
    pub(super) fn anew(&self) -> Option<daemon_message::Payload> {
        subscribe(self.all().into_iter().collect())
    }

    /// The modules that listen to this type
    pub(super) fn to(&self, event_type: &str) -> impl Iterator<Item = &str> {
        let listens = move |(_, types): &(&String, &BTreeSet<String>)| types.contains(event_type);
        self.types.iter().filter(listens).map(|(id, _)| id.as_str())
    }

    fn all(&self) -> BTreeSet<String> {
        self.types.values().flatten().cloned().collect()
    }
}

fn subscribe(event_types: Vec<String>) -> Option<daemon_message::Payload> {
    let message = EventSubscribe {
        event_types,
        ..EventSubscribe::default()
    };
    (!message.event_types.is_empty()).then_some(daemon_message::Payload::EventSubscribe(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(types: &[&str]) -> BTreeSet<String> {
        types.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_listener_subscribes_and_the_last_one_unsubscribes() {
        use daemon_message::Payload::{EventSubscribe as Subscribe, EventUnsubscribe as Unsubscribe};
        let subscribe = |names: &[&str]| {
            Subscribe(EventSubscribe {
                event_types: names.iter().map(|name| (*name).to_owned()).collect(),
                ..EventSubscribe::default()
            })
        };
        let unsubscribe = |name: &str| {
            Unsubscribe(EventUnsubscribe {
                event_types: vec![name.to_owned()],
            })
        };
        let mut listening = Listening::default();
        assert_eq!(listening.anew(), None);
        assert_eq!(listening.set("a", types(&["x", "y"])), [subscribe(&["x", "y"])]);
        assert_eq!(listening.set("b", types(&["y"])), []);
        assert_eq!(listening.to("y").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(listening.anew(), Some(subscribe(&["x", "y"])));
        assert_eq!(
            listening.set("a", types(&["z"])),
            [unsubscribe("x"), subscribe(&["z"])]
        );
        assert_eq!(listening.set("b", types(&[])), [unsubscribe("y")]);
        assert_eq!(listening.to("y").count(), 0);
    }
}
