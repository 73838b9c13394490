//! What survives a controller, and what becomes of its commits

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prexorcloud_protocol::instance::{Cause, Desired, State};
use prexorcloud_protocol::node::controller::{Change, Commit, CommitFailure, Drain, InstanceSnapshot};
use prexorcloud_protocol::proto::{CrashReport, StartInstance};
use prexorcloud_protocol::roster::RosterEntry;
use prexorcloud_protocol::{Epoch, Incarnation, InstanceId};

use crate::world::Turn;

/// The longest that a commit takes while nothing is wrong with the store.
pub const COMMIT_DELAY: Duration = Duration::from_millis(5);

/// The record of an instance
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The start as it was asked for.
    pub start: Box<StartInstance>,
    /// The last state that was committed.
    pub state: State,
    /// What was asked for.
    pub desired: Desired,
    /// The end was only inferred.
    pub lost: bool,
    /// Why the state is what it is, if it ever changed.
    pub cause: Option<Cause>,
}

/// What a controller has seen of an incarnation; the invariants ask for more than a record holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) cause: Cause,
    pub(crate) is_taken_back: bool,
}

pub(crate) type Sightings = BTreeMap<(InstanceId, Incarnation), Seen>;

/// The recorded wish that the node runs empty
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDrain {
    /// When what still runs is killed.
    pub deadline: Duration,
    /// Whether the daemon is told to shut down in the end.
    pub shutdown: bool,
}

/// The store that all controllers of a cluster share
#[derive(Clone, Debug)]
pub struct Store {
    /// The epoch of the last leadership.
    pub epoch: Epoch,
    /// The instances.
    pub records: BTreeMap<InstanceId, Record>,
    /// The highest incarnation of each id that was ever given out.
    pub incarnations: BTreeMap<InstanceId, u64>,
    /// The crash reports, by their id.
    pub crashes: BTreeMap<String, CrashReport>,
    /// Whether an operator has cordoned the node.
    pub cordoned: bool,
    /// The longest that a commit takes.
    pub commit_delay: Duration,
    /// Until when nothing can be written.
    pub fails_until: Duration,
    /// The next commit is not written.
    pub fails_once: bool,
    /// The wish that the node runs empty.
    pub drain: Option<PlannedDrain>,
    /// Instances that nobody knows are stopped when their node lists them, and not adopted.
    pub refuses_unknown: bool,
    committed: BTreeSet<(InstanceId, Incarnation)>,
    /// The starts that were ever recorded as begun by their daemon.
    begun: BTreeSet<(InstanceId, Incarnation)>,
    ended: BTreeSet<(InstanceId, Incarnation)>,
    /// Changes that must not be: an incarnation that had ended and was committed alive again.
    pub revived: Vec<String>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            epoch: Epoch::UNFENCED,
            records: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            crashes: BTreeMap::new(),
            cordoned: false,
            commit_delay: COMMIT_DELAY,
            fails_until: Duration::ZERO,
            fails_once: false,
            drain: None,
            refuses_unknown: false,
            committed: BTreeSet::new(),
            begun: BTreeSet::new(),
            ended: BTreeSet::new(),
            revived: Vec::new(),
        }
    }
}

impl Store {
    /// A controller begins to lead; gives its epoch.
    pub(crate) fn take_lead(&mut self) -> Epoch {
        self.epoch = Epoch::new(self.epoch.get() + 1);
        self.epoch
    }

    /// The recorded drain, by the clock of a host.
    pub(crate) fn drain_at(&self, turn: &Turn<'_>) -> Option<Drain> {
        self.drain.map(|planned| Drain {
            deadline: turn.now + planned.deadline.saturating_sub(turn.moment()),
            shutdown: planned.shutdown,
        })
    }

    /// What a controller knows when it starts.
    #[must_use]
    pub fn entries(&self) -> Vec<RosterEntry> {
        let entry = |record: &Record| RosterEntry {
            start: record.start.clone(),
            state: record.state,
            desired: record.desired,
            lost: record.lost,
        };
        self.records.values().map(entry).collect()
    }

    /// Whether this incarnation has ever been recorded.
    #[must_use]
    pub fn has_recorded(&self, instance: InstanceId, incarnation: Incarnation) -> bool {
        self.committed.contains(&(instance, incarnation))
    }

    /// Whether this start has ever been recorded as begun by its daemon.
    #[must_use]
    pub fn has_begun(&self, instance: InstanceId, incarnation: Incarnation) -> bool {
        self.begun.contains(&(instance, incarnation))
    }

    /// Whether the store is slow, or does not write at all.
    #[must_use]
    pub fn is_ailing(&self, now: Duration) -> bool {
        self.commit_delay > COMMIT_DELAY || self.fails_until > now
    }

    /// Ends whatever is wrong with the store.
    pub(crate) fn heal(&mut self) {
        self.commit_delay = COMMIT_DELAY;
        self.fails_until = Duration::ZERO;
        self.fails_once = false;
    }

    /// Whether what falls due now is written.
    pub(crate) fn attempt(&mut self, now: Duration) -> Result<(), CommitFailure> {
        if std::mem::take(&mut self.fails_once) || self.fails_until > now {
            Err(CommitFailure::Storage("the disk is full".to_owned()))
        } else {
            Ok(())
        }
    }

    /// Writes all changes, or none.
    pub(crate) fn commit(
        &mut self,
        now: Duration,
        commit: &Commit,
        seen: &Sightings,
    ) -> Result<(), CommitFailure> {
        self.attempt(now)?;
        for change in &commit.changes {
            if let Change::Start(start) = change {
                self.check_start(start)?;
            }
        }
        for change in &commit.changes {
            match change {
                Change::Start(start) => self.put_start(start.clone()),
                Change::Instance(snapshot) => self.put_snapshot(snapshot, seen),
                Change::Forget {
                    instance,
                    incarnation,
                } => {
                    let is_it = |record: &Record| record.start.incarnation == incarnation.get();
                    if self.records.get(instance).is_some_and(is_it) {
                        self.records.remove(instance);
                        // With the id goes what is known of its earlier incarnations.
                        self.ended.retain(|(ended, _)| ended != instance);
                    }
                }
                Change::Crash { report, .. } => {
                    let mut id = report.report_id.clone();
                    if id.is_empty() {
                        id = format!("java-{}", self.crashes.len() + 1);
                    }
                    self.crashes
                        .entry(id)
                        .or_insert_with(|| CrashReport::clone(report));
                }
            }
        }
        Ok(())
    }

    fn check_start(&self, start: &StartInstance) -> Result<(), CommitFailure> {
        let Ok(instance) = InstanceId::new(&start.instance_id) else {
            return Err(CommitFailure::Conflict("no instance id".to_owned()));
        };
        let alive = self
            .records
            .get(&instance)
            .filter(|record| !record.state.is_terminal());
        let highest = self.incarnations.get(&instance).copied().unwrap_or_default();
        match alive {
            Some(record) => Err(CommitFailure::Conflict(format!(
                "{instance} is recorded as {}",
                record.state
            ))),
            None if start.incarnation <= highest => Err(CommitFailure::Conflict(format!(
                "{instance}#{highest} has been given out"
            ))),
            None => Ok(()),
        }
    }

    fn put_start(&mut self, start: Box<StartInstance>) {
        if let Ok(instance) = InstanceId::new(&start.instance_id) {
            self.give_out(instance, Incarnation::new(start.incarnation));
            let record = Record {
                start,
                state: State::Scheduled,
                desired: Desired::Run,
                lost: false,
                cause: None,
            };
            self.records.insert(instance, record);
        }
    }

    fn put_snapshot(&mut self, snapshot: &InstanceSnapshot, seen: &Sightings) {
        let InstanceSnapshot {
            instance,
            incarnation,
            state,
            desired,
            ..
        } = *snapshot;
        let recorded = self.records.get(&instance);
        let known = recorded.map(|record| Incarnation::new(record.start.incarnation));
        if known.is_some_and(|known| known > incarnation) {
            return;
        }
        if known != Some(incarnation) {
            // It was adopted.
            self.put_start(Box::new(StartInstance {
                instance_id: instance.into(),
                group: snapshot.group.into(),
                port: i32::from(snapshot.port),
                incarnation: incarnation.get(),
                ..Default::default()
            }));
        }
        let seen = seen.get(&(instance, incarnation));
        if let Some(record) = self.records.get_mut(&instance) {
            record.state = state;
            record.desired = desired;
            record.lost = snapshot.lost;
            if let Some(seen) = seen.filter(|seen| seen.state == state) {
                record.cause = Some(seen.cause);
            }
        }
        if matches!(
            state,
            State::Preparing | State::Starting | State::Running | State::Draining
        ) {
            self.begun.insert((instance, incarnation));
        }
        if state.is_terminal() {
            self.ended.insert((instance, incarnation));
        } else if self.ended.remove(&(instance, incarnation))
            && incarnation.is_known()
            && !seen.is_some_and(|seen| seen.is_taken_back)
        {
            self.revived
                .push(format!("{instance}#{incarnation} is {state} after its end"));
        }
    }

    fn give_out(&mut self, instance: InstanceId, incarnation: Incarnation) {
        let highest = self.incarnations.entry(instance).or_default();
        *highest = (*highest).max(incarnation.get());
        self.committed.insert((instance, incarnation));
    }
}
