//! The node's own record

use prexorcloud_protocol::InstanceId;

use super::{NodeView, OrderError, commits::ATTEMPTS, crashes, registry::look, task::Node};
use crate::{
    records::{InstanceRecord, NodeRecord},
    store::{self, Record as _, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

impl Node {
    /// Looks for the record of a node that enrolled just now
    pub(super) async fn load_record(&mut self) -> Result<(), OrderError> {
        if self.record.is_none() {
            self.record = store::load::<NodeRecord>(&*self.context.store, self.id.as_str()).await?;
            self.publish_record();
        }
        Ok(())
    }

    /// Changes the node's record, creating it if need be
    pub(super) async fn change_record(&mut self, change: impl Fn(&mut NodeRecord)) -> Result<(), StoreError> {
        let store = &*self.context.store;
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

    /// Deletes the record; what the node claimed must be forgotten already
    pub(super) async fn remove(&mut self, leftovers: &[InstanceId]) -> Result<(), OrderError> {
        if self.is_connected() {
            return Err(OrderError::Conflict("the node is connected".to_owned()));
        }
        // What has ended there may have been started elsewhere since, and is recorded there.
        let mut entries = self.machine.roster().entries();
        if let Some(left) = entries.find(|entry| !entry.is_terminal()) {
            return Err(OrderError::Conflict(format!(
                "{} is still alive there",
                left.instance()
            )));
        }
        crashes::forget_node(&*self.context.store, self.id).await?;
        // A deletion without a condition cannot conflict. The node goes last, so that a removal that fails can be repeated.
        for some in leftovers.chunks(Txn::MAX_OPERATIONS) {
            let keys = some.iter().map(|id| InstanceRecord::key_of(id.as_str()));
            let _ = self.context.store.txn(keys.fold(Txn::new(), Txn::delete)).await?;
        }
        let txn = Txn::new().delete(NodeRecord::key_of(self.id.as_str()));
        let _ = self.context.store.txn(txn).await?;
        self.record = None;
        *look(&self.view) = NodeView::default();
        tracing::info!(node = %self.id, "the node is removed");
        Ok(())
    }
}
