//! When an end is let go of

use std::time::Duration;

use prexorcloud_protocol::node::daemon::Adopted;
use prexorcloud_protocol::peer::ControllerPeer;
use prexorcloud_protocol::{Capabilities, Incarnation};

use crate::world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_end_without_a_session_is_settled_only_after_the_next_one_is_up() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    world.pass(SECOND * 3600);
    assert_eq!(world.words(), "STOPPED");
    world
        .node
        .handle_connected(world.now(), ControllerPeer::default());
    world.pass(SECOND);
    world.node.handle_disconnected();
    world.pass(SECOND * 3600);
    assert_eq!(
        world.words(),
        "",
        "what the lost stream carried may not have arrived"
    );
    world
        .node
        .handle_connected(world.now(), ControllerPeer::default());
    world.pass(SECOND * 3600);
    assert_eq!(world.words(), "");
    world.node.handle_end_heard(id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "settle");
}

#[test]
fn an_end_that_is_settled_already_is_let_go_of() {
    let mut world = World::new();
    world
        .node
        .handle_connected(world.now(), ControllerPeer::default());
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(2));
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(1));
    world.node.handle_end_heard(id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "STOPPED");
}

#[test]
fn news_of_another_start_change_nothing() {
    let mut world = World::new();
    world.running("a", 2, 30_000);
    world.exits("a", 1, 1, None);
    world.spooled("a", 2);
    world.node.handle_ready(world.now(), id("a"), Incarnation::new(1));
    world.node.handle_ready(world.now(), id("a"), Incarnation::new(2));
    world.node.handle_ready(world.now(), id("b"), Incarnation::new(2));
    assert_eq!(world.words(), "");
    assert_eq!(world.node.running(), 1);
}

#[test]
fn a_process_of_an_earlier_start_does_not_take_the_place_of_a_later_end() {
    let mut world = World::new();
    world.running("a", 2, 30_000);
    world.exits("a", 2, 0, None);
    assert_eq!(world.words(), "STOPPED");
    for (incarnation, running) in [(1, 0), (2, 0), (3, 1)] {
        let adopted = Adopted {
            instance: id("a"),
            incarnation: Incarnation::new(incarnation),
            port: 30_000,
            grace: SECOND,
            startup_timeout: SECOND,
            uptime: SECOND,
            is_ready: true,
            is_stopping: false,
        };
        world.node.adopt(world.now(), &adopted);
        assert_eq!(world.node.running(), running, "{incarnation}");
    }
}

fn ours() -> ControllerPeer {
    ControllerPeer::of(Capabilities::SESSION)
}

#[test]
fn an_end_is_settled_when_it_was_heard_and_never_by_time() {
    for peer in [ours(), ControllerPeer::default()] {
        let mut world = World::new();
        world.node.handle_connected(world.now(), peer);
        world.running("a", 1, 30_000);
        world.exits("a", 1, 0, None);
        world.pass(SECOND * 3600);
        assert_eq!(world.words(), "STOPPED", "time proves nothing");
        world.node.handle_end_heard(id("a"), Incarnation::new(2));
        assert_eq!(world.words(), "");
        world.node.handle_end_heard(id("a"), Incarnation::new(1));
        world.node.handle_end_heard(id("a"), Incarnation::new(1));
        assert_eq!(world.words(), "settle");
    }
}

#[test]
fn a_crash_that_a_controller_has_stored_is_a_heard_end() {
    for (peer, settled) in [(ours(), "settle, forget"), (ControllerPeer::default(), "forget")] {
        let mut world = World::new();
        world.node.handle_connected(world.now(), peer);
        world.running("a", 1, 30_000);
        world.exits("a", 1, 1, None);
        world.spooled("a", 1);
        assert_eq!(world.words(), "spool, CRASHED, crash");
        world
            .node
            .handle_crash_confirmed(world.now(), "report-a-1".into());
        assert_eq!(world.words(), settled);
    }
}
