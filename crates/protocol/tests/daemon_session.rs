//! The daemon's session against a controller played by hand
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "one real instant to count from")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::HELD_MESSAGES;
use prexorcloud_protocol::handshake::daemon::HandshakeFailure;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::limits::CRASH_REPORT_BYTES;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::session::Anomaly;
use prexorcloud_protocol::session::daemon::{StartRejection, StatusReport};
use prexorcloud_protocol::{
    Capabilities, Code, DaemonConfig, DaemonEvent, DaemonOutcome, DaemonSession, Epoch, Incarnation,
    InstanceId, NodeId, Received, SendError, Session, StopMode,
};
use prost::Message as _;

struct Bench {
    session: DaemonSession,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
        Self {
            session: DaemonSession::new(config, Hosted::new(), EpochFence::default()),
            now: Instant::now(),
        }
    }

    fn connected() -> Self {
        Self::connected_to(ack(Capabilities::SESSION))
    }

    fn connected_to(ack: HandshakeAck) -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack)));
        let mut admitted = false;
        while let Some(event) = bench.session.poll_event() {
            assert!(
                matches!(event, DaemonEvent::Connected(_) | DaemonEvent::FenceRaised(_)),
                "{event:?}"
            );
            admitted |= matches!(event, DaemonEvent::Connected(_));
        }
        assert!(admitted);
        bench
    }

    fn connect(&mut self) -> Handshake {
        self.session.handle_connected(self.now);
        match self.sent() {
            Some(FromDaemon::Handshake(handshake)) => *handshake,
            other => panic!("the first message must be the handshake, got {other:?}"),
        }
    }

    fn receive(&mut self, payload: FromController) {
        self.receive_at(payload, 0);
    }

    fn receive_at(&mut self, payload: FromController, epoch: u64) {
        let message = ControllerMessage {
            payload: Some(payload),
            epoch,
            ..Default::default()
        };
        self.session.handle_message(self.now, message.into());
    }

    fn sent(&mut self) -> Option<FromDaemon> {
        self.session
            .poll_transmit()
            .map(|message| message.payload.unwrap())
    }

    fn event(&mut self) -> DaemonEvent {
        self.session.poll_event().expect("an event")
    }

    fn quiet(&mut self) {
        assert_eq!(self.session.poll_event(), None);
        assert_eq!(self.session.poll_transmit(), None);
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
    }

    fn start(&mut self, incarnation: u64) {
        self.receive(FromController::StartInstance(Box::new(start_message(
            incarnation,
        ))));
        match self.event() {
            DaemonEvent::Start(order) => assert_eq!(order.incarnation.get(), incarnation),
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, incarnation: u64, state: State) {
        let report = StatusReport {
            instance: lobby(),
            incarnation: Incarnation::new(incarnation),
            state,
            player_count: 0,
            uptime: Duration::ZERO,
        };
        let _ = self.session.report(&report);
    }
}

fn lobby() -> InstanceId {
    "lobby-1".parse().unwrap()
}

fn start_message(incarnation: u64) -> StartInstance {
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: 30_000,
        incarnation,
        ..Default::default()
    }
}

fn ack(capabilities: Capabilities) -> HandshakeAck {
    HandshakeAck {
        session_id: "s".into(),
        heartbeat_interval_ms: 30_000,
        protocol_version: 1,
        protocol_compatible: true,
        capabilities: capabilities.to_wire(),
        ..Default::default()
    }
}

fn crash(report_id: &str) -> CrashReport {
    CrashReport {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        report_id: report_id.into(),
        incarnation: 1,
        ..Default::default()
    }
}

fn status(payload: Option<FromDaemon>) -> InstanceStatusUpdate {
    match payload {
        Some(FromDaemon::InstanceStatus(update)) => update,
        other => panic!("expected a status, got {other:?}"),
    }
}

#[test]
fn nothing_but_the_handshake_leaves_before_the_acknowledgement() {
    let mut bench = Bench::new();
    bench.session.console(ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: "early".into(),
        ..Default::default()
    });
    let handshake = bench.connect();
    assert_eq!(
        (handshake.node_id.as_str(), handshake.protocol_version),
        ("node-1", 1)
    );
    assert_eq!(
        Capabilities::from_wire(&handshake.capabilities),
        Capabilities::SESSION
    );
    assert_eq!(bench.session.poll_transmit(), None);
    assert_eq!(
        bench.session.send(FromDaemon::NodeStatus(NodeStatus::default())),
        Err(SendError::NotConnected)
    );
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::NONE))));
    assert!(matches!(bench.sent(), Some(FromDaemon::ConsoleOutput(output)) if output.line == "early"));
}

#[test]
fn commands_before_the_acknowledgement_are_carried_out_after_it() {
    let mut bench = Bench::new();
    bench.connect();
    bench.receive(FromController::StartInstance(Box::new(start_message(1))));
    bench.receive(FromController::Ping(Ping { sequence: 9 }));
    bench.quiet();
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    assert!(matches!(bench.event(), DaemonEvent::Connected(_)));
    assert!(matches!(bench.event(), DaemonEvent::Start(_)));
    assert_eq!(bench.sent(), Some(FromDaemon::Pong(Pong { sequence: 9 })));
    bench.quiet();
}

#[test]
fn a_controller_that_never_acknowledges_but_talks_is_given_up() {
    let mut bench = Bench::new();
    bench.connect();
    (0..=HELD_MESSAGES as i64).for_each(|sequence| bench.receive(FromController::Ping(Ping { sequence })));
    assert_eq!(bench.session.close().unwrap().code, Code::ResourceExhausted);
    bench.session.handle_disconnected(bench.now);
    assert_eq!(
        bench.event(),
        DaemonEvent::Disconnected(HandshakeFailure::TooEarly.into())
    );
}

#[test]
fn a_missing_acknowledgement_times_out() {
    let mut bench = Bench::new();
    bench.connect();
    bench.advance(Duration::from_millis(9_999));
    assert!(bench.session.close().is_none());
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.session.close().unwrap().code, Code::DeadlineExceeded);
    assert_eq!(bench.session.poll_timeout(), None);
    bench.session.handle_disconnected(bench.now);
    bench.session.handle_disconnected(bench.now);
    let waited = Duration::from_secs(10);
    assert_eq!(
        bench.event(),
        DaemonEvent::Disconnected(HandshakeFailure::AckTimedOut { waited }.into())
    );
    bench.quiet();
}

#[test]
fn an_incompatible_controller_is_left_and_the_operator_told_both_versions() {
    let mut bench = Bench::new();
    bench.connect();
    let refusal = HandshakeAck {
        protocol_version: 7,
        protocol_compatible: false,
        ..Default::default()
    };
    bench.receive(FromController::HandshakeAck(Box::new(refusal)));
    let close = bench.session.close().unwrap();
    assert_eq!(close.code, Code::FailedPrecondition);
    assert!(
        close.message.contains("upgrade required")
            && close.message.contains('7')
            && close.message.contains('1')
    );
    bench.session.handle_disconnected(bench.now);
    let DaemonEvent::Disconnected(outcome) = bench.event() else {
        panic!()
    };
    assert!(matches!(
        outcome,
        DaemonOutcome::Handshake(HandshakeFailure::UpgradeRequired(_))
    ));
    assert!(!outcome.reached_established());
}

#[test]
fn a_follower_names_the_leader() {
    let mut bench = Bench::new();
    bench.connect();
    let redirect = HandshakeAck {
        leader_grpc_addr: "10.0.0.7:9090".into(),
        controller_grpc_addrs: vec!["10.0.0.7:9090".into()],
        ..ack(Capabilities::NONE)
    };
    bench.receive(FromController::HandshakeAck(Box::new(redirect)));
    bench.session.handle_disconnected(bench.now);
    let DaemonEvent::Disconnected(DaemonOutcome::Handshake(HandshakeFailure::Redirected { to, controllers })) =
        bench.event()
    else {
        panic!()
    };
    assert_eq!((to.as_str(), controllers.len()), ("10.0.0.7:9090", 1));
}

#[test]
fn a_deposed_controller_is_told_so_and_left_even_at_the_acknowledgement() {
    let mut bench = Bench::connected_to(HandshakeAck {
        epoch: 5,
        ..ack(Capabilities::NONE)
    });
    bench.session.handle_disconnected(bench.now);
    while bench.session.poll_event().is_some() {}
    bench.connect();
    bench.receive(FromController::HandshakeAck(Box::new(HandshakeAck {
        epoch: 4,
        ..ack(Capabilities::NONE)
    })));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "STALE_EPOCH")
    );
    assert_eq!(bench.session.close().unwrap().code, Code::FailedPrecondition);
    assert_eq!(bench.session.fence().highest(), Epoch::new(5));
}

#[test]
fn a_raised_fence_is_told_before_the_command_that_raised_it() {
    let mut bench = Bench::connected();
    bench.receive_at(FromController::StartInstance(Box::new(start_message(1))), 9);
    assert_eq!(bench.event(), DaemonEvent::FenceRaised(Epoch::new(9)));
    assert!(matches!(bench.event(), DaemonEvent::Start(_)));
    bench.receive_at(FromController::ShutdownNode(ShutdownNode::default()), 8);
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Stale(_))));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "STALE_EPOCH")
    );
    bench.receive_at(
        FromController::ShutdownNode(ShutdownNode { reason: "r".into() }),
        0,
    );
    assert_eq!(bench.event(), DaemonEvent::Shutdown { reason: "r".into() });
}

#[test]
fn an_unknown_variant_is_said_once_and_still_fences() {
    let mut bench = Bench::connected();
    let message = ControllerMessage {
        epoch: 3,
        ..Default::default()
    };
    for _ in 0..5 {
        let unknown_variant = Some(77);
        bench.session.handle_message(
            bench.now,
            Received {
                message: message.clone(),
                unknown_variant,
            },
        );
    }
    assert_eq!(bench.event(), DaemonEvent::FenceRaised(Epoch::new(3)));
    assert_eq!(
        bench.event(),
        DaemonEvent::Ignored(Anomaly::UnknownVariant { tag: 77 })
    );
    bench.quiet();
    assert_eq!(bench.session.unknown_variants(), 5);
    assert!(bench.session.is_established());
}

#[test]
fn a_repeated_start_is_answered_with_what_is_true() {
    let mut bench = Bench::connected();
    bench.start(4);
    bench.report(4, State::Preparing);
    assert_eq!(status(bench.sent()).state, State::Preparing.to_wire());
    bench.receive(FromController::StartInstance(Box::new(start_message(4))));
    let Some(FromDaemon::StartInstanceAck(ack)) = bench.sent() else {
        panic!()
    };
    assert_eq!(
        (ack.accepted, ack.error_code.as_str(), ack.incarnation),
        (false, "INSTANCE_ALREADY_STARTING", 4)
    );
    assert_eq!(status(bench.sent()).state, State::Preparing.to_wire());
    bench.quiet();
}

#[test]
fn a_rejected_start_may_be_tried_again() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.session.start_rejected(
        lobby(),
        Incarnation::new(1),
        StartRejection {
            stage: StartPreparationStage::RuntimeProvision,
            error_code: "RUNTIME_PROVISION_FAILED".into(),
            message: "x".repeat(2_000),
            disposition: StartFailureDisposition::Transient,
            retry_after: Duration::from_millis(2_500),
            plan_hash: String::new(),
        },
    );
    let Some(FromDaemon::StartInstanceAck(ack)) = bench.sent() else {
        panic!()
    };
    assert_eq!((ack.retry_after_seconds, ack.error_message.len()), (3, 512));
    bench.start(1);
}

#[test]
fn an_invalid_start_is_refused_with_the_field() {
    let mut bench = Bench::connected();
    bench.receive(FromController::StartInstance(Box::new(StartInstance {
        port: 70_000,
        ..start_message(1)
    })));
    let Some(FromDaemon::StartInstanceAck(ack)) = bench.sent() else {
        panic!()
    };
    assert!(
        !ack.accepted && ack.error_message.contains("start_instance.port"),
        "{ack:?}"
    );
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Invalid(_))));
    bench.receive(FromController::StartInstance(Box::new(StartInstance {
        instance_id: "../x".into(),
        ..start_message(1)
    })));
    let Some(FromDaemon::ErrorReport(report)) = bench.sent() else {
        panic!()
    };
    assert_eq!(
        (report.error_code.as_str(), report.context.as_str()),
        ("INVALID_MESSAGE", "StartInstance")
    );
}

#[test]
fn a_stop_of_something_unknown_is_answered_with_stopped() {
    let mut bench = Bench::connected();
    bench.receive(FromController::StopInstance(StopInstance {
        instance_id: "ghost-1".into(),
        incarnation: 2,
        ..Default::default()
    }));
    assert!(matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(ack)) if ack.accepted));
    let update = status(bench.sent());
    assert_eq!((update.state, update.incarnation), (State::Stopped.to_wire(), 2));
    bench.quiet();
}

#[test]
fn a_stop_is_ordered_once_and_may_be_forced() {
    let mut bench = Bench::connected();
    bench.start(1);
    let stop = |force| {
        FromController::StopInstance(StopInstance {
            instance_id: "lobby-1".into(),
            force,
            incarnation: 1,
        })
    };
    bench.receive(stop(false));
    assert!(matches!(
        bench.event(),
        DaemonEvent::Stop {
            mode: StopMode::Graceful,
            ..
        }
    ));
    bench.receive(stop(false));
    assert!(matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(_))));
    let _ = status(bench.sent());
    bench.receive(stop(true));
    assert!(matches!(
        bench.event(),
        DaemonEvent::Stop {
            mode: StopMode::Force,
            ..
        }
    ));
    bench.quiet();
}

#[test]
fn a_command_for_nobody_is_answered_with_an_error() {
    let mut bench = Bench::connected();
    let command = |command: &str| {
        FromController::SendCommand(SendCommand {
            instance_id: "lobby-1".into(),
            command: command.into(),
            ..Default::default()
        })
    };
    bench.receive(command("say hi"));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "UNKNOWN_INSTANCE")
    );
    bench.start(1);
    bench.receive(command("say hi"));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "WRONG_STATE")
    );
    bench.report(1, State::Running);
    let _ = bench.sent();
    bench.receive(command("say hi"));
    assert!(matches!(bench.event(), DaemonEvent::Command { line, .. } if line == "say hi"));
    bench.receive(command("say hi\nop me"));
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Invalid(_))));
}

#[test]
fn an_end_during_a_disconnect_is_told_with_the_next_handshake_until_it_is_confirmed() {
    let mut bench = Bench::connected();
    bench.start(1);
    for state in [State::Preparing, State::Starting, State::Running] {
        bench.report(1, state);
        let _ = bench.sent();
    }
    bench.session.handle_disconnected(bench.now);
    bench.report(1, State::Stopping);
    bench.report(1, State::Stopped);
    for _ in 0..2 {
        let handshake = bench.connect();
        let listed: Vec<_> = handshake
            .running_instances
            .iter()
            .map(|instance| instance.state)
            .collect();
        assert_eq!(
            listed,
            [State::Stopped.to_wire()],
            "it may have been lost with the stream"
        );
        bench.session.handle_disconnected(bench.now);
    }
    for _ in 0..2 {
        // The controller that acknowledges it may die before it has stored it; the second one may not.
        assert_eq!(bench.connect().running_instances.len(), 1);
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
        bench.session.handle_disconnected(bench.now);
    }
    assert_eq!(bench.connect().running_instances, []);
}

#[test]
fn a_change_between_handshake_and_acknowledgement_is_told_after_it() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.session.handle_disconnected(bench.now);
    assert_eq!(bench.connect().running_instances.len(), 1);
    bench.report(1, State::Preparing);
    assert_eq!(bench.session.poll_transmit(), None);
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    assert_eq!(status(bench.sent()).state, State::Preparing.to_wire());
}

#[test]
fn a_crash_report_is_repeated_per_stream_until_it_is_stored() {
    let mut bench = Bench::connected();
    bench.session.crash(crash("r1")).unwrap();
    bench.session.crash(crash("r1")).unwrap();
    assert!(matches!(bench.sent(), Some(FromDaemon::CrashReport(_))));
    assert_eq!(bench.session.poll_transmit(), None);
    bench.session.handle_disconnected(bench.now);
    let _ = bench.event();
    bench.connect();
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    let _ = bench.event();
    assert!(matches!(bench.sent(), Some(FromDaemon::CrashReport(report)) if report.report_id == "r1"));
    for _ in 0..2 {
        bench.receive(FromController::CrashReportAck(CrashReportAck {
            report_id: "r1".into(),
        }));
    }
    assert_eq!(
        bench.event(),
        DaemonEvent::CrashReportAcknowledged {
            report_id: "r1".into()
        }
    );
    bench.quiet();
}

#[test]
fn a_java_controller_gets_a_crash_report_once() {
    let mut bench = Bench::connected_to(ack(Capabilities::NONE));
    bench.session.crash(crash("r1")).unwrap();
    assert_eq!(bench.session.poll_event(), None, "it has not been sent yet");
    assert!(matches!(bench.sent(), Some(FromDaemon::CrashReport(_))));
    assert_eq!(
        bench.event(),
        DaemonEvent::CrashReportAcknowledged {
            report_id: "r1".into()
        }
    );
    bench.quiet();
}

#[test]
fn a_crash_report_is_cut_to_the_limits_of_the_contract() {
    let mut bench = Bench::connected();
    let log_tail = (0..700).map(|n| format!("{n} {}", "x".repeat(9_000))).collect();
    bench
        .session
        .crash(CrashReport {
            log_tail,
            ..crash("r1")
        })
        .unwrap();
    let Some(FromDaemon::CrashReport(report)) = bench.sent() else {
        panic!()
    };
    let (marker, kept) = report.log_tail.split_first().unwrap();
    let cut = 700 - kept.len();
    assert!(marker.contains(&format!(" {cut} earlier line(s) ")), "{marker}");
    assert!(kept[0].starts_with(&format!("{cut} ")) && kept.iter().all(|line| line.len() == 8_192));
    assert!(report.encoded_len() <= CRASH_REPORT_BYTES);
}

#[test]
fn node_status_is_due_early_and_then_at_the_acknowledged_interval() {
    let mut bench = Bench::connected_to(HandshakeAck {
        heartbeat_interval_ms: 10_000,
        ..ack(Capabilities::NONE)
    });
    bench.advance(Duration::from_secs(4));
    bench.quiet();
    bench.advance(Duration::from_secs(1));
    assert_eq!(bench.event(), DaemonEvent::NodeStatusDue);
    bench.receive(FromController::Ping(Ping { sequence: 1 }));
    let _ = bench.sent();
    bench.advance(Duration::from_secs(10));
    assert_eq!(bench.event(), DaemonEvent::NodeStatusDue);
    bench.advance(Duration::ZERO);
    bench.quiet();
}

#[test]
fn a_silent_controller_is_left_after_three_intervals() {
    let mut bench = Bench::connected();
    for _ in 0..2 {
        bench.advance(Duration::from_secs(30));
        assert!(bench.session.close().is_none());
    }
    bench.advance(Duration::from_secs(30));
    bench.session.handle_disconnected(bench.now);
    let outcome = std::iter::from_fn(|| bench.session.poll_event()).last().unwrap();
    let silent_for = Duration::from_secs(90);
    assert_eq!(
        outcome,
        DaemonEvent::Disconnected(DaemonOutcome::ControllerSilent { silent_for })
    );
}

#[test]
fn a_controller_that_does_not_read_is_left_before_the_outbox_grows() {
    let mut bench = Bench::connected();
    let mut sent = 0;
    while bench
        .session
        .send(FromDaemon::NodeStatus(NodeStatus::default()))
        .is_ok()
    {
        sent += 1;
    }
    assert_eq!(sent, 2_048);
    assert_eq!(bench.session.close().unwrap().code, Code::ResourceExhausted);
    assert_eq!(
        bench.session.send(FromDaemon::NodeStatus(NodeStatus::default())),
        Err(SendError::Closing)
    );
}

#[test]
fn mistakes_in_bulk_are_counted_not_reported_one_by_one() {
    let mut bench = Bench::connected();
    for _ in 0..10_000 {
        bench.receive(FromController::SendCommand(SendCommand {
            instance_id: "../x".into(),
            ..Default::default()
        }));
    }
    assert!(bench.session.is_established());
    assert_eq!(bench.session.anomalies(), 10_000);
    assert_eq!(std::iter::from_fn(|| bench.session.poll_event()).count(), 32);
}

#[test]
fn a_second_acknowledgement_ends_the_stream() {
    let mut bench = Bench::connected();
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::NONE))));
    assert_eq!(bench.session.close().unwrap().code, Code::FailedPrecondition);
}

#[test]
fn shutting_down_still_delivers_what_was_queued() {
    let mut bench = Bench::connected();
    bench
        .session
        .acknowledge_shutdown(2, Duration::from_millis(39_200));
    bench.session.shut_down();
    let expected = ShutdownNodeAck {
        running_instances: 2,
        estimated_drain_seconds: 40,
    };
    assert_eq!(bench.sent(), Some(FromDaemon::ShutdownNodeAck(expected)));
    assert_eq!(bench.session.close().unwrap().code, Code::Ok);
    bench.session.handle_disconnected(bench.now);
    assert_eq!(bench.event(), DaemonEvent::Disconnected(DaemonOutcome::ShutDown));
}
