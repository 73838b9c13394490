//! The controller's session against a daemon played by hand
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "one real instant to count from")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::handshake::controller::{Hello, Refusal};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::session::Anomaly;
use prexorcloud_protocol::session::controller::{AcceptError, Admission, ControllerOutcome};
use prexorcloud_protocol::{
    Capabilities, Close, Code, ControllerConfig, ControllerEvent, ControllerSession, Epoch, NodeId, Received,
    SendError, Session,
};

struct Bench {
    session: ControllerSession,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let mut session = ControllerSession::new(ControllerConfig::default(), node(), 1);
        let now = Instant::now();
        session.handle_connected(now);
        Self { session, now }
    }

    fn established() -> Self {
        Self::established_with(Capabilities::SESSION)
    }

    fn established_with(capabilities: Capabilities) -> Self {
        let mut bench = Self::new();
        bench.receive(FromDaemon::Handshake(Box::new(Handshake {
            capabilities: capabilities.to_wire(),
            ..handshake()
        })));
        bench.admit();
        assert!(matches!(bench.sent(), Some(FromController::HandshakeAck(_))));
        assert!(matches!(bench.sent(), Some(FromController::Ping(_))));
        assert_eq!(bench.event(), ControllerEvent::Established);
        bench
    }

    fn admit(&mut self) {
        let ControllerEvent::Hello(hello) = self.event() else {
            panic!("expected a hello")
        };
        let admission = Admission {
            session_id: "s".into(),
            epoch: Epoch::new(3),
            ..Default::default()
        };
        self.session.accept(self.now, hello, admission).unwrap();
    }

    fn receive(&mut self, payload: FromDaemon) {
        self.session.handle_message(
            self.now,
            DaemonMessage {
                payload: Some(payload),
            }
            .into(),
        );
    }

    fn sent(&mut self) -> Option<FromController> {
        self.session
            .poll_transmit()
            .map(|message| message.payload.unwrap())
    }

    fn event(&mut self) -> ControllerEvent {
        self.session.poll_event().expect("an event")
    }

    fn events(&mut self) -> Vec<ControllerEvent> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
    }

    fn close(&self) -> &Close {
        self.session.close().expect("the session wants to close")
    }
}

fn node() -> NodeId {
    "node-1".parse().unwrap()
}

fn handshake() -> Handshake {
    Handshake {
        node_id: "node-1".into(),
        version: "1".into(),
        protocol_version: 1,
        capabilities: Capabilities::SESSION.to_wire(),
        ..Default::default()
    }
}

/// Sends one first message; gives the close and what left before it.
fn refused(
    payload: Option<FromDaemon>,
    unknown_variant: Option<u32>,
) -> (Close, Option<FromController>, Vec<ControllerEvent>) {
    let mut bench = Bench::new();
    bench.session.handle_message(
        bench.now,
        Received {
            message: DaemonMessage { payload },
            unknown_variant,
            refused: None,
        },
    );
    let (close, sent) = (bench.close().clone(), bench.sent());
    bench.session.handle_disconnected(bench.now);
    (close, sent, bench.events())
}

#[test]
fn a_first_message_that_is_no_handshake_is_refused() {
    let pong = Some(FromDaemon::Pong(Pong { sequence: 1 }));
    for (payload, unknown) in [(pong, None), (None, None), (None, Some(77))] {
        let (close, sent, events) = refused(payload, unknown);
        assert_eq!((close.code, sent), (Code::FailedPrecondition, None));
        assert!(matches!(
            &events[..],
            [ControllerEvent::Closed(ControllerOutcome::Refused(
                Refusal::NotAHandshake { .. }
            ))]
        ));
    }
}

#[test]
fn a_node_may_only_be_what_its_certificate_says() {
    let other = Handshake {
        node_id: "node-2".into(),
        ..handshake()
    };
    let (close, _, _) = refused(Some(FromDaemon::Handshake(Box::new(other))), None);
    assert_eq!(close.code, Code::PermissionDenied);
    assert!(close.message.contains("node-1") && close.message.contains("node-2"));
}

#[test]
fn unsafe_ids_and_over_long_fields_are_named() {
    let cases = [
        (
            "node_id",
            Handshake {
                node_id: "../x".into(),
                ..handshake()
            },
        ),
        (
            "node_id",
            Handshake {
                node_id: String::new(),
                ..handshake()
            },
        ),
        (
            "node_id",
            Handshake {
                node_id: "x".repeat(65),
                ..handshake()
            },
        ),
        (
            "node_id",
            Handshake {
                node_id: "a,CN=b".into(),
                ..handshake()
            },
        ),
        (
            "version",
            Handshake {
                version: " ".into(),
                ..handshake()
            },
        ),
        (
            "version",
            Handshake {
                version: "v".repeat(65),
                ..handshake()
            },
        ),
        (
            "advertise_address",
            Handshake {
                advertise_address: "a".repeat(256),
                ..handshake()
            },
        ),
        (
            "labels",
            Handshake {
                labels: [("k".into(), "v".repeat(257))].into(),
                ..handshake()
            },
        ),
        (
            "total_memory_mb",
            Handshake {
                total_memory_mb: -1,
                ..handshake()
            },
        ),
    ];
    for (field, handshake) in cases {
        let (close, sent, _) = refused(Some(FromDaemon::Handshake(Box::new(handshake))), None);
        assert_eq!((close.code, sent), (Code::InvalidArgument, None), "{field}");
        assert!(close.message.contains(field), "{close}");
    }
}

#[test]
fn incompatible_versions_get_an_acknowledgement_and_then_the_status() {
    for version in [0, -1, 7, i32::MIN, i32::MAX] {
        let min_protocol_version = version.max(0);
        let handshake = Handshake {
            protocol_version: version,
            min_protocol_version,
            ..handshake()
        };
        let (close, sent, _) = refused(Some(FromDaemon::Handshake(Box::new(handshake))), None);
        let Some(FromController::HandshakeAck(ack)) = sent else {
            panic!("no acknowledgement for {version}")
        };
        assert!(!ack.protocol_compatible && ack.protocol_version == 1);
        assert_eq!(close.code, Code::FailedPrecondition);
        assert!(close.message.contains("upgrade required"), "{close}");
    }
}

#[test]
fn nothing_is_registered_before_the_verdict() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    assert_eq!(bench.sent(), None);
    assert!(!bench.session.is_established());
    assert_eq!(
        bench
            .session
            .send(FromController::RequestCacheStatus(RequestCacheStatus {})),
        Err(SendError::NotConnected)
    );
}

#[test]
fn a_second_handshake_is_refused_at_any_time() {
    let mut early = Bench::new();
    early.receive(FromDaemon::Handshake(Box::new(handshake())));
    early.receive(FromDaemon::Handshake(Box::new(handshake())));
    assert_eq!(early.close().code, Code::FailedPrecondition);
    let mut late = Bench::established();
    late.receive(FromDaemon::Handshake(Box::new(handshake())));
    assert_eq!(late.close().code, Code::FailedPrecondition);
}

/// The session of the `accepted`th stream, whose handshake waits for a decision.
fn greeted(accepted: u64, handshake: Handshake) -> (ControllerSession, Box<Hello>) {
    let now = Instant::now();
    let mut session = ControllerSession::new(ControllerConfig::default(), node(), accepted);
    session.handle_connected(now);
    let payload = Some(FromDaemon::Handshake(Box::new(handshake)));
    session.handle_message(now, DaemonMessage { payload }.into());
    match session.poll_event() {
        Some(ControllerEvent::Hello(hello)) => (session, hello),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_decision_admits_only_the_stream_that_it_was_made_for() {
    let now = Instant::now();
    let (mut first, _) = greeted(1, handshake());
    let (mut session, hello) = greeted(2, handshake());
    let again = hello.clone();
    let refused = first.accept(now, again.clone(), Admission::default());
    assert_eq!(refused, Err(AcceptError::ForeignHello));
    assert!(first.is_awaiting_admission() && first.poll_transmit().is_none());
    session.accept(now, hello, Admission::default()).unwrap();
    let refused = session.accept(now, again, Admission::default());
    assert_eq!(refused, Err(AcceptError::NotAwaited));
}

#[test]
fn orders_leave_half_of_the_outbox_and_are_asked_for_again_when_there_is_room() {
    let mut bench = Bench::established();
    let mut left = 3_000;
    let mut next = || {
        left -= 1;
        (left >= 0).then(|| (FromController::StartInstance(Box::default()), None))
    };
    bench.session.take_orders(&mut next);
    assert!(!bench.session.has_room_for_orders());
    assert_eq!(bench.events(), []);
    let mut sent = 0;
    while bench.sent().is_some() {
        sent += 1;
        for event in bench.events() {
            assert_eq!(event, ControllerEvent::HasRoom);
            bench.session.take_orders(&mut next);
        }
    }
    assert_eq!((sent, bench.session.close()), (3_000, None));
}

#[test]
fn orders_are_not_taken_from_a_node_without_a_session() {
    let mut bench = Bench::established();
    bench.session.close_with(Close::new(Code::Unavailable, "no"));
    bench
        .session
        .take_orders(|| panic!("what is taken counts as sent"));
}

#[test]
fn nothing_is_told_after_the_end() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    // Held until the admission, and the second one ends the session in the middle of them.
    bench.receive(FromDaemon::NodeStatus(NodeStatus::default()));
    let ControllerEvent::Hello(hello) = bench.event() else {
        panic!()
    };
    bench.session.close_with(Close::new(Code::Unavailable, "no"));
    bench.receive(FromDaemon::NodeStatus(NodeStatus::default()));
    bench.session.handle_disconnected(bench.now);
    let refused = bench.session.accept(bench.now, hello, Admission::default());
    assert!(refused.is_err());
    let events = bench.events();
    assert!(
        matches!(events.last(), Some(ControllerEvent::Closed(_))),
        "{events:?}"
    );
    assert_eq!(events.len(), 1);

    let mut bench = Bench::established();
    bench.session.close_with(Close::new(Code::Unavailable, "no"));
    bench.receive(FromDaemon::NodeStatus(NodeStatus::default()));
    bench
        .session
        .handle_timeout(bench.now + Duration::from_secs(3_600));
    bench.session.handle_disconnected(bench.now);
    let events = bench.events();
    assert!(
        matches!(events.as_slice(), [ControllerEvent::Closed(_)]),
        "{events:?}"
    );
}

#[test]
fn the_contract_is_announced_and_compared() {
    use prexorcloud_protocol::compat::{ContractMatch, contract};
    let with = |digest: Option<String>| Handshake {
        capabilities: digest.into_iter().collect(),
        ..handshake()
    };
    let other = format!("contract-sha256/{}", "0".repeat(64));
    for (announced, expected) in [
        (Some(contract::capability()), ContractMatch::Same),
        (Some(other), ContractMatch::Different),
        (None, ContractMatch::Unknown),
    ] {
        let (mut session, hello) = greeted(1, with(announced));
        assert_eq!(hello.agreement.contract, expected);
        session
            .accept(Instant::now(), hello, Admission::default())
            .unwrap();
        let Some(FromController::HandshakeAck(ack)) = session.poll_transmit().unwrap().payload else {
            panic!("the acknowledgement comes first")
        };
        let digest = contract::digest_in_capabilities(&ack.capabilities);
        assert_eq!(digest, Some(contract::WIRE_DIGEST));
    }
}

#[test]
fn a_stream_that_ended_meanwhile_is_not_accepted() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    let ControllerEvent::Hello(hello) = bench.event() else {
        panic!()
    };
    bench.session.handle_disconnected(bench.now);
    let back = bench.session.accept(bench.now, hello, Admission::default());
    assert!(back.is_err());
    assert_eq!(
        bench.events(),
        [ControllerEvent::Closed(ControllerOutcome::StreamEnded)]
    );
}

#[test]
fn silence_before_the_handshake_and_before_the_decision_are_told_apart() {
    let mut bench = Bench::new();
    bench.advance(Duration::from_secs(10));
    assert_eq!(bench.close().code, Code::DeadlineExceeded);
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    bench.advance(Duration::from_secs(10));
    assert_eq!(bench.close().code, Code::Unavailable);
}

#[test]
fn what_a_daemon_says_before_its_admission_is_heard_after_it() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    bench.receive(FromDaemon::NodeStatus(NodeStatus {
        cpu_usage: 0.5,
        ..Default::default()
    }));
    bench.admit();
    assert_eq!(bench.event(), ControllerEvent::Established);
    assert!(matches!(bench.event(), ControllerEvent::NodeStatus(_)));
}

#[test]
fn every_message_carries_the_epoch() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    bench.admit();
    bench.session.take_orders({
        let mut start = Some((FromController::StartInstance(Box::default()), None));
        move || start.take()
    });
    bench
        .session
        .send(FromController::ShutdownNode(ShutdownNode::default()))
        .unwrap();
    bench.receive(FromDaemon::ConsoleOutput(ConsoleOutput {
        instance_id: "../x".into(),
        ..Default::default()
    }));
    let epochs: Vec<_> = std::iter::from_fn(|| bench.session.poll_transmit())
        .map(|message| message.epoch)
        .collect();
    assert_eq!(epochs, [3, 3, 3, 3, 3]);
}

#[test]
fn three_unanswered_pings_make_a_node_unreachable_and_one_answer_brings_it_back() {
    let mut bench = Bench::established();
    for _ in 0..2 {
        bench.advance(Duration::from_secs(30));
        assert_eq!(bench.events(), []);
    }
    bench.advance(Duration::from_secs(30));
    let silent_for = Duration::from_secs(90);
    assert_eq!(
        bench.events(),
        [ControllerEvent::Unreachable {
            missed: 3,
            silent_for
        }]
    );
    assert!(
        bench.session.is_established(),
        "the stream stays, the node may come back"
    );
    let last = std::iter::from_fn(|| bench.sent()).last();
    let Some(FromController::Ping(ping)) = last else {
        panic!("pings go on: {last:?}")
    };
    bench.advance(Duration::from_secs(1));
    bench.receive(FromDaemon::Pong(Pong {
        sequence: ping.sequence,
    }));
    assert_eq!(
        bench.events(),
        [ControllerEvent::Recovered {
            after: Duration::from_secs(1)
        }]
    );
}

#[test]
fn a_daemon_that_does_not_read_finds_one_ping_when_it_reads_again() {
    let mut bench = Bench::established();
    while bench.sent().is_some() {}
    for _ in 0..500 {
        bench.advance(Duration::from_secs(30));
    }
    let sent: Vec<_> = std::iter::from_fn(|| bench.sent()).collect();
    let [FromController::Ping(ping)] = sent.as_slice() else {
        panic!("one ping, and no other message: {sent:?}")
    };
    bench.events();
    bench.receive(FromDaemon::Pong(Pong {
        sequence: ping.sequence,
    }));
    assert!(
        matches!(bench.event(), ControllerEvent::Recovered { .. }),
        "it is the newest, so its answer is recognised"
    );
    bench.advance(Duration::from_secs(30));
    assert!(
        matches!(bench.sent(), Some(FromController::Ping(next)) if next.sequence == ping.sequence + 1),
        "and they go on"
    );
}

#[test]
fn a_pong_to_no_ping_is_answered_with_an_error() {
    let mut bench = Bench::established();
    bench.receive(FromDaemon::Pong(Pong { sequence: 42 }));
    assert!(
        matches!(bench.sent(), Some(FromController::ErrorReport(report)) if report.error_code == "UNSOLICITED_PONG")
    );
    assert!(matches!(
        bench.event(),
        ControllerEvent::Ignored(Anomaly::Pong(_))
    ));
}

/// A link that was held back for minutes delivers them all at once.
#[test]
fn a_pong_that_comes_much_too_late_is_no_mistake_of_its_daemon() {
    let mut bench = Bench::established();
    for _ in 0..20 {
        bench.advance(Duration::from_secs(30));
        while bench.sent().is_some() {}
        while bench.session.poll_event().is_some() {}
    }
    bench.receive(FromDaemon::Pong(Pong { sequence: 1 }));
    assert!(matches!(
        bench.event(),
        ControllerEvent::Ignored(Anomaly::Pong(_))
    ));
    assert_eq!(bench.sent(), None);
}

#[test]
fn errors_are_never_answered_with_errors() {
    let mut bench = Bench::established();
    let report = ErrorReport {
        error_code: "c".repeat(65),
        ..Default::default()
    };
    bench.receive(FromDaemon::ErrorReport(report));
    assert!(matches!(
        bench.event(),
        ControllerEvent::Ignored(Anomaly::Invalid(_))
    ));
    assert_eq!(bench.sent(), None);
}

#[test]
fn a_redirect_is_an_acknowledgement_that_names_the_leader() {
    let mut bench = Bench::new();
    bench.receive(FromDaemon::Handshake(Box::new(handshake())));
    bench.session.redirect("10.0.0.7:9090".into(), vec![]);
    let Some(FromController::HandshakeAck(ack)) = bench.sent() else {
        panic!()
    };
    assert_eq!(
        (ack.leader_grpc_addr.as_str(), ack.protocol_compatible),
        ("10.0.0.7:9090", true)
    );
    assert_eq!(bench.close().code, Code::Unavailable);
}

#[test]
fn a_daemon_that_does_not_read_is_closed() {
    let mut bench = Bench::established();
    let mut taken = 0;
    while bench
        .session
        .send(FromController::RequestCacheStatus(RequestCacheStatus {}))
        .is_ok()
    {
        taken += 1;
    }
    assert_eq!(taken, 2_048);
    assert_eq!(bench.close().code, Code::ResourceExhausted);
}

#[test]
fn a_ping_confirms_only_what_is_stored() {
    let mut bench = Bench::established();
    let next_ping = |bench: &mut Bench| {
        bench.now = bench.session.poll_timeout().unwrap().at;
        bench.session.handle_timeout(bench.now);
        std::iter::from_fn(|| bench.sent())
            .find_map(|sent| match sent {
                FromController::Ping(ping) => Some(ping.answered),
                _ => None,
            })
            .unwrap()
    };
    bench.receive(FromDaemon::NodeStatus(NodeStatus {
        total_memory_mb: 1,
        ..Default::default()
    }));
    bench.receive(FromDaemon::Pong(Pong { sequence: 1 }));
    bench.session.all_stored();
    assert_eq!(next_ping(&mut bench), 0, "there is more to be told");
    bench.events();
    bench.session.all_stored();
    bench.receive(FromDaemon::Pong(Pong { sequence: 2 }));
    assert_eq!(next_ping(&mut bench), 2, "nothing was told since");
}

fn line(sequence: u64) -> FromDaemon {
    FromDaemon::ConsoleOutput(ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: format!("line {sequence}"),
        incarnation: 7,
        sequence,
        ..Default::default()
    })
}

fn console_acks(bench: &mut Bench) -> Vec<u64> {
    std::iter::from_fn(|| bench.sent())
        .filter_map(|sent| match sent {
            FromController::ConsoleOutputAck(ack) => {
                assert_eq!((ack.instance_id.as_str(), ack.incarnation), ("lobby-1", 7));
                Some(ack.sequence)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn console_lines_are_acknowledged_once_a_second_as_far_as_they_were_taken() {
    let mut bench = Bench::established();
    let second = |bench: &mut Bench| {
        bench.now += Duration::from_secs(1);
        bench.session.handle_timeout(bench.now);
        console_acks(bench)
    };
    for sequence in 1..=500 {
        bench.receive(line(sequence));
    }
    assert_eq!(second(&mut bench), <[u64; 0]>::default(), "nobody has taken them");
    for _ in 0..200 {
        bench.session.poll_event().unwrap();
    }
    assert_eq!(second(&mut bench), [200]);
    bench.events();
    assert_eq!(console_acks(&mut bench), <[u64; 0]>::default());
    assert_eq!(second(&mut bench), [500]);
    assert_eq!(second(&mut bench), <[u64; 0]>::default());
}

#[test]
fn a_daemon_that_awaits_no_acknowledgement_of_lines_gets_none() {
    let mut bench = Bench::established_with(Capabilities::NONE);
    bench.receive(line(1));
    bench.events();
    bench.now += Duration::from_secs(2);
    bench.session.handle_timeout(bench.now);
    assert_eq!(console_acks(&mut bench), <[u64; 0]>::default());
}
