//! Orders: recorded first, done second, answered last

use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::node::controller::{
    Change, CommitFailure, InstanceSnapshot, ORDERS_WAITING, OrderId, OrderOutcome, OrderRefusal,
};
use prexorcloud_protocol::proto::StartInstance;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_protocol::{DeniedReason, Incarnation, StopMode};

use crate::world::*;

#[test]
fn an_order_that_is_withdrawn_before_it_is_begun_is_not_carried_out() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let first = world.start(1);
    let order = world.order();
    let other = StartInstance {
        instance_id: "lobby-2".into(),
        port: 30_001,
        ..start(1)
    };
    world.node.start(world.now, order, Box::new(other));
    world.turn();
    assert!(!world.node.withdraw(OrderId(first)), "it is being recorded");
    assert!(world.node.withdraw(order));
    assert_eq!(world.commit_all(), 1);
    assert_eq!(world.answers[&first], Ok(OrderOutcome::Started));
    assert!(!world.answers.contains_key(&order.0));
}

#[test]
fn a_start_leaves_after_its_record_and_not_without() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let order = world.start(1);
    assert_eq!((world.sent(1), world.answers.get(&order)), (vec![], None));
    world.fail(storage());
    assert_eq!(world.answers[&order], Err(OrderRefusal::NotRecorded(storage())));
    assert_eq!(world.sent(1), [], "and nothing will ever leave");
    assert!(world.node.roster().get(lobby()).is_none());

    let order = world.start(2);
    world.commit();
    assert!(matches!(&world.sent(1)[..], [FromController::StartInstance(start)] if start.incarnation == 2));
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
}

#[test]
fn an_order_takes_its_trace_along_once() {
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let mut world = World::connected();
    world.traces();
    let order = world.order();
    world
        .node
        .start_traced(world.now, order, Box::new(start(1)), trace);
    world.turn();
    assert_eq!(world.traces(), [trace]);
    let order = world.order();
    world
        .node
        .stop_traced(world.now, order, lobby(), StopMode::Graceful, trace);
    world.turn();
    assert_eq!(world.traces(), [trace]);
    world.stop(StopMode::Force);
    assert_eq!(world.traces(), [None], "another order is not a part of it");
}

#[test]
fn an_id_that_is_about_to_start_is_not_started_again() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let first = world.start(1);
    let second = world.start(2);
    let current = Incarnation::new(1);
    assert_eq!(
        world.answers[&second],
        Err(DeniedReason::StillAlive { current }.into())
    );
    assert_eq!(
        world.node.ports().collect::<Vec<_>>(),
        [30_000],
        "its port is taken"
    );
    world.commit();
    assert_eq!(world.answers[&first], Ok(OrderOutcome::Started));
    let third = world.start(2);
    assert!(matches!(
        world.answers[&third],
        Err(OrderRefusal::Denied(DeniedReason::StillAlive { .. }))
    ));
}

#[test]
fn a_start_whose_record_conflicts_fails_with_the_reason() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let order = world.start(1);
    let conflict = CommitFailure::Conflict("lobby-1 is RUNNING on node-2".into());
    world.fail(conflict.clone());
    let refused = world.answers[&order].clone().unwrap_err();
    assert_eq!(refused.to_string(), conflict.to_string());
    assert!(world.node.is_settled());
}

#[test]
fn a_stop_leaves_after_the_record_of_the_wish() {
    for mode in [StopMode::Graceful, StopMode::Force] {
        let mut world = World::connected();
        world.running();
        world.commits_at_once = false;
        let order = world.stop(mode);
        assert_eq!((world.state(), world.sent(1)), (State::Running, vec![]));
        let commit = world.commit();
        let [Change::Instance(snapshot)] = &commit.changes[..] else {
            panic!("{commit:?}")
        };
        assert_eq!(snapshot.desired, Desired::from(mode));
        assert_eq!(world.answers[&order], Ok(OrderOutcome::Stopping(mode)));
        assert!(
            matches!(&world.sent(1)[..], [FromController::StopInstance(stop)] if stop.force == (mode == StopMode::Force))
        );
    }
}

#[test]
fn a_stop_that_cannot_be_recorded_stops_nothing() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    let order = world.stop(StopMode::Force);
    world.fail(storage());
    assert_eq!(world.answers[&order], Err(OrderRefusal::NotRecorded(storage())));
    assert_eq!((world.state(), world.sent(1)), (State::Running, vec![]));
}

#[test]
fn a_stop_of_what_is_over_or_unknown_says_so() {
    let mut world = World::connected();
    let unknown = world.stop(StopMode::Graceful);
    assert_eq!(world.answers[&unknown], Err(DeniedReason::UnknownInstance.into()));
    world.running();
    world.report(1, 1, State::Stopped);
    let ended = world.stop(StopMode::Graceful);
    assert_eq!(world.answers[&ended], Ok(OrderOutcome::AlreadyEnded));
}

#[test]
fn a_stop_overtaken_by_the_end_stops_nothing() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    let order = world.stop(StopMode::Graceful);
    world.report(1, 1, State::Stopped);
    world.commit();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::AlreadyEnded));
    assert_eq!(world.sent(1), []);
}

#[test]
fn only_what_has_ended_is_forgotten_and_its_record_first() {
    let mut world = World::connected();
    world.running();
    let alive = world.forget();
    assert!(matches!(
        world.answers[&alive],
        Err(OrderRefusal::Denied(DeniedReason::StillAlive { .. }))
    ));
    world.report(1, 1, State::Stopped);
    world.commits_at_once = false;
    let order = world.forget();
    assert!(world.node.roster().get(lobby()).is_some());
    let commit = world.commit();
    assert!(matches!(commit.changes[..], [Change::Forget { .. }]));
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Forgotten));
    assert!(world.node.roster().get(lobby()).is_none());
}

#[test]
fn giving_up_is_for_a_node_that_is_away_and_is_answered_when_it_is_recorded() {
    let mut world = World::connected();
    world.running();
    let here = world.declare_lost();
    assert_eq!(world.answers[&here], Err(OrderRefusal::Connected));
    world.disconnect(1);
    world.commits_at_once = false;
    let order = world.declare_lost();
    assert_eq!(world.answers.get(&order), None);
    world.commit();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::GivenUp));
    assert_eq!(world.state(), State::Crashed);
}

#[test]
fn orders_that_wait_are_bounded() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    let orders: Vec<u64> = (0..ORDERS_WAITING + 10)
        .map(|_| world.stop(StopMode::Graceful))
        .collect();
    let busy = orders
        .iter()
        .filter(|order| matches!(world.answers.get(order), Some(Err(OrderRefusal::Busy { .. }))))
        .count();
    // One is under way.
    assert_eq!(busy, 9);
}

#[test]
fn what_is_unknown_is_not_forgotten_and_nothing_is_written() {
    let mut world = World::connected();
    world.commits_at_once = false;
    let never_there = world.forget();
    // One that waits behind a start which does not come to be.
    world.start(1);
    let not_any_more = world.forget();
    assert_eq!(world.answers.get(&not_any_more), None);
    world.fail(storage());
    for order in [never_there, not_any_more] {
        assert_eq!(world.answers[&order], Err(DeniedReason::UnknownInstance.into()));
    }
    assert!(world.commits.is_empty());
    assert!(world.node.is_settled());
}

#[test]
fn a_graceful_stop_does_not_take_a_kill_back() {
    let mut world = World::connected();
    world.running();
    world.stop(StopMode::Force);
    world.sent(1);
    world.committed.clear();
    let order = world.stop(StopMode::Graceful);
    let [Change::Instance(wish)] = &world.committed[0].changes[..] else {
        panic!("{:?}", world.committed)
    };
    assert_eq!(wish.desired, Desired::ForceStop);
    assert_eq!(
        world.answers[&order],
        Ok(OrderOutcome::Stopping(StopMode::Force)),
        "that is what happens"
    );
    assert_eq!(world.sent(1), []);
}

/// A later incarnation is brought by the daemon while an order about the one before is being recorded.
fn brought(world: &mut World, incarnation: u64) {
    world.disconnect(1);
    world.connect(2, listing(incarnation, State::Running));
    world.sent(2);
    let known = world.node.roster().get(lobby()).unwrap();
    assert_eq!(known.incarnation().get(), incarnation);
}

#[test]
fn a_stop_stops_no_later_incarnation_than_it_was_meant_for() {
    let mut world = World::connected();
    world.running();
    world.commits_at_once = false;
    let order = world.stop(StopMode::Force);
    brought(&mut world, 2);
    world.commit_all();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::AlreadyEnded));
    assert_eq!((world.state(), world.stops(2)), (State::Running, vec![]));
    let recorded = world.committed.last().unwrap();
    assert!(
        matches!(&recorded.changes[..], [Change::Instance(last)] if last.incarnation.get() == 2 && last.desired == Desired::Run),
        "{recorded:?}"
    );
}

#[test]
fn a_start_that_a_later_incarnation_has_overtaken_is_recorded_as_over() {
    let mut world = World::connected();
    world.running();
    world.report(1, 1, State::Stopped);
    world.commits_at_once = false;
    let order = world.start(2);
    brought(&mut world, 3);
    world.committed.clear();
    world.commit_all();
    assert!(
        matches!(
            world.answers[&order],
            Err(OrderRefusal::Denied(DeniedReason::StaleIncarnation { .. }))
        ),
        "{:?}",
        world.answers[&order]
    );
    let ends = world.committed.iter().flat_map(|commit| &commit.changes);
    let ends: Vec<&InstanceSnapshot> = ends
        .filter_map(|change| match change {
            Change::Instance(snapshot) if snapshot.incarnation.get() == 2 => Some(snapshot),
            _ => None,
        })
        .collect();
    assert!(
        matches!(ends[..], [end] if end.state == State::Crashed && end.note.is_some()),
        "recorded it was: {ends:?}"
    );
    assert_eq!(world.sent(2), []);
    assert!(world.node.is_settled());
}

#[test]
fn what_turns_out_to_live_while_it_is_being_forgotten_is_recorded_again() {
    let mut world = World::connected();
    world.running();
    world.disconnect(1);
    let given_up = world.declare_lost();
    assert_eq!(world.answers[&given_up], Ok(OrderOutcome::GivenUp));
    world.commits_at_once = false;
    let order = world.forget();
    world.connect(2, listing(1, State::Running));
    let commit = world.commit();
    assert!(matches!(commit.changes[..], [Change::Forget { .. }]));
    let current = Incarnation::new(1);
    assert_eq!(
        world.answers[&order],
        Err(DeniedReason::StillAlive { current }.into())
    );
    let commit = world.commit();
    assert!(
        matches!(&commit.changes[..], [Change::Instance(alive)] if alive.state == State::Running),
        "{commit:?}"
    );
    assert!(world.node.is_settled());
}
