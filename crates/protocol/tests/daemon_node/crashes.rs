//! Crashes: judged, written, and only then told

use prexorcloud_protocol::node::daemon::{DaemonWork, StopReason};
use prexorcloud_protocol::peer::ControllerPeer;
use prexorcloud_protocol::{Incarnation, limits};
use prost::Message as _;

use crate::world::*;

#[test]
fn a_crash_is_told_only_after_it_is_written() {
    let mut world = World::new();
    world.running("a", 1, 30_000);
    world.exits("a", 1, 1, None);
    world.exits("a", 1, 1, None);
    assert_eq!(world.words(), "spool");
    world.spooled("a", 1);
    world.spooled("a", 1);
    assert_eq!(world.words(), "CRASHED, crash");
}

#[test]
fn a_crash_that_cannot_be_written_is_told_as_such_and_settled_when_confirmed() {
    let mut world = World::new();
    world
        .node
        .handle_connected(world.now(), ControllerPeer::default());
    world.running("a", 1, 30_000);
    world.exits("a", 1, 1, None);
    world
        .node
        .handle_spool_failed(world.now(), id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "spool, CRASHED, crash-in-memory");
    assert_eq!(world.node.poll_timeout(), None, "time alone does not settle it");
    world.node.handle_end_heard(id("a"), Incarnation::new(1));
    assert_eq!(world.words(), "", "nor does a heard end, without its report");
    world
        .node
        .handle_crash_confirmed(world.now(), "report-a-1".into());
    assert_eq!(world.words(), "settle, forget");
}

#[test]
fn an_instance_that_was_not_ready_in_time_crashed_and_its_report_says_so() {
    let mut world = World::new();
    world.starting("a", 1, 30_000);
    let incarnation = Incarnation::new(1);
    world
        .node
        .handle_stopping(world.now(), id("a"), incarnation, StopReason::StartupTimeout);
    assert_eq!(world.words(), "STOPPING");
    world.exits("a", 1, 0, None);
    let work = world.drain();
    let DaemonWork::Spool { report, .. } = &work[0] else {
        panic!("{work:?}");
    };
    assert_eq!(
        report.log_tail,
        ["last words", "[prexorcloud] not ready within 60 s"]
    );
}

#[test]
fn the_first_reason_to_stop_an_instance_is_the_one_that_counts() {
    let mut world = World::new();
    world.starting("a", 1, 30_000);
    for reason in [StopReason::StartupTimeout, StopReason::Requested] {
        world
            .node
            .handle_stopping(world.now(), id("a"), Incarnation::new(1), reason);
    }
    assert_eq!(world.words(), "STOPPING");
    world.exits("a", 1, 0, None);
    assert_eq!(world.words(), "spool", "it was not ready in time");
}

#[test]
fn an_instance_past_its_lifetime_or_stopped_on_request_did_not_crash() {
    for reason in [StopReason::LifetimeOver, StopReason::Requested] {
        let mut world = World::new();
        world.running("a", 1, 30_000);
        world.exits("a", 1, 9, Some(reason));
        assert_eq!(world.words(), "STOPPED");
    }
}

#[test]
fn a_report_keeps_the_newest_lines_within_its_bounds() {
    let mut world = World::new();
    world.starting("a", 1, 30_000);
    let mut exit = exit("a", 1, 0, Some(StopReason::StartupTimeout));
    exit.log_tail = (0..1_000)
        .map(|line| format!("{line} {}", "x".repeat(9_000)))
        .collect();
    world.node.handle_exited(world.now(), exit);
    let work = world.drain();
    let DaemonWork::Spool { report, .. } = &work[0] else {
        panic!("{work:?}");
    };
    let bytes = report.encoded_len();
    assert!(
        bytes <= limits::CRASH_REPORT_BYTES && bytes > limits::CRASH_REPORT_BYTES / 2,
        "{bytes}"
    );
    assert!(report.log_tail.len() <= limits::CRASH_TAIL_LINES);
    let [.., newest, reason] = report.log_tail.as_slice() else {
        panic!("{}", report.log_tail.len());
    };
    assert!(newest.starts_with("999 ") && reason.contains("not ready within"));
}

#[test]
fn reports_that_the_session_has_no_room_for_are_told_after_a_confirmation() {
    let mut world = World::new();
    world.node.handle_crash_refused();
    world.node.handle_crash_confirmed(world.now(), "one".into());
    assert_eq!(world.words(), "forget, crashes");
    world.node.handle_crash_confirmed(world.now(), "two".into());
    assert_eq!(world.words(), "forget");
}
