//! Stops, and the shutdown of the node

use std::time::Duration;

use prexorcloud_protocol::node::daemon::{DaemonWork, LaunchFailure, StopReason};
use prexorcloud_protocol::proto::StartFailureDisposition;
use prexorcloud_protocol::{Incarnation, StopMode};

use crate::world::*;

#[test]
fn a_stop_of_a_preparing_instance_cancels_it_and_is_answered() {
    let mut world = World::new();
    world.preparing("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "cancel, STOPPED, stop-ack");
}

#[test]
fn a_stop_during_the_launch_is_carried_out_once_it_is_launched() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    world.stop("a", 1, StopMode::Force);
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "");
    world.node.handle_launched(world.now(), attempt);
    assert_eq!(world.words(), "STARTING, accept, kill");
    world.exits("a", 1, 137, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED, stop-ack");
}

#[test]
fn a_stop_that_waits_for_a_launch_that_fails_is_answered() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    let failure = LaunchFailure {
        message: "no such file".into(),
        disposition: StartFailureDisposition::Permanent,
    };
    world.node.handle_launch_failed(world.now(), attempt, failure);
    assert_eq!(world.words(), "START_FAILED, stop-ack");
}

#[test]
fn force_overtakes_grace_and_the_stop_is_answered_once() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "stop");
    world.stop("a", 1, StopMode::Force);
    assert_eq!(world.words(), "kill");
    world.exits("a", 1, 137, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED, stop-ack");
}

#[test]
fn a_stop_that_finds_no_process_is_refused_and_the_end_judged_by_itself() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "stop");
    world
        .node
        .handle_stop_failed(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "stop-refused");
    world.exits("a", 1, 1, None);
    assert_eq!(world.words(), "spool");
}

#[test]
fn a_refused_stop_is_carried_out_when_it_is_repeated() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    world
        .node
        .handle_stop_failed(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "stop, stop-refused");
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "stop");
    world.exits("a", 1, 0, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED, stop-ack");
}

#[test]
fn a_stop_of_what_is_gone_or_of_another_start_is_answered_and_touches_nothing() {
    let mut world = World::new();
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "stop-ack");
    world.running("a", 2, 30_000);
    world.stop("a", 1, StopMode::Force);
    assert_eq!(world.words(), "stop-ack");
}

#[test]
fn a_stop_while_the_crash_report_is_written_is_answered_after_it() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 1, None);
    assert_eq!(world.words(), "spool");
    world.stop("a", 1, StopMode::Graceful);
    assert_eq!(world.words(), "");
    world.spooled("a", 1);
    assert_eq!(world.words(), "CRASHED, crash, stop-ack");
}

#[test]
fn a_shutdown_stops_everything_and_finishes_when_nothing_runs() {
    let mut world = World::new();
    world.preparing("a", 1, 30_000);
    let attempt = world.launching("b", 1, 30_001);
    world.running("c", 1, 30_002);
    world.node.handle_shutdown(world.now(), "bye".into());
    assert_eq!(world.words(), "shutdown-ack 3, cancel, STOPPED, stop");
    world.node.handle_shutdown(world.now(), "again".into());
    assert_eq!(world.words(), "shutdown-ack 2");
    world.node.handle_launched(world.now(), attempt);
    assert_eq!(world.words(), "STARTING, accept, stop");
    world.exits("b", 1, 0, Some(StopReason::Requested));
    assert_eq!(world.words(), "STOPPED");
    world.exits("c", 1, 9, None);
    assert_eq!(world.words(), "STOPPED, finish bye");
}

#[test]
fn a_shutdown_waits_until_a_crash_is_written() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 1, None);
    world.node.handle_shutdown(world.now(), "bye".into());
    assert_eq!(world.words(), "spool, shutdown-ack 0");
    world.spooled("a", 1);
    assert_eq!(world.words(), "CRASHED, crash, finish bye");
}

#[test]
fn a_shutdown_is_over_when_the_last_launch_has_failed() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    world.node.handle_shutdown(world.now(), "bye".into());
    assert_eq!(world.words(), "shutdown-ack 1");
    let failure = LaunchFailure {
        message: "no such file".into(),
        disposition: StartFailureDisposition::Transient,
    };
    world.node.handle_launch_failed(world.now(), attempt, failure);
    assert_eq!(world.words(), "START_FAILED, finish bye");
}

#[test]
fn what_ended_during_its_launch_is_not_stopped_any_more() {
    let mut world = World::new();
    let attempt = world.launching("a", 1, 30_000);
    world.stop("a", 1, StopMode::Graceful);
    world.exits("a", 1, 3, None);
    assert_eq!(world.words(), "");
    world.node.handle_launched(world.now(), attempt);
    assert_eq!(world.words(), "STARTING, accept, STOPPED, stop-ack");
}

#[test]
fn what_is_being_stopped_does_not_become_ready() {
    let mut world = World::new();
    world.starting("a", 1, 30_000);
    let incarnation = Incarnation::new(1);
    world
        .node
        .handle_stopping(world.now(), id("a"), incarnation, StopReason::Requested);
    world.node.handle_ready(world.now(), id("a"), incarnation);
    assert_eq!(world.words(), "STOPPING");
}

#[test]
fn the_estimate_of_a_shutdown_counts_what_is_being_launched() {
    let mut world = World::new();
    world.launching("a", 1, 30_000);
    world.node.handle_shutdown(world.now(), "bye".into());
    let work = world.drain();
    let DaemonWork::AcknowledgeShutdown { estimated_drain, .. } = work[0] else {
        panic!("{work:?}");
    };
    assert_eq!(estimated_drain, Duration::from_secs(40));
}

#[test]
fn the_estimate_of_a_shutdown_is_the_longest_grace_and_the_time_to_kill() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.node.handle_shutdown(world.now(), "bye".into());
    let work = world.drain();
    let DaemonWork::AcknowledgeShutdown { estimated_drain, .. } = work[0] else {
        panic!("{work:?}");
    };
    assert_eq!(estimated_drain, Duration::from_secs(40));
}
