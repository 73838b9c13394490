//! A node that is to run empty

use std::time::Duration;

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::{Lifecycle, State};
use prexorcloud_protocol::node::controller::{
    Change, CommitFailure, ControllerNodeTimer, Drain, ORDERS_WAITING, OrderOutcome,
};
use prexorcloud_protocol::proto::Handshake;
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

/// A node that runs so many instances.
fn running(count: usize) -> World {
    let mut world = World::new();
    let running_instances = (1..=count).flat_map(|number| {
        let mut listed = listing(1, State::Running).running_instances;
        listed[0].instance_id = format!("lobby-{number}");
        listed
    });
    let handshake = Handshake {
        running_instances: running_instances.collect(),
        ..handshake()
    };
    world.connect(1, handshake);
    world
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
fn a_drain_whose_end_could_not_be_recorded_goes_on_when_something_comes_to_light() {
    let mut world = World::connected();
    drain(&mut world, HOUR, false);
    assert_eq!(world.drained, 1);
    world.node.handle_drain_failed(world.now);
    world.disconnect(1);
    world.connect(2, listing(1, State::Running));
    assert_eq!(world.stops(2), [false]);
    world.advance(Duration::from_secs(6));
    assert_eq!(world.drained, 1, "the node is not empty");
    world.report(2, 1, State::Stopped);
    assert_eq!(world.drained, 2);
    world.node.handle_drain_recorded();
    assert!(!world.node.is_draining());
}

#[test]
fn a_node_is_not_empty_while_an_instance_runs_there_that_nobody_wants() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Stopped);
    world.report(1, 1, State::Running);
    assert_eq!(world.node.roster().orphans().count(), 1);
    drain(&mut world, HOUR, true);
    assert_eq!((world.drained, world.stops(1)), (0, vec![false]));
    world.report(1, 1, State::Stopped);
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
    assert_eq!(world.stops(1), NONE);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_drain_taken_back_stops_nothing_that_waits_for_its_record() {
    for is_being_recorded in [true, false] {
        let mut world = running(3);
        world.commits_at_once = false;
        if !is_being_recorded {
            world.receive(1, crash(7, "of another incarnation"));
        }
        drain(&mut world, HOUR, false);
        world.node.set_drain(world.now, None);
        world.turn();
        world.commit_all();
        assert_eq!(world.stops(1), vec![false; usize::from(is_being_recorded)]);
        let running = |entry: &&Lifecycle| entry.state() == State::Running;
        let running = world.node.roster().entries().filter(running).count();
        assert_eq!(running, 3 - usize::from(is_being_recorded));
    }
}

#[test]
fn a_drain_leaves_room_for_orders_and_stops_all_of_many() {
    let count = ORDERS_WAITING + 10;
    let mut world = running(count);
    world.commits_at_once = false;
    drain(&mut world, HOUR, false);
    let order = world.stop(StopMode::Force);
    // What the drain stops is written by turns with the states that come of it, and with the order.
    for _ in 0..3 {
        world.commit();
    }
    assert_eq!(
        world.answers.get(&order),
        Some(&Ok(OrderOutcome::Stopping(StopMode::Force)))
    );
    world.commit_all();
    assert_eq!(world.stops(1).len(), count + 1);
}

#[test]
fn a_stop_that_is_never_recorded_does_not_keep_a_drain_from_the_others() {
    let mut world = running(3);
    world.commits_at_once = false;
    drain(&mut world, HOUR, false);
    for _ in 0..8 {
        let is_first = |change: &Change| matches!(change, Change::Instance(wish) if wish.instance == lobby());
        match world.commits.first() {
            Some(commit) if commit.changes.iter().any(is_first) => {
                world.fail(CommitFailure::Conflict("not this one".into()));
            }
            Some(_) => drop(world.commit()),
            None => world.advance(Duration::from_secs(5)),
        }
    }
    assert_eq!(world.stops(1), [false, false]);
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
