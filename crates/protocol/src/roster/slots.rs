//! Where the instances of a roster are kept
//!
//! A slot holds one incarnation. An id has at most two: the *entry* that the application knows, and an *orphan*, an
//! incarnation that the daemon runs although nobody wants it, for as long as it takes to stop it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use prexorcloud_proto::StartInstance;

use super::deadlines::Deadlines;
use super::event::Due;
use super::readiness::Awaited;
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Age, Lifecycle};
use crate::ledger::Ledger;
use crate::time::Deadline;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// What the application knows.
    Entry,
    /// What the daemon runs although nobody wants it.
    Orphan,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    pub(super) role: Role,
    pub(super) lifecycle: Lifecycle,
    pub(super) ledger: Ledger,
    /// The start, as long as it may have to go out (again).
    pub(super) start: Option<Box<StartInstance>>,
    /// What it takes until the server is ready.
    pub(super) awaited: Awaited,
    /// How many orphans have been found in the way of this entry, on the present stream.
    pub(super) orphans: u32,
    /// In how many load reports in a row the daemon has not counted it, since it has shown it on the present stream.
    pub(super) uncounted: Option<u8>,
    /// In the queue of slots that have something to send.
    queued: bool,
    /// The place of an entry that has ended among those that have.
    ended: Option<u64>,
}

impl Slot {
    pub(super) fn new(role: Role, lifecycle: Lifecycle, start: Option<Box<StartInstance>>) -> Self {
        let ledger = Ledger::new(lifecycle.instance(), lifecycle.incarnation());
        Self {
            role,
            lifecycle,
            ledger,
            start,
            awaited: Awaited::default(),
            orphans: 0,
            uncounted: None,
            queued: false,
            ended: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline<Due>> {
        let lifecycle = self
            .lifecycle
            .poll_timeout()
            .map(|deadline| deadline.map(Due::Lifecycle));
        let command = self
            .ledger
            .poll_timeout()
            .map(|deadline| deadline.map(Due::Command));
        Deadline::earlier(lifecycle, command)
    }
}

/// The slots of one id
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) entry: Option<usize>,
    pub(super) orphan: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slots {
    slots: Vec<Option<Box<Slot>>>,
    free: Vec<usize>,
    places: BTreeMap<InstanceId, Place>,
    entries: usize,
    orphans: usize,
    deadlines: Deadlines<Instant>,
    /// Slots with something to send, each at most once.
    sending: VecDeque<usize>,
    /// Entries that have ended, the one that did so first first.
    ended: BTreeMap<u64, usize>,
    ends: u64,
}

impl Slots {
    pub(super) fn get(&self, slot: usize) -> Option<&Slot> {
        self.slots.get(slot)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Slot> {
        self.slots.get_mut(slot)?.as_deref_mut()
    }

    pub(super) fn place(&self, instance: InstanceId) -> Place {
        self.places.get(&instance).copied().unwrap_or_default()
    }

    pub(super) fn entry(&self, instance: InstanceId) -> Option<&Slot> {
        self.get(self.place(instance).entry?)
    }

    /// The number of entries that have not ended; orphans do not count.
    pub(super) fn live(&self) -> usize {
        self.entries.saturating_sub(self.ended.len())
    }

    /// The number of entries that have ended.
    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// The entries that have ended, the one that did so first first.
    pub(super) fn ended_slots(&self) -> impl Iterator<Item = &Slot> {
        self.ended.values().filter_map(|&index| self.get(index))
    }

    pub(super) fn orphans(&self) -> usize {
        self.orphans
    }

    /// The indices of all entries, in the order of the ids.
    pub(super) fn entry_indices(&self) -> Vec<usize> {
        self.places().filter_map(|place| place.entry).collect()
    }

    /// The slots of every id, in the order of the ids.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.values().copied()
    }

    /// The slot that a message about `instance` means
    ///
    /// A peer that names no incarnation means the orphan while there is one: the entry is held back until it is gone.
    pub(super) fn addressed(&self, instance: &InstanceId, incarnation: Incarnation) -> Option<usize> {
        let Place { entry, orphan } = self.places.get(instance).copied().unwrap_or_default();
        let orphan = orphan.filter(|&slot| {
            let of_orphan = self
                .get(slot)
                .map(|slot| slot.lifecycle.incarnation())
                .unwrap_or_default();
            entry.is_none() || matches!(Age::of(incarnation, of_orphan), Age::Current | Age::Unknown)
        });
        orphan.or(entry)
    }

    pub(super) fn insert(&mut self, slot: Slot) -> usize {
        let (instance, role) = (slot.lifecycle.instance(), slot.role);
        self.remove(instance, role);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.deadlines.reserve(self.slots.len());
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(Box::new(slot));
        }
        let place = self.places.entry(instance).or_default();
        match role {
            Role::Entry => {
                place.entry = Some(index);
                self.entries += 1;
            }
            Role::Orphan => {
                place.orphan = Some(index);
                self.orphans += 1;
            }
        }
        index
    }

    pub(super) fn remove(&mut self, instance: InstanceId, role: Role) {
        let Some(place) = self.places.get_mut(&instance) else {
            return;
        };
        let index = match role {
            Role::Entry => place.entry.take(),
            Role::Orphan => place.orphan.take(),
        };
        if place.entry.is_none() && place.orphan.is_none() {
            self.places.remove(&instance);
        }
        let Some(index) = index else { return };
        let count = if role == Role::Entry {
            &mut self.entries
        } else {
            &mut self.orphans
        };
        *count = count.saturating_sub(1);
        if let Some(removed) = self.slots.get_mut(index).and_then(Option::take) {
            if removed.queued {
                self.sending.retain(|&other| other != index);
            }
            if let Some(place) = removed.ended {
                self.ended.remove(&place);
            }
        }
        self.deadlines.set(index, None);
        self.free.push(index);
    }

    /// Takes note of what has changed in a slot: its deadline, whether it has something to send, and whether it has ended.
    pub(super) fn refresh(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        if slot.ledger.has_dispatch() && !std::mem::replace(&mut slot.queued, true) {
            self.sending.push_back(index);
        }
        match (
            slot.role == Role::Entry && slot.lifecycle.is_terminal(),
            slot.ended,
        ) {
            (true, None) => {
                self.ends += 1;
                slot.ended = Some(self.ends);
                self.ended.insert(self.ends, index);
            }
            (false, Some(place)) => {
                slot.ended = None;
                self.ended.remove(&place);
            }
            (true, Some(_)) | (false, None) => {}
        }
        let at = slot.deadline().map(|deadline| deadline.at);
        self.deadlines.set(index, at);
    }

    /// The next slot with something to send.
    pub(super) fn next_to_send(&mut self) -> Option<&mut Slot> {
        let index = self.sending.pop_front()?;
        let slot = self.get_mut(index)?;
        slot.queued = false;
        Some(slot)
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.sending.is_empty()
    }

    pub(super) fn earliest(&self) -> Option<(usize, Instant)> {
        self.deadlines.earliest()
    }
}
