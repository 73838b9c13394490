//! Which console lines have arrived, to be acknowledged
//!
//! A line has arrived when the application has taken it, not sooner: what waits as an event is lost with the session.
//! Acknowledgements are rare (one a second for each start that printed something), as each stands for all lines before it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_proto::{ConsoleOutput, ConsoleOutputAck, controller_message};
use prost::Message as _;

use super::{ControllerEvent, ControllerSession, Link};
use crate::capability::Capabilities;
use crate::id::InstanceId;
use crate::limits;
use crate::outbox::Class;
use crate::time::after;

/// How long arrived lines may wait to be acknowledged
const INTERVAL: Duration = Duration::from_secs(1);

/// More than an envelope adds to the length of what is in it
const ENVELOPE_BYTES: usize = 32;

/// The lines of one stream that arrived since the last acknowledgements
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    /// The highest number by instance and incarnation. No more than a node may host: a daemon that tells of more
    /// starts at once is not helped by an answer for each.
    highest: BTreeMap<(InstanceId, u64), u64>,
    due: Option<Instant>,
}

impl Arrivals {
    /// A line has come in, and is told to the application.
    pub(super) fn told(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(after(now, INTERVAL));
        }
    }

    /// The application has taken a line.
    pub(super) fn taken(&mut self, output: &ConsoleOutput) {
        let Ok(instance) = InstanceId::new(&output.instance_id) else {
            return;
        };
        let start = (instance, output.incarnation);
        if output.sequence > 0
            && (self.highest.len() < limits::INSTANCES_PER_NODE || self.highest.contains_key(&start))
        {
            let highest = self.highest.entry(start).or_default();
            *highest = output.sequence.max(*highest);
        }
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl ControllerSession {
    /// Keeps in mind what the application takes.
    pub(super) fn console_taken(&mut self, event: &ControllerEvent) {
        if let Link::Established(live) = &mut self.link
            && live.capabilities.contains(Capabilities::CONSOLE_ACK)
            && let ControllerEvent::Console(output) = event
        {
            live.arrivals.taken(output);
        }
    }

    /// Acknowledges what has arrived, if it is time and as far as there is room.
    pub(super) fn acknowledge_console(&mut self, now: Instant) {
        let Link::Established(live) = &mut self.link else {
            return;
        };
        if live.arrivals.due.is_none_or(|due| now < due) {
            return;
        }
        let highest = std::mem::take(&mut live.arrivals.highest);
        let mut waiting = BTreeMap::new();
        for ((instance, incarnation), sequence) in highest {
            let ack = ConsoleOutputAck {
                instance_id: instance.into(),
                incarnation,
                sequence,
            };
            if self
                .outbox
                .has_room(Class::Report, ack.encoded_len() + ENVELOPE_BYTES)
            {
                self.push(controller_message::Payload::ConsoleOutputAck(ack));
            } else {
                waiting.insert((instance, incarnation), sequence);
            }
        }
        let is_done = waiting.is_empty() && self.events.is_empty();
        if let Link::Established(live) = &mut self.link {
            live.arrivals.due = (!is_done).then(|| after(now, INTERVAL));
            live.arrivals.highest = waiting;
        }
    }
}
