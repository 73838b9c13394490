//! Daemons that do what no daemon should

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{
    ControllerMessage, CrashReport, DaemonMessage, ErrorReport, Handshake, InstanceStatusUpdate, NodeStatus,
    Pong, StartInstanceAck, StopInstanceAck, controller_message, daemon_message,
};
use prexorcloud_protocol::session::kind;
use prexorcloud_protocol::{Capabilities, Received};
use prexorcloud_testkit::{Behaviour, Clock, DaemonSide, NODE, Pair, Turn};

use super::{LOBBY, MINUTE, SECOND, apply};

/// What is wrong with a daemon
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// It acknowledges everything and does nothing.
    Idle,
    /// It does that, and says everything three times.
    Echo,
    /// What it runs runs for ever: it answers a stop with `RUNNING`.
    Stubborn,
    /// It says one thing of each kind in every millisecond.
    Chatty,
}

/// A daemon written by hand: a handshake, pongs and acknowledgements
#[derive(Debug)]
struct Stranger {
    habit: Habit,
    capabilities: Capabilities,
    says: VecDeque<daemon_message::Payload>,
    is_admitted: bool,
    /// The incarnation that was ordered last.
    incarnation: u64,
    chats_at: Option<Duration>,
    /// What it was told, by kind.
    told: BTreeMap<&'static str, u32>,
}

impl Stranger {
    fn new(habit: Habit, capabilities: Capabilities) -> Self {
        Self {
            habit,
            capabilities,
            says: VecDeque::new(),
            is_admitted: false,
            incarnation: 0,
            chats_at: None,
            told: BTreeMap::new(),
        }
    }

    fn say(&mut self, payload: daemon_message::Payload) {
        let times = if self.habit == Habit::Echo && self.is_admitted {
            3
        } else {
            1
        };
        self.says.extend(std::iter::repeat_n(payload, times));
    }

    fn running(&self) -> daemon_message::Payload {
        daemon_message::Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: LOBBY.to_owned(),
            state: State::Running.to_wire(),
            incarnation: self.incarnation,
            ..Default::default()
        })
    }

    fn accepts_start(&self) -> daemon_message::Payload {
        daemon_message::Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: LOBBY.to_owned(),
            accepted: true,
            incarnation: self.incarnation,
            ..Default::default()
        }))
    }

    fn accepts_stop(&self) -> daemon_message::Payload {
        daemon_message::Payload::StopInstanceAck(StopInstanceAck {
            instance_id: LOBBY.to_owned(),
            accepted: true,
            incarnation: self.incarnation,
            ..Default::default()
        })
    }

    fn chat(&mut self) {
        use daemon_message::Payload;
        let crash = CrashReport {
            instance_id: LOBBY.to_owned(),
            report_id: format!("crash-{}", self.incarnation),
            incarnation: self.incarnation,
            exit_code: 1,
            ..Default::default()
        };
        let chat = [
            self.running(),
            self.accepts_start(),
            self.accepts_stop(),
            Payload::NodeStatus(NodeStatus::default()),
            Payload::Pong(Pong { sequence: 7 }),
            Payload::CrashReport(Box::new(crash)),
            Payload::ErrorReport(ErrorReport {
                error_code: "BORED".to_owned(),
                ..Default::default()
            }),
        ];
        self.says.extend(chat);
    }

    fn told(&self, kind: &str) -> u32 {
        self.told.get(kind).copied().unwrap_or_default()
    }
}

impl DaemonSide for Stranger {
    fn handle_opened(&mut self, turn: &mut Turn<'_>) {
        self.say(daemon_message::Payload::Handshake(Box::new(Handshake {
            node_id: NODE.to_owned(),
            version: "stranger".to_owned(),
            protocol_version: PROTOCOL_VERSION,
            capabilities: self.capabilities.announcement(),
            ..Handshake::default()
        })));
        self.chats_at = (self.habit == Habit::Chatty).then(|| turn.moment() + SECOND);
    }

    fn handle_message(&mut self, _turn: &mut Turn<'_>, received: Received<ControllerMessage>) {
        use controller_message::Payload;
        let Some(payload) = received.message.payload else {
            return;
        };
        *self.told.entry(kind::of_controller(&payload)).or_default() += 1;
        match payload {
            Payload::HandshakeAck(_) => self.is_admitted = true,
            Payload::Ping(ping) => self.say(daemon_message::Payload::Pong(Pong {
                sequence: ping.sequence,
            })),
            Payload::StartInstance(start) => {
                self.incarnation = start.incarnation;
                self.say(self.accepts_start());
                if self.habit == Habit::Stubborn {
                    self.say(self.running());
                }
            }
            Payload::StopInstance(_) => {
                self.say(self.accepts_stop());
                if self.habit == Habit::Stubborn {
                    self.say(self.running());
                }
            }
            _ => {}
        }
    }

    fn handle_ended(&mut self, _turn: &mut Turn<'_>) {
        self.is_admitted = false;
        self.says.clear();
        self.chats_at = None;
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>) -> Option<DaemonMessage> {
        let payload = self.says.pop_front()?;
        Some(DaemonMessage {
            payload: Some(payload),
        })
    }

    fn is_established(&self) -> bool {
        self.is_admitted
    }

    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        self.chats_at
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>) -> bool {
        let is_due = self.chats_at.is_some_and(|at| at <= turn.moment());
        if is_due {
            self.chat();
            self.chats_at = Some(turn.moment() + Duration::from_millis(1));
        }
        is_due
    }
}

/// Starts an instance on a stranger, stops it and kills it; what is told meanwhile is counted.
fn lead_a_life(habit: Habit, capabilities: Capabilities, patience: Duration) -> Pair<Stranger> {
    let mut pair = Pair::with_daemon(1, Stranger::new(habit, capabilities));
    pair.run_until(MINUTE, Pair::is_established).unwrap();
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_for(patience).unwrap();
    apply(&mut pair, "stop lobby-1");
    pair.run_for(patience).unwrap();
    apply(&mut pair, "kill lobby-1");
    pair.run_for(patience).unwrap();
    pair
}

/// The most orders of one kind that one command may cost on one stream: 1 + 3 retries, for a stop and a forced stop.
const ORDERS: u32 = 8;

#[test]
fn a_daemon_that_does_nothing_costs_few_messages_and_its_instance_has_crashed() {
    for capabilities in [Capabilities::SESSION, Capabilities::NONE] {
        for habit in [Habit::Idle, Habit::Echo] {
            let mut pair = lead_a_life(habit, capabilities, 30 * MINUTE);
            let told = format!("{habit:?} {:?}", pair.daemon().told);
            assert!(pair.daemon().told("StartInstance") <= 4, "{told}");
            assert!(pair.daemon().told("StopInstance") <= ORDERS, "{told}");
            // Of three pongs two answer nothing, and the daemon is told so.
            let mistakes = 2 * pair.daemon().told("Ping") + 20;
            assert!(pair.daemon().told("ErrorReport") <= mistakes, "{told}");
            let end = pair.believed(LOBBY).unwrap();
            assert!(end.is_terminal(), "{habit:?}: {end}");
            if habit == Habit::Idle {
                pair.come_to_rest().unwrap();
            }
        }
    }
}

#[test]
fn a_daemon_that_answers_a_stop_with_running_for_ever_is_told_so_often_and_no_more() {
    let mut pair = lead_a_life(Habit::Stubborn, Capabilities::SESSION, 30 * MINUTE);
    let told = format!("{:?}", pair.daemon().told);
    assert!(pair.daemon().told("StartInstance") <= 4, "{told}");
    assert!(pair.daemon().told("StopInstance") <= 2 * ORDERS, "{told}");
    assert!(pair.believed(LOBBY).unwrap().is_terminal());
    pair.come_to_rest().unwrap();
}

#[test]
fn a_daemon_that_talks_without_end_is_answered_with_few_messages() {
    let pair = lead_a_life(Habit::Chatty, Capabilities::SESSION, 3 * SECOND);
    let told: u32 = pair.daemon().told.values().sum();
    assert!(told <= 60, "{:?}", pair.daemon().told);
}
