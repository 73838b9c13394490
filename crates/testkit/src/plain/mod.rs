//! A daemon that announces nothing, written from what the Java daemon was seen to do
//!
//! [`DaemonHost`](crate::DaemonHost) with [`Peers::JavaDaemon`](crate::Peers::JavaDaemon) is the shipped daemon with its
//! additions taken away. This one shares nothing with it:
//! - it says nothing while it prepares, `PREPARING` and `STARTING` just before it launches, and accepts the start after that;
//! - it never says `RUNNING`; the server's plugin or its console does;
//! - it lists what lives, and forgets everything when it dies, while its servers run on;
//! - it acknowledges a stop when the process is gone, and one that it does not know at once;
//! - it can sit on a stop for [`SAT_ON`](server::SAT_ON), with everything that is asked of it about that server;
//! - what it says without a session is lost, crash reports aside.

pub mod server;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::daemon_message::Payload;
use prexorcloud_protocol::proto::{
    ControllerMessage, CrashReport, DaemonMessage, Handshake, InstanceStatusUpdate, NodeStatus, Pong,
    StartFailureDisposition, StartInstance, StartInstanceAck, StopInstance, StopInstanceAck,
    controller_message,
};
use prexorcloud_protocol::session::error_code;
use prexorcloud_protocol::{Incarnation, InstanceId, NodeId, Received};

use self::server::{Due, Server};
use crate::action::Action;
use crate::behaviour::Behaviour;
use crate::clock::Clock;
use crate::side::{DaemonSide, Effect, NoEffect, Turn};

/// How long a service manager takes to start a daemon again that has left
const RESTART: Duration = Duration::from_secs(10);
/// When the first load report comes, and how often after that
const FIRST_STATUS: Duration = Duration::from_secs(5);
const STATUS: Duration = Duration::from_secs(30);
/// How many crash reports it keeps while it has no session
const CRASHES: usize = 64;

/// The host of a daemon that announces nothing
#[derive(Clone, Debug)]
pub struct PlainDaemon {
    /// Every server that was ever launched, in that order.
    pub servers: Vec<Server>,
    /// Launches of a server although one of the very same start was alive, and when.
    pub copies: Vec<(Duration, InstanceId, Incarnation)>,
    node: NodeId,
    running: Option<Running>,
    boots_at: Option<Duration>,
    attempts: BTreeMap<(InstanceId, Incarnation), u32>,
}

/// What it has in memory
#[derive(Clone, Debug, Default)]
struct Running {
    has_stream: bool,
    /// The handshake has been acknowledged.
    is_connected: bool,
    says: VecDeque<Payload>,
    preparing: Vec<(Duration, Box<StartInstance>)>,
    crashes: VecDeque<CrashReport>,
    status_at: Option<Duration>,
    floor: u64,
    /// It has been told to shut down.
    is_leaving: bool,
}

impl Running {
    /// What is said without a session is lost.
    fn say(&mut self, payload: Payload) {
        if self.is_connected {
            self.says.push_back(payload);
        }
    }

    fn report(&mut self, server: &Server, state: State) {
        self.say(Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: server.instance.into(),
            state: state.to_wire(),
            port: server.port,
            ..InstanceStatusUpdate::default()
        }));
    }

    fn answer_stop(&mut self, instance_id: String) {
        self.say(Payload::StopInstanceAck(StopInstanceAck {
            instance_id,
            accepted: true,
            ..StopInstanceAck::default()
        }));
    }

    fn reject(&mut self, instance_id: &str, code: &str, disposition: StartFailureDisposition) {
        let is_transient = disposition == StartFailureDisposition::Transient;
        self.say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: instance_id.to_owned(),
            accepted: false,
            error_code: code.to_owned(),
            error_message: format!("{code}, says the script"),
            failure_disposition: disposition.into(),
            retry_after_seconds: if is_transient { 3 } else { 0 },
            ..StartInstanceAck::default()
        })));
    }
}

impl PlainDaemon {
    pub(crate) const fn new(node: NodeId) -> Self {
        Self {
            servers: Vec::new(),
            copies: Vec::new(),
            node,
            running: None,
            boots_at: Some(Duration::ZERO),
            attempts: BTreeMap::new(),
        }
    }

    /// The servers whose process is there.
    pub fn live(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.is_live())
    }

    /// Those of them that the daemon knows.
    pub fn known(&self) -> impl Iterator<Item = &Server> {
        self.live().filter(|server| server.is_known)
    }

    fn handshake(&self) -> Handshake {
        Handshake {
            node_id: self.node.into(),
            version: "plain".to_owned(),
            total_memory_mb: 1_024,
            running_instances: self.known().map(Server::listing).collect(),
            protocol_version: prexorcloud_protocol::compat::PROTOCOL_VERSION,
            ..Handshake::default()
        }
    }

    fn status(&self) -> NodeStatus {
        let used_ports: Vec<i32> = self.known().map(|server| server.port).collect();
        NodeStatus {
            total_memory_mb: 2_048,
            instance_count: i32::try_from(used_ports.len()).unwrap_or(i32::MAX),
            used_ports,
            ..NodeStatus::default()
        }
    }

    fn handle_start(&mut self, now: Duration, start: Box<StartInstance>) {
        let Some(running) = &mut self.running else { return };
        let is_it = |server: &&Server| server.instance.as_str() == start.instance_id;
        let is_preparing = running
            .preparing
            .iter()
            .any(|(_, other)| other.instance_id == start.instance_id);
        let mut known = self
            .servers
            .iter()
            .filter(|server| server.is_live() && server.is_known);
        let permanent = StartFailureDisposition::Permanent;
        if is_preparing {
            running.reject(
                &start.instance_id,
                error_code::INSTANCE_ALREADY_STARTING,
                permanent,
            );
        } else if known.any(|server| is_it(&server)) {
            running.reject(
                &start.instance_id,
                error_code::INSTANCE_ALREADY_RUNNING,
                permanent,
            );
        } else if !(1..=65_535).contains(&start.port) {
            running.reject(&start.instance_id, "START_FAILED", permanent);
        } else {
            let behaviour: Behaviour = start.jar_file.parse().unwrap_or_default();
            running.preparing.push((now + behaviour.prepare, start));
        }
    }

    /// A preparation is over: the server is launched, or it has failed.
    fn finish_preparation(&mut self, turn: &mut Turn<'_>, start: &StartInstance) {
        let now = turn.moment();
        let Some(running) = &mut self.running else { return };
        let behaviour: Behaviour = start.jar_file.parse().unwrap_or_default();
        let Some(server) = Server::launched(now, start) else {
            return;
        };
        let attempt = self
            .attempts
            .entry((server.instance, server.ordered))
            .or_default();
        *attempt += 1;
        let failure = if behaviour.refuse {
            Some(StartFailureDisposition::Permanent)
        } else {
            (*attempt <= behaviour.transient_failures).then_some(StartFailureDisposition::Transient)
        };
        if let Some(disposition) = failure {
            turn.note(|| format!("{} cannot be prepared", server.instance));
            return running.reject(&start.instance_id, "RUNTIME_PROVISION_FAILED", disposition);
        }
        turn.note(|| format!("{}#{} is launched", server.instance, server.ordered));
        let is_copy = |other: &Server| {
            other.is_live() && (other.instance, other.ordered) == (server.instance, server.ordered)
        };
        if server.ordered.is_known() && self.servers.iter().any(is_copy) {
            self.copies.push((now, server.instance, server.ordered));
        }
        running.report(&server, State::Preparing);
        running.report(&server, State::Starting);
        running.say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: start.instance_id.clone(),
            accepted: true,
            ..StartInstanceAck::default()
        })));
        self.servers.push(server);
    }

    fn handle_stop(&mut self, now: Duration, stop: StopInstance) {
        let Some(running) = &mut self.running else { return };
        let is_it = |server: &&mut Server| {
            server.is_live() && server.is_known && server.instance.as_str() == stop.instance_id
        };
        match self.servers.iter_mut().find(is_it) {
            Some(server) => {
                if server.ask(now, stop.force) {
                    running.report(server, State::Stopping);
                }
            }
            // Also of what it prepares.
            None => running.answer_stop(stop.instance_id),
        }
    }

    fn shut_down(&mut self, now: Duration) {
        let Some(running) = &mut self.running else { return };
        running.is_leaving = true;
        running.preparing.clear();
        for server in self
            .servers
            .iter_mut()
            .filter(|server| server.is_live() && server.is_known)
        {
            if server.ask(now, false) {
                running.report(server, State::Stopping);
            }
        }
    }

    fn handle_server(&mut self, turn: &mut Turn<'_>, index: usize, due: Due) {
        let now = turn.moment();
        let Some(server) = self.servers.get_mut(index) else {
            return;
        };
        let was_known = server.is_known;
        match due {
            Due::Ready => {
                server.become_ready();
                turn.note(|| format!("{}#{} is ready", server.instance, server.ordered));
                if let Some(running) = self.running.as_mut().filter(|_| was_known) {
                    running.say(Payload::ConsoleOutput(server.ready_line()));
                }
            }
            Due::Ended(code) => {
                server.end(now);
                turn.note(|| format!("{}#{} ends with {code}", server.instance, server.ordered));
                let Some(running) = self.running.as_mut().filter(|_| was_known) else {
                    return;
                };
                let is_crash = server.state != State::Stopping && code != 0;
                let state = if is_crash { State::Crashed } else { State::Stopped };
                running.report(server, state);
                if is_crash {
                    let report = CrashReport {
                        instance_id: server.instance.into(),
                        group: server.group.clone(),
                        exit_code: code,
                        log_tail: vec!["it fell over".to_owned()],
                        ..CrashReport::default()
                    };
                    if running.is_connected {
                        running.say(Payload::CrashReport(Box::new(report)));
                    } else {
                        if running.crashes.len() == CRASHES {
                            running.crashes.pop_front();
                        }
                        running.crashes.push_back(report);
                    }
                }
                for _ in 0..std::mem::take(&mut server.stops) {
                    running.answer_stop(server.instance.as_str().to_owned());
                }
            }
        }
    }

    fn leave(&mut self, boots_at: Duration) {
        self.running = None;
        self.servers.iter_mut().for_each(Server::forget);
        self.boots_at = Some(boots_at);
    }

    fn next_server(&self) -> Option<(Duration, usize, Due)> {
        let servers = self.servers.iter().enumerate();
        let due = servers.filter_map(|(index, server)| server.next().map(|(at, due)| (at, index, due)));
        due.min_by_key(|(at, index, _)| (*at, *index))
    }

    fn live_mut(&mut self, instance: InstanceId) -> Result<&mut Server, NoEffect> {
        let is_it = |server: &&mut Server| server.is_live() && server.instance == instance;
        let server = self.servers.iter_mut().rev().find(is_it);
        server.ok_or_else(|| NoEffect::because(format!("{instance} has no process")))
    }
}

impl DaemonSide for PlainDaemon {
    fn handle_opened(&mut self, _turn: &mut Turn<'_>) {
        let handshake = self.handshake();
        if let Some(running) = &mut self.running {
            running.has_stream = true;
            running.is_connected = false;
            running.says.clear();
            running.says.push_back(Payload::Handshake(Box::new(handshake)));
        }
    }

    fn handle_message(&mut self, turn: &mut Turn<'_>, received: Received<ControllerMessage>) {
        use controller_message::Payload as Order;
        let now = turn.moment();
        let Some(running) = &mut self.running else { return };
        let ControllerMessage { epoch, payload, .. } = received.message;
        let Some(payload) = payload else { return };
        let is_ack = matches!(payload, Order::HandshakeAck(_));
        if !is_ack && epoch != 0 && epoch < running.floor {
            return;
        }
        running.floor = running.floor.max(epoch);
        match payload {
            Order::HandshakeAck(_) => {
                running.is_connected = true;
                running.status_at = Some(now + FIRST_STATUS);
                for report in std::mem::take(&mut running.crashes) {
                    running.say(Payload::CrashReport(Box::new(report)));
                }
            }
            Order::Ping(ping) => running.say(Payload::Pong(Pong {
                sequence: ping.sequence,
            })),
            Order::StartInstance(_) if running.is_leaving => {}
            Order::StartInstance(start) => self.handle_start(now, start),
            Order::StopInstance(stop) => self.handle_stop(now, stop),
            Order::ShutdownNode(_) => self.shut_down(now),
            _ => {}
        }
    }

    fn handle_ended(&mut self, _turn: &mut Turn<'_>) {
        if let Some(running) = &mut self.running {
            running.has_stream = false;
            running.is_connected = false;
            running.status_at = None;
            running.says.clear();
        }
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>) -> Option<DaemonMessage> {
        let payload = self.running.as_mut()?.says.pop_front()?;
        Some(DaemonMessage {
            payload: Some(payload),
        })
    }

    fn is_established(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_connected)
    }

    fn wants_end(&self) -> bool {
        let is_leaving = self.running.as_ref().is_some_and(|running| running.is_leaving);
        is_leaving && self.known().next().is_none()
    }

    fn is_up(&self) -> bool {
        self.running.is_some()
    }

    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        let running = self.running.as_ref();
        let preparing = running.into_iter().flat_map(|running| &running.preparing);
        let preparing = preparing.map(|(at, _)| *at);
        let status = running.and_then(|running| running.status_at);
        let server = self.next_server().map(|(at, ..)| at);
        preparing.chain(status).chain(server).chain(self.boots_at).min()
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>) -> bool {
        let now = turn.moment();
        if self.boots_at.is_some_and(|at| at <= now) {
            turn.note(|| "daemon starts");
            self.boots_at = None;
            self.running = Some(Running::default());
            return true;
        }
        if let Some((_, index, due)) = self.next_server().filter(|(at, ..)| *at <= now) {
            self.handle_server(turn, index, due);
            return true;
        }
        let status = self.status();
        let Some(running) = &mut self.running else {
            return false;
        };
        if running.status_at.is_some_and(|at| at <= now) {
            running.status_at = Some(now + STATUS);
            running.say(Payload::NodeStatus(status));
            return true;
        }
        let Some(index) = running.preparing.iter().position(|(at, _)| *at <= now) else {
            return false;
        };
        let (_, start) = running.preparing.remove(index);
        self.finish_preparation(turn, &start);
        true
    }

    fn settle(&mut self, turn: &mut Turn<'_>) -> bool {
        let has_left = self.wants_end() && self.running.as_ref().is_some_and(|running| !running.has_stream);
        if has_left {
            turn.note(|| "daemon has left");
            self.leave(turn.moment() + RESTART);
        }
        has_left
    }

    fn act(&mut self, turn: &mut Turn<'_>, action: &Action) -> Effect {
        let now = turn.moment();
        match action {
            Action::RestartDaemon(down_for) => {
                turn.note(|| "daemon is killed");
                self.leave(now + *down_for);
            }
            Action::Crash(instance) => self.live_mut(*instance)?.end_now(now, 134),
            Action::Exit(instance) => self.live_mut(*instance)?.end_now(now, 0),
            Action::Heal => {}
            _ => return Err(NoEffect::because("this daemon knows no such action")),
        }
        Ok(())
    }

    fn plugins(&self) -> Vec<(InstanceId, Incarnation)> {
        // The credential of one that counts as lost is dead.
        let calls = |server: &&Server| server.is_ready && server.has_plugin;
        self.known()
            .filter(calls)
            .map(|server| (server.instance, server.ordered))
            .collect()
    }

    fn plain(&self) -> Option<&PlainDaemon> {
        Some(self)
    }
}
