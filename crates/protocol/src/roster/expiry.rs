//! What falls due: deadlines of instances, and commands that are not answered

use std::time::{Duration, Instant};

use super::Roster;
use super::event::{InstanceEvent, RosterTimer};
use super::slots::Role;
use crate::ledger::{Expired, Order, StartFailure};
use crate::time::Deadline;

impl Roster {
    /// Lets expired timers take effect; early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((index, _)) = self.slots.earliest().filter(|&(_, at)| at <= now) {
            let lives = self
                .slots
                .get(index)
                .is_some_and(|slot| self.says_it_lives(&slot.lifecycle));
            let Some(slot) = self.slots.get_mut(index) else {
                return;
            };
            slot.lifecycle.note_lives(lives);
            if slot.ledger.is_stop_undelivered() {
                // Its time begins when it has left.
                slot.lifecycle.handle_stop_leaves(now);
            }
            slot.lifecycle.handle_timeout(now);
            let (instance, incarnation) = (slot.lifecycle.instance(), slot.lifecycle.incarnation());
            let news = match slot.ledger.handle_timeout(now) {
                None
                | Some(Expired::Retrying {
                    order: Order::Stop(_),
                    ..
                }) => None,
                Some(Expired::Retrying {
                    order: Order::Start,
                    attempt,
                }) => {
                    slot.lifecycle.handle_redispatch(now);
                    let (after, failure) = (Duration::ZERO, StartFailure::unanswered());
                    Some(InstanceEvent::StartRetrying {
                        instance,
                        incarnation,
                        attempt,
                        after,
                        failure,
                    })
                }
                Some(Expired::Failed { order: Order::Start }) => {
                    slot.lifecycle.handle_start_failed(now);
                    let failure = StartFailure::unanswered();
                    Some(InstanceEvent::StartFailed {
                        instance,
                        incarnation,
                        failure,
                    })
                }
                // That it has no effect has been told.
                Some(Expired::Failed {
                    order: Order::Stop(_),
                }) if slot.lifecycle.is_stop_in_vain() => None,
                Some(Expired::Failed {
                    order: Order::Stop(_),
                }) => Some(InstanceEvent::StopUnanswered {
                    instance,
                    incarnation,
                }),
            };
            let is_entry = slot.role == Role::Entry;
            if let Some(news) = news.filter(|_| is_entry) {
                self.tell(news);
            }
            self.pump(now, index);
        }
    }

    /// The earliest armed timer of all instances.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<RosterTimer>> {
        let (index, _) = self.slots.earliest()?;
        let slot = self.slots.get(index)?;
        let instance = slot.lifecycle.instance();
        slot.deadline()
            .map(|deadline| deadline.map(|due| RosterTimer { instance, due }))
    }
}
