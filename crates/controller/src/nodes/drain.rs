//! Cordon, drain and shutdown: what operators want of a whole node
//!
//! A drain is an intent in the node's record. It survives disconnects and restarts, and ends when the node is empty,
//! or when the operator takes it back. At its deadline, what still runs is killed. An empty node ends up cordoned.

use std::time::{Duration, Instant};

use prexorcloud_proto::ShutdownNodeAck;
use prexorcloud_protocol::{InstanceId, instance::Desired};
use tokio::sync::oneshot;

use super::{NodeStatus, OrderError, node::Node};
use crate::{records::DrainRecord, wall_clock::now_millis};

/// What a daemon is told when its drain is complete
const DRAINED: &str = "Node drain completed";

/// Between two attempts at something that the storage or the session refused
const RETRY: Duration = Duration::from_secs(5);

impl Node {
    pub(super) async fn cordon(&mut self, cordoned: bool) -> Result<NodeStatus, OrderError> {
        self.change_record(|record| record.cordoned = cordoned).await?;
        Ok(self.with_view(|view| view.status()))
    }

    /// Begins a drain; the answer is how many instances are being stopped
    pub(super) async fn drain(&mut self, shutdown: bool, timeout: Duration) -> Result<usize, OrderError> {
        let now = now_millis();
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let drain = DrainRecord {
            requested_at_ms: now,
            deadline_ms: now.saturating_add(timeout_ms),
            shutdown,
        };
        self.change_record(|record| record.drain = Some(drain)).await?;
        Ok(self.stop_all(false).await)
    }

    /// Takes a drain back, and the cordon that a finished one leaves; what was stopped stays stopped
    pub(super) async fn undrain(&mut self) -> Result<NodeStatus, OrderError> {
        self.change_record(|record| {
            record.drain = None;
            record.cordoned = false;
        })
        .await?;
        Ok(self.with_view(|view| view.status()))
    }

    /// Tells the daemon to shut down; the receiver gets its acknowledgement, or an error if the session ends first
    pub(super) fn shut_down(
        &mut self,
        reason: String,
    ) -> Result<oneshot::Receiver<ShutdownNodeAck>, OrderError> {
        let Some(handle) = &self.session else {
            return Err(OrderError::NotConnected);
        };
        handle
            .with(|session, _| session.shut_down_node(reason))
            .map_err(|error| {
                tracing::warn!(node = %self.id, %error, "the node could not be told to shut down");
                OrderError::NotConnected
            })?;
        let (acknowledged, receiver) = oneshot::channel();
        self.awaiting_shutdown.push(acknowledged);
        Ok(receiver)
    }

    /// When the present drain has to be looked at
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        let drain = self.record.as_ref()?.record.drain.as_ref()?;
        let left = u64::try_from(drain.deadline_ms - now_millis()).unwrap_or(0);
        // Past the deadline it is looked at again now and then: a kill may have to be repeated.
        let wait = if left == 0 {
            RETRY
        } else {
            Duration::from_millis(left)
        };
        Instant::now().checked_add(wait)
    }

    /// Goes on with a drain: kill what is late, finish when empty
    pub(super) async fn review_drain(&mut self) {
        let Some(drain) = self.record.as_ref().and_then(|stored| stored.record.drain) else {
            return;
        };
        let live = self.live_instances();
        if live.iter().any(|(_, desired)| *desired == Desired::Run) {
            // Adopted meanwhile, or started by a daemon that was away when the drain began.
            self.stop_all(false).await;
        }
        if !live.is_empty() {
            if now_millis() >= drain.deadline_ms
                && live.iter().any(|(_, desired)| *desired != Desired::ForceStop)
            {
                tracing::warn!(node = %self.id, instances = live.len(), "the drain is overdue, killing what still runs");
                self.stop_all(true).await;
            }
            return;
        }
        if drain.shutdown {
            // Asked for in the record already. A node that is away is told when it is back.
            match self.shut_down(DRAINED.to_owned()) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
        let finished = self.change_record(|record| {
            record.drain = None;
            record.cordoned = true;
        });
        match finished.await {
            Ok(()) => tracing::info!(node = %self.id, shutdown = drain.shutdown, "the node is drained"),
            Err(error) => {
                tracing::error!(node = %self.id, %error, "the end of a drain could not be recorded")
            }
        }
    }

    async fn stop_all(&mut self, force: bool) -> usize {
        let mut stopping = 0;
        for (instance, _) in self.live_instances() {
            match self.stop(instance, force).await {
                Ok(_) => stopping += 1,
                Err(error) => {
                    tracing::error!(node = %self.id, %instance, %error, "an instance could not be stopped")
                }
            }
        }
        stopping
    }

    fn live_instances(&mut self) -> Vec<(InstanceId, Desired)> {
        self.look_at_roster(|roster| {
            let live = roster.entries().filter(|entry| !entry.is_terminal());
            live.map(|entry| (entry.instance(), entry.desired())).collect()
        })
    }
}
