//! The daemon's session against a controller played by hand
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "one real instant to count from")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::compat::{self, ContractMatch};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::HELD_MESSAGES;
use prexorcloud_protocol::handshake::daemon::HandshakeFailure;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::limits::CRASH_REPORT_BYTES;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::session::Class;
use prexorcloud_protocol::session::daemon::{CRASHES_KEPT, StartRejection, StatusReport};
use prexorcloud_protocol::session::{Anomaly, kind};
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_protocol::{
    Capabilities, Code, DaemonConfig, DaemonEvent, DaemonOutcome, DaemonSession, Epoch, Incarnation,
    InstanceId, NodeId, Received, SendError, Session, StopMode, limits, validate,
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

    /// A daemon that has obeyed this epoch before.
    fn with_fence(epoch: u64) -> Self {
        let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
        Self {
            session: DaemonSession::new(config, Hosted::new(), EpochFence::new(Epoch::new(epoch))),
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
            if let DaemonEvent::FenceRaised(epoch) = event {
                bench.session.fence_written(epoch);
            }
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

    fn ping(&mut self, sequence: i64) {
        self.receive(FromController::Ping(Ping {
            sequence,
            answered: 0,
        }));
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
    bench.receive(FromController::Ping(Ping {
        sequence: 9,
        answered: 0,
    }));
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
    (0..=HELD_MESSAGES as i64).for_each(|sequence| {
        bench.receive(FromController::Ping(Ping {
            sequence,
            answered: 0,
        }))
    });
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
fn an_epoch_of_any_acknowledgement_is_told_and_counts_wherever_it_stands() {
    let redirect = HandshakeAck {
        leader_grpc_addr: "10.0.0.7:9090".into(),
        ..ack(Capabilities::NONE)
    };
    let incompatible = HandshakeAck {
        protocol_compatible: false,
        ..ack(Capabilities::NONE)
    };
    for (acknowledgement, settles) in [
        (ack(Capabilities::NONE), true),
        (redirect, false),
        (incompatible, false),
    ] {
        for (in_ack, on_envelope) in [(9, 0), (0, 9), (9, 4), (4, 9), (9, 9)] {
            let mut bench = Bench::new();
            bench.connect();
            let acknowledgement = HandshakeAck {
                epoch: in_ack,
                ..acknowledgement.clone()
            };
            bench.receive_at(
                FromController::HandshakeAck(Box::new(acknowledgement)),
                on_envelope,
            );
            assert_eq!(bench.event(), DaemonEvent::FenceRaised(Epoch::new(9)));
            assert_eq!(bench.session.fence().highest(), Epoch::new(9));
            assert_eq!(bench.session.is_established(), settles);
            if let Some(connected) = bench.session.connected() {
                assert_eq!(connected.epoch, Epoch::new(9));
            }
        }
    }
}

#[test]
fn a_stale_epoch_on_the_envelope_of_an_acknowledgement_is_refused() {
    let mut bench = Bench::with_fence(5);
    bench.connect();
    bench.receive_at(
        FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))),
        4,
    );
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "STALE_EPOCH")
    );
    bench.session.handle_disconnected(bench.now);
    assert!(matches!(
        bench.event(),
        DaemonEvent::Disconnected(DaemonOutcome::Handshake(HandshakeFailure::Stale(_)))
    ));
    bench.quiet();
}

#[test]
fn a_follower_that_knows_no_leader_is_left_once_an_epoch_was_obeyed() {
    for capabilities in [Capabilities::NONE, Capabilities::SESSION] {
        let mut bench = Bench::with_fence(7);
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack(capabilities))));
        assert!(!bench.session.is_established());
        assert_eq!(bench.session.close().unwrap().code, Code::Unavailable);
        bench.session.handle_disconnected(bench.now);
        let DaemonEvent::Disconnected(outcome) = bench.event() else {
            panic!()
        };
        let obeyed = Epoch::new(7);
        assert_eq!(outcome, HandshakeFailure::Leaderless { obeyed }.into());
        assert!(!outcome.reached_established(), "the next dial waits longer");
        assert!(outcome.to_string().contains("try another"), "{outcome}");
        bench.quiet();

        // The leader is found in the end.
        bench.connect();
        bench.receive_at(FromController::HandshakeAck(Box::new(ack(capabilities))), 7);
        assert!(bench.session.is_established());
    }
}

#[test]
fn a_controller_without_epochs_is_settled_on_by_a_daemon_that_never_saw_one() {
    for _ in 0..2 {
        let mut bench = Bench::connected_to(ack(Capabilities::NONE));
        bench.session.handle_disconnected(bench.now);
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::NONE))));
        assert!(bench.session.is_established());
    }
}

#[test]
fn the_contract_is_announced_and_the_controllers_is_compared() {
    let ours = compat::contract::WIRE_DIGEST;
    let other = "0".repeat(64);
    let announced = |digest: &str| vec![format!("contract-sha256/{digest}")];
    for (capabilities, verdict, digest) in [
        (Vec::new(), ContractMatch::Unknown, None),
        (announced(ours), ContractMatch::Same, Some(ours)),
        (announced(&other), ContractMatch::Different, Some(other.as_str())),
        (announced("not\na digest"), ContractMatch::Different, None),
    ] {
        let mut bench = Bench::new();
        let handshake = bench.connect();
        assert_eq!(
            compat::contract::digest_in_capabilities(&handshake.capabilities),
            Some(ours)
        );
        validate::handshake(&handshake).expect("a controller takes it");
        bench.receive(FromController::HandshakeAck(Box::new(HandshakeAck {
            capabilities,
            ..ack(Capabilities::NONE)
        })));
        let connected = bench.session.connected().expect("no reason to refuse");
        assert_eq!(
            (connected.contract, connected.contract_digest.as_deref()),
            (verdict, digest)
        );
    }
}

#[test]
fn a_raised_fence_is_told_before_the_command_that_raised_it() {
    let mut bench = Bench::connected();
    bench.receive_at(FromController::StartInstance(Box::new(start_message(1))), 9);
    assert_eq!(bench.event(), DaemonEvent::FenceRaised(Epoch::new(9)));
    bench.quiet();
    bench.session.fence_written(Epoch::new(9));
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
                refused: None,
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
fn a_deposed_controller_is_told_so_even_if_it_says_something_unknown() {
    let mut bench = Bench::with_fence(5);
    bench.connect();
    bench.receive_at(
        FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))),
        5,
    );
    assert!(matches!(bench.event(), DaemonEvent::Connected(_)));
    let message = ControllerMessage {
        epoch: 4,
        ..Default::default()
    };
    let unknown_variant = Some(77);
    bench.session.handle_message(
        bench.now,
        Received {
            message,
            unknown_variant,
            refused: None,
        },
    );
    let Some(FromDaemon::ErrorReport(report)) = bench.sent() else {
        panic!()
    };
    assert_eq!(report.error_code, "STALE_EPOCH");
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Stale(_))));
    bench.quiet();
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

/// Lists a start in preparation, has it fail for now, and gives what is told of that.
fn fail_what_was_listed(
    capabilities: Capabilities,
    is_acknowledged: bool,
    launches: bool,
) -> Vec<FromDaemon> {
    let mut bench = Bench::connected_to(ack(capabilities));
    bench.start(1);
    bench.report(1, State::Preparing);
    bench.session.handle_disconnected(bench.now);
    assert_eq!(bench.connect().running_instances.len(), 1);
    let acknowledge = FromController::HandshakeAck(Box::new(ack(capabilities)));
    if is_acknowledged {
        bench.receive(acknowledge.clone());
    }
    while bench.session.poll_event().is_some() {}
    if launches {
        bench.report(1, State::Starting);
        bench.report(1, State::Crashed);
        bench.start(2);
    }
    let incarnation = Incarnation::new(if launches { 2 } else { 1 });
    let rejection = StartRejection {
        stage: StartPreparationStage::RuntimeProvision,
        error_code: "RUNTIME_PROVISION_FAILED".into(),
        message: String::new(),
        disposition: StartFailureDisposition::Transient,
        retry_after: Duration::from_secs(3),
        plan_hash: String::new(),
    };
    bench.session.start_rejected(lobby(), incarnation, rejection);
    if !is_acknowledged {
        bench.receive(acknowledge);
    }
    std::iter::from_fn(|| bench.sent()).collect()
}

#[test]
fn what_a_plain_controller_took_for_running_and_comes_to_nothing_has_ended() {
    for is_acknowledged in [true, false] {
        let told = fail_what_was_listed(Capabilities::NONE, is_acknowledged, false);
        let [FromDaemon::StartInstanceAck(ack), FromDaemon::InstanceStatus(end)] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(!ack.accepted);
        let end = (end.instance_id.as_str(), end.state);
        assert_eq!(end, ("lobby-1", State::Crashed.to_wire()));
        let told = fail_what_was_listed(Capabilities::SESSION, is_acknowledged, false);
        assert_eq!(told.len(), 1, "ours tries again: {told:?}");
    }
    let told = fail_what_was_listed(Capabilities::NONE, true, true);
    let last = told.last();
    let is_answer = matches!(last, Some(FromDaemon::StartInstanceAck(_)));
    assert!(is_answer, "a later start was not listed: {told:?}");
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

/// One id has one process: what another start followed is gone, and nobody should wait for it.
#[test]
fn a_stop_of_a_superseded_start_is_answered_with_stopped() {
    let mut bench = Bench::connected();
    bench.start(2);
    bench.receive(FromController::StopInstance(StopInstance {
        instance_id: "lobby-1".into(),
        incarnation: 1,
        ..Default::default()
    }));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(ack)) if ack.accepted && ack.incarnation == 1)
    );
    let update = status(bench.sent());
    assert_eq!((update.state, update.incarnation), (State::Stopped.to_wire(), 1));
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
    assert_eq!(bench.sent(), None);
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
fn a_command_with_a_number_is_written_once_and_answered_as_often_as_it_is_asked() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.report(1, State::Starting);
    while bench.sent().is_some() {}
    let command = |id: u64, instance: &str| {
        FromController::SendCommand(SendCommand {
            instance_id: instance.into(),
            command: "say hi".into(),
            command_id: id,
            ..Default::default()
        })
    };
    bench.receive(command(7, "lobby-1"));
    assert!(matches!(bench.event(), DaemonEvent::Command { id: Some(7), .. }));
    bench.receive(command(7, "lobby-1"));
    bench.quiet();
    let instance = "lobby-1".parse().unwrap();
    bench
        .session
        .command_written(instance, Incarnation::new(1), 7, Ok(()));
    // What was not asked is not answered, and what is answered stays so.
    bench
        .session
        .command_written(instance, Incarnation::new(1), 8, Ok(()));
    bench
        .session
        .command_written(instance, Incarnation::new(1), 7, Err(("LATE", "late".to_owned())));
    bench.receive(command(7, "lobby-1"));
    for _ in 0..2 {
        let Some(FromDaemon::CommandWritten(written)) = bench.sent() else {
            panic!("an answer");
        };
        assert_eq!((written.command_id, written.incarnation), (7, 1));
        assert_eq!(written.error_code, "");
    }
    bench.quiet();
    bench.receive(command(9, "lobby-2"));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::CommandWritten(written)) if written.command_id == 9 && written.error_code == "UNKNOWN_INSTANCE")
    );
    bench.quiet();
    // Another stream, another count.
    bench.session.handle_disconnected(bench.now);
    while bench.session.poll_event().is_some() {}
    bench
        .session
        .command_written(instance, Incarnation::new(1), 7, Ok(()));
    assert_eq!(bench.sent(), None);
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
    assert!(matches!(
        bench.event(),
        DaemonEvent::Ignored(Anomaly::Denied { .. })
    ));
    bench.start(1);
    bench.receive(command("say hi"));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::ErrorReport(report)) if report.error_code == "WRONG_STATE")
    );
    assert!(matches!(
        bench.event(),
        DaemonEvent::Ignored(Anomaly::Denied { .. })
    ));
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
        assert_eq!(handshake.running_instances, []);
        let listed: Vec<_> = handshake
            .ended_instances
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
        assert_eq!(bench.connect().ended_instances.len(), 1);
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
        bench.session.handle_disconnected(bench.now);
    }
    assert_eq!(bench.connect().ended_instances, []);
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

fn line(sequence: u64) -> ConsoleOutput {
    ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: format!("line {sequence}"),
        incarnation: 1,
        sequence,
        ..Default::default()
    }
}

fn arrived(sequence: u64) -> DaemonEvent {
    DaemonEvent::ConsoleArrived {
        instance: "lobby-1".parse().unwrap(),
        incarnation: Incarnation::new(1),
        sequence,
    }
}

#[test]
fn console_lines_have_arrived_when_the_controller_says_so() {
    let mut bench = Bench::connected();
    bench.session.console(line(1));
    bench.session.console(line(2));
    while bench.sent().is_some() {}
    bench.ping(1);
    assert!(matches!(bench.sent(), Some(FromDaemon::Pong(_))));
    assert_eq!(bench.session.poll_event(), None, "a ping says nothing of lines");
    bench.receive(FromController::ConsoleOutputAck(ConsoleOutputAck {
        instance_id: "lobby-1".into(),
        incarnation: 1,
        sequence: 2,
    }));
    assert_eq!(bench.event(), arrived(2));
    bench.quiet();
}

#[test]
fn a_java_controller_counts_as_having_the_lines_that_left_before_its_ping() {
    let mut bench = Bench::connected_to(ack(Capabilities::NONE));
    bench.session.console(line(1));
    bench.session.console(line(2));
    bench.session.console(line(3));
    while bench.session.poll_event().is_some() {}
    for _ in 0..2 {
        assert!(matches!(bench.sent(), Some(FromDaemon::ConsoleOutput(_))));
    }
    bench.ping(1);
    assert_eq!(bench.event(), arrived(2), "the third waits in the outbox");
    while bench.sent().is_some() {}
    bench.session.handle_disconnected(bench.now);
    let _ = bench.event();
    let _ = reconnect(&mut bench, Capabilities::NONE);
    let _ = bench.event();
    bench.ping(2);
    assert_eq!(
        bench.session.poll_event(),
        None,
        "the third was lost with its stream"
    );
}

#[test]
fn lines_that_are_told_again_do_not_wait_beside_those_that_come_first() {
    for refills in [true, false] {
        let mut config = DaemonConfig::new("node-1".parse().unwrap(), "1");
        config.refills_console = refills;
        let mut bench = Bench::connected();
        bench.session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
        let _ = reconnect(&mut bench, Capabilities::SESSION);
        assert_eq!(bench.session.stream_ordinal(), 1);
        bench.session.console(line(7));
        bench.session.handle_disconnected(bench.now);
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
        assert_eq!(bench.session.stream_ordinal(), 2);
        let kept = bench.sent().is_some();
        assert_eq!(kept, !refills);
    }
}

#[test]
fn a_java_controller_has_heard_of_an_end_that_left_before_its_ping() {
    let mut bench = Bench::connected_to(ack(Capabilities::NONE));
    bench.session.adopt(hosted("lobby-1", State::Running)).unwrap();
    bench.ping(1);
    while bench.sent().is_some() {}
    bench.report(1, State::Stopped);
    bench.ping(2);
    assert_eq!(bench.session.poll_event(), None, "the report waits in the outbox");
    while bench.sent().is_some() {}
    bench.advance(Duration::from_secs(60));
    assert!(
        !matches!(bench.session.poll_event(), Some(DaemonEvent::EndHeard { .. })),
        "time proves nothing"
    );
    bench.ping(3);
    let heard = DaemonEvent::EndHeard {
        instance: "lobby-1".parse().unwrap(),
        incarnation: Incarnation::new(1),
    };
    assert_eq!(bench.event(), heard);
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
    bench.receive(FromController::Ping(Ping {
        sequence: 1,
        answered: 0,
    }));
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
    let reported = |bench: &mut Bench| {
        for _ in 0..10_000 {
            bench.receive(FromController::SendCommand(SendCommand {
                instance_id: "../x".into(),
                ..Default::default()
            }));
        }
        std::iter::from_fn(|| bench.session.poll_event()).count()
    };
    assert_eq!(reported(&mut bench), 32);
    bench.now += Duration::from_secs(2);
    assert_eq!(reported(&mut bench), 2, "one more for each second");
    bench.now += Duration::from_secs(3600);
    assert_eq!(reported(&mut bench), 32, "silence saves nothing up");
    assert!(bench.session.is_established());
    assert_eq!(bench.session.anomalies(), 30_000);
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

fn stop(force: bool) -> FromController {
    FromController::StopInstance(StopInstance {
        instance_id: "lobby-1".into(),
        force,
        incarnation: 1,
    })
}

fn hosted(name: &str, state: State) -> HostedInstance {
    HostedInstance {
        instance: name.parse().unwrap(),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::new(1),
        port: 30_000,
        state,
    }
}

#[test]
fn an_error_is_never_answered_with_an_error() {
    let too_long = ErrorReport {
        error_message: "x".repeat(2_000),
        ..Default::default()
    };
    let mut bench = Bench::connected_to(HandshakeAck {
        epoch: 5,
        ..ack(Capabilities::SESSION)
    });
    bench.receive_at(FromController::ErrorReport(Box::new(too_long)), 5);
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Invalid(_))));
    bench.quiet();
    bench.receive_at(FromController::ErrorReport(Box::default()), 4);
    assert!(matches!(bench.event(), DaemonEvent::Ignored(Anomaly::Stale(_))));
    bench.quiet();
    bench.receive_at(FromController::ErrorReport(Box::default()), 5);
    assert!(matches!(
        bench.event(),
        DaemonEvent::Request(FromController::ErrorReport(_))
    ));
    bench.quiet();
}

#[test]
fn an_unknown_variant_is_said_once_on_each_stream() {
    let mut bench = Bench::new();
    for stream in 1..=3 {
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
        assert!(matches!(bench.event(), DaemonEvent::Connected(_)));
        for _ in 0..2 {
            let unknown_variant = Some(99);
            let message = ControllerMessage::default();
            bench.session.handle_message(
                bench.now,
                Received {
                    message,
                    unknown_variant,
                    refused: None,
                },
            );
        }
        assert_eq!(
            bench.event(),
            DaemonEvent::Ignored(Anomaly::UnknownVariant { tag: 99 })
        );
        bench.quiet();
        assert_eq!(bench.session.unknown_variants(), 2 * stream);
        bench.session.handle_disconnected(bench.now);
        let _ = bench.event();
    }
}

#[test]
fn a_repeated_order_is_answered_with_the_players_and_uptime_last_reported() {
    let mut bench = Bench::connected();
    bench.start(1);
    for state in [State::Preparing, State::Starting, State::Running] {
        bench.report(1, state);
        let _ = bench.sent();
    }
    let report = StatusReport {
        instance: lobby(),
        incarnation: Incarnation::new(1),
        state: State::Running,
        player_count: 42,
        uptime: Duration::from_secs(99),
    };
    let told = |bench: &mut Bench, players, uptime| {
        let update = std::iter::from_fn(|| bench.sent())
            .find_map(|payload| match payload {
                FromDaemon::InstanceStatus(update) => Some(update),
                _ => None,
            })
            .expect("a status");
        assert_eq!((update.player_count, update.uptime_ms), (players, uptime));
    };
    let _ = bench.session.report(&report);
    told(&mut bench, 42, 99_000);
    bench.receive(FromController::StartInstance(Box::new(start_message(1))));
    told(&mut bench, 42, 99_000);

    // What no controller believes is not kept, what it does not hear at once is.
    let _ = bench.session.report(&StatusReport {
        state: State::Preparing,
        player_count: 7,
        ..report
    });
    bench.session.handle_disconnected(bench.now);
    bench.connect();
    let _ = bench.session.report(&StatusReport {
        player_count: 41,
        ..report
    });
    let _ = bench.session.report(&StatusReport {
        state: State::Stopping,
        player_count: 40,
        uptime: Duration::from_secs(120),
        ..report
    });
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    told(&mut bench, 40, 120_000);
    for _ in 0..2 {
        bench.receive(stop(false));
    }
    told(&mut bench, 40, 120_000);

    // The next incarnation begins with nothing.
    bench.report(1, State::Stopped);
    while bench.sent().is_some() {}
    bench.receive(FromController::StartInstance(Box::new(start_message(2))));
    bench.receive(FromController::StartInstance(Box::new(start_message(2))));
    told(&mut bench, 0, 0);
}

/// Everything that a daemon can have waiting, one of each class at least.
fn fill(bench: &mut Bench) {
    bench.receive(FromController::Ping(Ping {
        sequence: 5,
        answered: 0,
    }));
    bench
        .session
        .stop_acknowledged(lobby(), Incarnation::new(1), Ok(()));
    bench.session.start_accepted(lobby(), Incarnation::new(1), "");
    bench.session.acknowledge_shutdown(1, Duration::from_secs(1));
    bench.report(1, State::Preparing);
    let _ = bench.session.crash(crash("r1"));
    for payload in [
        FromDaemon::NodeStatus(NodeStatus::default()),
        FromDaemon::ModuleStateUpdate(Box::new(ModuleStateUpdate {
            module_id: "m".into(),
            state: "ACTIVE".into(),
            ..Default::default()
        })),
        FromDaemon::InstanceFileTree(InstanceFileTree {
            request_id: "r".into(),
            ..Default::default()
        }),
    ] {
        let _ = bench.session.send(payload);
    }
    bench.session.console(ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: "kept".into(),
        ..Default::default()
    });
}

#[test]
fn nothing_of_an_earlier_stream_or_of_the_time_between_precedes_the_handshake() {
    for tell_the_end in [true, false] {
        let mut bench = Bench::connected();
        bench.start(1);
        fill(&mut bench);
        for class in [Class::Control, Class::Report, Class::Bulk, Class::BestEffort] {
            assert!(
                !bench.session.has_room(class, usize::MAX),
                "something waits as {class}"
            );
        }
        if tell_the_end {
            bench.session.handle_disconnected(bench.now);
            fill(&mut bench);
        }
        bench.connect();
        assert_eq!(bench.session.poll_transmit(), None, "only the handshake leaves");
        fill(&mut bench);
        assert_eq!(bench.session.poll_transmit(), None);
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
        let sent: Vec<_> = std::iter::from_fn(|| bench.sent())
            .map(|payload| kind::of_daemon(&payload))
            .collect();
        let lines = if tell_the_end { 3 } else { 2 };
        let mut expected = vec!["Pong", "CrashReport"];
        expected.extend(std::iter::repeat_n("ConsoleOutput", lines));
        assert_eq!(
            sent, expected,
            "the ping was held on the new stream, lines are kept"
        );
    }
}

#[test]
fn a_crash_report_that_found_its_class_full_follows_as_soon_as_there_is_room() {
    let mut config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
    config.bounds.report.messages = 2;
    let mut bench = Bench {
        session: DaemonSession::new(config, Hosted::new(), EpochFence::default()),
        now: Instant::now(),
    };
    bench.connect();
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    let module = || {
        FromDaemon::ModuleStateUpdate(Box::new(ModuleStateUpdate {
            module_id: "m".into(),
            state: "ACTIVE".into(),
            ..Default::default()
        }))
    };
    for _ in 0..2 {
        bench.session.send(module()).unwrap();
    }
    for report in ["r1", "r2", "r3"] {
        bench.session.crash(crash(report)).unwrap();
    }
    let sent: Vec<_> = std::iter::from_fn(|| bench.sent())
        .map(|payload| match payload {
            FromDaemon::CrashReport(report) => report.report_id,
            other => kind::of_daemon(&other).to_owned(),
        })
        .collect();
    assert_eq!(sent, ["ModuleStateUpdate", "ModuleStateUpdate", "r1", "r2", "r3"]);
    assert!(bench.session.is_established(), "reports never make a peer slow");
}

/// The crash reports that leave.
fn crashes(bench: &mut Bench) -> Vec<String> {
    std::iter::from_fn(|| bench.sent())
        .filter_map(|payload| match payload {
            FromDaemon::CrashReport(report) => Some(report.report_id),
            _ => None,
        })
        .collect()
}

/// The crash reports that the application is told to forget.
fn forgotten(bench: &mut Bench) -> Vec<String> {
    std::iter::from_fn(|| bench.session.poll_event())
        .filter_map(|event| match event {
            DaemonEvent::CrashReportAcknowledged { report_id } => Some(report_id),
            _ => None,
        })
        .collect()
}

#[test]
fn a_controller_that_acknowledges_no_crash_is_told_each_exactly_once_whatever_ends_the_stream() {
    type Ending = fn(&mut Bench);
    let endings: [Ending; 4] = [
        |_| {},
        |bench| bench.session.shut_down(),
        |bench| bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::NONE)))),
        |bench| bench.advance(Duration::from_secs(90)),
    ];
    for (number, end) in endings.iter().enumerate() {
        for is_written in [true, false] {
            let mut bench = Bench::connected_to(ack(Capabilities::NONE));
            bench.session.crash(crash("r1")).unwrap();
            end(&mut bench);
            let mut told = Vec::new();
            if is_written {
                told = crashes(&mut bench);
                // An application that has not heard yet that the report is done with hands it over again.
                bench.session.crash(crash("r1")).unwrap();
                told.extend(crashes(&mut bench));
            }
            bench.session.handle_disconnected(bench.now);
            for _ in 0..2 {
                bench.connect();
                bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::NONE))));
                told.extend(crashes(&mut bench));
                bench.session.handle_disconnected(bench.now);
            }
            assert_eq!(told, ["r1"], "ending {number}, written: {is_written}");
            assert_eq!(forgotten(&mut bench), ["r1"]);
        }
    }
}

#[test]
fn as_many_crash_reports_wait_as_is_said_and_then_one_for_each_that_is_confirmed() {
    let mut bench = Bench::connected();
    for index in 0..CRASHES_KEPT {
        bench.session.crash(crash(&format!("r{index}"))).unwrap();
    }
    let refused = |outcome| matches!(outcome, Err(SendError::Full(full)) if full.class == Class::Report);
    assert!(refused(bench.session.crash(crash("more"))));
    assert_eq!(
        bench.session.crash(crash("r0")),
        Ok(()),
        "that one is kept already"
    );
    let report_id = "r0".to_owned();
    bench.receive(FromController::CrashReportAck(CrashReportAck { report_id }));
    assert_eq!(bench.session.crash(crash("more")), Ok(()));
    assert!(refused(bench.session.crash(crash("another"))));
}

#[test]
fn a_controller_that_acknowledges_crashes_is_told_on_each_stream_until_it_has() {
    let mut bench = Bench::connected();
    bench.session.crash(crash("r1")).unwrap();
    for _ in 0..2 {
        bench.session.shut_down();
        assert_eq!(crashes(&mut bench), ["r1"]);
        bench.session.handle_disconnected(bench.now);
        assert_eq!(forgotten(&mut bench), <[String; 0]>::default());
        bench.connect();
        bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    }
    assert_eq!(crashes(&mut bench), ["r1"]);
    bench.receive(FromController::CrashReportAck(CrashReportAck {
        report_id: "r1".into(),
    }));
    // Until the application has polled that it is done with, handing it over again changes nothing.
    bench.session.crash(crash("r1")).unwrap();
    assert_eq!(crashes(&mut bench), <[String; 0]>::default());
    assert_eq!(forgotten(&mut bench), ["r1"]);
}

#[test]
fn a_full_node_lists_its_ends_beside_what_lives() {
    let mut bench = Bench::new();
    for n in 0..limits::INSTANCES_PER_NODE {
        bench
            .session
            .adopt(hosted(&format!("z-{n:04}"), State::Running))
            .unwrap();
    }
    for n in 0..100 {
        bench
            .session
            .adopt(hosted(&format!("a-{n:02}"), State::Stopped))
            .unwrap();
    }
    let handshake = bench.connect();
    let live = handshake.running_instances;
    assert_eq!(live.len(), limits::INSTANCES_PER_NODE);
    assert!(
        live.iter()
            .all(|instance| instance.state == State::Running.to_wire())
    );
    let ended: Vec<_> = handshake
        .ended_instances
        .into_iter()
        .map(|instance| instance.instance_id)
        .collect();
    let newest_first: Vec<_> = (0..100).rev().map(|n| format!("a-{n:02}")).collect();
    assert_eq!(ended, newest_first);
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    assert_eq!(bench.sent(), None, "it has read that");
    // Another one has not.
    bench.session.handle_disconnected(bench.now);
    let (_, told) = reconnect(&mut bench, Capabilities::NONE);
    assert_eq!(told, vec![State::Stopped.to_wire(); 100]);
}

#[test]
fn news_after_an_acknowledgement_never_fill_the_outbox() {
    let mut config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
    config.bounds.control.messages = 64;
    let mut bench = Bench {
        session: DaemonSession::new(config, Hosted::new(), EpochFence::default()),
        now: Instant::now(),
    };
    for n in 0..1_000 {
        bench
            .session
            .adopt(hosted(&format!("a-{n}"), State::Starting))
            .unwrap();
    }
    bench.connect();
    for n in 0..1_000 {
        let _ = bench.session.report(&StatusReport {
            instance: format!("a-{n}").parse().unwrap(),
            incarnation: Incarnation::new(1),
            state: State::Running,
            player_count: 0,
            uptime: Duration::ZERO,
        });
    }
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    for sequence in 0..40 {
        bench.receive(FromController::Ping(Ping {
            sequence,
            answered: 0,
        }));
    }
    assert!(bench.session.is_established());
    let told = std::iter::from_fn(|| bench.sent())
        .filter(|payload| matches!(payload, FromDaemon::InstanceStatus(_)))
        .count();
    assert_eq!(told, 1_000);
}

/// Connects and gives the states that the controller reads in the lists, and those told after the acknowledgement.
fn reconnect(bench: &mut Bench, capabilities: Capabilities) -> (Vec<i32>, Vec<i32>) {
    let handshake = bench.connect();
    let mut listed = handshake.running_instances;
    let ended = [State::Stopped, State::Crashed].map(State::to_wire);
    assert!(
        listed.iter().all(|listed| !ended.contains(&listed.state)),
        "no ghosts: {listed:?}"
    );
    if capabilities.contains(Capabilities::ENDED_LISTED) {
        listed.extend(handshake.ended_instances);
    }
    bench.receive(FromController::HandshakeAck(Box::new(ack(capabilities))));
    let told = std::iter::from_fn(|| bench.sent()).map(|payload| status(Some(payload)).state);
    let told = told.collect();
    (listed.iter().map(|instance| instance.state).collect(), told)
}

#[test]
fn a_controller_that_does_not_understand_ended_instances_is_listed_what_lives_and_told_the_ends_once() {
    let java = Capabilities::NONE;
    let (running, crashed) = (State::Running.to_wire(), State::Crashed.to_wire());
    let mut bench = Bench::connected_to(ack(java));
    bench.session.adopt(hosted("lobby-1", State::Running)).unwrap();
    bench.session.adopt(hosted("lobby-2", State::Running)).unwrap();
    bench.session.handle_disconnected(bench.now);
    bench.report(1, State::Crashed);
    // The ends are not listed, but told right after the acknowledgement, each until it has left.
    for _ in 0..2 {
        let listed = bench.connect().running_instances;
        assert_eq!(listed.len(), 1, "{listed:?}");
        bench.receive(FromController::HandshakeAck(Box::new(ack(java))));
        bench.session.handle_disconnected(bench.now);
    }
    assert_eq!(reconnect(&mut bench, java), (vec![running], vec![crashed]));
    bench.session.handle_disconnected(bench.now);
    assert_eq!(reconnect(&mut bench, java), (vec![running], vec![]), "told once");
    // What is told on a live stream is not told again, and never listed.
    let _ = bench.session.report(&StatusReport {
        instance: "lobby-2".parse().unwrap(),
        incarnation: Incarnation::new(1),
        state: State::Crashed,
        player_count: 0,
        uptime: Duration::ZERO,
    });
    assert_eq!(status(bench.sent()).state, crashed);
    bench.session.handle_disconnected(bench.now);
    assert_eq!(reconnect(&mut bench, java), (vec![], vec![]));
}

#[test]
fn an_end_that_left_says_nothing_of_a_later_end_of_the_same_id() {
    let names_incarnations = Capabilities::INCARNATIONS;
    let mut bench = Bench::connected_to(ack(names_incarnations));
    for incarnation in [1, 2] {
        bench.start(incarnation);
        bench.report(incarnation, State::Stopped);
    }
    assert_eq!(status(bench.sent()).incarnation, 1);
    // The later end was lost with the stream.
    bench.session.handle_disconnected(bench.now);
    let stopped = State::Stopped.to_wire();
    assert_eq!(reconnect(&mut bench, names_incarnations), (vec![], vec![stopped]));
    bench.session.handle_disconnected(bench.now);
    assert_eq!(reconnect(&mut bench, names_incarnations), (vec![], vec![]));
}

#[test]
fn ends_are_told_at_once_to_a_controller_that_turns_out_not_to_read_their_list() {
    let stopped = State::Stopped.to_wire();
    // Nobody has acknowledged yet, or the last one was another.
    for before in [None, Some(Capabilities::SESSION)] {
        let mut bench = Bench::new();
        if let Some(capabilities) = before {
            let _ = reconnect(&mut bench, capabilities);
            bench.session.handle_disconnected(bench.now);
        }
        bench.session.adopt(hosted("lobby-1", State::Stopped)).unwrap();
        assert_eq!(reconnect(&mut bench, Capabilities::NONE), (vec![], vec![stopped]));
        bench.session.handle_disconnected(bench.now);
        assert_eq!(reconnect(&mut bench, Capabilities::NONE), (vec![], vec![]));
    }
}

#[test]
fn ends_are_listed_to_a_controller_that_turns_out_to_read_their_list() {
    let stopped = State::Stopped.to_wire();
    let mut bench = Bench::connected_to(ack(Capabilities::NONE));
    bench.session.handle_disconnected(bench.now);
    bench.session.adopt(hosted("lobby-1", State::Stopped)).unwrap();
    let rust = Capabilities::SESSION;
    for _ in 0..2 {
        assert_eq!(reconnect(&mut bench, rust), (vec![stopped], vec![]));
        bench.session.handle_disconnected(bench.now);
    }
    assert_eq!(reconnect(&mut bench, rust), (vec![], vec![]));
}

#[test]
fn a_start_beside_a_live_incarnation_may_be_tried_again_later() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.receive(FromController::StartInstance(Box::new(start_message(2))));
    let Some(FromDaemon::StartInstanceAck(ack)) = bench.sent() else {
        panic!()
    };
    assert_eq!(
        (ack.accepted, ack.error_code.as_str(), ack.incarnation),
        (false, "INSTANCE_STILL_ALIVE", 2)
    );
    assert_eq!(ack.failure_disposition(), StartFailureDisposition::Transient);
    assert_eq!(ack.retry_after_seconds, 5);
    bench.report(1, State::Preparing);
    bench.report(1, State::Stopped);
    while bench.sent().is_some() {}
    bench.start(2);
    bench.receive(FromController::StartInstance(Box::new(start_message(1))));
    let Some(FromDaemon::StartInstanceAck(ack)) = bench.sent() else {
        panic!()
    };
    assert_eq!(
        (ack.error_code.as_str(), ack.failure_disposition()),
        ("STALE_INCARNATION", StartFailureDisposition::Permanent)
    );
}

#[test]
fn a_refused_stop_is_an_order_again_when_it_is_repeated() {
    for force in [false, true] {
        let mut bench = Bench::connected();
        bench.start(1);
        for _ in 0..3 {
            bench.receive(stop(force));
            assert!(matches!(bench.event(), DaemonEvent::Stop { .. }));
            bench
                .session
                .stop_acknowledged(lobby(), Incarnation::new(1), Err("not permitted".into()));
            assert!(matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(ack)) if !ack.accepted));
        }
        bench.receive(stop(force));
        let _ = bench.event();
        bench
            .session
            .stop_acknowledged(lobby(), Incarnation::new(1), Ok(()));
        bench.receive(stop(force));
        assert_eq!(bench.session.poll_event(), None, "the accepted one is in effect");
    }
}

const fn ping(sequence: i64, answered: i64) -> FromController {
    FromController::Ping(Ping { sequence, answered })
}

/// How many ends have been heard of since this was asked last.
fn heard(bench: &mut Bench) -> usize {
    while bench.sent().is_some() {}
    std::iter::from_fn(|| bench.session.poll_event())
        .filter(|event| matches!(event, DaemonEvent::EndHeard { .. }))
        .count()
}

#[test]
fn a_start_that_comes_to_nothing_between_handshake_and_acknowledgement_is_told_after_it() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.report(1, State::Preparing);
    while bench.sent().is_some() {}
    bench.session.handle_disconnected(bench.now);
    let listed = bench.connect().running_instances;
    assert_eq!(listed.len(), 1);
    let rejection = StartRejection {
        stage: StartPreparationStage::RuntimeProvision,
        error_code: "TEMPLATE_FAILED".into(),
        message: "the download was cut".into(),
        disposition: StartFailureDisposition::Transient,
        retry_after: Duration::from_secs(5),
        plan_hash: String::new(),
    };
    bench
        .session
        .start_rejected(lobby(), Incarnation::new(1), rejection);
    assert_eq!(bench.sent(), None, "not before the acknowledgement");
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::StartInstanceAck(ack)) if !ack.accepted && ack.error_code == "TEMPLATE_FAILED")
    );
}

#[test]
fn an_end_that_is_told_again_counts_from_the_first_time() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.report(1, State::Stopped);
    bench.receive(ping(1, 0));
    bench.receive(stop(false));
    let told = std::iter::from_fn(|| bench.sent());
    let ends = told.filter(|payload| matches!(payload, FromDaemon::InstanceStatus(_)));
    assert_eq!(ends.count(), 2);
    bench.receive(ping(2, 1));
    assert_eq!(heard(&mut bench), 1, "pong 1 left behind the first report");
}

#[test]
fn an_end_says_nothing_of_the_one_of_a_later_start() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.report(1, State::Stopped);
    bench.receive(ping(1, 0));
    bench.start(2);
    bench.report(2, State::Stopped);
    bench.receive(ping(2, 1));
    assert_eq!(heard(&mut bench), 0, "pong 1 left before the second report");
    bench.receive(ping(3, 2));
    assert_eq!(heard(&mut bench), 1);
}

#[test]
fn an_end_counts_as_heard_when_a_ping_names_a_pong_that_left_behind_it() {
    let mut bench = Bench::connected();
    bench.start(1);
    bench.receive(ping(1, 0));
    bench.report(1, State::Stopped);
    bench.receive(ping(2, 1));
    assert_eq!(heard(&mut bench), 0, "pong 1 left before the report");
    bench.receive(ping(3, 1));
    assert_eq!(heard(&mut bench), 0, "a ping alone says nothing");
    bench.receive(ping(4, 2));
    assert_eq!(heard(&mut bench), 1);
    bench.receive(ping(5, 4));
    assert_eq!(heard(&mut bench), 0);
}

#[test]
fn an_end_that_a_handshake_listed_is_heard_with_the_first_confirmed_pong() {
    let mut bench = Bench::connected();
    bench.start(1);
    for sequence in 1..=5 {
        bench.receive(ping(sequence, 0));
    }
    bench.report(1, State::Stopped);
    while bench.sent().is_some() {}
    bench.session.handle_disconnected(bench.now);
    bench.connect();
    while bench.session.poll_event().is_some() {}
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    assert!(matches!(bench.event(), DaemonEvent::Connected(_)));
    for (sequence, answered) in [(1, 0), (2, 0)] {
        bench.receive(FromController::Ping(Ping { sequence, answered }));
        assert_eq!(bench.session.poll_event(), None);
    }
    bench.receive(FromController::Ping(Ping {
        sequence: 3,
        answered: 1,
    }));
    assert!(matches!(bench.event(), DaemonEvent::EndHeard { .. }));
}

#[test]
fn a_stop_that_the_supervisor_is_late_with_is_acknowledged_without_a_report_that_denies_it() {
    let mut bench = Bench::connected();
    bench.start(1);
    for state in [State::Preparing, State::Starting, State::Running] {
        bench.report(1, state);
        assert!(bench.sent().is_some());
    }
    let stop = FromController::StopInstance(StopInstance {
        instance_id: "lobby-1".into(),
        force: false,
        incarnation: 1,
    });
    bench.receive(stop.clone());
    assert!(matches!(bench.event(), DaemonEvent::Stop { .. }));
    bench.receive(stop.clone());
    assert!(matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(ack)) if ack.accepted));
    bench.quiet();
    bench.report(1, State::Stopping);
    assert!(bench.sent().is_some());
    bench.receive(stop);
    assert!(matches!(bench.sent(), Some(FromDaemon::StopInstanceAck(ack)) if ack.accepted));
    assert!(
        matches!(bench.sent(), Some(FromDaemon::InstanceStatus(update)) if update.state == State::Stopping.to_wire())
    );
}

#[test]
fn what_a_start_waits_for_is_told_with_it_and_after_a_reconnect() {
    let mut bench = Bench::connected();
    bench.start(1);
    let waits = |bench: &mut Bench, text: &str| bench.session.waiting_for(lobby(), Incarnation::new(1), text);
    // The supervisor may be faster than the machine that tells the state.
    waits(&mut bench, "waiting for port 30000");
    bench.report(1, State::Preparing);
    assert_eq!(status(bench.sent()).waiting_for, "");
    bench.report(1, State::Starting);
    assert_eq!(status(bench.sent()).waiting_for, "waiting for port 30000");
    waits(&mut bench, "waiting for port 30000");
    bench.quiet();
    waits(&mut bench, "waiting for the ready line");
    assert_eq!(status(bench.sent()).waiting_for, "waiting for the ready line");
    bench
        .session
        .waiting_for(lobby(), Incarnation::new(2), "of another start");
    bench.quiet();
    waits(&mut bench, &"x".repeat(1000));
    assert_eq!(status(bench.sent()).waiting_for.len(), limits::WAITING_FOR);
    waits(&mut bench, "waiting for the ready line");
    bench.sent();

    bench.session.handle_disconnected(bench.now);
    bench.connect();
    bench.receive(FromController::HandshakeAck(Box::new(ack(Capabilities::SESSION))));
    let told = status(bench.sent());
    assert_eq!(
        (told.state, told.waiting_for.as_str()),
        (3, "waiting for the ready line")
    );
    assert_eq!(bench.sent(), None, "once");

    bench.report(1, State::Running);
    assert_eq!(status(bench.sent()).waiting_for, "");
    waits(&mut bench, "late");
    assert_eq!(bench.sent(), None);
}

#[test]
fn a_plugin_s_call_is_handed_on_while_the_server_starts() {
    let mut bench = Bench::connected();
    let ready = |instance_id: &str, incarnation| {
        FromController::InstanceReady(InstanceReady {
            instance_id: instance_id.into(),
            incarnation,
        })
    };
    bench.receive(ready("lobby-1", 1));
    let unknown = bench.event();
    assert!(
        matches!(
            unknown,
            DaemonEvent::Ignored(Anomaly::Denied {
                what: "InstanceReady",
                ..
            })
        ),
        "{unknown:?}"
    );
    bench.sent();
    bench.start(2);
    bench.receive(ready("lobby-1", 2));
    bench.quiet();
    bench.report(2, State::Preparing);
    bench.report(2, State::Starting);
    while bench.sent().is_some() {}
    bench.receive(ready("lobby-1", 1));
    assert!(matches!(
        bench.event(),
        DaemonEvent::Ignored(Anomaly::Denied { .. })
    ));
    bench.sent();
    bench.receive(ready("lobby-1", 2));
    let call = DaemonEvent::PluginReady {
        instance: lobby(),
        incarnation: Incarnation::new(2),
    };
    assert_eq!(bench.event(), call);
    bench.report(2, State::Running);
    bench.sent();
    bench.receive(ready("lobby-1", 2));
    bench.quiet();
    bench.receive(ready("../x", 2));
    assert!(matches!(bench.event(), DaemonEvent::Ignored(_)));
}

#[test]
fn orders_about_modules_tell_their_trace() {
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let uninstall = ModuleUninstall {
        module_id: "stats".to_owned(),
    };
    let mut bench = Bench::connected();
    for given in [traceparent, "00-broken", ""] {
        let message = ControllerMessage {
            payload: Some(FromController::ModuleUninstall(uninstall.clone())),
            traceparent: given.to_owned(),
            ..Default::default()
        };
        bench.session.handle_message(bench.now, message.into());
        let told = DaemonEvent::UninstallModule {
            order: uninstall.clone(),
            trace: TraceParent::parse(traceparent).filter(|_| given == traceparent),
        };
        assert_eq!(bench.event(), told);
    }
    bench.quiet();
}
