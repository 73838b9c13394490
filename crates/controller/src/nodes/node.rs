//! The task of one node: one thing at a time, in the order in which it came

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use prexorcloud_proto::{ShutdownNodeAck, StartInstance};
use prexorcloud_protocol::{
    Close, Code, ControllerEvent, ControllerSession, InstanceId, NodeId, Session as _, StopMode, Verdict,
    roster::Roster,
};
use prexorcloud_transport::SessionHandle;
use tokio::sync::{mpsc, oneshot};

use super::{
    NodeView, Surroundings,
    order::{Order, Reply},
    registry::{SharedView, look},
};
use crate::{
    records::NodeRecord,
    store::{StoreError, Stored},
};

/// Events taken from the session at once; between two batches, orders get their turn
const BATCH: usize = 64;

/// Between two attempts to save what the storage refused
const RETRY: Duration = Duration::from_secs(5);

/// Something for the roster, whoever holds it
pub(super) enum Act {
    Start(Box<StartInstance>),
    Stop(InstanceId, StopMode),
    Forget(InstanceId),
    DeclareLost(InstanceId),
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) around: Arc<Surroundings>,
    pub(super) view: SharedView,
    /// As in the store; `None` until the node is recorded
    pub(super) record: Option<Stored<NodeRecord>>,
    /// The session of the present stream; it holds the roster
    pub(super) session: Option<SessionHandle<ControllerSession>>,
    /// The roster while there is no session, else an empty one
    pub(super) parked: Roster,
    /// News that was taken from a session or roster and is not handled yet
    pub(super) backlog: VecDeque<ControllerEvent>,
    /// Instances whose record is behind the roster because the storage failed
    pub(super) unsaved: HashSet<InstanceId>,
    pub(super) retry_at: Option<Instant>,
    pub(super) awaiting_shutdown: Vec<oneshot::Sender<ShutdownNodeAck>>,
}

impl Node {
    pub(super) fn new(id: NodeId, around: Arc<Surroundings>, view: SharedView) -> Self {
        Self {
            id,
            around,
            view,
            record: None,
            session: None,
            parked: Roster::new(id),
            backlog: VecDeque::new(),
            unsaved: HashSet::new(),
            retry_at: None,
            awaiting_shutdown: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, mut mailbox: mpsc::Receiver<Order>) {
        let stopping = self.around.stopping.clone();
        let mut events = Vec::new();
        loop {
            self.handle_backlog().await;
            self.review_drain().await;
            self.refresh_view();
            if !self.backlog.is_empty() {
                continue;
            }
            if let Some(session) = &self.session
                && self.unsaved.is_empty()
            {
                session.with(|session, _| session.all_stored());
            }
            let session = self.session.clone();
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                order = mailbox.recv() => match order {
                    Some(order) => self.handle_order(order).await,
                    None => break,
                },
                taken = next_events(session.as_ref(), &mut events) => {
                    if taken == 0 {
                        self.go_offline();
                    }
                    self.backlog.extend(events.drain(..));
                }
                () = sleep_until(deadline) => self.handle_timers().await,
            }
        }
        self.say_goodbye().await;
    }

    async fn handle_order(&mut self, order: Order) {
        match order {
            Order::Join { hello, session, peer } => self.admit(hello, session, peer).await,
            Order::Introduce { reply } => answer(reply, self.introduce().await),
            Order::Start { order, reply } => answer(reply, self.start(*order).await),
            Order::Stop {
                instance,
                force,
                reply,
            } => answer(reply, self.stop(instance, force).await),
            Order::Command {
                instance,
                line,
                reply,
            } => answer(reply, self.command(instance, &line)),
            Order::DeclareLost { instance, reply } => answer(reply, self.declare_lost(instance)),
            Order::Forget { instance, reply } => answer(reply, self.forget(instance).await),
            Order::Cordon { cordoned, reply } => answer(reply, self.cordon(cordoned).await),
            Order::Drain {
                shutdown,
                timeout,
                reply,
            } => answer(reply, self.drain(shutdown, timeout).await),
            Order::Undrain { reply } => answer(reply, self.undrain().await),
            Order::ShutDown { reason, reply } => answer(reply, self.shut_down(reason)),
            Order::Close { close, reply } => {
                if let Some(session) = &self.session {
                    session.with(|session, _| session.close_with(close));
                }
                answer(reply, Ok(()));
            }
        }
    }

    /// Handles all news that is there, and what comes of it
    pub(super) async fn handle_backlog(&mut self) {
        loop {
            while let Some(event) = self.parked.poll_event() {
                self.backlog.push_back(ControllerEvent::Instance(event));
            }
            let Some(event) = self.backlog.pop_front() else {
                return;
            };
            self.handle_event(event).await;
        }
    }

    async fn handle_timers(&mut self) {
        let now = Instant::now();
        self.parked.handle_timeout(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            for instance in std::mem::take(&mut self.unsaved) {
                self.save(instance).await;
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // The transport drives the timers of a session; the parked roster is empty then.
        let roster = self.parked.poll_timeout().map(|deadline| deadline.at);
        [roster, self.retry_at, self.drain_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the node can be given orders right now
    pub(super) fn is_connected(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.with(|session, _| session.is_established()))
    }

    /// Looks at the roster, whoever holds it
    pub(super) fn look_at_roster<R>(&mut self, look: impl Fn(&Roster) -> R) -> R {
        if let Some(session) = &self.session
            && let Some(seen) = session.with(|session, _| session.roster().map(&look))
        {
            return seen;
        }
        look(self.go_offline())
    }

    /// Tells the roster to do something, whoever holds it
    pub(super) fn act(&mut self, act: Act) -> Verdict {
        let mut act = Some(act);
        if let Some(session) = &self.session {
            let verdict = session.with(|session, now| {
                if !session.is_established() {
                    return None;
                }
                match act.take()? {
                    Act::Start(start) => session.start(now, start),
                    Act::Stop(instance, mode) => session.stop(now, instance, mode),
                    Act::Forget(instance) => session.forget(instance),
                    // A daemon that is here says itself what has become of its instances.
                    Act::DeclareLost(_) => Some(Verdict::AlreadyInEffect),
                }
            });
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
        let now = Instant::now();
        let roster = self.go_offline();
        match act {
            Some(Act::Start(start)) => roster.start(now, start),
            Some(Act::Stop(instance, mode)) => roster.stop(now, instance, mode),
            Some(Act::Forget(instance)) => roster.forget(instance),
            Some(Act::DeclareLost(instance)) => roster.declare_lost(now, instance),
            None => Verdict::AlreadyInEffect,
        }
    }

    /// Takes the roster back from a session that is over, with the news that it has left
    pub(super) fn go_offline(&mut self) -> &mut Roster {
        if let Some(session) = self.session.take() {
            let (roster, news) = session.with(release);
            self.backlog.extend(news);
            // A session that was admitted has a roster until it is taken, and only this task takes it.
            self.parked = roster.unwrap_or_else(|| Roster::new(self.id));
            self.awaiting_shutdown.clear();
            look(&self.view).session = None;
        }
        &mut self.parked
    }

    /// The controller stops: daemons are told to go elsewhere and come back later; their instances run on
    async fn say_goodbye(&mut self) {
        if let Some(session) = &self.session {
            let close = Close::new(Code::Unavailable, "the controller is shutting down");
            session.with(|session, _| session.close_with(close));
            self.go_offline();
            // What happened until now belongs into the store; the next start reads it there.
            self.handle_backlog().await;
        }
    }

    fn refresh_view(&mut self) {
        let live =
            self.look_at_roster(|roster| roster.entries().filter(|entry| !entry.is_terminal()).count());
        let mut view = look(&self.view);
        view.live_instances = live;
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

    /// Something could not be saved: it is tried again
    pub(super) fn save_later(&mut self, instance: InstanceId, error: &StoreError) {
        tracing::error!(node = %self.id, %instance, %error, "the state of an instance could not be saved");
        self.unsaved.insert(instance);
        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, super::OrderError>) {
    // Whoever asked may have given up waiting; what was done stays done.
    let _ = reply.send(result);
}

/// Ends a session if it is still there; gives its roster and the news that nobody has taken
fn release(session: &mut ControllerSession, now: Instant) -> (Option<Roster>, Vec<ControllerEvent>) {
    let mut roster = session.replace().or_else(|| session.take_roster());
    if let Some(roster) = &mut roster {
        roster.handle_disconnected(now);
    }
    let news = std::iter::from_fn(|| session.poll_event());
    (
        roster,
        news.filter(|event| !matches!(event, ControllerEvent::Closed(_)))
            .collect(),
    )
}

async fn next_events(
    session: Option<&SessionHandle<ControllerSession>>,
    into: &mut Vec<ControllerEvent>,
) -> usize {
    match session {
        Some(session) => session.next_events(into, BATCH).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        config::ControllerConfig,
        console::Consoles,
        store::{SqliteOptions, SqliteStore},
    };

    #[test]
    fn the_task_of_an_idle_node_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default()).unwrap();
        let around = Surroundings {
            store: Arc::new(store),
            consoles: Arc::new(Consoles::keeping(1)),
            config: ControllerConfig::default(),
            epoch: prexorcloud_protocol::Epoch::new(1),
            http_port: 0,
            grpc_addresses: Vec::new(),
            stopping: CancellationToken::new(),
            crashes_since_pruning: Default::default(),
        };
        let node = Node::new("node-1".parse().unwrap(), Arc::new(around), SharedView::default());
        let (_orders, mailbox) = mpsc::channel(1);
        let bytes = size_of_val(&node.run(mailbox));
        assert!(bytes <= 16 * 1024, "{bytes} bytes");
    }
}
