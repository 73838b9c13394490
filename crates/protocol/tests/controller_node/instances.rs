//! What the daemon says about its instances

use std::time::Duration;

use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::limits::INSTANCES_PER_NODE;
use prexorcloud_protocol::node::controller::{CRASHES_WAITING, Change, CommitFailure, OrderOutcome};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{ConsoleOutput, Handshake, Pong, RunningInstance, StartInstance};
use prexorcloud_protocol::roster::{ENDED_REMEMBERED, InstanceEvent, RosterEntry};
use prexorcloud_protocol::session::Anomaly;
use prexorcloud_protocol::session::controller::{CommandError, CrashStanding};
use prexorcloud_protocol::{ControllerEvent, StopMode};

use crate::world::*;

fn is_ack(payload: &FromController, id: &str) -> bool {
    matches!(payload, FromController::CrashReportAck(ack) if ack.report_id == id)
}

#[test]
fn a_crash_is_acknowledged_only_once_it_is_stored() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.receive(1, crash(1, "r1"));
    assert_eq!(world.sent(1), []);
    world.fail(storage());
    assert_eq!(world.sent(1), []);
    world.receive(1, crash(1, "r1"));
    world.advance(Duration::from_secs(5));
    let commit = world.commit();
    assert!(matches!(&commit.changes[..], [Change::Crash { report, .. }] if report.report_id == "r1"));
    assert!(world.node.is_settled(), "what is told again waits once");
    assert!(matches!(&world.sent(1)[..], [ack] if is_ack(ack, "r1")));
}

#[test]
fn a_crash_that_is_stored_when_its_stream_is_over_is_acknowledged_on_the_next_one() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.receive(1, crash(1, "r1"));
    world.connect(2, handshake());
    world.sent(2);
    world.commit();
    assert_eq!(world.sent(1), []);
    assert!(matches!(&world.sent(2)[..], [ack] if is_ack(ack, "r1")));

    // And on none if there is none; the daemon tells it again.
    world.receive(2, crash(1, "r2"));
    world.disconnect(2);
    world.commit();
    world.connect(3, handshake());
    assert!(!world.sent(3).iter().any(|sent| is_ack(sent, "r2")));
    world.receive(3, crash(1, "r2"));
    world.commit();
    assert!(matches!(&world.sent(3)[..], [ack] if is_ack(ack, "r2")));
}

#[test]
fn a_daemon_that_keeps_no_crashes_is_not_told_that_they_are_stored() {
    let mut world = World::new();
    let java = Handshake {
        capabilities: Vec::new(),
        ..handshake()
    };
    world.connect(1, java);
    world.sent(1);
    world.receive(1, crash(0, "r1"));
    assert!(matches!(world.committed[0].changes[..], [Change::Crash { .. }]));
    assert_eq!(world.sent(1), []);
}

#[test]
fn a_crash_of_an_earlier_incarnation_is_stored_but_crashes_nothing() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Stopped);
    world.start(2);
    world.sent(1);
    world.committed.clear();
    world.receive(1, crash(1, "old"));
    assert!(matches!(
        world.committed[0].changes[..],
        [Change::Crash {
            standing: CrashStanding::Past,
            ..
        }]
    ));
    assert_eq!(world.state(), State::Scheduled);
    assert!(matches!(&world.sent(1)[..], [ack] if is_ack(ack, "old")));
}

#[test]
fn more_crashes_than_may_wait_are_left_to_the_daemon() {
    let mut world = World::connected();
    world.commits_at_once = false;
    for number in 0..200 {
        world.receive(1, crash(1, &format!("r{number}")));
    }
    let mut stored = 0;
    while !world.commits.is_empty() {
        world.commit();
        stored += 1;
    }
    assert_eq!(stored, CRASHES_WAITING);
    assert_eq!(world.sent(1).len(), stored, "only what is stored is acknowledged");
    world.receive(1, crash(1, "r200"));
    assert_eq!(world.commit_all(), 1, "what is stored takes no place any more");
}

#[test]
fn a_change_is_told_once_and_recorded() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Running);
    assert_eq!((world.news.len(), world.committed.len()), (0, 0));
    let order = world.stop(StopMode::Graceful);
    assert_eq!(
        world.answers[&order],
        Ok(OrderOutcome::Stopping(StopMode::Graceful))
    );
    assert!(matches!(world.news[..], [InstanceEvent::Changed { .. }]));
    assert!(
        matches!(&world.sent(1)[..], [FromController::StopInstance(stop)] if !stop.force && stop.incarnation == 1)
    );
    world.report(1, 1, State::Starting);
    assert!(matches!(
        world.events[..],
        [ControllerEvent::Ignored(Anomaly::IllegalTransition { .. })]
    ));
    let sent = world.sent(1);
    assert!(
        matches!(&sent[..], [FromController::ErrorReport(report)] if report.error_code == "ILLEGAL_TRANSITION"),
        "{sent:?}"
    );
}

#[test]
fn lines_of_an_earlier_incarnation_are_not_taken_for_the_present_ones() {
    let mut world = World::connected();
    world.running();
    let line = |instance: &str, incarnation| {
        FromDaemon::ConsoleOutput(ConsoleOutput {
            instance_id: instance.into(),
            incarnation,
            ..Default::default()
        })
    };
    world.receive(1, line("lobby-1", 1));
    world.receive(1, line("lobby-1", 9));
    world.receive(1, line("other", 1));
    assert!(
        matches!(
            world.events[..],
            [
                ControllerEvent::Console(_),
                ControllerEvent::Ignored(Anomaly::StaleInstance { .. }),
                ControllerEvent::Ignored(Anomaly::UnknownInstance { .. }),
            ]
        ),
        "{:?}",
        world.events
    );
}

#[test]
fn a_command_goes_only_to_a_process_that_is_there() {
    let mut world = World::connected();
    let unknown = world.node.command(lobby(), "say hi", None);
    assert!(matches!(unknown, Err(CommandError::Denied(_))));
    world.running();
    let two_lines = world.node.command(lobby(), "say\nhi", None);
    assert!(matches!(two_lines, Err(CommandError::Invalid(_))));
    world.node.command(lobby(), "say hi", None).unwrap();
    world.turn();
    let sent = world.sent(1);
    let [FromController::SendCommand(command)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!((command.command.as_str(), command.incarnation), ("say hi", 1));
    world.disconnect(1);
    let away = world.node.command(lobby(), "say hi", None);
    assert_eq!(away, Err(CommandError::NotConnected));
}

#[test]
fn silence_stops_the_clocks_that_wait_for_the_daemon() {
    let mut world = World::connected();
    world.running();
    for _ in 0..3 {
        world.advance(Duration::from_secs(30));
    }
    assert!(matches!(world.events[..], [ControllerEvent::Unreachable { .. }]));
    world.stop(StopMode::Graceful);
    assert_eq!(world.sent(1).len(), 1);
    // Two hours in which not even a ping is answered, on a stream that stays open.
    for _ in 0..240 {
        world.advance(Duration::from_secs(30));
    }
    assert_eq!((world.sent(1), world.state()), (vec![], State::Stopping));
    let last = world.pings().pop().unwrap();
    world.receive(1, FromDaemon::Pong(Pong { sequence: last }));
    world.report(1, 1, State::Stopping);
    world.advance(Duration::from_secs(44));
    assert_eq!(world.state(), State::Stopping);
    let killed =
        |payload: &FromController| matches!(payload, FromController::StopInstance(stop) if stop.force);
    assert!(!world.sent(1).iter().any(killed), "it has its whole grace");
    world.advance(Duration::from_secs(1));
    assert!(world.sent(1).iter().any(killed));
}

#[test]
fn lines_of_the_incarnation_before_are_dropped() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Stopped);
    world.start(2);
    world.receive(
        1,
        FromDaemon::ConsoleOutput(ConsoleOutput {
            instance_id: "lobby-1".into(),
            incarnation: 1,
            ..Default::default()
        }),
    );
    assert!(
        matches!(
            world.events[..],
            [ControllerEvent::Ignored(Anomaly::StaleInstance { .. })]
        ),
        "{:?}",
        world.events
    );
}

#[test]
fn a_crash_report_that_the_storage_never_takes_is_left_to_the_daemon() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.receive(1, crash(1, "r1"));
    world.fail(CommitFailure::Conflict("not this one".into()));
    assert!(world.node.is_settled());
    assert_eq!(world.sent(1), [], "it is not acknowledged");

    for number in 0..CRASHES_WAITING {
        world.receive(1, crash(1, &format!("r2-{number}")));
    }
    assert_eq!(world.commit_all(), CRASHES_WAITING, "it takes nobody's place");
}

#[test]
fn a_crash_report_is_kept_as_long_as_the_storage_fails() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.receive(1, crash(1, "r1"));
    for _ in 0..100 {
        world.fail(storage());
        world.advance(Duration::from_secs(5));
    }
    world.commit();
    assert!(matches!(&world.sent(1)[..], [ack] if is_ack(ack, "r1")));
}

#[test]
fn a_crash_report_that_waits_is_acknowledged_on_the_stream_that_told_it_last() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let all = 0..CRASHES_WAITING;
    for number in all.clone() {
        world.receive(1, crash(9, &format!("r{number}")));
    }
    world.disconnect(1);
    world.connect(2, handshake());
    for number in all.clone() {
        world.receive(2, crash(9, &format!("r{number}")));
    }
    world.sent(2);
    assert_eq!(world.commit_all(), CRASHES_WAITING, "each is stored once");
    let acknowledged = world.sent(2);
    for number in all {
        let id = format!("r{number}");
        assert!(acknowledged.iter().any(|payload| is_ack(payload, &id)), "{id}");
    }
}

#[test]
fn orders_pass_a_crash_report_that_waits_to_be_tried_again() {
    let mut world = World::connected();
    world.commits_at_once = false;
    world.receive(1, crash(1, "r1"));
    world.fail(storage());
    let order = world.start(1);
    world.commit();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
    assert_eq!(world.sent(1).len(), 1);
    assert!(
        world.commits.is_empty(),
        "the report is not tried before its time"
    );
    world.advance(Duration::from_secs(5));
    let commit = world.commit();
    assert!(matches!(commit.changes[0], Change::Crash { .. }));
}

#[test]
fn what_ended_first_is_forgotten_once_nothing_else_waits_for_the_storage() {
    const SURPLUS: usize = 100;
    let mut world = World::new();
    world.commits_at_once = false;
    let ended = |number: usize| RosterEntry {
        start: Box::new(StartInstance {
            instance_id: format!("old-{number}"),
            ..start(1)
        }),
        state: State::Stopped,
        desired: Desired::Run,
        lost: false,
    };
    let all = ENDED_REMEMBERED + SURPLUS;
    assert!(world.node.restore(world.now, (0..all).map(ended)).is_empty());
    world.turn();
    // One is under way when an order comes, which is next.
    let order = world.start(1);
    let forgotten = world.commit();
    assert!(matches!(&forgotten.changes[0], Change::Forget { instance, .. } if instance.as_str() == "old-0"));
    assert!(matches!(world.commit().changes[0], Change::Start(_)));
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
    world.fail(CommitFailure::Storage("full".into()));
    assert!(world.commits.is_empty(), "it is left in peace");
    world.advance(Duration::from_secs(5));
    world.commit();
    assert!(world.commits.is_empty() && world.node.is_settled());
    let told = world.news.iter();
    let told = told.filter(|event| matches!(event, InstanceEvent::Forgotten { .. }));
    assert_eq!(told.count(), SURPLUS);
    assert!(world.node.roster().get("old-99".parse().unwrap()).is_none());
    assert!(world.node.roster().get("old-100".parse().unwrap()).is_some());
}

#[test]
fn all_that_happens_at_once_on_a_full_node_is_told_and_recorded() {
    let mut world = World::new();
    let listed = |incarnation| Handshake {
        running_instances: (0..INSTANCES_PER_NODE)
            .map(|number| RunningInstance {
                instance_id: format!("lobby-{number}"),
                group: "lobby".into(),
                state: State::Running.to_wire(),
                incarnation,
                ..Default::default()
            })
            .collect(),
        ..handshake()
    };
    world.connect(1, listed(1));
    world.news.clear();
    world.committed.clear();
    world.connect(2, listed(2));
    let adopted = |event: &&InstanceEvent| matches!(event, InstanceEvent::Adopted { .. });
    assert_eq!(world.news.iter().filter(adopted).count(), INSTANCES_PER_NODE);
    assert_eq!(
        world.news.len(),
        2 * INSTANCES_PER_NODE,
        "and the end of the one before"
    );
    let recorded = world.committed.iter().map(|commit| commit.changes.len());
    assert_eq!(recorded.sum::<usize>(), INSTANCES_PER_NODE);
}
