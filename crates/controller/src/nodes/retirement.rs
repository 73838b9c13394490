//! A node whose certificates do not count any more: what it has claimed is free again

use std::time::Instant;

use super::{OrderError, task::Node};

impl Node {
    /// Gives up whatever lives there: its ids can be started elsewhere. What is alive when the node comes back, and was not
    /// started anew, is taken back.
    pub(super) fn give_up_all(&mut self, now: Instant) -> Result<usize, OrderError> {
        if self.is_connected() {
            return Err(OrderError::Conflict("the node is connected".to_owned()));
        }
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
}
