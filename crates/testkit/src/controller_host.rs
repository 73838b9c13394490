//! I/O for a controller: streams, a store and an operator around the shipped [`ControllerNode`] and its sessions
//!
//! Nothing is decided here. What the node machine wants done is done, some of it later: a commit takes a while, may fail,
//! and is lost with its controller; a deposed controller keeps its sessions and its memory, but the store takes nothing
//! from it any more.

use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork, StreamId};
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::roster::Roster;
use prexorcloud_protocol::{
    ControllerConfig, ControllerEvent, ControllerSession, Incarnation, InstanceId, NodeId, Received,
    Session as _,
};

use crate::action::Action;
use crate::clerk::Clerk;
use crate::clock::Clock;
use crate::describe;
use crate::facts::ControllerFacts;
use crate::operator::{self, Orders};
use crate::scenario::Peers;
use crate::side::{ControllerSide, ControllerView, Effect, Turn};
use crate::store::Store;
use crate::world::{Timed, wake};

/// The host of a controller
#[derive(Clone, Debug)]
pub struct ControllerHost {
    /// Its name in the log.
    pub name: String,
    /// What was seen.
    pub facts: ControllerFacts,
    pub(crate) peers: Peers,
    pub(crate) orders: Orders,
    pub(crate) clerk: Clerk,
    config: ControllerConfig,
    id: NodeId,
    /// The machine; `None` while the controller is down.
    node: Option<ControllerNode>,
    sessions: BTreeMap<u32, ControllerSession>,
    /// Streams that are over, and whose sessions have news yet.
    ended: Vec<u32>,
    boots_at: Option<Duration>,
}

impl ControllerHost {
    /// The first controller of a cluster has the number 1.
    pub(crate) fn new(number: u64, id: NodeId, config: ControllerConfig, peers: Peers) -> Self {
        let name = format!("controller {number}");
        Self {
            facts: ControllerFacts::default(),
            peers,
            orders: Orders::of(number),
            clerk: Clerk::of(name.clone()),
            name,
            config,
            id,
            node: None,
            sessions: BTreeMap::new(),
            ended: Vec::new(),
            boots_at: Some(Duration::ZERO),
        }
    }

    /// What the controller knows of the node's instances.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.node.as_ref().map(ControllerNode::roster)
    }

    pub(crate) const fn node_mut(&mut self) -> Option<&mut ControllerNode> {
        self.node.as_mut()
    }

    pub(crate) fn current_session(&mut self) -> Option<&mut ControllerSession> {
        let current = self.node.as_ref().and_then(ControllerNode::current_stream)?;
        self.session(current)
    }

    fn session(&mut self, stream: StreamId) -> Option<&mut ControllerSession> {
        self.sessions.get_mut(&u32::try_from(stream.get()).ok()?)
    }

    pub(crate) fn kill(&mut self, turn: &mut Turn<'_>, down_for: Duration) {
        turn.note(|| format!("{} is killed", self.name));
        self.facts.note_killed(self.sessions.keys());
        self.node = None;
        self.sessions.clear();
        self.clerk.forget();
        self.orders.forget();
        self.boots_at = Some(turn.moment() + down_for);
    }

    /// Lets the machine hear all that a stream has said.
    fn hear(&mut self, turn: &mut Turn<'_>, store: &mut Store, stream: u32) -> bool {
        let mut any = false;
        while let Some(event) = self.sessions.get_mut(&stream).and_then(|s| s.poll_event()) {
            any = true;
            if event == ControllerEvent::Established {
                // What the others have said happened before.
                let others: Vec<u32> = self.sessions.keys().copied().collect();
                for other in others.into_iter().filter(|&other| other != stream) {
                    self.hear(turn, store, other);
                }
            }
            let id = StreamId::new(u64::from(stream));
            let Some(node) = &mut self.node else { return any };
            if let Some(event) = node.handle_event(turn.now, id, event) {
                if let Some(text) = describe::controller_event(&event) {
                    turn.note(|| format!("{}: stream {stream}: {text}", self.name));
                }
                self.facts.note_event(stream, node.roster(), event);
            }
            self.work(turn, store);
        }
        any
    }

    fn work(&mut self, turn: &mut Turn<'_>, store: &mut Store) -> bool {
        let mut any = false;
        while let Some(work) = self.node.as_mut().and_then(ControllerNode::poll_work) {
            any = true;
            match work.stream().map(|stream| self.session(stream)) {
                Some(Some(session)) => drop(work.hand_to(turn.now, session)),
                // Its stream is over, and its session gone.
                Some(None) => {}
                None => self.perform(turn, store, work),
            }
        }
        any
    }

    fn perform(&mut self, turn: &mut Turn<'_>, store: &mut Store, work: ControllerWork) {
        match work {
            ControllerWork::Admit { hello } => self.clerk.admit(turn, hello),
            ControllerWork::Commit(commit) => self.clerk.commit(turn, store, commit),
            ControllerWork::Answer { order, result } => {
                let what = self.orders.answered(order);
                self.facts.note_answer(&what, &result, self.clerk.is_deposed);
                turn.note(|| format!("{}: {what}: {}", self.name, describe::answer(&result)));
            }
            ControllerWork::News(news) => {
                turn.note(|| format!("{}: {}", self.name, describe::news(&news)));
                self.facts.note_news(turn.moment(), &news);
            }
            ControllerWork::Drained => {
                self.facts.drained.push(turn.moment());
                if let Some(node) = &mut self.node {
                    self.clerk.record_drained(turn, store, node);
                }
            }
            // For the session of a stream.
            _ => {}
        }
    }
}

impl ControllerSide for ControllerHost {
    fn handle_opened(&mut self, turn: &mut Turn<'_>, stream: u32) {
        let mut session = ControllerSession::new(self.config.clone(), self.id, u64::from(stream));
        session.handle_connected(turn.now);
        self.sessions.insert(stream, session);
    }

    fn handle_message(&mut self, turn: &mut Turn<'_>, stream: u32, received: Received<DaemonMessage>) {
        if let Some(session) = self.sessions.get_mut(&stream) {
            session.handle_message(turn.now, received);
        }
    }

    fn handle_ended(&mut self, turn: &mut Turn<'_>, stream: u32) {
        if let Some(session) = self.sessions.get_mut(&stream) {
            session.handle_disconnected(turn.now);
            self.ended.push(stream);
        }
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>, stream: u32) -> Option<ControllerMessage> {
        self.sessions.get_mut(&stream)?.poll_transmit()
    }

    fn is_established(&self, stream: u32) -> bool {
        let session = self.sessions.get(&stream);
        session.is_some_and(ControllerSession::is_established)
    }

    fn wants_end(&self, stream: u32) -> bool {
        let session = self.sessions.get(&stream);
        session.is_some_and(|session| session.close().is_some())
    }

    fn is_up(&self) -> bool {
        self.boots_at.is_none()
    }

    fn next_wake(&self, clock: &Clock) -> Option<Duration> {
        let sessions = self.sessions.values().filter_map(Timed::due_at);
        let machines = sessions.chain(self.node.as_ref().and_then(Timed::due_at));
        let machines = machines.map(|at| clock.moment_of(at));
        machines.chain(self.clerk.next_due()).chain(self.boots_at).min()
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>, store: &mut Store) -> bool {
        if self.boots_at.is_some_and(|at| at <= turn.moment()) {
            self.boots_at = None;
            self.node = Some(self.clerk.start_controller(turn, store, self.id, &mut self.facts));
            return true;
        }
        let (name, busy) = (&self.name, &mut self.facts.busy_timers);
        for (stream, session) in &mut self.sessions {
            if wake(turn, format_args!("{name} of stream {stream}"), session, busy) {
                return true;
            }
        }
        self.node.as_mut().is_some_and(|node| {
            let (sessions, facts) = (&mut self.sessions, &mut self.facts);
            wake(turn, format_args!("{name}"), node, &mut facts.busy_timers)
                || self.clerk.handle_wake(turn, store, node, sessions, facts)
        })
    }

    fn settle(&mut self, turn: &mut Turn<'_>, store: &mut Store) -> bool {
        let mut any = self.work(turn, store);
        let streams: Vec<u32> = self.sessions.keys().copied().collect();
        for stream in streams {
            any |= self.hear(turn, store, stream);
        }
        if let Some(node) = &mut self.node {
            self.sessions.values_mut().for_each(|session| node.feed(session));
        }
        for stream in self.ended.drain(..) {
            self.sessions.remove(&stream);
        }
        any
    }

    fn act(&mut self, turn: &mut Turn<'_>, store: &mut Store, action: &Action) -> Effect {
        operator::act(self, turn, store, action)
    }

    fn handle_ready(&mut self, turn: &mut Turn<'_>, instance: InstanceId, start: Incarnation) {
        operator::hear_plugin(self, turn, instance, start);
    }

    fn depose(&mut self, _turn: &mut Turn<'_>) -> Option<Self> {
        self.clerk.is_deposed = true;
        let (next, config) = (self.orders.number() + 1, self.config.clone());
        Some(Self::new(next, self.id, config, self.peers))
    }

    fn view(&self) -> Option<ControllerView<'_>> {
        let is_settled = self.node.as_ref().is_none_or(ControllerNode::is_settled);
        Some(ControllerView {
            node: self.node.as_ref(),
            sessions: &self.sessions,
            facts: &self.facts,
            is_quiet: is_settled && self.orders.is_empty(),
        })
    }
}
