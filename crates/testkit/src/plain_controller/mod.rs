//! A controller that announces nothing, written from what the Java controller was seen to do
//!
//! [`ControllerHost`](crate::ControllerHost) with [`Peers::JavaController`](crate::Peers::JavaController) is the shipped
//! controller with its additions taken away. This one shares nothing with it:
//! - it takes every listed instance that it does not know, or knows as ended, for running, whatever state stands there,
//!   and what it knows and finds unlisted for crashed;
//! - it hears from a server's plugin that it is ready, and never from the console;
//! - it repeats a start every [`TICK`] for as long as it has not heard that the server runs, and a stop never;
//! - its first starts, commands and pings may overtake its acknowledgement, and it obeys what an old stream still says;
//! - it acknowledges no crash report, has no time in which a server must be up, and forgets no instance while it lives.

mod counts;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::controller_message::Payload;
use prexorcloud_protocol::proto::{
    ControllerMessage, DaemonMessage, Handshake, HandshakeAck, Ping, SendCommand, ShutdownNode, StopInstance,
    daemon_message,
};
use prexorcloud_protocol::{Incarnation, InstanceId, Received};

pub use counts::{Counted, Counts};

use crate::action::Action;
use crate::behaviour::Behaviour;
use crate::clock::Clock;
use crate::operator::start_of;
use crate::side::{ControllerSide, Effect, NoEffect, Turn};
use crate::store::Store;

/// How often it starts again what does not run yet
pub const TICK: Duration = Duration::from_secs(15);
/// How long a node may be gone before all that it had counts as crashed
const GONE: Duration = Duration::from_secs(20);
/// How long a stream may be silent before its transport (30 s and 10 s in Java) ends it
const KEEPALIVE: Duration = Duration::from_secs(40);

/// The host of a controller that announces nothing
#[derive(Clone, Debug)]
pub struct PlainController {
    /// What it counts, ended instances with it.
    pub counted: Counts,
    number: u64,
    epoch: u64,
    heartbeat: Duration,
    boots_at: Option<Duration>,
    streams: BTreeMap<u32, Line>,
    /// The stream of the last handshake.
    current: Option<u32>,
    ping_at: Duration,
    pings: i64,
    tick_at: Duration,
    /// When the node has been gone for too long.
    gone_at: Option<Duration>,
    slow_ack: Option<Duration>,
    is_deposed: bool,
}

/// One stream
#[derive(Clone, Debug, Default)]
struct Line {
    says: VecDeque<Payload>,
    heard_at: Duration,
    has_greeted: bool,
    /// The acknowledgement takes until then.
    acks_at: Option<Duration>,
    is_admitted: bool,
    ends: bool,
}

const AWAY: NoEffect = NoEffect(std::borrow::Cow::Borrowed("the node is not connected"));

impl PlainController {
    pub(crate) fn new(heartbeat: Duration) -> Self {
        Self::of(1, heartbeat)
    }

    fn of(number: u64, heartbeat: Duration) -> Self {
        Self {
            counted: Counts::default(),
            number,
            epoch: 0,
            heartbeat,
            boots_at: Some(Duration::ZERO),
            streams: BTreeMap::new(),
            current: None,
            ping_at: Duration::ZERO,
            pings: 0,
            tick_at: Duration::ZERO,
            gone_at: None,
            slow_ack: None,
            is_deposed: false,
        }
    }

    fn say(&mut self, payload: Payload) -> Effect {
        let line = self.current.and_then(|stream| self.streams.get_mut(&stream));
        line.ok_or(AWAY)?.says.push_back(payload);
        Ok(())
    }

    fn greet(&mut self, turn: &mut Turn<'_>, stream: u32, handshake: Handshake) {
        let now = turn.moment();
        let usual = turn.rng().between(Duration::ZERO, Duration::from_millis(20));
        let delay = self.slow_ack.take().unwrap_or(usual);
        if let Some(line) = self.streams.get_mut(&stream) {
            line.has_greeted = true;
            line.acks_at = Some(now + delay);
        }
        self.current = Some(stream);
        self.gone_at = None;
        let mut listed = Vec::new();
        for running in handshake.running_instances {
            let Ok(instance) = InstanceId::new(&running.instance_id) else {
                continue;
            };
            listed.push(instance);
            if !self.counted.lives(instance) {
                turn.note(|| format!("{} adopts {instance}", self.name()));
                self.counted.enter(instance, None, now);
            } else if let Ok(state) = State::try_from(running.state) {
                self.counted.hear(&running.instance_id, state);
            }
        }
        self.counted.crash(|instance| !listed.contains(&instance));
        self.start_again(now);
    }

    /// Sends every start again of what does not run yet.
    fn start_again(&mut self, now: Duration) {
        let Some(line) = self.current.and_then(|stream| self.streams.get_mut(&stream)) else {
            return;
        };
        let due = self.counted.starts_due(now);
        line.says.extend(due.map(Payload::StartInstance));
    }

    fn start(&mut self, now: Duration, instance: InstanceId, behaviour: &Behaviour) -> Effect {
        if self.counted.lives(instance) {
            return Err(NoEffect::because("it is there already"));
        }
        let start = Box::new(start_of(instance, behaviour));
        self.say(Payload::StartInstance(start.clone()))?;
        self.counted.enter(instance, Some(start), now);
        Ok(())
    }

    fn stop(&mut self, instance: InstanceId, force: bool) -> Effect {
        if !self.counted.lives(instance) {
            return Err(NoEffect::because("it does not live"));
        }
        self.say(Payload::StopInstance(StopInstance {
            instance_id: instance.into(),
            force,
            ..StopInstance::default()
        }))?;
        self.counted.hear(instance.as_str(), State::Stopping);
        Ok(())
    }

    fn name(&self) -> String {
        format!("controller {}", self.number)
    }
}

impl ControllerSide for PlainController {
    fn handle_opened(&mut self, turn: &mut Turn<'_>, stream: u32) {
        let heard_at = turn.moment();
        let line = Line {
            heard_at,
            ..Line::default()
        };
        self.streams.insert(stream, line);
    }

    fn handle_message(&mut self, turn: &mut Turn<'_>, stream: u32, received: Received<DaemonMessage>) {
        use daemon_message::Payload as Report;
        let Some(line) = self.streams.get_mut(&stream) else {
            return;
        };
        line.heard_at = turn.moment();
        match received.message.payload {
            // A second one ends the stream.
            Some(Report::Handshake(_)) if line.has_greeted => line.ends = true,
            Some(Report::Handshake(handshake)) => self.greet(turn, stream, *handshake),
            _ if !line.has_greeted => {}
            Some(Report::InstanceStatus(update)) => {
                if let Ok(state) = State::try_from(update.state) {
                    self.counted.hear(&update.instance_id, state);
                }
            }
            Some(Report::CrashReport(report)) => self.counted.hear(&report.instance_id, State::Crashed),
            Some(Report::StartInstanceAck(ack)) => self.counted.handle_start_ack(turn.moment(), &ack),
            _ => {}
        }
    }

    fn handle_ended(&mut self, turn: &mut Turn<'_>, stream: u32) {
        self.streams.remove(&stream);
        if self.current == Some(stream) {
            self.current = None;
            self.gone_at = Some(turn.moment() + GONE);
        }
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>, stream: u32) -> Option<ControllerMessage> {
        let payload = self.streams.get_mut(&stream)?.says.pop_front()?;
        let is_unfenced = matches!(
            payload,
            Payload::Ping(_) | Payload::SendCommand(_) | Payload::ShutdownNode(_)
        );
        Some(ControllerMessage {
            epoch: if is_unfenced { 0 } else { self.epoch },
            payload: Some(payload),
            ..ControllerMessage::default()
        })
    }

    fn is_established(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|line| line.is_admitted)
    }

    fn wants_end(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|line| line.ends)
    }

    fn is_up(&self) -> bool {
        self.boots_at.is_none()
    }

    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        if self.boots_at.is_some() {
            return self.boots_at;
        }
        let acks = self.streams.values().filter_map(|line| line.acks_at);
        acks.chain(self.gone_at).chain([self.ping_at, self.tick_at]).min()
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>, store: &mut Store) -> bool {
        let now = turn.moment();
        if let Some(boots_at) = self.boots_at {
            let is_due = boots_at <= now;
            if is_due {
                self.boots_at = None;
                if !self.is_deposed {
                    self.epoch = store.take_lead().get();
                }
                (self.ping_at, self.tick_at) = (now + self.heartbeat, now + TICK);
                turn.note(|| format!("{} starts with epoch {}", self.name(), self.epoch));
            }
            return is_due;
        }
        for (stream, line) in &mut self.streams {
            if line.acks_at.is_some_and(|at| at <= now) {
                line.acks_at = None;
                line.is_admitted = true;
                line.says.push_back(Payload::HandshakeAck(Box::new(HandshakeAck {
                    session_id: format!("{}/{stream}", self.number),
                    heartbeat_interval_ms: i64::try_from(self.heartbeat.as_millis()).unwrap_or(i64::MAX),
                    protocol_version: PROTOCOL_VERSION,
                    protocol_compatible: true,
                    epoch: self.epoch,
                    ..HandshakeAck::default()
                })));
                return true;
            }
        }
        if self.gone_at.take_if(|at| *at <= now).is_some() {
            self.counted.crash(|_| true);
        } else if self.ping_at <= now {
            self.ping_at = now + self.heartbeat;
            let is_silent = |line: &&mut Line| line.heard_at + KEEPALIVE < now;
            let silent = self.streams.values_mut().filter(is_silent);
            silent.for_each(|line| line.ends = true);
            self.pings += 1;
            let ping = Ping {
                sequence: self.pings,
                ..Ping::default()
            };
            // Without a node there is nobody to ping.
            let _ = self.say(Payload::Ping(ping));
        } else if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.start_again(now);
        } else {
            return false;
        }
        true
    }

    fn act(&mut self, turn: &mut Turn<'_>, _store: &mut Store, action: &Action) -> Effect {
        match action {
            Action::Start(instance, behaviour) => self.start(turn.moment(), *instance, behaviour),
            Action::Stop(instance) => self.stop(*instance, false),
            Action::Kill(instance) => self.stop(*instance, true),
            Action::Command(instance, line) => self.say(Payload::SendCommand(SendCommand {
                instance_id: (*instance).into(),
                command: line.clone(),
                ..SendCommand::default()
            })),
            Action::ShutDownNode => self.say(Payload::ShutdownNode(ShutdownNode {
                reason: "the operator said so".to_owned(),
            })),
            Action::CloseSession => {
                let line = self.current.and_then(|stream| self.streams.get_mut(&stream));
                line.ok_or(AWAY)?.ends = true;
                Ok(())
            }
            Action::SlowAdmission(_) | Action::Heal => {
                self.slow_ack = match action {
                    Action::SlowAdmission(time) => Some(*time),
                    _ => None,
                };
                Ok(())
            }
            Action::RestartController(down_for) => {
                turn.note(|| format!("{} is killed", self.name()));
                *self = Self {
                    boots_at: Some(turn.moment() + *down_for),
                    epoch: self.epoch,
                    is_deposed: self.is_deposed,
                    ..Self::of(self.number, self.heartbeat)
                };
                Ok(())
            }
            _ => Err(NoEffect::because("this controller knows no such action")),
        }
    }

    fn handle_ready(&mut self, _turn: &mut Turn<'_>, instance: InstanceId, _start: Incarnation) {
        let state = self.counted.state(instance);
        if state.is_some_and(|state| state.is_coming_up()) {
            self.counted.hear(instance.as_str(), State::Running);
        }
    }

    fn depose(&mut self, _turn: &mut Turn<'_>) -> Option<Self> {
        self.is_deposed = true;
        Some(Self::of(self.number + 1, self.heartbeat))
    }

    fn plain(&self) -> Option<&PlainController> {
        Some(self)
    }
}
