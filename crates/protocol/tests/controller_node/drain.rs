//! A node that is to run empty

use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::controller::{ControllerNodeTimer, Drain};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn drain(world: &mut World, after: Duration, shutdown: bool) {
    let drain = Drain {
        deadline: world.now + after,
        shutdown,
    };
    world.node.set_drain(world.now, Some(drain));
    world.turn();
}

#[test]
fn a_drain_stops_everything_and_is_over_when_nothing_lives() {
    let mut world = World::connected();
    world.running();
    drain(&mut world, HOUR, false);
    assert_eq!(world.stops(1), [false]);
    assert_eq!(world.drained, 0);
    world.report(1, 1, State::Stopped);
    assert_eq!(world.drained, 1);
    world.node.handle_drain_recorded();
    world.turn();
    assert!(!world.node.is_draining());
    assert_eq!(world.drained, 1);
}

#[test]
fn what_is_late_is_killed() {
    let mut world = World::connected();
    world.running();
    drain(&mut world, Duration::from_secs(20), false);
    assert_eq!(world.stops(1), [false]);
    world.report(1, 1, State::Stopping);
    world.advance(Duration::from_secs(20));
    assert_eq!(world.stops(1), [true]);
}

#[test]
fn what_appears_during_a_drain_is_stopped_too() {
    let mut world = World::new();
    drain(&mut world, HOUR, true);
    assert_eq!(world.drained, 0, "a node that is away is told when it is back");
    world.connect(1, listing(4, State::Running));
    assert_eq!(world.stops(1), [false]);
    world.report(1, 4, State::Stopped);
    let sent = world.sent(1);
    assert!(
        sent.iter()
            .any(|payload| matches!(payload, FromController::ShutdownNode(_))),
        "{sent:?}"
    );
    assert_eq!(world.drained, 1);
}

#[test]
fn an_end_that_could_not_be_recorded_is_recorded_later_and_the_node_not_told_twice() {
    let mut world = World::connected();
    drain(&mut world, HOUR, true);
    assert_eq!((world.drained, world.sent(1).len()), (1, 1));
    world.node.handle_drain_failed(world.now);
    world.turn();
    assert_eq!(world.drained, 1);
    world.advance(Duration::from_secs(5));
    assert_eq!((world.drained, world.sent(1).len()), (2, 0));
}

#[test]
fn a_drain_taken_back_leaves_alone_what_it_has_not_stopped() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    drain(&mut world, HOUR, false);
    world.node.set_drain(world.now, None);
    world.fail(storage());
    world.advance(Duration::from_secs(5));
    assert_eq!(world.stops(1), [] as [bool; 0]);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn the_machine_wants_to_be_woken_at_the_deadline() {
    let mut world = World::connected();
    world.running();
    drain(&mut world, Duration::from_secs(1), false);
    let due = world.node.poll_timeout().unwrap();
    assert_eq!(
        (due.at, due.timer),
        (world.now + Duration::from_secs(1), ControllerNodeTimer::Drain)
    );
}

#[test]
fn a_node_is_not_empty_while_a_start_is_being_recorded() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.start(1);
    drain(&mut world, HOUR, false);
    assert_eq!(world.drained, 0);
    world.commit_all();
    assert_eq!(world.drained, 0);
    world.report(1, 1, State::Stopped);
    assert_eq!(world.drained, 1);
}

#[test]
fn a_drain_orders_a_stop_once() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    drain(&mut world, HOUR, false);
    for _ in 0..3 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.commit_all(), 2, "the wish, and the state that came of it");
}
