//! One stream counts; a newer one takes over, an older one never, a dead one costs nobody anything

use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::controller::{ANSWERS_WITHIN, Contest, HELD, StreamId};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{Handshake, Pong};
use prexorcloud_protocol::{Close, Code, ControllerEvent, Session as _};

use crate::world::*;

fn counted(stream_ordinal: u64) -> Handshake {
    Handshake {
        boot_id: "boot".into(),
        stream_ordinal,
        ..handshake()
    }
}

#[test]
fn an_older_stream_never_takes_the_place_of_a_newer_one() {
    // By the daemon's own count where it counts (the network may deliver them in either order), else by acceptance.
    for (older, newer) in [
        ((2, counted(1)), (1, counted(2))),
        ((1, handshake()), (2, handshake())),
    ] {
        let mut world = World::new();
        world.connect(newer.0, newer.1);
        world.running();
        world.connect(older.0, older.1);
        assert_eq!(world.node.current_stream(), Some(StreamId::new(newer.0)));
        assert_eq!(world.state(), State::Running);
        assert_eq!(world.sent(older.0), [], "it is not acknowledged");
        let (stream, close) = &world.closes[0];
        assert_eq!((*stream, close.code), (older.0, Code::Aborted));
    }
}

#[test]
fn an_older_stream_is_turned_away_before_anything_is_recorded_of_it() {
    let mut world = World::new();
    world.connect(2, handshake());
    world.admits_at_once = false;
    world.connect(1, handshake());
    assert_eq!(world.admits, []);
    assert_eq!(world.closed(), [1]);
}

#[test]
fn an_older_stream_takes_no_newer_ones_turn() {
    let mut world = World::new();
    world.admits_at_once = false;
    world.connect(1, handshake());
    world.connect(3, handshake());
    world.connect(2, handshake());
    assert_eq!(world.closed(), [2], "it is older than the one that waits");
    world.admits_at_once = true;
    let hello = world.admits.remove(0);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(3)));
}

#[test]
fn a_stream_that_ends_while_it_waits_holds_nobody_up() {
    let mut world = World::new();
    world.admits_at_once = false;
    world.connect(1, handshake());
    world.connect(2, handshake());
    world.disconnect(2);
    let hello = world.admits.remove(0);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
    assert_eq!(world.admits, [], "nobody is at the other end");
    assert!(world.node.is_settled());
}

#[test]
fn the_next_one_has_its_turn_when_a_stream_is_not_admitted() {
    let mut world = World::new();
    world.admits_at_once = false;
    world.connect(1, handshake());
    world.connect(2, handshake());
    world.admits.clear();
    world.admits_at_once = true;
    let close = Close::new(Code::Unavailable, "the storage failed");
    world
        .node
        .handle_admission_failed(world.now, StreamId::new(1), close);
    world.turn();
    assert_eq!(world.closed(), [1]);
    assert_eq!(world.node.current_stream(), Some(StreamId::new(2)));
}

#[test]
fn a_newer_stream_takes_over_once_it_is_accepted_and_the_old_one_is_deaf() {
    let mut world = World::connected();
    world.running();
    world.admits_at_once = false;
    world.connect(2, listing(1, State::Running));
    assert_eq!(
        world.node.current_stream(),
        Some(StreamId::new(1)),
        "nothing is decided yet"
    );
    let hello = world.admits.remove(0);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(2)));
    assert_eq!(world.closes[0].0, 1);
    world.report(1, 1, State::Crashed);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_stream_that_ends_before_its_admission_evicts_nobody() {
    let mut world = World::connected();
    world.running();
    world.admits_at_once = false;
    world.connect(2, handshake());
    world.disconnect(2);
    let hello = world.admits.remove(0);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
    assert_eq!(world.state(), State::Running, "an empty list was not believed");
    assert!(world.closes.is_empty());
}

#[test]
fn a_stream_that_ends_between_the_decision_and_its_acceptance_evicts_nobody() {
    let mut world = World::connected();
    world.running();
    world.admits_at_once = false;
    world.connect(2, handshake());
    let hello = world.admits.remove(0);
    let now = world.now;
    // The machine has not heard of it when it is told to go on.
    world.session(2).handle_disconnected(now);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
    assert_eq!(world.state(), State::Running);
    assert!(world.closes.is_empty());
    assert!(world.node.is_settled());
}

#[test]
fn of_many_handshakes_the_newest_is_admitted() {
    let mut world = World::new();
    world.admits_at_once = false;
    for stream in 1..=4 {
        world.connect(stream, handshake());
    }
    assert_eq!(world.closed(), [2, 3]);
    world.admits_at_once = true;
    let hello = world.admits.remove(0);
    world.admit(hello);
    world.turn();
    assert_eq!(world.node.current_stream(), Some(StreamId::new(4)));
}

#[test]
fn a_node_that_cannot_be_recorded_is_told_to_come_again() {
    let mut world = World::new();
    world.admits_at_once = false;
    world.connect(1, handshake());
    let close = Close::new(Code::Unavailable, "the storage failed");
    world
        .node
        .handle_admission_failed(world.now, StreamId::new(1), close.clone());
    world.turn();
    assert_eq!(world.closes, [(1, close)]);
    assert_eq!(world.node.current_stream(), None);
    world.admits_at_once = true;
    world.connect(2, handshake());
    assert_eq!(world.node.current_stream(), Some(StreamId::new(2)));
}

#[test]
fn what_is_known_survives_the_stream() {
    let mut world = World::connected();
    world.running();
    world.disconnect(1);
    assert_eq!(world.node.current_stream(), None);
    assert!(matches!(world.events[..], [ControllerEvent::Closed(_)]));
    assert_eq!(world.state(), State::Running);
    world.connect(2, listing(1, State::Running));
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_node_with_more_to_hear_than_fits_connects_like_any_other() {
    for (count, padding) in [(3_000, 0), (90, 100_000)] {
        let mut world = World::new();
        for number in 0..count {
            let mut start = start(1);
            start.instance_id = format!("lobby-{number}");
            start.plugin_token = "x".repeat(padding);
            let order = prexorcloud_protocol::node::controller::OrderId(number);
            world.node.start(world.now, order, Box::new(start));
            world.turn();
        }
        world.connect(1, handshake());
        let is_start = |payload: &&FromController| matches!(payload, FromController::StartInstance(_));
        let sent = world.sent(1).iter().filter(is_start).count();
        assert_eq!(sent, usize::try_from(count).unwrap());
        assert!(world.closes.is_empty());
    }
}

#[test]
fn news_of_a_stream_that_is_not_current_change_nothing() {
    let mut world = World::connected();
    world.running();
    world.connect(2, listing(1, State::Running));
    let late = ControllerEvent::Status(status(1, State::Crashed));
    let left = world.node.handle_event(world.now, StreamId::new(1), late);
    assert_eq!((left, world.state()), (None, State::Running));
}

/// A handshake of a process of that name; none of the Java daemon's.
fn from_process(boot_id: &str) -> Handshake {
    Handshake {
        boot_id: boot_id.into(),
        ..handshake()
    }
}

fn answer(world: &mut World, stream: u64) {
    let sequence = world.pings().pop().unwrap();
    world.receive(stream, FromDaemon::Pong(Pong { sequence }));
}

#[test]
fn another_daemon_takes_no_place_of_one_that_answers() {
    for (first, second, is_another) in [("a", "b", true), ("", "", false), ("a", "", false)] {
        let mut world = World::new();
        world.connect(1, from_process(first));
        world.running();
        world.pings();
        world.connect(2, from_process(second));
        assert_eq!(world.pings().len(), 1, "the one that is there is asked at once");
        world.pings();
        assert!(world.closes.is_empty() && world.contests.is_empty());
        let sequence = 2;
        world.receive(1, FromDaemon::Pong(Pong { sequence }));
        assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
        assert_eq!(world.state(), State::Running);
        assert_eq!(world.contests, [(1, 2, is_another, Contest::Kept)]);
        let (stream, close) = &world.closes[0];
        assert_eq!((*stream, close.message.as_str()), (2, HELD));
        assert!(close.retry_after.is_some());
        assert_eq!(world.sent(2), [], "it is not acknowledged");
        // Whoever hammers is not even worth a ping.
        world.connect(3, from_process(second));
        assert_eq!((world.pings(), world.closed()), (Vec::new(), vec![2, 3]));
        world.advance(Duration::from_secs(1));
        world.connect(4, from_process(second));
        answer(&mut world, 1);
        assert_eq!(world.closed(), [2, 3, 4]);
    }
}

#[test]
fn another_daemon_takes_the_place_of_one_that_does_not_answer() {
    let mut world = World::new();
    world.connect(1, from_process("a"));
    world.running();
    world.connect(2, from_process("b"));
    world.advance(ANSWERS_WITHIN - Duration::from_millis(1));
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
    world.advance(Duration::from_millis(1));
    assert_eq!(world.node.current_stream(), Some(StreamId::new(2)));
    assert_eq!(world.contests, [(1, 2, true, Contest::Replaced)]);
    assert_eq!(world.closed(), [1]);
}

#[test]
fn a_daemon_whose_stream_ends_while_it_is_asked_is_followed_at_once() {
    let mut world = World::new();
    world.connect(1, from_process("a"));
    world.connect(2, from_process("b"));
    world.disconnect(1);
    assert_eq!(world.node.current_stream(), Some(StreamId::new(2)));
    assert!(world.contests.is_empty());
}

#[test]
fn a_challenger_that_dies_after_its_handshake_evicts_nobody() {
    let mut world = World::new();
    world.connect(1, from_process("a"));
    world.running();
    world.connect(2, from_process("b"));
    world.disconnect(2);
    world.advance(ANSWERS_WITHIN * 2);
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
    assert_eq!(world.state(), State::Running);
    assert!(world.node.is_settled());
}

#[test]
fn a_daemon_that_dials_anew_while_another_one_waits_is_the_one_that_lives() {
    let mut world = World::new();
    world.connect(1, counted(1));
    world.running();
    world.connect(2, from_process("b"));
    world.connect(3, counted(2));
    assert_eq!(world.node.current_stream(), Some(StreamId::new(3)));
    assert_eq!(world.closed(), [2, 1]);
    assert_eq!(world.contests, [(1, 2, true, Contest::Kept)]);
}

#[test]
fn of_two_challengers_the_later_one_waits_for_the_same_answer() {
    let mut world = World::new();
    world.connect(1, from_process("a"));
    world.connect(2, from_process("b"));
    world.connect(3, from_process("c"));
    answer(&mut world, 1);
    assert_eq!(world.closed(), [2, 3]);
    assert_eq!(world.node.current_stream(), Some(StreamId::new(1)));
}

#[test]
fn a_daemon_that_never_answers_counts_as_unreachable_however_often_it_is_asked() {
    let mut world = World::new();
    world.connect(1, from_process("a"));
    for stream in 2..20 {
        world.connect(stream, from_process("b"));
        world.disconnect(stream);
        world.advance(Duration::from_secs(6));
    }
    let is_lost = |event: &ControllerEvent| matches!(event, ControllerEvent::Unreachable { .. });
    assert!(world.events.iter().any(is_lost), "{:?}", world.events);
}
