//! A node that is not to come back: what it has claimed is free again

use std::time::Instant;

use prexorcloud_protocol::{Incarnation, node::ControllerNode};

use super::{NodeView, OrderError, crashes, modules::NodeModules, task::Node};
use crate::{
    inventory::Outline,
    modules::NodeModulesRecord,
    records::{IncarnationRecord, InstanceRecord, NodeRecord},
    store::{Record as _, Txn},
};

/// Instances that are deleted in one transaction
const AT_ONCE: usize = 256;

impl Node {
    /// Gives up whatever lives there: its ids can be started elsewhere. What is alive when the node comes back, and was not
    /// started anew, is taken back.
    pub(super) fn give_up_all(&mut self, now: Instant) -> Result<usize, OrderError> {
        self.require_absent()?;
        let live = self.machine.roster().entries();
        let live: Vec<_> = live
            .filter(|entry| !entry.is_terminal())
            .map(|entry| entry.instance())
            .collect();
        for &instance in &live {
            let order = self.next_order();
            self.machine.declare_lost(now, order, instance);
        }
        Ok(live.len())
    }

    /// Deletes the records of the node, of its instances and of their crashes
    pub(super) async fn retire(&mut self) -> Result<(), OrderError> {
        self.require_absent()?;
        if let Some(committing) = &mut self.committing {
            let (id, result) = committing.await;
            self.handle_written(id, result);
        }
        let store = &*self.context.store;
        let mut after = None;
        loop {
            let page = self
                .context
                .inventory
                .page(Some(self.id), after, AT_ONCE, |_| true);
            let (page, _) = page.await?;
            let Some(last) = page.last() else { break };
            after = Some(last.instance);
            let mut txn = Txn::new();
            for outline in page.iter().map(AsRef::as_ref) {
                let Outline { instance, .. } = *outline;
                txn = txn.delete(InstanceRecord::key_of(instance.as_str()));
                if outline.is_adopted {
                    // No number of it was ever given out here.
                    txn = txn.delete(IncarnationRecord::key_of(instance.as_str()));
                }
                let incarnation = Incarnation::new(outline.incarnation);
                self.context.workloads.forget(instance, incarnation);
                self.forget_rest(instance);
            }
            // Deletes without a condition cannot conflict.
            let _ = store.txn(txn).await?;
        }
        crashes::forget_node(store, self.id).await?;
        let _ = store
            .txn(
                Txn::new()
                    .delete(NodeRecord::key_of(self.id.as_str()))
                    .delete(NodeModulesRecord::key_of(self.id.as_str())),
            )
            .await?;
        // Whoever waits for an answer is told that there is none: what was ordered is gone with the node.
        self.waiting.clear();
        self.machine = ControllerNode::new(self.id);
        self.record = None;
        self.modules = NodeModules::new(self.context.modules.watch());
        self.with_view(|view| *view = NodeView::default());
        self.context.logs.forget(self.id);
        tracing::warn!(node = %self.id, "the node is forgotten");
        Ok(())
    }

    fn require_absent(&self) -> Result<(), OrderError> {
        if self.is_connected() {
            let message = "the node is connected: shut it down, or revoke its certificates, first";
            return Err(OrderError::Conflict(message.to_owned()));
        }
        Ok(())
    }
}
