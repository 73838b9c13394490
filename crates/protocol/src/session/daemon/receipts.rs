//! What a controller has surely received
//!
//! A stream keeps its order, and a report and a pong leave through the same queue. A controller that names a pong in
//! its ping has therefore received every report that was queued before that pong, and says that it has stored them. That
//! it keeps on pinging proves nothing: each direction has an order of its own.

use std::collections::BTreeMap;

use crate::id::{Incarnation, InstanceId};

/// The ends that were told on a stream, each with the pong that was queued before it
#[derive(Clone, Debug, Default)]
pub(super) struct Receipts {
    /// The highest sequence so far.
    last_pong: i64,
    /// One per id, so no more than the ids that are remembered.
    waiting: BTreeMap<InstanceId, (Incarnation, i64)>,
}

impl Receipts {
    pub(super) fn pong_queued(&mut self, sequence: i64) {
        self.last_pong = self.last_pong.max(sequence);
    }

    /// The report of an end was queued; one that is told again counts from the first time.
    pub(super) fn end_queued(&mut self, instance: InstanceId, incarnation: Incarnation) {
        let waiting = self
            .waiting
            .entry(instance)
            .or_insert((incarnation, self.last_pong));
        if waiting.0 != incarnation {
            *waiting = (incarnation, self.last_pong);
        }
    }

    /// The controller has this pong: gives the ends that it has heard of with it.
    pub(super) fn answered(&mut self, pong: i64) -> impl Iterator<Item = (InstanceId, Incarnation)> + use<> {
        let mut heard = Vec::new();
        self.waiting.retain(|instance, (incarnation, before)| {
            let is_heard = pong > *before;
            if is_heard {
                heard.push((*instance, *incarnation));
            }
            !is_heard
        });
        heard.into_iter()
    }
}
