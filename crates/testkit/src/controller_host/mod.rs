//! I/O for a controller: streams, a store and an operator around the shipped [`ControllerNode`] and its sessions
//!
//! Nothing is decided here. What the node machine wants done is done, some of it later: a commit takes a while, may fail,
//! and is lost with its controller; a deposed controller keeps its sessions and its memory, but the store takes nothing
//! from it any more.

mod facts;
mod orders;
mod store;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::handshake::controller::Hello;
use prexorcloud_protocol::node::controller::{
    Commit, CommitFailure, ControllerNode, ControllerWork, OrderId, OrderRefusal, StreamId,
};
use prexorcloud_protocol::roster::GroupPolicy;
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::session::controller::{Admission, ControllerOutcome};
use prexorcloud_protocol::{
    Capabilities, Close, Code, ControllerConfig, ControllerEvent, ControllerSession, Epoch, NodeId,
    Session as _,
};

pub use facts::ControllerFacts;
pub use store::{COMMIT_DELAY, Record, Store};

use crate::clock::Clock;
use crate::world::World;

/// The host of a controller
#[derive(Clone, Debug)]
pub struct ControllerHost {
    /// Its name in the log.
    pub name: String,
    /// The host's clock.
    pub clock: Clock,
    /// The epoch of its leadership.
    pub epoch: Epoch,
    /// Another controller leads.
    pub deposed: bool,
    /// What was seen.
    pub facts: ControllerFacts,
    config: ControllerConfig,
    is_java_daemon: bool,
    id: NodeId,
    /// The machine; `None` while the controller is down.
    node: Option<ControllerNode>,
    pub(crate) sessions: BTreeMap<u32, ControllerSession>,
    admissions: Vec<(Duration, Box<Hello>)>,
    commit: Option<(Duration, Commit)>,
    orders: BTreeMap<OrderId, String>,
    orders_given: u64,
    pub(crate) boots_at: Option<Duration>,
    pub(crate) asleep_until: Duration,
    pub(crate) redirects: bool,
    pub(crate) admission_delay: Option<Duration>,
    pub(crate) adopts_unknown: bool,
}

impl ControllerHost {
    pub(crate) fn new(
        name: String,
        id: NodeId,
        heartbeat: Duration,
        queue: usize,
        boots_at: Duration,
    ) -> Self {
        let mut config = ControllerConfig::default();
        config.heartbeat.interval = heartbeat;
        // Small enough that a stalled stream fills them.
        config.bounds.control.messages = queue;
        Self {
            name,
            clock: Clock::new(),
            epoch: Epoch::UNFENCED,
            deposed: false,
            facts: ControllerFacts::default(),
            config,
            is_java_daemon: false,
            id,
            node: None,
            sessions: BTreeMap::new(),
            admissions: Vec::new(),
            commit: None,
            orders: BTreeMap::new(),
            orders_given: 0,
            boots_at: Some(boots_at),
            asleep_until: Duration::ZERO,
            redirects: false,
            admission_delay: None,
            adopts_unknown: true,
        }
    }

    pub(crate) fn play_java(&mut self) {
        self.config.capabilities = Capabilities::NONE;
    }

    pub(crate) fn expect_java(&mut self) {
        self.is_java_daemon = true;
    }

    /// Whether the controller runs.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.boots_at.is_none()
    }

    pub(crate) fn is_asleep(&self, now: Duration) -> bool {
        self.asleep_until > now
    }

    /// The node machine, while the controller runs.
    #[must_use]
    pub const fn node(&self) -> Option<&ControllerNode> {
        self.node.as_ref()
    }

    /// What the controller knows of the node's instances.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.node.as_ref().map(ControllerNode::roster)
    }

    /// The session of a stream.
    #[must_use]
    pub fn session_of(&self, stream: u32) -> Option<&ControllerSession> {
        self.sessions.get(&stream)
    }

    /// Whether nothing waits for a commit, an admission or an answer.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.node.as_ref().is_none_or(ControllerNode::is_settled) && self.orders.is_empty()
    }

    fn local(&self, world: &World) -> Instant {
        self.clock.at(world.now)
    }

    pub(crate) fn open(&mut self, world: &World, stream: u32) {
        let mut session = ControllerSession::new(self.config.clone(), self.id, u64::from(stream));
        session.handle_connected(self.local(world));
        self.sessions.insert(stream, session);
    }

    fn boot(&mut self, world: &mut World, store: &mut Store) {
        self.boots_at = None;
        if !self.deposed {
            store.epoch = Epoch::new(store.epoch.get() + 1);
            self.epoch = store.epoch;
        }
        world.note(|| format!("{} starts, epoch {}", self.name, self.epoch));
        let mut node = ControllerNode::new(self.id);
        let refused = node.restore(self.local(world), store.entries());
        let told = |(entry, reason)| format!("restore {entry:?}: {reason}");
        self.facts.denied.extend(refused.into_iter().map(told));
        self.node = Some(node);
    }

    pub(crate) fn kill(&mut self, world: &mut World, down_for: Duration) {
        world.note(|| format!("{} is killed", self.name));
        for stream in self.sessions.keys() {
            let told = self.facts.closed.entry(*stream).or_default();
            if told.is_empty() {
                // Nobody is left to tell.
                told.push(ControllerOutcome::StreamEnded);
            }
        }
        self.node = None;
        self.sessions.clear();
        self.admissions.clear();
        self.commit = None;
        self.orders.clear();
        self.boots_at = Some(world.now + down_for);
    }

    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let sessions = self
            .sessions
            .values()
            .filter_map(|session| session.poll_timeout());
        let node = self.node.as_ref().and_then(ControllerNode::poll_timeout);
        let machines = sessions
            .map(|deadline| deadline.at)
            .chain(node.map(|deadline| deadline.at));
        let admissions = self.admissions.iter().map(|(due, _)| *due);
        let commit = self.commit.as_ref().map(|(due, _)| *due);
        machines
            .map(|at| self.clock.moment_of(at))
            .chain(admissions)
            .chain(commit)
            .chain(self.boots_at)
            .min()
            .map(|at| at.max(self.asleep_until))
    }

    /// Does what is due, and says whether anything was.
    pub(crate) fn handle_wake(&mut self, world: &mut World, store: &mut Store) -> bool {
        if self.boots_at.is_some_and(|at| at <= world.now) {
            self.boot(world, store);
            return true;
        }
        let now = self.local(world);
        for (stream, session) in &mut self.sessions {
            if let Some(due) = session.poll_timeout().filter(|due| due.at <= now) {
                world.note(|| format!("{} timer {:?} of stream {stream}", self.name, due.timer));
                session.handle_timeout(now);
                let again = session.poll_timeout().filter(|again| again.at <= now);
                self.facts
                    .busy_timers
                    .extend(again.map(|again| format!("{again:?}")));
                return true;
            }
        }
        let Some(node) = &mut self.node else {
            return false;
        };
        if let Some(due) = node.poll_timeout().filter(|due| due.at <= now) {
            world.note(|| format!("{} timer {:?}", self.name, due.timer));
            node.handle_timeout(now);
            let again = node.poll_timeout().filter(|again| again.at <= now);
            self.facts
                .busy_timers
                .extend(again.map(|again| format!("{again:?}")));
            return true;
        }
        let is_due = |(due, _): &(Duration, Box<Hello>)| *due <= world.now;
        if let Some(index) = self.admissions.iter().position(is_due) {
            let (_, hello) = self.admissions.remove(index);
            self.admit(world, store, hello);
            return true;
        }
        if let Some((_, commit)) = self.commit.take_if(|(due, _)| *due <= world.now) {
            let result = if self.deposed {
                Err(CommitFailure::Conflict("another controller leads".to_owned()))
            } else {
                store
                    .attempt(world.now)
                    .and_then(|()| store.commit(&commit, &self.facts.seen))
            };
            match result {
                Ok(()) => {
                    commit
                        .changes
                        .iter()
                        .for_each(|change| self.facts.note_change(change));
                    node.handle_committed(now, commit.id);
                }
                Err(failure) => {
                    world.note(|| format!("{}: not written: {failure}", self.name));
                    node.handle_commit_failed(now, commit.id, failure);
                }
            }
            return true;
        }
        false
    }

    fn admit(&mut self, world: &mut World, store: &mut Store, hello: Box<Hello>) {
        let now = self.local(world);
        let stream = hello.stream.stream();
        if std::mem::take(&mut self.redirects) {
            if let Some(session) = self.session(stream) {
                session.redirect("leader.example:9090".to_owned(), Vec::new());
            }
            return;
        }
        let recorded = if self.deposed {
            Ok(())
        } else {
            store.attempt(world.now)
        };
        let Some(node) = &mut self.node else { return };
        match recorded {
            Ok(()) => {
                let admission = Admission {
                    session_id: format!("{}/{}", self.name, stream.get()),
                    epoch: self.epoch,
                    groups: if self.adopts_unknown {
                        GroupPolicy::AdoptAny
                    } else {
                        GroupPolicy::Only(Vec::new())
                    },
                    ..Default::default()
                };
                node.handle_admission(now, hello, admission);
            }
            Err(failure) => {
                let close = Close::new(Code::Unavailable, failure.to_string());
                node.handle_admission_failed(now, stream, close);
            }
        }
    }

    fn session(&mut self, stream: StreamId) -> Option<&mut ControllerSession> {
        self.sessions.get_mut(&u32::try_from(stream.get()).ok()?)
    }

    /// Carries out what the sessions say and what the node machine wants, and says whether there was anything.
    pub(crate) fn handle_events(&mut self, world: &mut World, store: &Store) -> bool {
        let mut any = self.carry_out(world, store);
        let streams: Vec<u32> = self.sessions.keys().copied().collect();
        for &stream in &streams {
            while let Some(event) = self.sessions.get_mut(&stream).and_then(|s| s.poll_event()) {
                any = true;
                if event == ControllerEvent::Established {
                    // What the others have said happened before.
                    for &other in streams.iter().filter(|&&other| other != stream) {
                        self.hear_all(world, store, other);
                    }
                }
                self.hear(world, store, stream, event);
            }
        }
        if let Some(node) = &mut self.node
            && let Some(current) = node.current_stream()
            && let Some(session) = u32::try_from(current.get())
                .ok()
                .and_then(|stream| self.sessions.get_mut(&stream))
        {
            node.feed(session);
        }
        any
    }

    fn hear_all(&mut self, world: &mut World, store: &Store, stream: u32) {
        while let Some(event) = self.sessions.get_mut(&stream).and_then(|s| s.poll_event()) {
            self.hear(world, store, stream, event);
        }
    }

    fn hear(&mut self, world: &mut World, store: &Store, stream: u32, event: ControllerEvent) {
        let now = self.local(world);
        let left = self
            .node
            .as_mut()
            .and_then(|node| node.handle_event(now, StreamId::new(u64::from(stream)), event));
        if let Some(event) = left {
            if !matches!(
                event,
                ControllerEvent::Console(_) | ControllerEvent::NodeStatus(_) | ControllerEvent::Log(_)
            ) {
                world.note(|| format!("{}: stream {stream}: {event:?}", self.name));
            }
            if let Some(node) = &self.node {
                self.facts.note_event(stream, node.roster(), event);
            }
        }
        self.carry_out(world, store);
    }

    fn carry_out(&mut self, world: &mut World, store: &Store) -> bool {
        let mut any = false;
        while let Some(work) = self.node.as_mut().and_then(ControllerNode::poll_work) {
            any = true;
            self.perform(world, store, work);
        }
        any
    }

    fn perform(&mut self, world: &mut World, store: &Store, work: ControllerWork) {
        let now = self.local(world);
        match work {
            ControllerWork::Admit { hello } => {
                let usual = world.rng.between(Duration::ZERO, Duration::from_millis(20));
                let due = world.now + self.admission_delay.take().unwrap_or(usual);
                self.admissions.push((due, hello));
            }
            ControllerWork::Accept { hello, admission } => {
                if let Some(session) = self.session(hello.stream.stream()) {
                    // A stream that ended meanwhile says so itself.
                    let _ = session.accept(now, hello, admission);
                }
            }
            ControllerWork::Close { stream, close } => {
                if let Some(session) = self.session(stream) {
                    session.close_with(close);
                }
            }
            ControllerWork::Send {
                stream,
                payload,
                trace,
            } => {
                if let Some(session) = self.session(stream)
                    && let Err(error) = session.send_traced(payload, trace)
                {
                    world.note(|| format!("not sent: {error}"));
                }
            }
            ControllerWork::Object { stream, objection } => {
                if let Some(session) = self.session(stream) {
                    session.object(now, objection);
                }
            }
            ControllerWork::Commit(commit) => {
                let due = world.now + world.rng.between(Duration::ZERO, store.commit_delay);
                self.commit = Some((due, commit));
            }
            ControllerWork::Answer { order, result } => {
                let what = self.orders.remove(&order).unwrap_or_default();
                if let Err(OrderRefusal::NotRecorded(CommitFailure::Conflict(why))) = &result
                    && !self.deposed
                {
                    self.facts.denied.push(format!("{what}: {why}"));
                }
                world.note(|| match &result {
                    Ok(outcome) => format!("{}: {what}: {outcome:?}", self.name),
                    Err(refusal) => format!("{}: {what}: no effect: {refusal}", self.name),
                });
            }
            ControllerWork::News(news) => {
                world.note(|| format!("{}: {}", self.name, describe(&news)));
                self.facts.note_news(&news);
            }
            ControllerWork::Drained => {
                if let Some(node) = &mut self.node {
                    node.handle_drain_recorded();
                }
            }
        }
    }
}

fn describe(news: &InstanceEvent) -> String {
    match news {
        InstanceEvent::Changed {
            instance,
            incarnation,
            from,
            to,
            cause,
            ..
        } => format!("{instance}#{incarnation} {from} -> {to} ({cause:?})"),
        other => format!("{other:?}"),
    }
}
