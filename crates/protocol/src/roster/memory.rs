//! What a roster remembers: what was recorded before a restart, and what has ended

use std::time::Instant;

use super::event::RosterEntry;
use super::slots::{Role, Slot};
use super::{ENDED_REMEMBERED, Roster};
use crate::id::InstanceId;
use crate::instance::{Lifecycle, Spec};
use crate::limits;
use crate::verdict::{DeniedReason, Verdict};

/// How many that have ended are kept at most while nobody forgets any.
const ENDED_KEPT: usize = 2 * limits::INSTANCES_PER_NODE;

impl Roster {
    /// Puts recorded instances back after a restart of the controller
    ///
    /// Give those that have ended in the order of their ends. One that lives is put back even if its record breaks the
    /// contract: it runs. Those that could not be put back are returned with the reason: they have ended, or have no safe name.
    #[must_use = "an instance that is not restored is an orphan at the next handshake"]
    pub fn restore(
        &mut self,
        now: Instant,
        entries: impl IntoIterator<Item = RosterEntry>,
    ) -> Vec<(RosterEntry, DeniedReason)> {
        let mut refused = Vec::new();
        for entry in entries {
            let spec = match Spec::of(&entry.start) {
                Ok(spec) => Ok((spec, true)),
                Err(invalid) => Spec::known_of(&entry.start)
                    .filter(|_| !entry.state.is_terminal())
                    .map(|spec| (spec, false))
                    .ok_or(invalid),
            };
            let (spec, is_valid) = match spec {
                Ok(spec) => spec,
                Err(invalid) => {
                    refused.push((entry, DeniedReason::Invalid(invalid)));
                    continue;
                }
            };
            let mut lifecycle = Lifecycle::restored(now, spec, entry.state, entry.desired);
            if entry.lost {
                lifecycle = lifecycle.as_lost();
            }
            let start = (is_valid && lifecycle.state().is_coming_up()).then_some(entry.start);
            let slot = self.slots.insert(Slot::new(Role::Entry, lifecycle, start));
            self.join(now, slot);
            self.pump(now, slot);
        }
        refused
    }

    /// How many instances have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.slots.live()
    }

    /// Those that ended first, of more ended ones than [`ENDED_REMEMBERED`].
    pub fn surplus(&self) -> impl Iterator<Item = &Lifecycle> {
        let surplus = self.slots.ended().saturating_sub(ENDED_REMEMBERED);
        self.slots.ended_slots().take(surplus).map(|slot| &slot.lifecycle)
    }

    /// Nobody forgets any: the storage fails, or is given no time. What has ended must not grow without end.
    pub(super) fn bound_ended(&mut self) {
        while self.slots.ended() > ENDED_KEPT {
            let Some(first) = self.slots.ended_slots().next() else {
                return;
            };
            let instance = first.lifecycle.instance();
            self.slots.remove(instance, Role::Entry);
        }
    }

    /// Removes an instance that has ended.
    pub fn forget(&mut self, instance: InstanceId) -> Verdict {
        match self.get(instance) {
            None => Verdict::AlreadyInEffect,
            Some(known) if !known.is_terminal() => Verdict::Denied(DeniedReason::StillAlive {
                current: known.incarnation(),
            }),
            Some(_) => {
                self.slots.remove(instance, Role::Entry);
                Verdict::Accepted
            }
        }
    }
}
