//! What survives a controller

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_protocol::instance::{Cause, Desired, State};
use prexorcloud_protocol::proto::{CrashReport, StartInstance};
use prexorcloud_protocol::roster::RosterEntry;
use prexorcloud_protocol::{Epoch, Incarnation, InstanceId};

/// The record of an instance
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The start as it was asked for.
    pub start: Box<StartInstance>,
    /// The last state that was committed.
    pub state: State,
    /// What was asked for.
    pub desired: Desired,
    /// Why the state is what it is, if it ever changed.
    pub cause: Option<Cause>,
}

/// The store that all controllers of a cluster share
#[derive(Clone, Debug, Default)]
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
    pub(super) ended: BTreeSet<(InstanceId, Incarnation)>,
    /// Changes that must not be: an incarnation that had ended and was committed alive again.
    pub revived: Vec<String>,
}

impl Store {
    /// What a controller knows when it starts.
    #[must_use]
    pub fn entries(&self) -> Vec<RosterEntry> {
        let entry = |Record {
                         start,
                         state,
                         desired,
                         ..
                     }: &Record| RosterEntry {
            start: start.clone(),
            state: *state,
            desired: *desired,
        };
        self.records.values().map(entry).collect()
    }

    pub(super) fn see(&mut self, instance: InstanceId, incarnation: Incarnation, state: State) {
        if state.is_terminal() {
            self.ended.insert((instance, incarnation));
        } else if incarnation.is_known() && self.ended.contains(&(instance, incarnation)) {
            self.revived
                .push(format!("{instance}#{incarnation} is {state} after its end"));
        }
    }
}
