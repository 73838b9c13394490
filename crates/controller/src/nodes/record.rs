//! The node's own record

use std::sync::Arc;

use super::{OrderError, commits::ATTEMPTS, task::Node};
use crate::{
    events::Event,
    records::NodeRecord,
    store::{self, Record as _, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

impl Node {
    /// Looks for the record of a node that enrolled just now
    pub(super) async fn load_record(&mut self) -> Result<(), OrderError> {
        if self.record.is_none() {
            let (context, id) = (Arc::clone(&self.context), self.id);
            let recorded = store::load::<NodeRecord>(&*context.store, id.as_str());
            self.record = self.meanwhile(recorded).await?;
            self.publish_record();
        }
        Ok(())
    }

    /// Changes the node's record, creating it if need be
    pub(super) async fn change_record(&mut self, change: impl Fn(&mut NodeRecord)) -> Result<(), StoreError> {
        self.change_and_tell(change, &[]).await
    }

    /// The same, with what is told of it
    pub(super) async fn change_and_tell(
        &mut self,
        change: impl Fn(&mut NodeRecord),
        events: &[Event],
    ) -> Result<(), StoreError> {
        let context = Arc::clone(&self.context);
        let store = &*context.store;
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
            if let Some(revision) = self.meanwhile(store.txn(txn.tell_all(events))).await?.committed() {
                self.record = Some(Stored { record, revision });
                self.publish_record();
                return Ok(());
            }
            // An enrolment created it meanwhile.
            let id = self.id;
            let created = store::load::<NodeRecord>(store, id.as_str());
            self.record = self.meanwhile(created).await?;
        }
        Err(StoreError::Io {
            detail: format!(
                "{} is changed by too many at once",
                NodeRecord::key_of(self.id.as_str())
            ),
        })
    }
}
