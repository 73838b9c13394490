//! What a peer costs that says everything, all the time
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

#[path = "controller_node/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the controller's node machine")]
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::limits::INSTANCES_PER_NODE;
use prexorcloud_protocol::node::daemon::{DaemonNode, DaemonNodeConfig, DaemonWork, Prepared};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{
    ConsoleOutput, ControllerMessage, CrashReportAck, ErrorReport, EventSubscribe, EventUnsubscribe,
    Handshake, HandshakeAck, InstanceFileContent, InstanceFileTree, NodeStatus, Ping, Pong, RunningInstance,
    SendCommand, ShutdownNode, ShutdownNodeAck, StartInstance, StartInstanceAck, StopInstance,
    StopInstanceAck, TemplateRequest,
};
use prexorcloud_protocol::session::{ANSWERS_AT_ONCE, PINGS_AT_ONCE, kind};
use prexorcloud_protocol::{Capabilities, DaemonConfig, DaemonSession, Session as _, StopMode};
use world::World;

/// How long each flood lasts, with one message of each kind in a millisecond.
const FLOOD: Duration = Duration::from_secs(10);

/// What a flood of what changes nothing may cost: what is answered at once, and what is granted while it lasts.
const ANSWERS: usize = ANSWERS_AT_ONCE as usize + 10 * FLOOD.as_secs() as usize;

/// What a flood of mistakes may cost.
const MISTAKES: usize = 32 + FLOOD.as_secs() as usize;

fn counted(kinds: impl IntoIterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for kind in kinds {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// One of each kind that a daemon can say after its handshake.
fn everything(number: i64, state: State) -> Vec<FromDaemon> {
    vec![
        FromDaemon::Pong(Pong { sequence: number }),
        FromDaemon::InstanceStatus(world::status(1, state)),
        FromDaemon::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: "lobby-1".into(),
            accepted: true,
            incarnation: 1,
            ..Default::default()
        })),
        FromDaemon::StopInstanceAck(StopInstanceAck {
            instance_id: "lobby-1".into(),
            accepted: true,
            incarnation: 1,
            ..Default::default()
        }),
        world::crash(2, "the-same-report"),
        FromDaemon::ConsoleOutput(ConsoleOutput {
            instance_id: "nobody".into(),
            ..Default::default()
        }),
        FromDaemon::NodeStatus(NodeStatus::default()),
        FromDaemon::TemplateRequest(TemplateRequest {
            template_name: "base".into(),
            ..Default::default()
        }),
        FromDaemon::CacheStatus(Box::default()),
        FromDaemon::ErrorReport(ErrorReport::default()),
        FromDaemon::ShutdownNodeAck(ShutdownNodeAck::default()),
        FromDaemon::DaemonLogRecord(Box::default()),
        FromDaemon::ModuleStateUpdate(Box::default()),
        FromDaemon::EventSubscribe(EventSubscribe {
            event_types: vec!["any".into()],
            ..EventSubscribe::default()
        }),
        FromDaemon::EventUnsubscribe(EventUnsubscribe::default()),
        FromDaemon::InstanceFileTree(InstanceFileTree::default()),
        FromDaemon::InstanceFileContent(InstanceFileContent::default()),
    ]
}

#[test]
fn a_daemon_that_says_everything_all_the_time_costs_a_bounded_number_of_messages() {
    for state in [State::Running, State::Stopping, State::Preparing, State::Crashed] {
        let mut world = World::connected();
        world.running();
        world.stop(StopMode::Graceful);
        let milliseconds = i64::try_from(FLOOD.as_millis()).unwrap();
        for number in 0..milliseconds {
            for payload in everything(number, state) {
                world.receive(1, payload);
            }
            world.events.clear();
            world.news.clear();
            world.committed.clear();
            world.advance(Duration::from_millis(1));
        }
        let sent = counted(world.sent(1).iter().map(kind::of_controller));
        let total: usize = sent.values().sum();
        assert!(total <= ANSWERS + MISTAKES + 16, "{state}: {sent:?}");
        assert!(
            world.session(1).anomalies() > 10_000,
            "what is not answered is counted"
        );
        let expected = match state {
            State::Crashed => State::Crashed,
            _ => State::Stopping,
        };
        assert_eq!(world.state(), expected, "{state}");
    }
}

/// A daemon as shipped, whose preparer and supervisor are quick, and whose processes never end.
struct Daemon {
    session: DaemonSession,
    node: DaemonNode<()>,
    now: Instant,
    sent: Vec<FromDaemon>,
    stops: u32,
}

impl Daemon {
    fn connected() -> Self {
        let config = DaemonConfig::new("node-1".parse().unwrap(), "1");
        let mut daemon = Self {
            session: DaemonSession::new(config, Hosted::new(), EpochFence::default()),
            node: DaemonNode::new(DaemonNodeConfig::default()),
            now: Instant::now(),
            sent: Vec::new(),
            stops: 0,
        };
        daemon.session.handle_connected(daemon.now);
        daemon.receive(FromController::HandshakeAck(Box::new(HandshakeAck {
            session_id: "s".into(),
            heartbeat_interval_ms: 30_000,
            protocol_version: 1,
            protocol_compatible: true,
            capabilities: Capabilities::SESSION.to_wire(),
            ..Default::default()
        })));
        daemon.receive(FromController::StartInstance(Box::new(world::start(5))));
        assert!(daemon.session.is_established());
        daemon.sent.clear();
        daemon
    }

    fn receive(&mut self, payload: FromController) {
        let message = ControllerMessage {
            payload: Some(payload),
            ..Default::default()
        };
        self.session.handle_message(self.now, message.into());
        self.turn();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
        self.node.handle_timeout(self.now);
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let mut is_idle = true;
            while let Some(event) = self.session.poll_event() {
                is_idle = false;
                let _ = self.node.handle_event(self.now, event);
            }
            while let Some(work) = self.node.poll_work() {
                is_idle = false;
                self.work(work);
            }
            while let Some(message) = self.session.poll_transmit() {
                is_idle = false;
                self.sent.push(message.payload.unwrap());
            }
            if is_idle {
                return;
            }
        }
    }

    fn work(&mut self, work: DaemonWork<()>) {
        let session = &mut self.session;
        match work {
            DaemonWork::Prepare { attempt, start, .. } => {
                let prepared = Prepared {
                    port: u16::try_from(start.port).unwrap(),
                    grace: Duration::from_secs(30),
                    startup_timeout: Duration::from_secs(60),
                    launch: (),
                };
                self.node.handle_prepared(self.now, attempt, prepared);
            }
            DaemonWork::Launch { attempt, .. } => {
                self.node.handle_launched(self.now, attempt);
                self.node
                    .handle_ready(self.now, attempt.instance(), attempt.incarnation());
            }
            DaemonWork::Report(report) => {
                let _ = session.report(&report);
            }
            DaemonWork::AcceptStart {
                instance,
                incarnation,
                plan_hash,
            } => session.start_accepted(instance, incarnation, plan_hash),
            DaemonWork::RejectStart {
                instance,
                incarnation,
                rejection,
            } => session.start_rejected(instance, incarnation, rejection),
            DaemonWork::AcknowledgeStop {
                instance,
                incarnation,
                result,
            } => session.stop_acknowledged(instance, incarnation, result),
            DaemonWork::AcknowledgeShutdown {
                running,
                estimated_drain,
            } => session.acknowledge_shutdown(running, estimated_drain),
            DaemonWork::Stop { .. } => self.stops += 1,
            _ => {}
        }
    }
}

fn flood(what: impl Fn(u64) -> FromController) -> (Daemon, BTreeMap<&'static str, usize>) {
    let mut daemon = Daemon::connected();
    for number in 0..u64::try_from(FLOOD.as_millis()).unwrap() {
        daemon.receive(what(number));
        daemon.advance(Duration::from_millis(1));
    }
    let sent = std::mem::take(&mut daemon.sent);
    let sent = counted(sent.iter().map(kind::of_daemon));
    (daemon, sent)
}

fn start(change: impl FnOnce(&mut StartInstance)) -> FromController {
    let mut start = world::start(6);
    change(&mut start);
    FromController::StartInstance(Box::new(start))
}

fn stop(instance: &str, incarnation: u64, force: bool) -> FromController {
    FromController::StopInstance(StopInstance {
        instance_id: instance.into(),
        force,
        incarnation,
    })
}

#[test]
fn a_controller_that_says_everything_all_the_time_costs_a_bounded_number_of_messages() {
    type Flood = Box<dyn Fn(u64) -> FromController>;
    let floods: Vec<(&str, usize, Flood)> = vec![
        (
            "the same start",
            2 * ANSWERS,
            Box::new(|_| start(|start| start.incarnation = 5)),
        ),
        (
            "an older start",
            ANSWERS,
            Box::new(|_| start(|start| start.incarnation = 4)),
        ),
        (
            "ever newer starts",
            ANSWERS,
            Box::new(|n| start(|start| start.incarnation = 6 + n)),
        ),
        (
            "an invalid start",
            ANSWERS + MISTAKES,
            Box::new(|_| start(|start| start.group.clear())),
        ),
        (
            "ever other starts of a port that is taken",
            ANSWERS,
            Box::new(|n| start(|start| start.instance_id = format!("other-{n}"))),
        ),
        (
            "a stop and a kill by turns",
            2 * ANSWERS + 1,
            Box::new(|n| stop("lobby-1", 5, n % 2 == 0)),
        ),
        (
            "a stop of an earlier start",
            2 * ANSWERS,
            Box::new(|_| stop("lobby-1", 4, true)),
        ),
        (
            "a stop of nobody",
            2 * ANSWERS,
            Box::new(|_| stop("nobody", 1, false)),
        ),
        (
            "a command for nobody",
            MISTAKES,
            Box::new(|_| {
                FromController::SendCommand(SendCommand {
                    instance_id: "nobody".into(),
                    command: "list".into(),
                    ..Default::default()
                })
            }),
        ),
        (
            "a ping",
            PINGS_AT_ONCE as usize + 10 * FLOOD.as_secs() as usize,
            Box::new(|n| {
                FromController::Ping(Ping {
                    sequence: i64::try_from(n).unwrap(),
                    ..Default::default()
                })
            }),
        ),
        (
            "an acknowledgement of a crash that was not",
            0,
            Box::new(|n| {
                FromController::CrashReportAck(CrashReportAck {
                    report_id: format!("report-{n}"),
                })
            }),
        ),
        (
            "the order to shut down",
            ANSWERS + 1,
            Box::new(|_| FromController::ShutdownNode(ShutdownNode::default())),
        ),
        (
            "an error",
            0,
            Box::new(|_| FromController::ErrorReport(Box::default())),
        ),
    ];
    for (name, limit, what) in floods {
        let (daemon, sent) = flood(what);
        let total: usize = sent.values().sum();
        assert!(total <= limit, "{name}: {total} > {limit}: {sent:?}");
        assert!(daemon.session.is_established(), "{name}");
        let lobby = daemon.session.hosted().get(world::lobby()).unwrap();
        assert_eq!(lobby.incarnation.get(), 5, "{name}");
    }
}

#[test]
fn a_flood_takes_nothing_from_what_takes_effect() {
    let (mut daemon, _) = flood(|_| stop("nobody", 1, false));
    daemon.receive(start(|start| {
        start.instance_id = "lobby-2".into();
        start.port = 30_002;
    }));
    let sent = std::mem::take(&mut daemon.sent);
    let accepted =
        |payload: &FromDaemon| matches!(payload, FromDaemon::StartInstanceAck(ack) if ack.accepted);
    assert!(sent.iter().any(accepted), "{sent:?}");
    daemon.receive(stop("lobby-1", 5, true));
    assert_eq!(daemon.stops, 1);
}

/// The supervisor of a daemon ignores what it is told, and both sides are as shipped.
#[test]
fn a_stop_that_nobody_carries_out_costs_both_sides_a_bounded_number_of_messages() {
    let mut world = World::new();
    world.connect(1, world::handshake());
    let mut daemon = Daemon::connected();
    world.start(5);
    world.sent(1);
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for millisecond in 0..180_000 {
        if millisecond == 1_000 {
            world.report(1, 5, State::Running);
            world.stop(StopMode::Graceful);
        }
        world.advance(Duration::from_millis(1));
        daemon.advance(Duration::from_millis(1));
        let pings = world.pings().into_iter().map(|sequence| {
            FromController::Ping(Ping {
                sequence,
                ..Default::default()
            })
        });
        let said: Vec<_> = pings.chain(world.sent(1)).collect();
        for payload in said {
            down.push(kind::of_controller(&payload));
            daemon.receive(payload);
        }
        for payload in std::mem::take(&mut daemon.sent) {
            up.push(kind::of_daemon(&payload));
            world.receive(1, payload);
        }
    }
    assert!(
        down.len() + up.len() < 100,
        "{:?} {:?}",
        counted(down),
        counted(up)
    );
    assert_eq!(world.state(), State::Crashed, "and it is given up in the end");
}

#[test]
fn a_daemon_full_of_instances_that_nobody_wants_is_told_once_to_stop_each() {
    let mut world = World::new();
    let orphan = |number| RunningInstance {
        instance_id: format!("orphan-{number}"),
        // No group has such a name.
        group: "!".into(),
        state: State::Running.to_wire(),
        incarnation: 1,
        ..Default::default()
    };
    let handshake = Handshake {
        running_instances: (0..INSTANCES_PER_NODE).map(orphan).collect(),
        ..world::handshake()
    };
    world.connect(1, handshake);
    let sent = counted(world.sent(1).iter().map(kind::of_controller));
    assert_eq!(sent.get("StopInstance"), Some(&INSTANCES_PER_NODE), "{sent:?}");
    for number in 0..INSTANCES_PER_NODE {
        for state in [State::Running, State::Starting] {
            let mut status = world::status(1, state);
            status.instance_id = format!("orphan-{number}");
            world.receive(1, FromDaemon::InstanceStatus(status));
        }
    }
    for _ in 0..40 {
        world.advance(Duration::from_secs(5));
    }
    let sent = counted(world.sent(1).iter().map(kind::of_controller));
    let stops = sent.get("StopInstance").copied().unwrap_or_default();
    assert!(stops <= 8 * INSTANCES_PER_NODE, "{sent:?}");
    assert!(world.closes.is_empty());
}
