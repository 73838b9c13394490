//! What one step of a machine costs, in time and in allocations

use std::hint::black_box;
use std::time::{Duration, Instant};

use prexorcloud_proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, Handshake, InstanceStatusUpdate, NodeStatus, Ping,
    StartInstance, controller_message, daemon_message,
};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::instance::{self, Lifecycle, Spec, State};
use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork, OrderId};
use prexorcloud_protocol::peer::DaemonPeer;
use prexorcloud_protocol::roster::{ReconcilePolicy, Roster};
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::unstable::heartbeat::{HeartbeatConfig, ProbeOutput, Prober, SilenceWatch};
use prexorcloud_protocol::{
    Capabilities, ControllerConfig, ControllerSession, DaemonConfig, DaemonSession, Epoch, Incarnation,
    InstanceId, NodeId, Received, Session as _,
};

use crate::allocations;
use crate::report::{Aim, Report, Row, median};

const STEPS: u32 = 100_000;
const REPETITIONS: usize = 9;
const AIM_NS: f64 = 50.0;

/// Runs `body` for `steps` steps and reports nanoseconds and allocations of one.
fn measure(report: &mut Report, name: &str, aim: bool, mut prepare: impl FnMut() -> Box<dyn FnMut() -> u32>) {
    let mut times = Vec::new();
    let mut fewest = u64::MAX;
    let mut steps = 1;
    for _ in 0..REPETITIONS {
        let mut body = prepare();
        let before = allocations::so_far();
        let start = Instant::now();
        steps = body();
        let elapsed = start.elapsed();
        fewest = fewest.min(allocations::so_far() - before);
        times.push(elapsed.as_nanos() as f64 / f64::from(steps));
    }
    let time = Row::new("step", name, median(times), "ns");
    let count = Row::new(
        "step",
        format!("{name}: allocations"),
        fewest as f64 / f64::from(steps),
        "per step",
    );
    report.add(if aim {
        time.aim(Aim::ValueAtMost(AIM_NS))
    } else {
        time
    });
    report.add(if aim {
        count.aim(Aim::ValueAtMost(0.0))
    } else {
        count
    });
}

pub fn run(report: &mut Report) {
    eprintln!("step: {STEPS} steps per measurement");
    measure(
        report,
        "heartbeat: ping due, ping sent, pong judged",
        true,
        || {
            let start = Instant::now();
            let mut prober = Prober::new(start, HeartbeatConfig::default());
            let mut watch = SilenceWatch::new(start, Duration::from_secs(30));
            let mut now = start;
            Box::new(move || {
                for _ in 0..STEPS {
                    now += Duration::from_secs(30);
                    prober.handle_timeout(now);
                    while let Some(output) = prober.poll_output() {
                        if let ProbeOutput::SendPing { sequence, .. } = output {
                            watch.handle_message(now);
                            let _ = black_box(prober.handle_pong(now, sequence));
                        }
                    }
                }
                // The deadline, the ping and the pong.
                STEPS * 3
            })
        },
    );
    measure(report, "epoch fence: message judged", true, || {
        let mut fence = EpochFence::default();
        Box::new(move || {
            for epoch in 1..=STEPS {
                let _ = black_box(fence.admit(Epoch::new(u64::from(epoch / 2))));
            }
            STEPS
        })
    });
    measure(report, "instance: report judged by its lifecycle", true, || {
        let now = Instant::now();
        let start = start_of(0);
        let mut lifecycle = Lifecycle::new(
            now,
            Spec::of(&start).unwrap_or_else(|_| unreachable!("a valid start")),
        );
        lifecycle.handle_connected(now, DaemonPeer::of(Capabilities::SESSION));
        lifecycle.mark_dispatched();
        let states = [State::Preparing, State::Starting, State::Running, State::Running];
        let reports = states.map(|state| instance::Report {
            incarnation: Incarnation::new(1),
            state,
            port: 30_000,
            player_count: 7,
            uptime: Duration::from_secs(60),
        });
        Box::new(move || {
            for index in 0..STEPS as usize {
                let _ = black_box(lifecycle.handle_report(now, reports[index.min(2 + index % 2)]));
            }
            STEPS
        })
    });
    measure(
        report,
        "whole path: report looked up among 100, judged, deadlines re-armed",
        false,
        || {
            let now = Instant::now();
            let (mut roster, reports) = roster_of(now, 100);
            Box::new(move || {
                for index in 0..STEPS as usize {
                    let _ = black_box(roster.handle_status(now, &reports[index % reports.len()]));
                }
                STEPS
            })
        },
    );
    measure(
        report,
        "whole path: report in, through session and node of 100 instances",
        false,
        || {
            let now = Instant::now();
            let (mut session, mut node, reports) = controller_of(now, 100);
            let stream = session.stream();
            let count = reports.len();
            let mut messages: Vec<Received<DaemonMessage>> = (0..STEPS as usize)
                .map(|index| {
                    let payload = Some(daemon_message::Payload::InstanceStatus(
                        reports[index % count].clone(),
                    ));
                    DaemonMessage { payload }.into()
                })
                .collect();
            Box::new(move || {
                for message in messages.drain(..) {
                    session.handle_message(now, message);
                    while let Some(event) = session.poll_event() {
                        let _ = black_box(node.handle_event(now, stream, event));
                    }
                }
                STEPS
            })
        },
    );
    measure(report, "daemon's session: ping in, pong out", true, || {
        let now = Instant::now();
        let mut session = established(now);
        Box::new(move || {
            for sequence in 0..i64::from(STEPS) {
                let payload = Some(controller_message::Payload::Ping(Ping {
                    sequence,
                    answered: 0,
                }));
                let ping: Received<_> = ControllerMessage {
                    payload,
                    ..Default::default()
                }
                .into();
                session.handle_message(now, ping);
                let _ = black_box(session.poll_transmit());
            }
            STEPS * 2
        })
    });
    measure(
        report,
        "whole path: console line in, console line out",
        false,
        || {
            let now = Instant::now();
            let mut session = established(now);
            let mut lines: Vec<_> = (0..STEPS).map(|sequence| console(u64::from(sequence))).collect();
            let mut sent: Vec<DaemonMessage> = Vec::with_capacity(lines.len());
            Box::new(move || {
                for line in lines.drain(..) {
                    session.console(line);
                    // Dropping a message is not a step of the session.
                    sent.extend(session.poll_transmit());
                }
                STEPS * 2
            })
        },
    );
}

fn console(sequence: u64) -> ConsoleOutput {
    ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: "[12:34:56] [Server thread/INFO]: Steve joined the game".into(),
        timestamp_ms: 1_790_000_000_000,
        incarnation: 1,
        sequence,
    }
}

fn start_of(index: usize) -> StartInstance {
    StartInstance {
        instance_id: format!("lobby-{index}"),
        group: "lobby".into(),
        port: 30_000,
        incarnation: 1,
        ..Default::default()
    }
}

/// A controller's session and node machine, with so many instances that run; everything is recorded at once.
fn controller_of(
    now: Instant,
    count: usize,
) -> (ControllerSession, ControllerNode, Vec<InstanceStatusUpdate>) {
    let name = NodeId::new("node-1").unwrap_or_else(|_| unreachable!("a valid name"));
    let mut session = ControllerSession::new(ControllerConfig::default(), name, 1);
    let mut node = ControllerNode::new(name);
    let handshake = Handshake {
        node_id: name.into(),
        version: "1".into(),
        protocol_version: 1,
        capabilities: Capabilities::SESSION.to_wire(),
        ..Default::default()
    };
    let turn = |session: &mut ControllerSession, node: &mut ControllerNode, payload| {
        let payload = Some(payload);
        session.handle_message(now, DaemonMessage { payload }.into());
        while let Some(event) = session.poll_event() {
            let _ = node.handle_event(now, session.stream(), event);
            while let Some(work) = node.poll_work() {
                match work.hand_to(now, session) {
                    Some(ControllerWork::Admit { hello }) => {
                        node.handle_admission(now, hello, Admission::default());
                    }
                    Some(ControllerWork::Commit(commit)) => node.handle_committed(now, commit.id),
                    _ => {}
                }
            }
            node.feed(session);
            while session.poll_transmit().is_some() {}
        }
    };
    session.handle_connected(now);
    turn(
        &mut session,
        &mut node,
        daemon_message::Payload::Handshake(Box::new(handshake)),
    );
    let reports: Vec<_> = (0..count)
        .map(|index| InstanceStatusUpdate {
            instance_id: format!("lobby-{index}"),
            state: State::Running.to_wire(),
            port: 30_000,
            player_count: 7,
            uptime_ms: 60_000,
            incarnation: 1,
            waiting_for: String::new(),
        })
        .collect();
    for (order, report) in (0..).zip(&reports) {
        let start = StartInstance {
            instance_id: report.instance_id.clone(),
            ..start_of(0)
        };
        node.start(now, OrderId(order), Box::new(start));
        turn(
            &mut session,
            &mut node,
            daemon_message::Payload::NodeStatus(NodeStatus::default()),
        );
        turn(
            &mut session,
            &mut node,
            daemon_message::Payload::InstanceStatus(report.clone()),
        );
    }
    (session, node, reports)
}

fn roster_of(now: Instant, count: usize) -> (Roster, Vec<InstanceStatusUpdate>) {
    let node = NodeId::new("node-1").unwrap_or_else(|_| unreachable!("a safe name"));
    let mut roster = Roster::new(node);
    let policy = ReconcilePolicy {
        peer: DaemonPeer::of(Capabilities::SESSION),
        ..Default::default()
    };
    roster.handle_handshake(now, &[], &policy);
    let mut reports = Vec::new();
    for index in 0..count {
        let start = start_of(index);
        reports.push(InstanceStatusUpdate {
            instance_id: start.instance_id.clone(),
            state: State::Running.to_wire(),
            port: 30_000,
            player_count: 7,
            uptime_ms: 60_000,
            incarnation: 1,
            waiting_for: String::new(),
        });
        let _ = roster.start(now, Box::new(start));
    }
    while roster.poll_dispatch().is_some() {}
    for report in &reports {
        let _ = roster.handle_status(now, report);
    }
    while roster.poll_event().is_some() {}
    (roster, reports)
}

fn established(now: Instant) -> DaemonSession {
    let node = NodeId::new("node-1").unwrap_or_else(|_| unreachable!("a safe name"));
    let mut hosted = Hosted::new();
    if let (Ok(instance), Ok(group)) = (InstanceId::new("lobby-1"), "lobby".parse()) {
        let incarnation = Incarnation::new(1);
        let _ = hosted.adopt(HostedInstance {
            instance,
            group,
            incarnation,
            port: 30_000,
            state: State::Running,
        });
    }
    let mut session = DaemonSession::new(DaemonConfig::new(node, "1.0.0"), hosted, EpochFence::default());
    session.handle_connected(now);
    while session.poll_transmit().is_some() {}
    let ack = prexorcloud_proto::HandshakeAck {
        session_id: "session-1".into(),
        heartbeat_interval_ms: 30_000,
        protocol_version: prexorcloud_protocol::compat::PROTOCOL_VERSION,
        protocol_compatible: true,
        ..Default::default()
    };
    let payload = Some(controller_message::Payload::HandshakeAck(Box::new(ack)));
    session.handle_message(
        now,
        ControllerMessage {
            payload,
            ..Default::default()
        }
        .into(),
    );
    while session.poll_event().is_some() || session.poll_transmit().is_some() {}
    // The queues have their size now.
    for sequence in 0..64 {
        session.console(console(sequence));
    }
    while session.poll_transmit().is_some() {}
    let pong = daemon_message::Payload::Pong(prexorcloud_proto::Pong { sequence: 0 });
    black_box(&pong);
    session
}
