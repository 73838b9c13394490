//! What has left for a controller that does not say what it has received
//!
//! A Java controller acknowledges neither ends nor console lines. That a message has left proves little: it may wait in a
//! buffer of a link that has stalled, and is lost when the link breaks; nor does time prove anything. So it counts as
//! received at the next ping. Pings come in the other direction and are no proof either, but a link that has stalled
//! or broken brings none. A line that is told twice, because a link broke before the ping, is less harm than one that is
//! never told. A crash report is not told twice: Java controllers count each as a crash.

use std::collections::BTreeMap;

use prexorcloud_proto::{ConsoleOutput, InstanceStatusUpdate};

use super::{DaemonEvent, DaemonSession};
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::limits;

/// The most starts whose lines are waited for at a time; those beyond are told again
const STARTS: usize = limits::INSTANCES_PER_NODE;

/// What has left on a stream since the last ping
#[derive(Clone, Debug, Default)]
pub(super) struct Departures {
    /// One per id, so no more than the ids that are remembered.
    ends: BTreeMap<InstanceId, Incarnation>,
    lines: BTreeMap<(InstanceId, Incarnation), u64>,
}

impl Departures {
    /// This end was told, or was listed in a handshake that was acknowledged.
    pub(super) fn end(&mut self, instance: InstanceId, incarnation: Incarnation) {
        self.ends.insert(instance, incarnation);
    }

    pub(super) fn status(&mut self, update: &InstanceStatusUpdate) {
        let is_end = [State::Stopped, State::Crashed]
            .map(State::to_wire)
            .contains(&update.state);
        if is_end && let Ok(instance) = InstanceId::new(&update.instance_id) {
            self.end(instance, Incarnation::new(update.incarnation));
        }
    }

    pub(super) fn console(&mut self, output: &ConsoleOutput) {
        let Ok(instance) = InstanceId::new(&output.instance_id) else {
            return;
        };
        let start = (instance, Incarnation::new(output.incarnation));
        if self.lines.len() < STARTS || self.lines.contains_key(&start) {
            let highest = self.lines.entry(start).or_default();
            *highest = output.sequence.max(*highest);
        }
    }
}

impl DaemonSession {
    /// The controller has pinged: what had left counts as received.
    pub(super) fn departures_arrived(&mut self) {
        let Departures { ends, lines } = std::mem::take(&mut self.departures);
        for (instance, incarnation) in ends {
            self.events.push_back(DaemonEvent::EndHeard {
                instance,
                incarnation,
            });
        }
        for ((instance, incarnation), sequence) in lines {
            self.events.push_back(DaemonEvent::ConsoleArrived {
                instance,
                incarnation,
                sequence,
            });
        }
    }
}
