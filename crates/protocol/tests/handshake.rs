//! Both sides of the handshake alone, and which of two streams is the newer one
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "one real instant to count from")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::controller::{ControllerHandshake, Refusal};
use prexorcloud_protocol::handshake::daemon::{DaemonHandshake, HandshakeFailure};
use prexorcloud_protocol::limits::MAX_MESSAGE_BYTES;
use prexorcloud_protocol::peer::{ControllerPeer, DaemonPeer};
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::roster::StreamOrder;
use prexorcloud_protocol::{Capabilities, Epoch};

const SECOND: Duration = Duration::from_secs(1);

fn daemon_message(payload: daemon_message::Payload) -> DaemonMessage {
    DaemonMessage {
        payload: Some(payload),
    }
}

fn shake(node_id: &str) -> DaemonMessage {
    daemon_message(daemon_message::Payload::Handshake(Box::new(Handshake {
        node_id: node_id.into(),
        version: "1".into(),
        protocol_version: 1,
        ..Handshake::default()
    })))
}

/// A handshake is due within 2 s, the decision on it within 5 s.
fn accepted(now: Instant) -> ControllerHandshake {
    let certified = "node-1".parse().unwrap();
    ControllerHandshake::new(now, certified, 1, Capabilities::SESSION, 2 * SECOND, 5 * SECOND)
}

fn ack() -> HandshakeAck {
    HandshakeAck {
        protocol_version: 1,
        protocol_compatible: true,
        ..HandshakeAck::default()
    }
}

fn acknowledged(ack: HandshakeAck) -> Result<Option<String>, HandshakeFailure> {
    DaemonHandshake::new(Instant::now(), SECOND)
        .handle_ack(
            ack,
            Epoch::UNFENCED,
            Capabilities::SESSION,
            &mut EpochFence::default(),
        )
        .map(|acknowledged| acknowledged.connected.contract_digest)
}

#[test]
fn a_certificate_is_good_for_one_spelling_of_a_node() {
    let now = Instant::now();
    for claimed in ["NODE-1", "node-10", "node-2"] {
        let refused = accepted(now).handle_message(now, shake(claimed)).unwrap_err();
        assert!(
            matches!(refused, Refusal::WrongNode { .. }),
            "{claimed}: {refused}"
        );
    }
    assert!(
        accepted(now)
            .handle_message(now, shake("node-1"))
            .unwrap()
            .is_some()
    );
}

#[test]
fn the_handshake_and_the_decision_on_it_have_each_their_time() {
    let now = Instant::now();
    let mut handshake = accepted(now);
    assert_eq!(handshake.poll_timeout().unwrap().at, now + 2 * SECOND);
    let waited = 2 * SECOND;
    assert_eq!(
        handshake.handle_timeout(now + waited),
        Err(Refusal::TimedOut { waited })
    );
    let came = now + SECOND;
    handshake.handle_message(came, shake("node-1")).unwrap();
    let waited = 5 * SECOND;
    assert_eq!(handshake.poll_timeout().unwrap().at, came + waited);
    assert_eq!(handshake.handle_timeout(now + waited), Ok(()));
    assert_eq!(
        handshake.handle_timeout(came + waited),
        Err(Refusal::NotAdmitted { waited })
    );
    assert!(handshake.complete().is_some());
    assert_eq!(handshake.poll_timeout(), None);
}

#[test]
fn what_arrives_before_the_acknowledgement_is_bounded_in_bytes_as_well() {
    let half = || ControllerMessage {
        payload: Some(controller_message::Payload::TemplateData(Box::new(
            TemplateData {
                tar_gz: vec![0; MAX_MESSAGE_BYTES / 2 - 100].into(),
                ..TemplateData::default()
            },
        ))),
        ..ControllerMessage::default()
    };
    let mut handshake = DaemonHandshake::new(Instant::now(), SECOND);
    assert_eq!(handshake.hold(half()), Ok(()));
    assert_eq!(handshake.hold(half()), Ok(()));
    assert_eq!(handshake.hold(half()), Err(HandshakeFailure::TooEarly));
}

#[test]
fn a_leader_without_an_address_is_no_redirect() {
    for leader_grpc_addr in ["", " ", "\t"] {
        let leader_grpc_addr = leader_grpc_addr.to_owned();
        let ack = HandshakeAck {
            leader_grpc_addr,
            ..ack()
        };
        assert_eq!(acknowledged(ack), Ok(None));
    }
}

#[test]
fn only_a_digest_of_a_controller_gets_into_the_log() {
    let digest = |text: &str| {
        let capabilities = vec![format!("contract-sha256/{text}")];
        acknowledged(HandshakeAck {
            capabilities,
            ..ack()
        })
        .unwrap()
    };
    let good = "0f".repeat(32);
    assert_eq!(digest(&good), Some(good.clone()));
    for bad in ["\u{1b}[2J".repeat(16), "0g".repeat(32), "0f".repeat(31)] {
        assert_eq!(digest(&bad), None, "{bad:?}");
    }
}

#[test]
fn streams_of_one_process_go_by_its_count_and_others_by_their_arrival() {
    let of = |boot_id: &str, stream_ordinal, accepted| {
        let handshake = Handshake {
            boot_id: boot_id.into(),
            stream_ordinal,
            ..Handshake::default()
        };
        StreamOrder::of(&handshake, accepted)
    };
    for (older, newer) in [
        (of("a", 1, 8), of("a", 2, 7)),
        // A process that was restarted counts from one again.
        (of("a", 9, 7), of("b", 1, 8)),
        (of("b", 1, 7), of("a", 9, 8)),
        // One of both does not count, or does not say which process it is.
        (of("a", 0, 7), of("a", 5, 8)),
        (of("a", 5, 7), of("a", 0, 8)),
        (of("", 5, 7), of("", 1, 8)),
        (of("", 0, 7), of("", 0, 8)),
    ] {
        assert!(older.is_older_than(&newer), "{older:?} {newer:?}");
        assert!(!newer.is_older_than(&older), "{newer:?} {older:?}");
    }
    let (same, again) = (of("a", 1, 7), of("a", 1, 8));
    assert!(!same.is_older_than(&again) && !again.is_older_than(&same));
    assert_eq!(of("a", 1, 1).is_same_process(&of("a", 2, 2)), Some(true));
    assert_eq!(of("a", 1, 1).is_same_process(&of("b", 2, 2)), Some(false));
    assert_eq!(of("a", 1, 1).is_same_process(&of("", 2, 2)), None);
}

#[test]
fn each_assumption_about_a_peer_follows_from_its_own_capability() {
    use prexorcloud_protocol::Capabilities as C;

    for announced in [
        C::NONE,
        C::INCARNATIONS,
        C::PREPARING_REPORTED,
        C::READINESS,
        C::STARTUP_DEADLINE,
        C::CRASH_ACK,
        C::ENDED_LISTED,
        C::CONSOLE_SEQUENCE,
        C::ARTIFACTS,
        C::PLUGIN_READY,
    ] {
        let daemon = DaemonPeer::of(announced);
        for (assumed, capability) in [
            (daemon.names_incarnations, C::INCARNATIONS),
            (daemon.lists_preparing, C::PREPARING_REPORTED),
            (daemon.judges_readiness, C::READINESS),
            (daemon.takes_plugin_calls, C::PLUGIN_READY),
            (daemon.keeps_startup_deadline, C::STARTUP_DEADLINE),
            (daemon.keeps_crashes, C::CRASH_ACK),
        ] {
            assert_eq!(assumed, announced == capability, "{announced:?}: {daemon:?}");
        }
        let controller = ControllerPeer::of(announced);
        for (assumed, capability) in [
            (controller.acknowledges_crashes, C::CRASH_ACK),
            (controller.understands_ended, C::ENDED_LISTED),
            (controller.numbers_console, C::CONSOLE_SEQUENCE),
        ] {
            assert_eq!(assumed, announced == capability, "{announced:?}: {controller:?}");
        }
    }
}
