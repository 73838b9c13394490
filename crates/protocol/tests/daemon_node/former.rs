//! The former end of an id whose new start comes to nothing

use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::Ping;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::{Capabilities, Incarnation};

use crate::host::{Host, acknowledgement, id, start};

/// A daemon whose `i-0#1` has ended, which no controller has confirmed, and whose `i-1` owns port 30001.
fn with_an_end(capabilities: Capabilities) -> Host {
    let mut host = Host::new();
    host.connect();
    host.receive(acknowledgement(capabilities), 0);
    for number in 0..2 {
        host.receive(start(number, 1, 30_000 + i32::try_from(number).unwrap()), 0);
        host.finish_everything();
    }
    host.exits(id(0), 0);
    host.sent.clear();
    host
}

fn listed(host: &Host) -> Vec<(String, u64)> {
    let list = host.sent.iter().find_map(|message| match message {
        FromDaemon::Handshake(handshake) => Some(
            handshake
                .running_instances
                .iter()
                .chain(&handshake.ended_instances),
        ),
        _ => None,
    });
    list.expect("a handshake")
        .map(|listed| (listed.instance_id.clone(), listed.incarnation))
        .collect()
}

/// The ends that were reported.
fn ends_told(host: &Host) -> Vec<u64> {
    let end = |message: &FromDaemon| match message {
        FromDaemon::InstanceStatus(update) if update.state == State::Stopped.to_wire() => {
            Some(update.incarnation)
        }
        _ => None,
    };
    host.sent.iter().filter_map(end).collect()
}

#[test]
fn it_is_listed_again_after_the_node_refused_the_start() {
    let mut host = with_an_end(Capabilities::SESSION);
    host.receive(start(0, 2, 30_001), 0);
    let Some(FromDaemon::StartInstanceAck(ack)) = host.sent.first() else {
        panic!("{:?}", host.sent);
    };
    assert_eq!(ack.error_code, "PORT_IN_USE");
    assert_eq!(host.session.hosted().get(id(0)).unwrap().state, State::Stopped);
    host.disconnect();
    host.connect();
    assert_eq!(listed(&host), [("i-1".to_owned(), 1), ("i-0".to_owned(), 1)]);
}

#[test]
fn it_is_let_go_of_by_evidence_after_the_start_was_refused() {
    let mut host = with_an_end(Capabilities::SESSION);
    host.receive(start(0, 2, 30_001), 0);
    for (sequence, answered) in [(1, 0), (2, 1)] {
        host.receive(FromController::Ping(Ping { sequence, answered }), 0);
    }
    host.finish_everything();
    host.check_at_rest();
}

#[test]
fn it_is_no_news_of_a_start_that_has_a_process() {
    let mut host = with_an_end(Capabilities::SESSION);
    host.receive(start(0, 2, 30_000), 0);
    host.settled();
    host.prepared(0, true);
    host.launched(0, true);
    host.exits(id(0), 0);
    let current = host.session.hosted().get(id(0)).unwrap();
    assert_eq!(
        (current.incarnation, current.state),
        (Incarnation::new(2), State::Stopped)
    );
    assert_eq!(ends_told(&host), [2]);
}

#[test]
fn it_is_told_on_a_stream_whose_handshake_could_not_list_it() {
    let mut host = with_an_end(Capabilities::SESSION);
    host.receive(start(0, 2, 30_000), 0);
    host.settled();
    host.disconnect();
    host.sent.clear();
    host.connect();
    assert_eq!(listed(&host), [("i-0".to_owned(), 2), ("i-1".to_owned(), 1)]);
    host.receive(acknowledgement(Capabilities::SESSION), 0);
    assert!(ends_told(&host).is_empty());
    host.prepared(0, false);
    assert_eq!(ends_told(&host), [1]);
}

#[test]
fn it_is_told_a_java_controller_once() {
    let mut host = with_an_end(Capabilities::NONE);
    host.receive(start(0, 2, 30_001), 0);
    host.disconnect();
    host.connect();
    host.receive(acknowledgement(Capabilities::NONE), 0);
    host.pass(Duration::from_secs(5));
    assert!(ends_told(&host).is_empty(), "it left on the stream before");
    host.receive(FromController::Ping(Ping::default()), 0);
    host.finish_everything();
    host.check_at_rest();
}
