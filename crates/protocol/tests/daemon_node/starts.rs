//! From an order to a process, or to a reason

use std::time::Duration;

use prexorcloud_protocol::instance::{Limits, NO_STARTUP_LIMIT};
use prexorcloud_protocol::node::daemon::{
    DaemonNodeTimer, DaemonWork, INSTANCES_REMEMBERED, LaunchFailure, StopReason,
};
use prexorcloud_protocol::peer::ControllerPeer;
use prexorcloud_protocol::proto::StartFailureDisposition;
use prexorcloud_protocol::{Capabilities, Incarnation, StopMode};

use crate::world::*;

#[test]
fn a_start_is_prepared_launched_and_accepted_in_this_order() {
    let mut world = World::new();
    world.node.handle_start(world.now(), order("a", 1, 30_000));
    assert_eq!(world.words(), "PREPARING, prepare");
    let mut world = World::new();
    world.running("a", 1, 30_000);
    let status = world.node.status();
    assert_eq!((status.instance_count, status.used_ports), (1, vec![30_000]));
}

#[test]
fn a_port_is_owned_from_the_order_to_the_end() {
    let mut world = World::new();
    let attempt = world.preparing("a", 1, 30_000);
    let refused = |world: &mut World| {
        world.node.handle_start(world.now(), order("b", 1, 30_000));
        assert_eq!(world.words(), "PORT_IN_USE");
    };
    refused(&mut world);
    world.node.handle_prepared(world.now(), attempt, prepared(30_000));
    assert_eq!(world.words(), "launch");
    refused(&mut world);
    world.node.handle_launched(world.now(), attempt);
    assert_eq!(world.words(), "STARTING, accept");
    refused(&mut world);
    world.exits("a", 1, 0, None);
    assert_eq!(world.words(), "STOPPED");
    world.preparing("b", 1, 30_000);
}

#[test]
fn orders_without_a_port_do_not_compete_for_it() {
    let mut world = World::new();
    world.preparing("a", 1, 0);
    world.preparing("b", 1, 0);
}

#[test]
fn a_node_that_shuts_down_starts_nothing() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.node.handle_shutdown(world.now(), "bye".into());
    assert_eq!(world.words(), "shutdown-ack 1, stop");
    world.node.handle_start(world.now(), order("b", 1, 30_001));
    assert_eq!(world.words(), "NODE_SHUTTING_DOWN");
}

#[test]
fn a_repeated_start_of_what_is_up_changes_nothing() {
    let mut world = World::new();
    world.preparing("a", 1, 30_000);
    world.node.handle_start(world.now(), order("a", 1, 30_000));
    assert_eq!(world.words(), "");
    world.node.handle_start(world.now(), order("a", 2, 30_001));
    assert_eq!(world.words(), "INSTANCE_STILL_ALIVE");
}

#[test]
fn a_failed_start_says_why_and_can_be_ordered_again() {
    let mut world = World::new();
    let first = world.preparing("a", 1, 30_000);
    world
        .node
        .handle_preparation_failed(world.now(), first, rejection());
    assert_eq!(world.words(), "RUNTIME_PROVISION_FAILED");
    let second = world.launching("a", 1, 30_000);
    assert_ne!(first, second);
    let failure = LaunchFailure {
        message: "no such file".into(),
        disposition: StartFailureDisposition::Transient,
    };
    world
        .node
        .handle_launch_failed(world.now(), second, failure.clone());
    assert_eq!(world.words(), "START_FAILED");
    world.node.handle_launch_failed(world.now(), second, failure);
    assert_eq!(world.words(), "", "a fact that repeats changes nothing");
}

#[test]
fn a_launch_that_failed_is_tried_again_after_a_while_or_not_at_all() {
    for (disposition, wait) in [
        (StartFailureDisposition::Transient, Duration::from_secs(5)),
        (StartFailureDisposition::Permanent, Duration::ZERO),
    ] {
        let mut world = World::new();
        let attempt = world.launching("a", 1, 30_000);
        let failure = LaunchFailure {
            message: "no such file".into(),
            disposition,
        };
        world.node.handle_launch_failed(world.now(), attempt, failure);
        let work = world.drain();
        assert!(
            matches!(&work[..], [DaemonWork::RejectStart { rejection, .. }]
                if rejection.disposition == disposition && rejection.retry_after == wait),
            "{work:?}"
        );
    }
}

#[test]
fn the_uptime_counts_from_the_process_and_not_from_its_preparation() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    world.pass(Duration::from_secs(7));
    world.node.handle_launched(world.now(), attempt);
    assert_eq!(world.words(), "STARTING, accept");
    world.pass(Duration::from_secs(3));
    world.node.handle_ready(world.now(), id("a"), Incarnation::new(1));
    let work = world.drain();
    assert!(
        matches!(&work[..], [DaemonWork::Report(report)] if report.uptime == Duration::from_secs(3)),
        "{work:?}"
    );
}

#[test]
fn what_may_take_long_to_start_may_take_as_long_to_be_prepared() {
    let mut world = World::new();
    let mut order = order("a", 1, 30_000);
    order.start.startup_timeout_seconds = 1_200;
    world.node.handle_start(world.now(), order);
    let due = world.node.poll_timeout().unwrap();
    assert_eq!(
        (due.at, due.timer),
        (
            world.now() + Duration::from_secs(1_200),
            DaemonNodeTimer::Preparation
        )
    );
}

#[test]
fn no_more_than_so_many_are_remembered_and_each_of_them_can_be_started_again() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    assert_eq!(world.words(), "STOPPED");
    for number in 1..INSTANCES_REMEMBERED {
        world.preparing(&format!("i{number}"), 1, 0);
    }
    world.node.handle_start(world.now(), order("one-more", 1, 0));
    assert_eq!(world.words(), "TOO_MANY_INSTANCES");
    world.node.handle_start(world.now(), order("a", 2, 0));
    assert_eq!(world.words(), "settle, PREPARING");
}

#[test]
fn a_late_answer_about_an_earlier_attempt_changes_nothing() {
    let mut world = World::new();
    let first = world.preparing("a", 0, 30_000);
    world.stop("a", 0, StopMode::Graceful);
    assert_eq!(world.words(), "cancel, STOPPED, stop-ack");
    let second = world.preparing("a", 0, 30_000);
    world.node.handle_prepared(world.now(), first, prepared(30_000));
    world.node.handle_launched(world.now(), first);
    assert_eq!(world.words(), "");
    world.node.handle_prepared(world.now(), second, prepared(30_000));
    assert_eq!(world.words(), "launch");
}

#[test]
fn news_of_a_quick_process_wait_until_it_is_told_as_starting() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    let (now, incarnation) = (world.now(), Incarnation::new(1));
    world.exits("a", 1, 3, None);
    world.exits("a", 1, 3, None);
    world.node.handle_ready(now, id("a"), incarnation);
    world
        .node
        .handle_stopping(now, id("a"), incarnation, StopReason::LifetimeOver);
    assert_eq!(world.words(), "");
    world.node.handle_launched(now, attempt);
    assert_eq!(world.words(), "STARTING, accept, RUNNING, STOPPING, STOPPED");
}

#[test]
fn a_new_start_settles_the_former_end_before_it_is_prepared() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    assert_eq!(world.words(), "STOPPED");
    world.node.handle_start(world.now(), order("a", 2, 30_000));
    let work = world.drain();
    assert!(
        matches!(work[0], DaemonWork::Settle { incarnation, .. } if incarnation == Incarnation::new(1)),
        "{work:?}"
    );
    assert_eq!(work.len(), 2, "{work:?}");
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(9));
    assert_eq!(world.words(), "");
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "prepare");
}

/// A start whose former one has ended and is not let go of yet.
fn queued() -> World {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    world.node.handle_start(world.now(), order("a", 2, 30_000));
    assert_eq!(world.words(), "STOPPED, settle, PREPARING");
    world
}

#[test]
fn an_id_that_is_not_freed_is_waited_for_two_seconds_and_the_next_order_waits_again() {
    let mut world = queued();
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.words(), "");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.words(), "ID_NOT_FREE");
    world.node.handle_start(world.now(), order("a", 2, 30_000));
    assert_eq!(world.words(), "PREPARING", "the supervisor was asked already");
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "prepare");
}

#[test]
fn a_start_that_waits_for_its_id_owns_its_port_and_can_be_stopped() {
    let mut world = queued();
    world.node.handle_start(world.now(), order("b", 1, 30_000));
    assert_eq!(world.words(), "PORT_IN_USE");
    world.stop("a", 2, StopMode::Graceful);
    assert_eq!(world.words(), "STOPPED, stop-ack");
    world
        .node
        .handle_settled(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "");
    world.preparing("a", 3, 30_000);
}

#[test]
fn a_preparation_that_hangs_is_cancelled_and_may_be_ordered_again() {
    let mut world = World::new();
    let attempt = world.preparing("a", 1, 30_000);
    let due = world.node.poll_timeout().unwrap();
    assert_eq!(due.timer, DaemonNodeTimer::Preparation);
    world.pass(Duration::from_secs(589));
    world.node.handle_start(world.now(), order("a", 1, 30_000));
    assert_eq!(world.words(), "");
    assert_eq!(
        world.node.poll_timeout(),
        Some(due),
        "a repeated order gives no more time"
    );
    world.pass(Duration::from_secs(1));
    let work = world.drain();
    assert!(
        matches!(&work[..], [
            DaemonWork::CancelPreparation { attempt: cancelled },
            DaemonWork::RejectStart { rejection, .. },
        ] if *cancelled == attempt
            && rejection.disposition == StartFailureDisposition::Transient
            && rejection.message == "the preparation of a did not finish within 590 s"),
        "{work:?}"
    );
    world.node.handle_prepared(world.now(), attempt, prepared(30_000));
    assert_eq!(world.words(), "", "too late");
    world.preparing("a", 1, 30_000);
}

#[test]
fn a_server_has_a_startup_deadline_only_where_the_controller_asks_for_one() {
    let java = Capabilities::NONE;
    for (shared, startup) in [
        (Capabilities::SESSION, Duration::from_secs(90)),
        (Capabilities::STARTUP_DEADLINE, Duration::from_secs(90)),
        (java, NO_STARTUP_LIMIT),
    ] {
        let mut world = World::new();
        world
            .node
            .handle_connected(world.now(), ControllerPeer::of(shared));
        let mut order = order("a", 1, 30_000);
        order.start.startup_timeout_seconds = 90;
        order.start.shutdown_grace_seconds = 7;
        world.node.handle_start(world.now(), order);
        let limits = world.drain().into_iter().find_map(|work| match work {
            DaemonWork::Prepare { limits, .. } => Some(limits),
            _ => None,
        });
        let expected = Limits {
            startup,
            grace: Duration::from_secs(7),
            lifetime: None,
        };
        assert_eq!(limits, Some(expected), "{shared:?}");
    }
}
