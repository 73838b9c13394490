//! What is recorded of the instances, and what the records are behind of

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use super::commits::Purpose;
use super::pending::Pending;
use super::{CommitId, InstanceSnapshot, OrderId, OrderOutcome};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Desired, Lifecycle, State};
use crate::ledger::Order;
use crate::roster::{Role, Roster};

/// What is recorded of an instance, as far as something depends on it.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    incarnation: Incarnation,
    desired: Desired,
    is_over: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    recorded: BTreeMap<InstanceId, Recorded>,
    /// Instances whose record is behind, with what went wrong since.
    pub(super) dirty: BTreeMap<InstanceId, Option<String>>,
    /// Ends of incarnations that are not the roster's: starts that were recorded and then not carried out.
    pub(super) refused: VecDeque<InstanceSnapshot>,
    pub(super) waiting: VecDeque<Pending>,
    pub(super) crashes: usize,
    pub(super) under_way: Option<(CommitId, Purpose)>,
    /// Orders that are carried out once all of their instance is recorded.
    pub(super) unanswered: Vec<(InstanceId, OrderId, OrderOutcome)>,
    pub(super) commits: u64,
    /// The last commit was one of snapshots, so that an order is next.
    pub(super) snapshots_last: bool,
    /// The last instance that was written of those that were behind; the next one's turn is after it.
    turn: Option<InstanceId>,
    pub(super) retry_at: Option<Instant>,
}

impl Records {
    pub(super) fn restored(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        state: State,
        desired: Desired,
    ) {
        let recorded = Recorded {
            incarnation,
            desired,
            is_over: state.is_terminal(),
        };
        self.recorded.insert(instance, recorded);
    }

    /// The record of an instance is behind; `note` is what went wrong.
    pub(super) fn mark(&mut self, instance: InstanceId, note: Option<String>) {
        let noted = self.dirty.entry(instance).or_default();
        if note.is_some() {
            *noted = note;
        }
    }

    /// The record of an instance is behind still, because it was not written; what has gone wrong since counts more.
    pub(super) fn mark_unwritten(&mut self, instance: InstanceId, note: Option<String>) {
        let noted = self.dirty.entry(instance).or_default();
        if noted.is_none() {
            *noted = note;
        }
    }

    /// The record of an instance is gone.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.recorded.remove(&instance);
    }

    /// Whether what an order depends on is recorded.
    pub(super) fn covers(&self, role: Role, lifecycle: &Lifecycle, order: Order) -> bool {
        let recorded = self.recorded.get(&lifecycle.instance());
        let recorded = recorded.filter(|recorded| recorded.incarnation == lifecycle.incarnation());
        let wanted = match order {
            Order::Start => Desired::Run,
            Order::Stop(mode) => mode.into(),
        };
        let is_wanted = recorded.is_some_and(|recorded| recorded.desired >= wanted);
        match role {
            Role::Entry => is_wanted,
            // Nobody may find it stopped and recorded as one that is to run.
            Role::Orphan => is_wanted || recorded.is_none_or(|recorded| recorded.is_over),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.waiting.is_empty()
            && self.dirty.is_empty()
            && self.refused.is_empty()
    }

    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    pub(super) fn answer_when_clean(&mut self, instance: InstanceId, order: OrderId, outcome: OrderOutcome) {
        self.unanswered.push((instance, order, outcome));
    }

    pub(super) fn is_clean(&self, instance: InstanceId) -> bool {
        let is_being_written = self.under_way.as_ref().is_some_and(|(_, purpose)| match purpose {
            Purpose::Snapshots(snapshots) => snapshots.iter().any(|snapshot| snapshot.instance == instance),
            Purpose::Surplus(_) => false,
            Purpose::Pending(_, snapshot) => snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.instance == instance),
        });
        !is_being_written && !self.dirty.contains_key(&instance)
    }

    /// The instance that has been behind for longest, with what went wrong.
    pub(super) fn take_dirty(&mut self) -> Option<(InstanceId, Option<String>)> {
        let after = |turn| (Bound::Excluded(turn), Bound::Unbounded);
        let next = self
            .turn
            .and_then(|turn| self.dirty.range(after(turn)).next())
            .or_else(|| self.dirty.first_key_value());
        let instance = *next?.0;
        self.turn = Some(instance);
        self.dirty.remove_entry(&instance)
    }

    /// A snapshot has been written, which does nothing to the record of a later incarnation.
    pub(super) fn note(&mut self, snapshot: &InstanceSnapshot) {
        let recorded = self.recorded.get(&snapshot.instance);
        if recorded.is_none_or(|recorded| recorded.incarnation <= snapshot.incarnation) {
            self.restored(
                snapshot.instance,
                snapshot.incarnation,
                snapshot.state,
                snapshot.desired,
            );
        }
    }
}

/// An instance as it is to be recorded now.
pub(super) fn snapshot(
    roster: &Roster,
    instance: InstanceId,
    note: Option<String>,
) -> Option<InstanceSnapshot> {
    let lifecycle = roster.get(instance)?;
    Some(InstanceSnapshot {
        instance,
        group: lifecycle.group(),
        incarnation: lifecycle.incarnation(),
        port: lifecycle.port(),
        state: lifecycle.state(),
        desired: lifecycle.desired(),
        lost: lifecycle.is_lost(),
        note,
    })
}
