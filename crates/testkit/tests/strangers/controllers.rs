//! Controllers that do what no controller should

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{
    ControllerMessage, DaemonMessage, HandshakeAck, Ping, StartInstance, StopInstance, controller_message,
    daemon_message,
};
use prexorcloud_protocol::session::kind;
use prexorcloud_protocol::{DaemonOutcome, Received};
use prexorcloud_testkit::side::{Effect, NoEffect};
use prexorcloud_testkit::store::Store;
use prexorcloud_testkit::{Action, Behaviour, Clock, ControllerSide, Pair, Turn};

use super::{LOBBY, MINUTE, SECOND, apply};

/// How often everything is said.
const TIMES: usize = 3;

/// A controller written by hand that says everything several times
#[derive(Debug)]
struct Stammerer {
    /// The acknowledgement of a handshake as well.
    acknowledges_twice: bool,
    stream: Option<u32>,
    says: VecDeque<controller_message::Payload>,
    pings: i64,
    pings_at: Option<Duration>,
    every: Duration,
    /// What it was told, by kind.
    told: BTreeMap<&'static str, u32>,
}

impl Stammerer {
    fn new(acknowledges_twice: bool, every: Duration) -> Self {
        Self {
            acknowledges_twice,
            stream: None,
            says: VecDeque::new(),
            pings: 0,
            pings_at: None,
            every,
            told: BTreeMap::new(),
        }
    }

    fn say(&mut self, payload: controller_message::Payload) {
        self.says.extend(std::iter::repeat_n(payload, TIMES));
    }

    fn told(&self, kind: &str) -> u32 {
        self.told.get(kind).copied().unwrap_or_default()
    }
}

impl ControllerSide for Stammerer {
    fn handle_opened(&mut self, _turn: &mut Turn<'_>, stream: u32) {
        self.stream = None;
        self.says.clear();
        self.pings = 0;
        let _ = stream;
    }

    fn handle_message(&mut self, turn: &mut Turn<'_>, stream: u32, received: Received<DaemonMessage>) {
        let Some(payload) = received.message.payload else {
            return;
        };
        *self.told.entry(kind::of_daemon(&payload)).or_default() += 1;
        if let daemon_message::Payload::Handshake(_) = payload {
            let ack = controller_message::Payload::HandshakeAck(Box::new(HandshakeAck {
                protocol_version: PROTOCOL_VERSION,
                protocol_compatible: true,
                heartbeat_interval_ms: 30_000,
                ..Default::default()
            }));
            self.stream = Some(stream);
            self.pings_at = Some(turn.moment() + self.every);
            if self.acknowledges_twice {
                self.say(ack);
            } else {
                self.says.push_back(ack);
            }
        }
    }

    fn handle_ended(&mut self, _turn: &mut Turn<'_>, stream: u32) {
        if self.stream == Some(stream) {
            self.stream = None;
            self.pings_at = None;
            self.says.clear();
        }
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>, stream: u32) -> Option<ControllerMessage> {
        let payload = (self.stream == Some(stream)).then(|| self.says.pop_front())??;
        Some(ControllerMessage {
            payload: Some(payload),
            ..Default::default()
        })
    }

    fn is_established(&self, stream: u32) -> bool {
        self.stream == Some(stream)
    }

    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        self.pings_at
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>, _store: &mut Store) -> bool {
        let is_due = self.pings_at.is_some_and(|at| at <= turn.moment());
        if is_due {
            self.pings += 1;
            let sequence = self.pings;
            self.say(controller_message::Payload::Ping(Ping {
                sequence,
                answered: 0,
            }));
            self.pings_at = Some(turn.moment() + self.every);
        }
        is_due
    }

    fn act(&mut self, _turn: &mut Turn<'_>, _store: &mut Store, action: &Action) -> Effect {
        let payload = match action {
            Action::Start(instance, behaviour) => {
                controller_message::Payload::StartInstance(Box::new(StartInstance {
                    instance_id: instance.to_string(),
                    group: "strange".to_owned(),
                    port: 30_000,
                    jar_file: behaviour.to_string(),
                    incarnation: 1,
                    ..Default::default()
                }))
            }
            Action::Stop(instance) => controller_message::Payload::StopInstance(StopInstance {
                instance_id: instance.to_string(),
                incarnation: 1,
                ..Default::default()
            }),
            _ => return Err(NoEffect::because("it only starts and stops")),
        };
        self.say(payload);
        Ok(())
    }
}

#[test]
fn a_controller_that_repeats_everything_starts_and_stops_once() {
    let mut pair = Pair::with_controller(1, Stammerer::new(false, 30 * SECOND));
    pair.run_until(MINUTE, Pair::is_established).unwrap();
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_until(MINUTE, |pair| pair.real(LOBBY) == Some(State::Running))
        .unwrap();
    pair.run_for(30 * MINUTE).unwrap();
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.real(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(pair.streams_opened(), 1);
    assert_eq!(pair.daemon().facts.launches.len(), 1);
    assert_eq!(pair.daemon().facts.stops.len(), 1);
    let told = format!("{:?}", pair.controller().told);
    // Each repetition of an order is answered, and told what is true.
    assert!(pair.controller().told("StartInstanceAck") <= 3, "{told}");
    assert!(pair.controller().told("StopInstanceAck") <= 3, "{told}");
    assert!(pair.controller().told("InstanceStatusUpdate") <= 5 + 4, "{told}");
}

#[test]
fn a_controller_that_acknowledges_twice_is_left_each_time() {
    let mut pair = Pair::with_controller(1, Stammerer::new(true, 30 * SECOND));
    pair.run_for(5 * MINUTE).unwrap();
    assert_eq!(
        pair.daemon().facts.last_outcome,
        Some(DaemonOutcome::AcknowledgedTwice)
    );
    // A session came about each time, so the daemon dials again within a second, half of one on average.
    let streams = pair.streams_opened();
    assert!(streams <= 3 * 5 * 60, "{streams}");
}

#[test]
fn a_controller_that_pings_every_millisecond_keeps_its_daemon_busy_and_whole() {
    let mut pair = Pair::with_controller(1, Stammerer::new(false, Duration::from_millis(1)));
    pair.run_until(MINUTE, Pair::is_established).unwrap();
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_for(10 * SECOND).unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    assert_eq!(pair.streams_opened(), 1);
    // A pong for each ping, and nothing else for them.
    let others: u32 = pair
        .controller()
        .told
        .iter()
        .filter(|(kind, _)| **kind != "Pong")
        .map(|(_, count)| count)
        .sum();
    assert!(others < 60, "{:?}", pair.controller().told);
}
