//! What a node's task reads at its start, and how it keeps the records up to date

use std::time::Instant;

use prexorcloud_proto::StartInstance;
use prexorcloud_protocol::{
    Incarnation, InstanceId,
    instance::{Desired, State},
    roster::RosterEntry,
};

use super::{OrderError, node::Node};
use crate::{
    records::{IncarnationRecord, InstanceRecord, NodeRecord, Wanted},
    store::{self, Record as _, Revision, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// Times that a record is read and written anew because others changed it
pub(super) const ATTEMPTS: usize = 8;

/// An instance as the roster knows it
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) group: String,
    pub(super) incarnation: Incarnation,
    pub(super) port: u16,
    pub(super) state: State,
    pub(super) desired: Desired,
}

impl Node {
    /// Puts back what was recorded before this controller started
    pub(super) fn restore(&mut self, record: Option<Stored<NodeRecord>>, instances: Vec<InstanceRecord>) {
        let entries = instances.into_iter().filter_map(|record| {
            let state = State::try_from(record.state).ok()?;
            let desired = desired_of(record.wanted());
            Some(RosterEntry {
                start: Box::new(record.start?),
                state,
                desired,
            })
        });
        for (entry, reason) in self.parked.restore(Instant::now(), entries) {
            let instance = entry.start.instance_id;
            tracing::error!(node = %self.id, instance, %reason, "a recorded instance cannot be restored");
        }
        self.record = record;
        self.publish_record();
    }

    /// Looks for the record of a node that enrolled just now
    pub(super) async fn introduce(&mut self) -> Result<(), OrderError> {
        if self.record.is_none() {
            self.record = store::load::<NodeRecord>(&*self.around.store, self.id.as_str()).await?;
            self.publish_record();
        }
        Ok(())
    }

    /// What the roster knows of an instance
    pub(super) fn known(&mut self, instance: InstanceId) -> Option<Known> {
        self.look_at_roster(|roster| {
            roster.get(instance).map(|entry| Known {
                group: entry.group().to_string(),
                incarnation: entry.incarnation(),
                port: entry.port(),
                state: entry.state(),
                desired: entry.desired(),
            })
        })
    }

    /// The record of an instance of this node
    pub(super) async fn recorded(&self, instance: InstanceId) -> Result<Stored<InstanceRecord>, OrderError> {
        let found = store::load::<InstanceRecord>(&*self.around.store, instance.as_str()).await?;
        found
            .filter(|found| found.record.node_id == self.id.as_str())
            .ok_or(OrderError::UnknownInstance)
    }

    /// Brings the record of an instance up to what the roster knows; tried again later if the storage fails
    pub(super) async fn save(&mut self, instance: InstanceId) {
        let Some(known) = self.known(instance) else { return };
        if let Err(error) = self.try_save(instance, &known).await {
            self.save_later(instance, &error);
        }
    }

    async fn try_save(&self, instance: InstanceId, known: &Known) -> Result<(), StoreError> {
        let store = &*self.around.store;
        for _ in 0..ATTEMPTS {
            let found = store::load::<InstanceRecord>(store, instance.as_str()).await?;
            if let Some(other) = found
                .as_ref()
                .filter(|found| found.record.node_id != self.id.as_str())
            {
                // The id was started elsewhere since; the handshake's reconciliation stops the copy here.
                let node = other.record.node_id.as_str();
                tracing::warn!(node = %self.id, %instance, recorded_on = node, "an instance is recorded on another node");
                return Ok(());
            }
            let before = found.as_ref().map(|found| &found.record);
            let Some(record) = self.updated(instance, before, known) else {
                return Ok(());
            };
            let txn = match &found {
                Some(found) => Txn::new().replace(found.revision, &record),
                None => Txn::new().create(&record),
            };
            let txn = self.counted(txn, instance, known.incarnation).await?;
            if store.txn(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(StoreError::Io {
            detail: format!("{instance} is changed by too many at once"),
        })
    }

    /// The record as it should be, or `None` if it is so already or is about a later start
    fn updated(
        &self,
        instance: InstanceId,
        before: Option<&InstanceRecord>,
        known: &Known,
    ) -> Option<InstanceRecord> {
        let now = now_millis();
        let mut record = match before {
            Some(record) => record.clone(),
            // An instance that the daemon reported and nobody asked for.
            None => InstanceRecord {
                instance_id: instance.to_string(),
                node_id: self.id.to_string(),
                created_at_ms: now,
                ..InstanceRecord::default()
            },
        };
        let start = record.start.get_or_insert_with(|| StartInstance {
            instance_id: instance.to_string(),
            group: known.group.clone(),
            ..StartInstance::default()
        });
        if start.incarnation > known.incarnation.get() {
            return None;
        }
        if start.incarnation < known.incarnation.get() {
            start.incarnation = known.incarnation.get();
            record.running_since_ms = 0;
            record.last_error.clear();
        }
        if known.port != 0 {
            start.port = i32::from(known.port);
        }
        record.state = known.state.to_wire();
        record.set_wanted(wanted_of(known.desired));
        if known.state == State::Running && record.running_since_ms == 0 {
            record.running_since_ms = now;
        }
        if before == Some(&record) {
            return None;
        }
        record.updated_at_ms = now;
        Some(record)
    }

    /// Adds the counter of incarnations if a daemon brought a number that is new to us
    async fn counted(
        &self,
        txn: Txn,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<Txn, StoreError> {
        let (last, revision) = self.last_incarnation(instance).await?;
        if incarnation.get() <= last {
            return Ok(txn);
        }
        Ok(count(txn, instance, incarnation.get(), revision))
    }

    /// The highest incarnation that was given out, and the revision of its record
    pub(super) async fn last_incarnation(
        &self,
        instance: InstanceId,
    ) -> Result<(u64, Option<Revision>), StoreError> {
        let found = store::load::<IncarnationRecord>(&*self.around.store, instance.as_str()).await?;
        Ok(found.map_or((0, None), |found| (found.record.last, Some(found.revision))))
    }

    /// Notes what went wrong with an instance, for whoever looks at it
    pub(super) async fn note_error(&mut self, instance: InstanceId, incarnation: Incarnation, error: &str) {
        for _ in 0..ATTEMPTS {
            let Ok(found) = self.recorded(instance).await else {
                return;
            };
            let mut record = found.record;
            let same = record
                .start
                .as_ref()
                .is_some_and(|start| start.incarnation == incarnation.get());
            if !same || record.last_error == error {
                return;
            }
            record.last_error = error.to_owned();
            record.updated_at_ms = now_millis();
            match self
                .around
                .store
                .txn(Txn::new().replace(found.revision, &record))
                .await
            {
                Ok(outcome) if outcome.committed().is_some() => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(node = %self.id, %instance, %error, "the error of an instance could not be saved");
                    return;
                }
            }
        }
    }

    /// Changes the node's record, creating it if need be
    pub(super) async fn change_record(&mut self, change: impl Fn(&mut NodeRecord)) -> Result<(), StoreError> {
        let store = &*self.around.store;
        for _ in 0..ATTEMPTS {
            let (mut record, revision) = match &self.record {
                Some(stored) => (stored.record.clone(), Some(stored.revision)),
                None => {
                    let now = now_millis();
                    let node_id = self.id.to_string();
                    (
                        NodeRecord {
                            node_id,
                            first_seen_ms: now,
                            ..NodeRecord::default()
                        },
                        None,
                    )
                }
            };
            change(&mut record);
            let txn = match revision {
                Some(revision) => Txn::new().replace(revision, &record),
                None => Txn::new().create(&record),
            };
            if let Some(revision) = store.txn(txn).await?.committed() {
                self.record = Some(Stored { record, revision });
                self.publish_record();
                return Ok(());
            }
            // An enrolment created it meanwhile.
            self.record = store::load::<NodeRecord>(store, self.id.as_str()).await?;
        }
        Err(StoreError::Io {
            detail: format!(
                "{} is changed by too many at once",
                NodeRecord::key_of(self.id.as_str())
            ),
        })
    }
}

/// Adds the counter of incarnations to a transaction
pub(super) fn count(txn: Txn, instance: InstanceId, last: u64, revision: Option<Revision>) -> Txn {
    let counter = IncarnationRecord {
        instance_id: instance.to_string(),
        last,
    };
    match revision {
        Some(revision) => txn.replace(revision, &counter),
        None => txn.create(&counter),
    }
}

fn desired_of(wanted: Wanted) -> Desired {
    match wanted {
        Wanted::Run => Desired::Run,
        Wanted::Stop => Desired::Stop,
        Wanted::ForceStop => Desired::ForceStop,
    }
}

fn wanted_of(desired: Desired) -> Wanted {
    match desired {
        Desired::Run => Wanted::Run,
        Desired::Stop => Wanted::Stop,
        Desired::ForceStop => Wanted::ForceStop,
    }
}
