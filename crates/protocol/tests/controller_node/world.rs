//! A node machine, its sessions and what the application would do, with every commit in the test's hands

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::handshake::controller::Hello;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::ControllerNode;
use prexorcloud_protocol::node::controller::{
    Commit, CommitFailure, Contest, ControllerWork, OrderId, OrderOutcome, OrderRefusal, StreamId,
};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_protocol::{
    Capabilities, Close, ControllerConfig, ControllerEvent, ControllerSession, Epoch, InstanceId, NodeId,
    Session, StopMode,
};

pub type Answer = Result<OrderOutcome, OrderRefusal>;

/// No stops.
pub const NONE: [bool; 0] = [];

pub struct World {
    pub now: Instant,
    pub node: ControllerNode,
    pub sessions: BTreeMap<u64, ControllerSession>,
    /// Handshakes are admitted at once, else they wait in `admits`.
    pub admits_at_once: bool,
    #[expect(clippy::vec_box, reason = "as the machine gives them, and takes them back")]
    pub admits: Vec<Box<Hello>>,
    /// Commits succeed at once, else they wait in `commits`.
    pub commits_at_once: bool,
    pub commits: Vec<Commit>,
    pub committed: Vec<Commit>,
    pub answers: BTreeMap<u64, Answer>,
    pub closes: Vec<(u64, Close)>,
    pub news: Vec<InstanceEvent>,
    pub events: Vec<ControllerEvent>,
    pub drained: u32,
    /// Holder, challenger, whether they are known to be two, and what came of it.
    pub contests: Vec<(u64, u64, bool, Contest)>,
    sent: BTreeMap<u64, Vec<FromController>>,
    /// Of what was sent, pings aside.
    traces: Vec<Option<TraceParent>>,
    pings: Vec<i64>,
    /// The pong that the last ping has confirmed.
    pub confirmed: i64,
    orders: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Instant::now(),
            node: ControllerNode::new(node()),
            sessions: BTreeMap::new(),
            admits_at_once: true,
            admits: Vec::new(),
            commits_at_once: true,
            commits: Vec::new(),
            committed: Vec::new(),
            answers: BTreeMap::new(),
            closes: Vec::new(),
            news: Vec::new(),
            events: Vec::new(),
            drained: 0,
            contests: Vec::new(),
            sent: BTreeMap::new(),
            traces: Vec::new(),
            pings: Vec::new(),
            confirmed: 0,
            orders: 0,
        }
    }

    /// With stream 1 established.
    pub fn connected() -> Self {
        let mut world = Self::new();
        world.connect(1, handshake());
        assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
        world.sent(1);
        world
    }

    pub fn connect(&mut self, stream: u64, handshake: Handshake) {
        let mut session = ControllerSession::new(ControllerConfig::default(), node(), stream);
        session.handle_connected(self.now);
        self.sessions.insert(stream, session);
        self.receive(stream, FromDaemon::Handshake(Box::new(handshake)));
    }

    pub fn disconnect(&mut self, stream: u64) {
        let now = self.now;
        self.session(stream).handle_disconnected(now);
        self.turn();
    }

    pub fn session(&mut self, stream: u64) -> &mut ControllerSession {
        self.sessions.get_mut(&stream).unwrap()
    }

    pub fn receive(&mut self, stream: u64, payload: FromDaemon) {
        let now = self.now;
        let message = DaemonMessage {
            payload: Some(payload),
        };
        self.session(stream).handle_message(now, message.into());
        self.turn();
    }

    pub fn report(&mut self, stream: u64, incarnation: u64, state: State) {
        self.receive(stream, FromDaemon::InstanceStatus(status(incarnation, state)));
    }

    pub fn advance(&mut self, by: Duration) {
        self.now += by;
        self.node.handle_timeout(self.now);
        let now = self.now;
        for session in self.sessions.values_mut() {
            session.handle_timeout(now);
        }
        self.turn();
    }

    /// Everything that follows from what has just happened.
    pub fn turn(&mut self) {
        loop {
            let mut any = false;
            for stream in self.sessions.keys().copied().collect::<Vec<_>>() {
                while let Some(event) = self.session(stream).poll_event() {
                    any = true;
                    let left = self.node.handle_event(self.now, StreamId::new(stream), event);
                    self.events.extend(left);
                    self.work();
                }
            }
            self.work();
            if let Some(current) = self.node.current_stream() {
                let session = self.sessions.get_mut(&current.get()).unwrap();
                self.node.feed(session);
            }
            for (stream, session) in &mut self.sessions {
                while let Some(message) = session.poll_transmit() {
                    any = true;
                    let payload = message.payload.unwrap();
                    match payload {
                        FromController::Ping(ping) => {
                            self.pings.push(ping.sequence);
                            self.confirmed = ping.answered;
                        }
                        payload => {
                            self.traces.push(TraceParent::parse(&message.traceparent));
                            self.sent.entry(*stream).or_default().push(payload);
                        }
                    }
                }
            }
            if !any {
                return;
            }
        }
    }

    fn work(&mut self) {
        while let Some(work) = self.node.poll_work() {
            match work {
                ControllerWork::Admit { hello } if self.admits_at_once => self.admit(hello),
                ControllerWork::Admit { hello } => self.admits.push(hello),
                ControllerWork::Close { stream, close } => {
                    self.closes.push((stream.get(), close.clone()));
                    self.session(stream.get()).close_with(close);
                }
                ControllerWork::Commit(commit) if self.commits_at_once => {
                    self.node.handle_committed(self.now, commit.id);
                    self.committed.push(commit);
                }
                ControllerWork::Commit(commit) => self.commits.push(commit),
                ControllerWork::Answer { order, result } => {
                    let before = self.answers.insert(order.0, result);
                    assert_eq!(before, None, "an order is answered once");
                }
                ControllerWork::News(event) => self.news.push(event),
                ControllerWork::Drained => self.drained += 1,
                ControllerWork::Contested {
                    holder,
                    challenger,
                    is_another,
                    outcome,
                } => self
                    .contests
                    .push((holder.get(), challenger.get(), is_another, outcome)),
                work => {
                    let (now, stream) = (self.now, work.stream().unwrap());
                    // A stream that has ended meanwhile says so in its events.
                    let _ = work.hand_to(now, self.session(stream.get()));
                }
            }
        }
    }

    pub fn admit(&mut self, hello: Box<Hello>) {
        let admission = Admission {
            session_id: "s".into(),
            epoch: Epoch::new(3),
            ..Default::default()
        };
        self.node.handle_admission(self.now, hello, admission);
    }

    /// The commit under way succeeds.
    pub fn commit(&mut self) -> Commit {
        let commit = self.commits.remove(0);
        assert!(self.commits.is_empty(), "one is under way at a time");
        self.node.handle_committed(self.now, commit.id);
        self.committed.push(commit.clone());
        self.turn();
        commit
    }

    /// The commit under way fails.
    pub fn fail(&mut self, failure: CommitFailure) {
        let commit = self.commits.remove(0);
        self.node.handle_commit_failed(self.now, commit.id, failure);
        self.turn();
    }

    pub fn order(&mut self) -> OrderId {
        self.orders += 1;
        OrderId(self.orders)
    }

    pub fn start(&mut self, incarnation: u64) -> u64 {
        let order = self.order();
        self.node.start(self.now, order, Box::new(start(incarnation)));
        self.turn();
        order.0
    }

    pub fn stop(&mut self, mode: StopMode) -> u64 {
        let order = self.order();
        self.node.stop(self.now, order, lobby(), mode);
        self.turn();
        order.0
    }

    pub fn forget(&mut self) -> u64 {
        let order = self.order();
        self.node.forget(self.now, order, lobby());
        self.turn();
        order.0
    }

    pub fn declare_lost(&mut self) -> u64 {
        let order = self.order();
        self.node.declare_lost(self.now, order, lobby());
        self.turn();
        order.0
    }

    /// An instance that runs, with nothing unrecorded.
    pub fn running(&mut self) {
        let order = self.start(1);
        assert_eq!(self.answers[&order], Ok(OrderOutcome::Started));
        let stream = self.node.current_stream().unwrap().get();
        for state in [State::Preparing, State::Starting, State::Running] {
            self.report(stream, 1, state);
        }
        assert_eq!(self.state(), State::Running);
        self.sent(stream);
        self.news.clear();
        self.events.clear();
        self.committed.clear();
    }

    pub fn state(&self) -> State {
        self.node.roster().get(lobby()).unwrap().state()
    }

    /// The streams that were closed, in this order.
    pub fn closed(&self) -> Vec<u64> {
        self.closes.iter().map(|(stream, _)| *stream).collect()
    }

    /// The pings that nobody has answered yet.
    pub fn pings(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.pings)
    }

    /// Half a minute passes, and the daemon answers what it is asked.
    pub fn beat(&mut self, stream: u64) -> i64 {
        self.advance(Duration::from_secs(30));
        let mut last = 0;
        for sequence in self.pings() {
            self.receive(stream, FromDaemon::Pong(Pong { sequence }));
            last = sequence;
        }
        last
    }

    /// Time passes, and the daemon answers every ping on the stream that counts.
    pub fn answering(&mut self, mut time: Duration) {
        while time > Duration::ZERO {
            let step = time.min(Duration::from_secs(10));
            self.advance(step);
            let stream = self.node.current_stream().unwrap().get();
            for sequence in self.pings() {
                self.receive(stream, FromDaemon::Pong(Pong { sequence }));
            }
            time -= step;
        }
    }

    /// Every commit succeeds until none is left; says how many there were.
    pub fn commit_all(&mut self) -> usize {
        let before = self.committed.len();
        while !self.commits.is_empty() {
            self.commit();
        }
        self.committed.len() - before
    }

    /// What left on a stream since the last call, pings aside.
    pub fn sent(&mut self, stream: u64) -> Vec<FromController> {
        self.sent.remove(&stream).unwrap_or_default()
    }

    /// The traces of what was sent since this was asked.
    pub fn traces(&mut self) -> Vec<Option<TraceParent>> {
        std::mem::take(&mut self.traces)
    }

    /// The stops among it, each with whether it is a kill.
    pub fn stops(&mut self, stream: u64) -> Vec<bool> {
        let force = |payload| match payload {
            FromController::StopInstance(stop) => Some(stop.force),
            _ => None,
        };
        self.sent(stream).into_iter().filter_map(force).collect()
    }
}

pub fn node() -> NodeId {
    "node-1".parse().unwrap()
}

pub fn lobby() -> InstanceId {
    "lobby-1".parse().unwrap()
}

pub fn handshake() -> Handshake {
    Handshake {
        node_id: "node-1".into(),
        version: "1".into(),
        protocol_version: 1,
        capabilities: Capabilities::SESSION.to_wire(),
        boot_id: "boot".into(),
        ..Default::default()
    }
}

pub fn listing(incarnation: u64, state: State) -> Handshake {
    Handshake {
        running_instances: vec![RunningInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            port: 30_000,
            state: state.to_wire(),
            incarnation,
        }],
        ..handshake()
    }
}

pub fn start(incarnation: u64) -> StartInstance {
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: 30_000,
        incarnation,
        ..Default::default()
    }
}

pub fn status(incarnation: u64, state: State) -> InstanceStatusUpdate {
    InstanceStatusUpdate {
        instance_id: "lobby-1".into(),
        state: state.to_wire(),
        port: 30_000,
        incarnation,
        ..Default::default()
    }
}

pub fn crash(incarnation: u64, report_id: &str) -> FromDaemon {
    FromDaemon::CrashReport(Box::new(CrashReport {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        exit_code: 1,
        report_id: report_id.into(),
        incarnation,
        ..Default::default()
    }))
}

pub fn storage() -> CommitFailure {
    CommitFailure::Storage("disk full".into())
}
