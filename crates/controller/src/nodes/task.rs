//! The task of one node: the I/O around its machine

use std::{collections::HashMap, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use prexorcloud_proto::{ShutdownNodeAck, controller_message};
use prexorcloud_protocol::{
    Close, Code, ControllerSession, InstanceId, NodeId,
    instance::State,
    node::{
        ControllerNode,
        controller::{CommitFailure, CommitId, OrderId, StreamId},
    },
    session::controller::ControllerOutcome,
};
use prexorcloud_transport::{NodeStreams, SessionHandle, due};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    NodeContext, NodeView, OrderError,
    drain::drain_of,
    files::Asked,
    forwarding::{Forwarder, to_forward},
    identity::Identity,
    modules::NodeModules,
    order::{Traced, Waiting},
    registry::{SharedView, look},
    starts::is_live,
    templates,
    typed::Typed,
    view::StreamNotes,
};
use crate::{
    events::Event,
    records::{InstanceRecord, NodeRecord},
    secrets,
    store::Stored,
    trace,
    wall_clock::now_millis,
};

/// How long the last changes may take to be recorded when the controller stops
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(10);

/// A commit on its way to the storage
pub(super) type Committing = BoxFuture<'static, (CommitId, Result<(), CommitFailure>)>;

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) context: Arc<NodeContext>,
    pub(super) view: SharedView,
    /// As in the store; `None` until the node is recorded
    pub(super) record: Option<Stored<NodeRecord>>,
    pub(super) machine: ControllerNode,
    pub(super) streams: NodeStreams<StreamNotes>,
    pub(super) committing: Option<Committing>,
    /// Who waits for the machine's answer to which order
    pub(super) waiting: HashMap<OrderId, Waiting>,
    pub(super) orders: u64,
    pub(super) typed: Typed,
    pub(super) awaiting_shutdown: Vec<oneshot::Sender<ShutdownNodeAck>>,
    /// Answers about templates that may be under way
    pub(super) template_turns: Arc<Semaphore>,
    pub(super) modules: NodeModules,
    pub(super) identity: Identity,
    /// Who waits for answers about files
    pub(super) asked: Asked,
    /// When the node was last seen, until that is recorded
    pub(super) last_seen_ms: Option<i64>,
    /// What the stream that counts has subscribed to
    pub(super) forwarder: Option<Box<Forwarder>>,
    /// Names that it could not subscribe to
    pub(super) refused_types: u32,
    /// What is to be told with it
    pub(super) untold: Vec<Event>,
    /// News beyond those, which are lost
    pub(super) untold_lost: u64,
    /// Streams whose end the machine has not heard of yet, one end each
    pub(super) ended: Vec<(StreamId, ControllerOutcome)>,
    /// As of which change others see what instances wait for
    shown_waiting: Option<u64>,
}

impl Node {
    pub(super) fn new(id: NodeId, context: Arc<NodeContext>, view: SharedView) -> Self {
        let modules = NodeModules::new(context.modules.watch());
        Self {
            id,
            context,
            modules,
            view,
            record: None,
            machine: ControllerNode::new(id),
            streams: NodeStreams::default(),
            committing: None,
            waiting: HashMap::new(),
            orders: 0,
            typed: Typed::default(),
            awaiting_shutdown: Vec::new(),
            identity: Identity::default(),
            asked: Asked::default(),
            template_turns: templates::turns(),
            last_seen_ms: None,
            untold: Vec::new(),
            untold_lost: 0,
            forwarder: None,
            refused_types: 0,
            ended: Vec::new(),
            shown_waiting: None,
        }
    }

    /// Puts back what was recorded before this controller started
    pub(super) fn restore(&mut self, record: Option<Stored<NodeRecord>>, mut instances: Vec<InstanceRecord>) {
        let mut unreadable: Vec<InstanceId> = Vec::new();
        for record in &mut instances {
            if !self.open_secrets(record) {
                secrets::remove(record);
                unreadable.extend(record.instance_id.parse::<InstanceId>().ok());
            }
        }
        // What lives comes first, and what has ended in that order.
        instances.sort_by_key(|record| (!is_live(record), record.updated_at_ms));
        for record in instances.iter_mut().filter(|record| is_live(record)) {
            self.readmit_plugins(record);
        }
        let entries = instances.into_iter().filter_map(InstanceRecord::into_entry);
        for (entry, reason) in self.machine.restore(Instant::now(), entries) {
            let instance = entry.start.instance_id;
            tracing::error!(node = %self.id, instance, %reason, "a recorded instance cannot be restored");
        }
        for instance in unreadable {
            // It never began, and must not begin without what is sealed. Nothing else would ever end it.
            let order = self.next_order();
            self.machine.declare_lost(Instant::now(), order, instance);
        }
        let drain = record.as_ref().and_then(|stored| stored.record.drain);
        self.record = record;
        if let Some(drain) = drain {
            let now = Instant::now();
            self.machine.set_drain(now, drain_of(now, now_millis(), drain));
        }
        self.publish_record();
    }

    /// Reads the secrets of a recorded start; says whether the record is of use without
    fn open_secrets(&self, record: &mut InstanceRecord) -> bool {
        if secrets::open(&self.context.sealing, record) {
            return true;
        }
        let instance = &record.instance_id;
        // What a daemon has taken has its environment there. What none has taken must not begin without.
        let is_taken = record.state != State::Scheduled.to_wire();
        tracing::error!(node = %self.id, instance, is_taken, "the environment of an instance cannot be read: ca/records.key is not the one that it was recorded with; restore it, or start the instance anew");
        is_taken
    }

    pub(super) async fn run(mut self, mut mailbox: mpsc::Receiver<Traced>) {
        let stopping = self.context.stopping.clone();
        let mut events = Vec::new();
        loop {
            self.handle_ends();
            self.note_last_seen().await;
            self.work_modules().await;
            self.work_identity().await;
            self.work().await;
            self.refresh_view();
            if !self.ended.is_empty() {
                // A stream has ended while this waited for the storage, and nothing else will wake it.
                continue;
            }
            let deadline = self.machine.poll_timeout();
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline.at <= now) {
                // Before anything else: a stream that never stops must not put it off.
                self.machine.handle_timeout(now);
                continue;
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                order = mailbox.recv() => match order {
                    Some(Traced { trace, request }) => {
                        trace::within(trace, self.handle_order(request)).await;
                    }
                    None => break,
                },
                (id, result) = committed(&mut self.committing) => self.handle_written(id, result),
                () = to_forward(&mut self.forwarder) => self.forward(),
                () = self.streams.next_events(&mut events) => {
                    for (stream, event) in events.drain(..) {
                        self.handle_event(stream, event);
                        self.handle_ends();
                    }
                }
                () = self.modules.next() => {}
                () = due(deadline) => self.machine.handle_timeout(Instant::now()),
            }
        }
        self.say_goodbye().await;
    }

    /// Waits for the storage, and hears meanwhile what streams say
    ///
    /// A console never waits for the storage, and a stream that nobody reads is cut: its lines are many small frames, which
    /// HTTP/2 does not pile up. What streams say changes nothing that whoever waits here relies upon, but for their ends,
    /// which are handled afterwards.
    pub(super) async fn meanwhile<T>(&mut self, stored: impl Future<Output = T>) -> T {
        let mut stored = std::pin::pin!(stored);
        let mut events = Vec::new();
        loop {
            tokio::select! {
                biased;
                outcome = &mut stored => return outcome,
                () = self.streams.next_events(&mut events) => {
                    for (stream, event) in events.drain(..) {
                        self.handle_event(stream, event);
                    }
                }
            }
        }
    }

    pub(super) fn handle_written(&mut self, id: CommitId, result: Result<(), CommitFailure>) {
        self.committing = None;
        // The next of them would be begun.
        self.give_up_abandoned();
        let now = Instant::now();
        match result {
            Ok(()) => self.machine.handle_committed(now, id),
            Err(failure) => {
                tracing::error!(node = %self.id, %failure, "a change could not be recorded");
                self.machine.handle_commit_failed(now, id, failure);
            }
        }
    }

    /// The controller stops: daemons are told to go elsewhere and come back later; their instances run on
    ///
    /// What happened until now belongs into the store; the next start reads it there.
    async fn say_goodbye(&mut self) {
        let close = Close::new(Code::Unavailable, "the controller is shutting down");
        self.streams.close_all(&close);
        let farewell = async {
            loop {
                self.work().await;
                match &mut self.committing {
                    Some(committing) => {
                        let (id, result) = committing.await;
                        if result.is_err() {
                            return self.handle_written(id, result);
                        }
                        self.handle_written(id, result);
                    }
                    None => return,
                }
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::error!(node = %self.id, "the storage did not take the last changes in time");
        }
    }

    fn refresh_view(&mut self) {
        let roster = self.machine.roster();
        let live = roster.live();
        let mut view = look(&self.view);
        view.live_instances = live;
        let changes = Some(roster.waiting_changes());
        if self.shown_waiting != changes {
            self.shown_waiting = changes;
            let waiting = |instance| Some((instance, roster.waiting_for(instance)?));
            view.waiting = roster
                .entries()
                .filter_map(|entry| waiting(entry.instance()))
                .collect();
        }
    }

    /// Publishes what is recorded
    pub(super) fn publish_record(&self) {
        if let Some(stored) = &self.record {
            look(&self.view).record.clone_from(&stored.record);
        }
    }

    pub(super) fn with_view<R>(&self, change: impl FnOnce(&mut NodeView) -> R) -> R {
        change(&mut look(&self.view))
    }

    /// Whether the node can be given orders right now
    pub(super) fn is_connected(&self) -> bool {
        self.machine.current_stream().is_some()
    }

    /// The session of the stream that counts
    pub(super) fn current_session(&self) -> Option<&SessionHandle<ControllerSession>> {
        let stream = self.streams.get(self.machine.current_stream()?)?;
        Some(&stream.session)
    }

    /// Sends a message that answers nothing, if it can leave now
    pub(super) fn send_now(&self, payload: controller_message::Payload) -> Result<(), OrderError> {
        let session = self.current_session().ok_or(OrderError::NotConnected)?;
        let sent = session.with(|session, _| session.send(payload));
        sent.map_err(|error| OrderError::Conflict(error.to_string()))
    }

    /// Forgets what is known of an instance beside its record
    pub(super) fn forget_rest(&self, instance: InstanceId) {
        self.with_view(|view| view.vitals.remove(&instance));
        self.context.consoles.forget(instance.as_str());
    }
}

async fn committed(committing: &mut Option<Committing>) -> (CommitId, Result<(), CommitFailure>) {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::{SqliteOptions, SqliteStore};

    #[test]
    fn the_task_of_an_idle_node_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default()).unwrap();
        let context = NodeContext::of(Arc::new(store), folder.path());
        let node = Node::new(
            "node-1".parse().unwrap(),
            Arc::new(context),
            SharedView::default(),
        );
        let (_orders, mailbox) = mpsc::channel(1);
        let bytes = size_of_val(&node.run(mailbox));
        assert!(bytes <= 16 * 1024, "{bytes} bytes");
    }
}
