//! What has to be recorded, and what waits for it

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use prexorcloud_proto::{CrashReport, StartInstance};

use super::{
    Change, Commit, CommitFailure, CommitId, ControllerNode, ControllerWork, InstanceSnapshot, OrderId,
    OrderOutcome, OrderRefusal,
};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Desired, Lifecycle, State};
use crate::ledger::Order;
use crate::roster::{Role, Roster};
use crate::session::controller::CrashStanding;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How many crash reports may wait for the storage.
pub const CRASHES_WAITING: usize = 64;

/// How many instances a commit of changed ones has at most.
pub const SNAPSHOTS_PER_COMMIT: usize = 64;

/// Something that waits for a commit of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pending {
    Start {
        order: OrderId,
        start: Box<StartInstance>,
    },
    Stop {
        /// Nobody waits for the answer of a stop that belongs to a drain.
        order: Option<OrderId>,
        instance: InstanceId,
        mode: StopMode,
    },
    Forget {
        order: OrderId,
        instance: InstanceId,
    },
    Crash {
        report: Arc<CrashReport>,
        standing: CrashStanding,
    },
}

impl Pending {
    /// Whether somebody waits for the answer, who hears of it if the storage fails.
    fn is_order(&self) -> bool {
        match self {
            Self::Start { .. } | Self::Forget { .. } => true,
            Self::Stop { order, .. } => order.is_some(),
            Self::Crash { .. } => false,
        }
    }
}

/// What the commit under way is about.
#[derive(Clone, Debug)]
enum Purpose {
    /// Changes that are true already.
    Snapshots(Vec<InstanceSnapshot>),
    Pending(Pending, Option<Box<InstanceSnapshot>>),
}

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
    dirty: BTreeMap<InstanceId, Option<String>>,
    /// Ends of incarnations that are not the roster's: starts that were recorded and then not carried out.
    refused: VecDeque<InstanceSnapshot>,
    waiting: VecDeque<Pending>,
    crashes: usize,
    under_way: Option<(CommitId, Purpose)>,
    /// Orders that are carried out once all of their instance is recorded.
    unanswered: Vec<(InstanceId, OrderId, OrderOutcome)>,
    commits: u64,
    /// The last commit was one of snapshots, so that an order is next.
    snapshots_last: bool,
    /// The last instance that was written of those that were behind; the next one's turn is after it.
    turn: Option<InstanceId>,
    retry_at: Option<Instant>,
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

    pub(super) fn push(&mut self, pending: Pending) {
        self.waiting.push_back(pending);
    }

    /// The orders that wait for the record of an instance, which the storage refuses.
    fn take_orders_behind(&mut self, instance: InstanceId) -> Vec<OrderId> {
        let mut orders = Vec::new();
        self.waiting.retain(|pending| {
            let order = match pending {
                Pending::Start { order, start } if start.instance_id == instance.as_str() => order,
                Pending::Forget {
                    order,
                    instance: wanted,
                } if *wanted == instance => order,
                _ => return true,
            };
            orders.push(*order);
            false
        });
        self.unanswered.retain(|(wanted, order, _)| {
            let is_other = *wanted != instance;
            if !is_other {
                orders.push(*order);
            }
            is_other
        });
        orders
    }

    pub(super) fn push_crash(&mut self, report: Arc<CrashReport>, standing: CrashStanding) {
        if self.crashes < CRASHES_WAITING {
            self.crashes += 1;
            self.waiting.push_back(Pending::Crash { report, standing });
        }
    }

    /// Whether a crash report waits already.
    pub(super) fn has_crash(&self, report_id: &str) -> bool {
        let is_that = |pending: &Pending| matches!(pending, Pending::Crash { report, .. } if report.report_id == report_id);
        !report_id.is_empty() && self.pending().any(is_that)
    }

    /// How many orders and reports wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> {
        let under_way = self.under_way.as_ref().and_then(|(_, purpose)| match purpose {
            Purpose::Pending(pending, _) => Some(pending),
            Purpose::Snapshots(_) => None,
        });
        under_way.into_iter().chain(&self.waiting)
    }

    fn starts(&self) -> impl Iterator<Item = &StartInstance> {
        self.pending().filter_map(|pending| match pending {
            Pending::Start { start, .. } => Some(&**start),
            _ => None,
        })
    }

    /// The incarnation of a start of this id that waits to be recorded.
    pub(super) fn start_of(&self, instance: InstanceId) -> Option<Incarnation> {
        self.starts()
            .find(|start| start.instance_id == instance.as_str())
            .map(|start| Incarnation::new(start.incarnation))
    }

    pub(super) fn has_starts(&self) -> bool {
        self.starts().next().is_some()
    }

    /// Whether a stop that a drain wants waits to be recorded.
    pub(super) fn has_stop_of_drain(&self) -> bool {
        self.pending()
            .any(|pending| matches!(pending, Pending::Stop { order: None, .. }))
    }

    /// What a drain wants stopped and nobody has begun to record is not wanted any more.
    pub(super) fn withdraw_drain(&mut self) {
        self.waiting
            .retain(|pending| !matches!(pending, Pending::Stop { order: None, .. }));
    }

    /// The ports of starts that wait to be recorded.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.starts().filter_map(|start| u16::try_from(start.port).ok())
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

    fn is_clean(&self, instance: InstanceId) -> bool {
        let is_being_written = self.under_way.as_ref().is_some_and(|(_, purpose)| match purpose {
            Purpose::Snapshots(snapshots) => snapshots.iter().any(|snapshot| snapshot.instance == instance),
            Purpose::Pending(_, snapshot) => snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.instance == instance),
        });
        !is_being_written && !self.dirty.contains_key(&instance)
    }

    /// The instance that has been behind for longest, with what went wrong.
    fn take_dirty(&mut self) -> Option<(InstanceId, Option<String>)> {
        let after = |turn| (Bound::Excluded(turn), Bound::Unbounded);
        let next = self
            .turn
            .and_then(|turn| self.dirty.range(after(turn)).next())
            .or_else(|| self.dirty.first_key_value());
        let instance = *next?.0;
        self.turn = Some(instance);
        self.dirty.remove_entry(&instance)
    }

    /// Takes what is next of what waits. While the storage is left in peace that is an order: nobody but the storage
    /// knows whether it would be refused, too.
    fn take_waiting(&mut self) -> Option<Pending> {
        if self.retry_at.is_none() {
            return self.waiting.pop_front();
        }
        let next = self.waiting.iter().position(Pending::is_order)?;
        if self.needs_snapshots(self.waiting.get(next)?) {
            return None;
        }
        self.waiting.remove(next)
    }

    fn next_needs_snapshots(&self) -> bool {
        self.waiting
            .front()
            .is_none_or(|pending| self.needs_snapshots(pending))
    }

    /// Whether an order needs a record that is behind: a start and a forgetting look at the end, and the storage would
    /// take the id for alive.
    fn needs_snapshots(&self, pending: &Pending) -> bool {
        let is_behind = |id: &str| {
            let refused = self.refused.iter().map(|snapshot| &snapshot.instance);
            self.dirty
                .keys()
                .chain(refused)
                .any(|instance| instance.as_str() == id)
        };
        match pending {
            Pending::Start { start, .. } => is_behind(&start.instance_id),
            Pending::Forget { instance, .. } => is_behind(instance.as_str()),
            Pending::Stop { .. } | Pending::Crash { .. } => false,
        }
    }

    fn note(&mut self, snapshot: &InstanceSnapshot) {
        self.restored(
            snapshot.instance,
            snapshot.incarnation,
            snapshot.state,
            snapshot.desired,
        );
    }
}

/// An instance as it is to be recorded now.
fn snapshot(roster: &Roster, instance: InstanceId, note: Option<String>) -> Option<InstanceSnapshot> {
    let lifecycle = roster.get(instance)?;
    Some(InstanceSnapshot {
        instance,
        group: lifecycle.group(),
        incarnation: lifecycle.incarnation(),
        port: lifecycle.port(),
        state: lifecycle.state(),
        desired: lifecycle.desired(),
        note,
    })
}

impl ControllerNode {
    /// The changes of a commit are written for good.
    pub fn handle_committed(&mut self, now: Instant, id: CommitId) {
        let Some((_, purpose)) = self.records.under_way.take_if(|(under_way, _)| *under_way == id) else {
            return;
        };
        match purpose {
            Purpose::Snapshots(snapshots) => {
                for snapshot in &snapshots {
                    let known = self.roster.get(snapshot.instance).map(Lifecycle::incarnation);
                    if known == Some(snapshot.incarnation) {
                        self.records.note(snapshot);
                        self.roster.release(now, snapshot.instance);
                    }
                }
            }
            Purpose::Pending(pending, snapshot) => {
                if let Some(snapshot) = &snapshot {
                    self.records.note(snapshot);
                    self.roster.release(now, snapshot.instance);
                }
                self.carry_out(now, pending, snapshot.map(|snapshot| snapshot.incarnation));
            }
        }
        self.flush_answers();
        self.settle(now);
    }

    /// The changes of a commit were not written.
    pub fn handle_commit_failed(&mut self, now: Instant, id: CommitId, failure: CommitFailure) {
        let Some((_, purpose)) = self.records.under_way.take_if(|(under_way, _)| *under_way == id) else {
            return;
        };
        let retry_at = now.checked_add(self.config.retry);
        match purpose {
            Purpose::Snapshots(snapshots) => {
                for snapshot in snapshots {
                    let instance = snapshot.instance;
                    for order in self.records.take_orders_behind(instance) {
                        self.answer(order, Err(failure.clone().into()));
                    }
                    let known = self.roster.get(instance).map(Lifecycle::incarnation);
                    if known == Some(snapshot.incarnation) {
                        let newer = self.records.dirty.remove(&instance).flatten();
                        self.records.dirty.insert(instance, newer.or(snapshot.note));
                    } else {
                        self.records.refused.push_back(snapshot);
                    }
                }
                self.records.retry_at = retry_at;
            }
            Purpose::Pending(Pending::Crash { report, standing }, end) => {
                if let Some(end) = end {
                    let newer = self.records.dirty.remove(&end.instance).flatten();
                    self.records.dirty.insert(end.instance, newer.or(end.note));
                }
                if matches!(failure, CommitFailure::Conflict(_)) {
                    self.records.crashes = self.records.crashes.saturating_sub(1);
                } else {
                    self.records
                        .waiting
                        .push_back(Pending::Crash { report, standing });
                    self.records.retry_at = retry_at;
                }
            }
            Purpose::Pending(Pending::Stop { order: None, .. }, _) => self.records.retry_at = retry_at,
            Purpose::Pending(
                Pending::Start { order, .. }
                | Pending::Stop {
                    order: Some(order), ..
                }
                | Pending::Forget { order, .. },
                _,
            ) => self.answer(order, Err(failure.into())),
        }
        self.settle(now);
    }

    /// What a record was the condition of.
    fn carry_out(&mut self, now: Instant, pending: Pending, recorded: Option<Incarnation>) {
        match pending {
            Pending::Start { order, start } => self.carry_out_start(now, order, start),
            Pending::Stop {
                order,
                instance,
                mode,
            } => {
                let current = self.roster.get(instance).map(Lifecycle::incarnation);
                let verdict = if current == recorded {
                    self.roster.stop(now, instance, mode)
                } else {
                    Verdict::Denied(DeniedReason::AlreadyEnded)
                };
                let Some(order) = order else { return };
                let is_over = self.roster.get(instance).is_none_or(Lifecycle::is_terminal);
                let forced = self
                    .roster
                    .get(instance)
                    .is_some_and(|known| known.desired() == Desired::ForceStop);
                let result = match verdict {
                    Verdict::Denied(DeniedReason::AlreadyEnded) => Ok(OrderOutcome::AlreadyEnded),
                    Verdict::Denied(reason) => Err(reason.into()),
                    Verdict::AlreadyInEffect if is_over => Ok(OrderOutcome::AlreadyEnded),
                    Verdict::Accepted | Verdict::AlreadyInEffect if forced => {
                        Ok(OrderOutcome::Stopping(StopMode::Force))
                    }
                    Verdict::Accepted | Verdict::AlreadyInEffect => Ok(OrderOutcome::Stopping(mode)),
                };
                self.answer(order, result);
            }
            Pending::Forget { order, instance } => {
                let result = match self.roster.forget(instance) {
                    Verdict::Denied(reason) => Err(OrderRefusal::Denied(reason)),
                    Verdict::Accepted | Verdict::AlreadyInEffect => Ok(OrderOutcome::Forgotten),
                };
                self.records.recorded.remove(&instance);
                self.roster.release(now, instance);
                if result.is_ok() {
                    self.records.dirty.remove(&instance);
                } else {
                    // It has turned out to live meanwhile, and its record is gone.
                    self.records.mark(instance, None);
                }
                self.answer(order, result);
            }
            Pending::Crash { report, .. } => {
                self.records.crashes = self.records.crashes.saturating_sub(1);
                self.acknowledge_crash(&report.report_id);
            }
        }
    }

    fn carry_out_start(&mut self, now: Instant, order: OrderId, start: Box<StartInstance>) {
        let incarnation = Incarnation::new(start.incarnation);
        let (Ok(instance), Ok(group)) = (InstanceId::new(&start.instance_id), start.group.parse()) else {
            // The roster has judged both.
            return;
        };
        let port = u16::try_from(start.port).unwrap_or_default();
        self.records
            .restored(instance, incarnation, State::Scheduled, Desired::Run);
        self.roster.release(now, instance);
        match self.roster.start_recorded(now, start) {
            Verdict::Accepted | Verdict::AlreadyInEffect => self.answer(order, Ok(OrderOutcome::Started)),
            Verdict::Denied(reason) => {
                // A handshake brought a later one meanwhile. Nothing was sent, so its record ends here.
                let ended = InstanceSnapshot {
                    instance,
                    group,
                    incarnation,
                    port,
                    state: State::Crashed,
                    desired: Desired::Run,
                    note: Some(reason.to_string()),
                };
                self.records.refused.push_back(ended);
                self.answer(order, Err(reason.into()));
            }
        }
    }

    /// Answers what waited for the record of its instance.
    pub(super) fn flush_answers(&mut self) {
        let unanswered = std::mem::take(&mut self.records.unanswered);
        for (instance, order, outcome) in unanswered {
            if self.records.is_clean(instance) {
                self.answer(order, Ok(outcome));
            } else {
                self.records.unanswered.push((instance, order, outcome));
            }
        }
    }

    /// Puts the next commit under way, if none is.
    pub(super) fn begin_commit(&mut self) {
        while self.records.under_way.is_none() {
            let snapshots_next = self.records.retry_at.is_none()
                && self.has_snapshots()
                && (!self.records.snapshots_last || self.records.next_needs_snapshots());
            let begun = if snapshots_next {
                self.commit_snapshots()
            } else if let Some(pending) = self.records.take_waiting() {
                self.commit_pending(pending)
            } else {
                return;
            };
            self.records.snapshots_last = snapshots_next;
            if let Some((purpose, changes)) = begun {
                self.records.commits += 1;
                let id = CommitId(self.records.commits);
                self.records.under_way = Some((id, purpose));
                self.work
                    .push_back(ControllerWork::Commit(Commit { id, changes }));
            }
        }
    }

    fn has_snapshots(&self) -> bool {
        !self.records.dirty.is_empty() || !self.records.refused.is_empty()
    }

    fn commit_snapshots(&mut self) -> Option<(Purpose, Vec<Change>)> {
        let mut snapshots: Vec<InstanceSnapshot> = Vec::new();
        while snapshots.len() < SNAPSHOTS_PER_COMMIT {
            // Two of one instance are two commits: a storage may refuse to write a record twice in one.
            let is_taken = |instance| snapshots.iter().any(|taken| taken.instance == instance);
            if let Some(refused) = self.records.refused.front() {
                if is_taken(refused.instance) {
                    break;
                }
                snapshots.extend(self.records.refused.pop_front());
            } else if let Some((instance, note)) = self.records.take_dirty() {
                if is_taken(instance) {
                    self.records.mark(instance, note);
                    break;
                }
                snapshots.extend(snapshot(&self.roster, instance, note));
            } else {
                break;
            }
        }
        let changes: Vec<Change> = snapshots.iter().cloned().map(Change::Instance).collect();
        (!changes.is_empty()).then_some((Purpose::Snapshots(snapshots), changes))
    }

    /// The commit that an order waits for; `None` if it has been answered without.
    fn commit_pending(&mut self, pending: Pending) -> Option<(Purpose, Vec<Change>)> {
        let (change, wish) = match &pending {
            Pending::Start { order, start } => {
                if let Verdict::Denied(reason) = self.roster.judge_start(start) {
                    self.answer(*order, Err(reason.into()));
                    return None;
                }
                (Change::Start(start.clone()), None)
            }
            Pending::Stop {
                order,
                instance,
                mode,
            } => {
                let live = self.roster.get(*instance).filter(|known| !known.is_terminal());
                let Some(mut wish) = live.and_then(|_| snapshot(&self.roster, *instance, None)) else {
                    if let Some(order) = *order {
                        self.answer(order, Ok(OrderOutcome::AlreadyEnded));
                    }
                    return None;
                };
                wish.desired = wish.desired.max((*mode).into());
                (Change::Instance(wish.clone()), Some(Box::new(wish)))
            }
            Pending::Forget { order, instance } => {
                let denied = match self.roster.get(*instance) {
                    None => DeniedReason::UnknownInstance,
                    Some(known) if known.is_terminal() => {
                        let change = Change::Forget {
                            instance: *instance,
                            incarnation: known.incarnation(),
                        };
                        return Some((Purpose::Pending(pending, None), vec![change]));
                    }
                    Some(alive) => DeniedReason::StillAlive {
                        current: alive.incarnation(),
                    },
                };
                self.answer(*order, Err(denied.into()));
                return None;
            }
            Pending::Crash { report, standing, .. } => {
                let change = Change::Crash {
                    report: Arc::clone(report),
                    standing: *standing,
                };
                // Its acknowledgement says that the end is recorded, too.
                let end = InstanceId::new(&report.instance_id).ok().and_then(|instance| {
                    let note = self.records.dirty.remove(&instance)?;
                    snapshot(&self.roster, instance, note)
                });
                let mut changes = vec![change];
                changes.extend(end.clone().map(Change::Instance));
                return Some((Purpose::Pending(pending, end.map(Box::new)), changes));
            }
        };
        Some((Purpose::Pending(pending, wish), vec![change]))
    }
}
