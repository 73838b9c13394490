//! The commit under way, and what follows from it

use std::time::Instant;

use prexorcloud_proto::StartInstance;

use super::pending::Pending;
use super::records::snapshot;
use super::{
    Change, Commit, CommitFailure, CommitId, ControllerNode, ControllerWork, InstanceSnapshot, OrderId,
    OrderOutcome, OrderRefusal,
};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Desired, Lifecycle, State};
use crate::roster::InstanceEvent;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How many instances a commit of changed ones has at most.
pub const SNAPSHOTS_PER_COMMIT: usize = 64;

/// What the commit under way is about.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// Changes that are true already.
    Snapshots(Vec<InstanceSnapshot>),
    /// The records of instances that ended before too many others did.
    Surplus(Vec<(InstanceId, Incarnation)>),
    Pending(Pending, Option<Box<InstanceSnapshot>>),
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
                    if self.roster.get(snapshot.instance).is_some() {
                        self.records.note(snapshot);
                        self.roster.release(now, snapshot.instance);
                    }
                }
            }
            Purpose::Surplus(forgotten) => {
                for (instance, incarnation) in forgotten {
                    self.handle_surplus_forgotten(now, instance, incarnation);
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
                        self.records.mark_unwritten(instance, snapshot.note);
                    } else {
                        self.records.refused.push_back(snapshot);
                    }
                }
                self.records.retry_at = retry_at;
            }
            Purpose::Surplus(_) => self.records.retry_at = retry_at,
            Purpose::Pending(Pending::Crash(crash), end) => {
                self.handle_crash_refused(crash, end, &failure, retry_at)
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
                let is_lost = self.roster.get(instance).is_some_and(Lifecycle::is_lost);
                let verdict = if is_lost && !self.roster.is_connected() {
                    Verdict::Denied(DeniedReason::AlreadyEnded)
                } else if current == recorded {
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
                self.records.forget(instance);
                self.roster.release(now, instance);
                if result.is_ok() {
                    self.records.dirty.remove(&instance);
                } else {
                    // It has turned out to live meanwhile, and its record is gone.
                    self.records.mark(instance, None);
                }
                self.answer(order, result);
            }
            Pending::Crash(crash) => self.handle_crash_stored(&crash),
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
                    lost: false,
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
            } else if let Some(surplus) = self.commit_surplus() {
                Some(surplus)
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

    /// The records of what ended first, where more is remembered than there is room for; never before anything else.
    fn commit_surplus(&self) -> Option<(Purpose, Vec<Change>)> {
        if self.records.retry_at.is_some() {
            return None;
        }
        let surplus = self.roster.surplus().take(SNAPSHOTS_PER_COMMIT);
        let forgotten: Vec<_> = surplus
            .map(|ended| (ended.instance(), ended.incarnation()))
            .collect();
        let changes: Vec<_> = forgotten
            .iter()
            .map(|&(instance, incarnation)| Change::Forget {
                instance,
                incarnation,
            })
            .collect();
        (!changes.is_empty()).then_some((Purpose::Surplus(forgotten), changes))
    }

    fn handle_surplus_forgotten(&mut self, now: Instant, instance: InstanceId, incarnation: Incarnation) {
        self.records.forget(instance);
        let known = self.roster.get(instance);
        let is_over = known.is_some_and(|known| known.is_terminal() && known.incarnation() == incarnation);
        if is_over && !matches!(self.roster.forget(instance), Verdict::Denied(_)) {
            self.records.dirty.remove(&instance);
            let forgotten = InstanceEvent::Forgotten {
                instance,
                incarnation,
            };
            self.work.push_back(ControllerWork::News(forgotten));
        } else if self.roster.get(instance).is_some() {
            // It has turned out to live meanwhile, and its record is gone.
            self.records.mark(instance, None);
        }
        self.roster.release(now, instance);
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
                // The daemon is asked about one that only counts as ended.
                let is_connected = self.roster.is_connected();
                let is_open = |known: &&Lifecycle| {
                    let is_lost = known.is_lost() && known.state() == State::Crashed;
                    !known.is_terminal() || (is_lost && is_connected)
                };
                let live = self.roster.get(*instance).filter(is_open);
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
            Pending::Crash(crash) => {
                let (changes, end) = self.crash_changes(crash);
                return Some((Purpose::Pending(pending, end), changes));
            }
        };
        Some((Purpose::Pending(pending, wish), vec![change]))
    }
}
