//! Cordon, drain and shutdown: what operators want of a whole node
//!
//! A drain is an intent in the node's record. It survives disconnects and restarts, and ends when the node is empty,
//! or when the operator takes it back. What it means for the instances is decided by the node's machine. An empty node
//! ends up cordoned.

use std::time::{Duration, Instant};

use prexorcloud_proto::ShutdownNodeAck;
use prexorcloud_protocol::node::controller::Drain;
use tokio::sync::oneshot;

use super::{NodeSummary, OrderError, task::Node};
use crate::{
    events::{Event, instant},
    records::{DrainRecord, NodeRecord},
    wall_clock::now_millis,
};

/// A recorded drain, by the clock of this process
pub(super) fn drain_of(now: Instant, now_ms: i64, record: DrainRecord) -> Option<Drain> {
    let left = u64::try_from(record.deadline_ms.saturating_sub(now_ms)).unwrap_or(0);
    let deadline = now.checked_add(Duration::from_millis(left))?;
    Some(Drain {
        deadline,
        shutdown: record.shutdown,
    })
}

impl Node {
    pub(super) async fn cordon(&mut self, cordoned: bool) -> Result<NodeSummary, OrderError> {
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
        let requested = Event::NodeDrainRequested {
            node_id: self.id.to_string(),
            shutdown_after_drain: shutdown,
            drain_timeout_seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            // Players are not told: their server is stopped as it would be anyway.
            kick_message: String::new(),
            timestamp: instant(now),
        };
        self.change_and_tell(|record| record.drain = Some(drain), &[requested])
            .await?;
        let live = self.machine.roster().live();
        let now = Instant::now();
        self.machine.set_drain(now, drain_of(now, now_millis(), drain));
        Ok(live)
    }

    /// Takes a drain back, and the cordon that a finished one leaves; what was stopped stays stopped
    pub(super) async fn undrain(&mut self) -> Result<NodeSummary, OrderError> {
        self.change_record(|record| {
            record.drain = None;
            record.cordoned = false;
        })
        .await?;
        self.machine.set_drain(Instant::now(), None);
        Ok(self.with_view(|view| view.status()))
    }

    /// Tells the daemon to shut down; the receiver gets its acknowledgement, or an error if the session ends first
    pub(super) fn shut_down(
        &mut self,
        reason: String,
    ) -> Result<oneshot::Receiver<ShutdownNodeAck>, OrderError> {
        if self.machine.shut_down(reason).is_err() {
            return Err(OrderError::NotConnected);
        }
        let (acknowledged, receiver) = oneshot::channel();
        self.awaiting_shutdown.push(acknowledged);
        Ok(receiver)
    }

    /// The node is empty
    pub(super) async fn record_drained(&mut self) {
        let shutdown = self
            .record
            .as_ref()
            .and_then(|stored| stored.record.drain)
            .is_some_and(|drain| drain.shutdown);
        let completed = [Event::NodeDrainCompleted {
            node_id: self.id.to_string(),
            timestamp: instant(now_millis()),
        }];
        let empty = |record: &mut NodeRecord| {
            record.drain = None;
            record.cordoned = true;
        };
        let finished = self.change_and_tell(empty, &completed);
        match finished.await {
            Ok(()) => {
                tracing::info!(node = %self.id, shutdown, "the node is drained");
                self.machine.handle_drain_recorded();
            }
            Err(error) => {
                tracing::error!(node = %self.id, %error, "the end of a drain could not be recorded");
                self.machine.handle_drain_failed(Instant::now());
            }
        }
    }
}
