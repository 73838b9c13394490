//! What leaves only after the record that it depends on

use std::time::Duration;

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::node::controller::{Change, OrderId, OrderOutcome};
use prexorcloud_protocol::proto::StartInstance;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;

use crate::world::*;

/// How long a daemon that keeps the startup deadline itself is given: the limit, the grace, the kill and a margin.
const LATE: Duration = Duration::from_secs(60 + 30 + 15);

#[test]
fn a_kill_that_the_controller_decides_waits_for_its_record() {
    let mut world = World::connected();
    let order = world.start(1);
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
    world.report(1, 1, State::Starting);
    world.sent(1);
    world.commits_at_once = false;
    // The daemon does not keep its own deadline, and answers every ping.
    world.answering(LATE);
    assert_eq!(world.sent(1), [], "the wish to kill is not recorded yet");
    let commit = world.commit();
    let [Change::Instance(snapshot)] = &commit.changes[..] else {
        panic!("{commit:?}")
    };
    assert_eq!(snapshot.desired, Desired::ForceStop);
    assert!(
        snapshot
            .note
            .as_deref()
            .is_some_and(|note| note.contains("not running after"))
    );
    assert!(matches!(&world.sent(1)[..], [FromController::StopInstance(stop)] if stop.force));
}

#[test]
fn a_graceful_stop_that_waited_for_its_record_has_its_whole_grace() {
    let mut world = World::connected();
    let lived = Duration::from_secs(100);
    let order = OrderId(100);
    let start = StartInstance {
        max_lifetime_seconds: 100,
        ..start(1)
    };
    world.node.start(world.now, order, Box::new(start));
    world.turn();
    world.report(1, 1, State::Running);
    world.sent(1);
    world.commits_at_once = false;
    world.answering(lived);
    assert_eq!(world.state(), State::Stopping);
    // The storage takes its time, and the grace does not run meanwhile.
    world.answering(Duration::from_secs(40));
    assert_eq!(world.sent(1), []);
    world.commit();
    assert!(matches!(&world.sent(1)[..], [FromController::StopInstance(stop)] if !stop.force));
    world.commits_at_once = true;
    world.receive(
        1,
        FromDaemon::StopInstanceAck(prexorcloud_protocol::proto::StopInstanceAck {
            instance_id: "lobby-1".into(),
            accepted: true,
            incarnation: 1,
            ..Default::default()
        }),
    );
    world.answering(Duration::from_secs(40));
    assert_eq!(
        world.sent(1),
        [],
        "30 s of grace, and the daemon's own time to kill"
    );
    world.answering(Duration::from_secs(10));
    assert!(matches!(&world.sent(1)[..], [FromController::StopInstance(stop)] if stop.force));
}

#[test]
fn a_kill_after_a_graceful_stop_waits_for_a_record_of_its_own() {
    let mut world = World::connected();
    world.running();
    world.stop(StopMode::Graceful);
    assert_eq!(world.stops(1), [false]);
    world.report(1, 1, State::Stopping);
    world.commits_at_once = false;
    world.answering(Duration::from_secs(50));
    assert_eq!(world.stops(1), NONE, "recorded is the wish for a graceful stop");
    world.commit_all();
    assert_eq!(world.stops(1), [true]);
}

#[test]
fn what_has_ended_here_is_stopped_there_once_its_end_is_recorded() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    world.report(1, 1, State::Stopped);
    // Found stopped while its record says that it is to run, it would be started again.
    world.report(1, 1, State::Running);
    assert_eq!(world.node.roster().orphans().count(), 1);
    assert_eq!(world.stops(1), NONE);
    world.commit_all();
    assert_eq!(world.stops(1), [false]);
}

#[test]
fn the_record_of_an_earlier_incarnation_keeps_nobody_from_stopping_it() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Stopped);
    world.start(2);
    world.sent(1);
    world.commits_at_once = false;
    world.report(1, 1, State::Running);
    assert_eq!(
        world.stops(1),
        [false],
        "recorded as to run is only what follows it"
    );
}

#[test]
fn the_wish_to_kill_an_earlier_incarnation_kills_no_later_one() {
    let mut world = World::connected();
    world.running();
    world.stop(StopMode::Force);
    world.disconnect(1);
    world.commits_at_once = false;
    world.connect(2, listing(2, State::Starting));
    world.sent(2);
    world.answering(LATE);
    assert_eq!(world.state(), State::Stopping);
    assert_eq!(world.stops(2), NONE, "of this one nothing is recorded yet");
    world.commit_all();
    assert_eq!(world.stops(2), [true]);
}

#[test]
fn the_wish_to_kill_is_forgotten_with_its_instance() {
    let mut world = World::connected();
    world.running();
    world.stop(StopMode::Force);
    world.report(1, 1, State::Stopped);
    let order = world.forget();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Forgotten));
    world.disconnect(1);
    world.commits_at_once = false;
    // The daemon has it after all, and it is taken for one that nobody has ever wanted stopped.
    world.connect(2, listing(1, State::Starting));
    world.sent(2);
    world.answering(LATE);
    assert_eq!(world.state(), State::Stopping);
    assert_eq!(world.stops(2), NONE);
    world.commit_all();
    assert_eq!(world.stops(2), [true]);
}
