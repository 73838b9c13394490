//! A storage that is slow or fails

use std::time::Duration;

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::lifecycle::{MARGIN, ON_ITS_WAY};
use prexorcloud_protocol::instance::{DEFAULT_GRACE, State};
use prexorcloud_protocol::node::controller::{
    Change, Commit, CommitFailure, ControllerNodeTimer, OrderId, OrderOutcome, OrderRefusal,
    SNAPSHOTS_PER_COMMIT,
};
use prexorcloud_protocol::peer::KILL_TIMEOUT;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{StartFailureDisposition, StartInstance, StartInstanceAck};

use crate::world::*;

#[test]
fn what_changes_during_a_commit_is_written_in_the_next_one_as_it_is_then() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    world.stop(StopMode::Graceful);
    world.commit();
    // The transition is being written when the next ones come.
    world.report(1, 1, State::Stopping);
    world.report(1, 1, State::Stopped);
    world.commit();
    let commit = world.commit();
    let [Change::Instance(snapshot)] = &commit.changes[..] else {
        panic!("{commit:?}")
    };
    assert_eq!(snapshot.state, State::Stopped);
    while !world.commits.is_empty() {
        world.commit();
    }
    assert!(world.node.is_settled());
}

#[test]
fn an_acknowledged_crash_is_an_end_that_is_recorded() {
    let mut world = World::connected();
    world.start(1);
    world.sent(1);
    world.commits_at_once = false;
    // Being written while the end comes in.
    world.report(1, 1, State::Running);
    world.report(1, 1, State::Crashed);
    world.receive(1, crash(1, "r1"));
    world.commit();
    assert_eq!(world.sent(1), []);
    let commit = world.commit();
    assert!(
        matches!(&commit.changes[..], [Change::Crash { .. }, Change::Instance(end)] if end.state == State::Crashed),
        "{commit:?}"
    );
    assert!(matches!(&world.sent(1)[..], [FromController::CrashReportAck(_)]));
    assert!(world.node.is_settled());
}

#[test]
fn a_start_waits_for_the_record_of_the_end_before_it() {
    let mut world = World::connected();
    world.start(1);
    world.commits_at_once = false;
    world.report(1, 1, State::Running);
    world.report(1, 1, State::Stopped);
    world.start(2);
    let written: Vec<Commit> = (0..3).map(|_| world.commit()).collect();
    assert!(matches!(&written[1].changes[..], [Change::Instance(end)] if end.state == State::Stopped));
    assert!(matches!(&written[2].changes[..], [Change::Start(start)] if start.incarnation == 2));
}

#[test]
fn a_forgetting_waits_for_the_record_of_the_end_before_it() {
    let mut world = World::connected();
    world.start(1);
    world.commits_at_once = false;
    world.report(1, 1, State::Running);
    world.report(1, 1, State::Stopped);
    let order = world.forget();
    // The storage would take it for alive, and refuse.
    let written: Vec<Commit> = (0..3).map(|_| world.commit()).collect();
    assert!(matches!(&written[1].changes[..], [Change::Instance(end)] if end.state == State::Stopped));
    assert!(matches!(written[2].changes[..], [Change::Forget { .. }]));
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Forgotten));
}

#[test]
fn the_time_of_a_stop_begins_when_it_leaves_and_not_while_it_waits_for_its_record() {
    let mut world = World::connected();
    let order = world.order();
    let start = StartInstance {
        max_lifetime_seconds: 3_600,
        ..start(1)
    };
    world.node.start(world.now, order, Box::new(start));
    world.turn();
    world.report(1, 1, State::Running);
    world.commits_at_once = false;
    world.answering(Duration::from_secs(3_600));
    world.sent(1);
    world.answering(Duration::from_secs(65));
    assert!(
        world.stops(1).is_empty(),
        "its lifetime is over, and nobody has recorded that"
    );
    world.commit_all();
    assert_eq!(world.stops(1), [false]);
    let whole = ON_ITS_WAY + DEFAULT_GRACE + KILL_TIMEOUT + MARGIN;
    world.answering(whole - Duration::from_secs(2));
    world.commit_all();
    assert!(!world.stops(1).contains(&true));
    world.answering(Duration::from_secs(60));
    world.commit_all();
    assert!(world.stops(1).contains(&true));
}

#[test]
fn orders_pass_one_that_waits_for_the_record_of_its_own_instance() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    world.report(1, 1, State::Stopped);
    world.fail(storage());
    let waiting = world.start(2);
    let other = world.order();
    let start = StartInstance {
        instance_id: "lobby-2".into(),
        port: 30_001,
        ..start(1)
    };
    world.node.start(world.now, other, Box::new(start));
    world.turn();
    let commit = world.commit();
    assert!(matches!(&commit.changes[..], [Change::Start(start)] if start.instance_id == "lobby-2"));
    assert_eq!(world.answers[&other.0], Ok(OrderOutcome::Started));
    assert!(!world.answers.contains_key(&waiting));
    world.advance(Duration::from_secs(5));
    world.commit_all();
    assert_eq!(world.answers[&waiting], Ok(OrderOutcome::Started));
}

#[test]
fn an_earlier_incarnation_that_is_recorded_as_one_to_run_is_not_stopped_before_that_is_mended() {
    let mut world = World::new();
    world.commits_at_once = false;
    world.connect(1, listing(2, State::Starting));
    world.disconnect(1);
    world.connect(2, listing(4, State::Running));
    let commit = world.commit();
    assert!(matches!(&commit.changes[..], [Change::Instance(seen)] if seen.incarnation.get() == 2));
    world.fail(storage());
    world.disconnect(2);
    world.connect(3, listing(2, State::Running));
    assert!(
        world.stops(3).is_empty(),
        "whoever restarts now would find it as one that is to run"
    );
    world.advance(Duration::from_secs(5));
    world.commit_all();
    assert_eq!(world.stops(3).len(), 1);
}

#[test]
fn instances_that_change_all_the_time_do_not_keep_others_from_the_record() {
    let mut world = World::new();
    let ids: Vec<String> = (0..70).map(|number| format!("lobby-{number:02}")).collect();
    for (number, id) in (0..).zip(&ids) {
        let start = StartInstance {
            instance_id: id.clone(),
            ..start(1)
        };
        world.node.start(world.now, OrderId(number), Box::new(start));
        world.turn();
    }
    world.connect(1, handshake());
    world.committed.clear();
    world.commits_at_once = false;
    for state in [State::Preparing, State::Starting, State::Running] {
        for id in &ids {
            let mut update = status(1, state);
            update.instance_id = id.clone();
            world.receive(1, FromDaemon::InstanceStatus(update));
        }
        world.commit();
    }
    let written: Vec<&str> = world
        .committed
        .iter()
        .flat_map(|commit| &commit.changes)
        .filter_map(|change| match change {
            Change::Instance(snapshot) => Some(snapshot.instance.as_str()),
            _ => None,
        })
        .collect();
    assert!(written.contains(&"lobby-69"), "{written:?}");
}

#[test]
fn what_goes_wrong_at_once_with_many_is_written_piece_by_piece() {
    let count = 3 * SNAPSHOTS_PER_COMMIT;
    let mut world = World::connected();
    for (number, order) in (0..count).zip(0..) {
        let start = StartInstance {
            instance_id: format!("lobby-{number}"),
            ..start(1)
        };
        world.node.start(world.now, OrderId(order), Box::new(start));
        world.turn();
    }
    world.commits_at_once = false;
    world.committed.clear();
    world.disconnect(1);
    // It has nothing of what was sent.
    world.connect(2, handshake());
    for id in 0..count {
        let mut update = status(1, State::Crashed);
        update.instance_id = format!("lobby-{id}");
        world.receive(2, FromDaemon::InstanceStatus(update));
    }
    world.commit_all();
    let sizes: Vec<usize> = world
        .committed
        .iter()
        .map(|commit| commit.changes.len())
        .collect();
    assert_eq!(sizes.iter().max(), Some(&SNAPSHOTS_PER_COMMIT), "{sizes:?}");
    assert!(world.node.is_settled());
}

#[test]
fn a_state_that_could_not_be_written_is_written_later() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    world.report(1, 1, State::Stopped);
    world.fail(storage());
    let due = world.node.poll_timeout().unwrap();
    assert_eq!(
        (due.at, due.timer),
        (world.now + Duration::from_secs(5), ControllerNodeTimer::Storage)
    );
    world.advance(Duration::from_millis(4_999));
    assert!(world.commits.is_empty(), "not before");
    assert!(!world.node.is_settled());
    world.advance(Duration::from_millis(1));
    let commit = world.commit();
    assert!(matches!(&commit.changes[..], [Change::Instance(snapshot)] if snapshot.state == State::Stopped));
    assert!(world.node.is_settled());
}

fn rejected(message: &str, disposition: StartFailureDisposition) -> FromDaemon {
    FromDaemon::StartInstanceAck(Box::new(StartInstanceAck {
        instance_id: "lobby-1".into(),
        incarnation: 1,
        error_code: "NO_JAVA".into(),
        error_message: message.into(),
        failure_disposition: disposition.into(),
        ..Default::default()
    }))
}

fn note(commit: &Commit) -> Option<&str> {
    match &commit.changes[..] {
        [Change::Instance(snapshot)] => snapshot.note.as_deref(),
        changes => panic!("{changes:?}"),
    }
}

#[test]
fn what_went_wrong_is_written_later_too() {
    let mut world = World::connected();
    world.start(1);
    world.commits_at_once = false;
    world.receive(1, rejected("no such java", StartFailureDisposition::Permanent));
    world.fail(storage());
    world.advance(Duration::from_secs(5));
    let commit = world.commit();
    assert_eq!(note(&commit), Some("NO_JAVA: no such java"));
    assert_eq!(world.state(), State::Crashed);
}

#[test]
fn the_last_that_went_wrong_is_what_is_written_in_the_end() {
    let mut world = World::connected();
    world.start(1);
    world.commits_at_once = false;
    world.receive(1, rejected("first", StartFailureDisposition::Transient));
    world.advance(Duration::from_secs(1));
    world.receive(1, rejected("second", StartFailureDisposition::Transient));
    world.fail(storage());
    world.advance(Duration::from_secs(5));
    let commit = world.commit();
    assert!(
        note(&commit).is_some_and(|note| note.contains("second")),
        "{commit:?}"
    );
}

#[test]
fn the_end_beside_a_crash_that_the_storage_refuses_is_written_all_the_same() {
    for (failure, is_told_again) in [(storage(), true), (CommitFailure::Conflict("no".into()), false)] {
        let mut world = World::connected();
        world.start(1);
        world.commits_at_once = false;
        // Being written while the end comes in.
        world.report(1, 1, State::Running);
        world.report(1, 1, State::Crashed);
        world.receive(1, crash(1, "r1"));
        world.commit();
        world.fail(failure);
        world.advance(Duration::from_secs(5));
        world.commit_all();
        let written: Vec<&Change> = world
            .committed
            .iter()
            .flat_map(|commit| &commit.changes)
            .collect();
        let is_end =
            |change: &&&Change| matches!(change, Change::Instance(end) if end.state == State::Crashed);
        let is_crash = |change: &&&Change| matches!(change, Change::Crash { .. });
        assert_eq!(written.iter().filter(is_end).count(), 1, "{written:?}");
        assert_eq!(written.iter().any(|change| is_crash(&change)), is_told_again);
        assert!(world.node.is_settled());
    }
}

/// Lets a storage that takes nothing refuse what it is given, for as long as somebody waits for an answer.
fn refuse_everything(world: &mut World) {
    for _ in 0..4 {
        let mut refused = 0;
        while !world.commits.is_empty() {
            world.fail(storage());
            refused += 1;
            assert!(refused < 100, "it is left in peace for a while");
        }
        world.advance(Duration::from_secs(5));
    }
}

#[test]
fn orders_are_answered_though_the_storage_takes_nothing() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    for report in ["r1", "r2", "r3"] {
        world.receive(1, crash(1, report));
    }
    world.fail(storage());
    let orders = [world.start(2), world.forget(), world.stop(StopMode::Graceful)];
    refuse_everything(&mut world);
    for order in orders {
        let answer = world.answers.get(&order);
        assert!(
            matches!(
                answer,
                Some(Err(OrderRefusal::NotRecorded(_)) | Ok(OrderOutcome::AlreadyEnded))
            ),
            "{answer:?}"
        );
    }
    while !world.commits.is_empty() {
        world.commit();
    }
    assert_eq!(world.sent(1).len(), 3, "the reports are acknowledged");
    assert!(world.node.is_settled());
}

#[test]
fn giving_up_is_answered_though_the_storage_takes_nothing() {
    let mut world = World::connected();
    world.running();
    world.disconnect(1);
    world.commits_at_once = false;
    let order = world.declare_lost();
    refuse_everything(&mut world);
    assert_eq!(
        world.answers.get(&order),
        Some(&Err(OrderRefusal::NotRecorded(storage())))
    );
    let again = world.declare_lost();
    while !world.commits.is_empty() {
        world.commit();
    }
    assert_eq!(world.answers[&again], Ok(OrderOutcome::GivenUp));
    assert!(world.node.is_settled());
}

#[test]
fn two_incarnations_of_an_id_are_never_written_in_one_commit() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    world.report(1, 1, State::Stopped);
    world.disconnect(1);
    world.connect(2, listing(2, State::Running));
    world.fail(storage());
    world.advance(Duration::from_secs(5));
    let written: Vec<Vec<u64>> = [world.commit(), world.commit()]
        .iter()
        .map(|commit| commit.changes.iter().map(incarnation).collect())
        .collect();
    assert_eq!(written, [[1], [2]]);
    assert!(world.node.is_settled());
}

fn incarnation(change: &Change) -> u64 {
    match change {
        Change::Instance(snapshot) => snapshot.incarnation.get(),
        change => panic!("{change:?}"),
    }
}

#[test]
fn an_answer_to_an_earlier_commit_changes_nothing() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let order = world.start(1);
    let earlier = world.commits.remove(0);
    world.node.handle_committed(world.now, earlier.id);
    world.turn();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
    assert_eq!(world.sent(1).len(), 1);

    let stop = world.stop(StopMode::Graceful);
    world.node.handle_committed(world.now, earlier.id);
    world.node.handle_commit_failed(world.now, earlier.id, storage());
    world.turn();
    assert_eq!((world.sent(1), world.answers.get(&stop)), (vec![], None));
    world.commit();
    assert_eq!(world.sent(1).len(), 1);
}

#[test]
fn an_end_is_confirmed_to_the_daemon_only_once_it_is_recorded() {
    let mut world = World::connected();
    world.running();
    world.beat(1);
    world.commits_at_once = false;
    world.report(1, 1, State::Stopped);
    let answered = world.beat(1);
    world.beat(1);
    assert!(world.confirmed < answered, "it is still being written");
    world.commit_all();
    world.beat(1);
    assert!(world.confirmed >= answered, "{} {answered}", world.confirmed);
}
