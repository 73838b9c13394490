//! What an earlier process of the daemon has started

use std::time::Duration;

use prexorcloud_protocol::node::daemon::{Adopted, DaemonWork, StopReason};
use prexorcloud_protocol::{Incarnation, StopMode};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn adopted() -> Adopted {
    Adopted {
        instance: id("a"),
        incarnation: Incarnation::new(4),
        port: 30_000,
        grace: Duration::from_secs(30),
        startup_timeout: Duration::from_secs(60),
        uptime: HOUR,
        is_ready: true,
        is_stopping: false,
    }
}

#[test]
fn an_adopted_instance_is_stopped_like_any_other() {
    let mut world = World::new();
    world.node.adopt(world.now(), &adopted());
    world.stop("a", 4, StopMode::Graceful);
    assert_eq!(world.words(), "stop");
    world.exits("a", 4, 0, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED, stop-ack");
}

#[test]
fn the_uptime_of_an_adopted_instance_counts_from_its_own_start() {
    let mut world = World::new();
    world.pass(2 * HOUR);
    let starting = Adopted {
        is_ready: false,
        ..adopted()
    };
    world.node.adopt(world.now(), &starting);
    world.pass(Duration::from_secs(5));
    world.node.handle_ready(world.now(), id("a"), Incarnation::new(4));
    let work = world.drain();
    assert!(
        matches!(&work[..], [DaemonWork::Report(report)] if report.uptime == HOUR + Duration::from_secs(5)),
        "{work:?}"
    );
}

#[test]
fn what_was_being_stopped_when_it_was_adopted_is_told_as_nothing_else() {
    let mut world = World::new();
    let stopping = Adopted {
        is_ready: false,
        is_stopping: true,
        ..adopted()
    };
    world.node.adopt(world.now(), &stopping);
    let (now, incarnation) = (world.now(), Incarnation::new(4));
    world
        .node
        .handle_stopping(now, id("a"), incarnation, StopReason::Requested);
    world.node.handle_ready(now, id("a"), incarnation);
    assert_eq!(world.words(), "");
    world.exits("a", 4, 143, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED");
}
