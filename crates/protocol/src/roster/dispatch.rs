//! When a start or a stop may leave

use std::time::Instant;

use prexorcloud_proto::{StartInstance, StopInstance};

use super::Roster;
use super::event::Dispatch;
use super::slots::{Place, Role};
use crate::id::InstanceId;
use crate::instance::{Cause, Lifecycle, Spec};
use crate::ledger::Order;
use crate::reconcile::OrphanReason;
use crate::verdict::{DeniedReason, StopMode, Verdict};

impl Roster {
    /// As [`start`](Self::start), of an id whose record is this start already: an earlier incarnation that a daemon has
    /// brought since the start was judged is stopped as an orphan.
    pub(crate) fn start_recorded(&mut self, now: Instant, start: Box<StartInstance>) -> Verdict {
        let spec = match Spec::of(&start) {
            Ok(spec) => spec,
            Err(invalid) => return Verdict::Denied(DeniedReason::Invalid(invalid)),
        };
        // There may be more of them than when it was judged; it counted then, and is recorded.
        let mut verdict = self.judge_known(&spec);
        if let Verdict::Denied(DeniedReason::StillAlive { .. }) = verdict {
            let entry = self.slots.place(spec.instance).entry;
            let Some((index, slot)) = entry.and_then(|index| Some((index, self.slots.get_mut(index)?)))
            else {
                return verdict;
            };
            let (former, state) = (slot.lifecycle.spec(), slot.lifecycle.state());
            slot.lifecycle.handle_lost(now, Cause::Superseded);
            self.pump(now, index);
            // Before the start, which waits for it.
            self.stop_orphan(now, former, state, OrphanReason::Superseded);
            verdict = self.judge_known(&spec);
        }
        if verdict == Verdict::Accepted {
            self.begin(now, spec, start);
        }
        verdict
    }

    /// The next command that has to go out; `None` without a stream.
    #[must_use]
    pub fn poll_dispatch(&mut self) -> Option<Dispatch> {
        self.poll_dispatch_if(|_, _, _| true)
    }

    /// As [`poll_dispatch`](Self::poll_dispatch), but an instance's command leaves only if `may_leave`; else it waits
    /// for [`release`](Self::release).
    pub(crate) fn poll_dispatch_if(
        &mut self,
        may_leave: impl Fn(Role, &Lifecycle, Order) -> bool,
    ) -> Option<Dispatch> {
        while self.slots.has_to_send() {
            let Some(slot) = self.slots.next_to_send() else {
                continue;
            };
            let order = slot.ledger.order().filter(|_| slot.ledger.has_dispatch());
            if order.is_some_and(|order| !may_leave(slot.role, &slot.lifecycle, order)) {
                continue;
            }
            match slot.ledger.poll_dispatch() {
                Some(Order::Start) => {
                    let Some(start) = slot.start.clone() else { continue };
                    slot.lifecycle.mark_dispatched();
                    return Some(Dispatch::Start(start));
                }
                Some(Order::Stop(mode)) => {
                    return Some(Dispatch::Stop(StopInstance {
                        instance_id: slot.lifecycle.instance().into(),
                        force: mode == StopMode::Force,
                        incarnation: slot.lifecycle.incarnation().get(),
                    }));
                }
                None => {}
            }
        }
        None
    }

    /// The commands of an id may leave now, if they could not before; a stop is given its whole grace.
    pub(crate) fn release(&mut self, now: Instant, instance: InstanceId) {
        let Place { entry, orphan } = self.slots.place(instance);
        for index in [entry, orphan].into_iter().flatten() {
            if let Some(slot) = self.slots.get_mut(index)
                && slot.ledger.has_dispatch()
                && matches!(slot.ledger.order(), Some(Order::Stop(_)))
            {
                slot.lifecycle.handle_stop_leaves(now);
            }
            self.pump(now, index);
        }
    }
}
