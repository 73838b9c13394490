//! The daemon's table: answers in three ways, and forgets neither too early nor never
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use prexorcloud_protocol::hosted::{ENDED_KEPT, Hosted, HostedInstance, Observed};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::{DeniedReason, GroupName, Incarnation, InstanceId, StopMode, Verdict, limits};

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn group() -> GroupName {
    "lobby".parse().unwrap()
}

fn start(hosted: &mut Hosted, instance: &str, incarnation: u64) -> Verdict {
    hosted.start(id(instance), group(), Incarnation::new(incarnation), 25_565)
}

fn running(instance: &str, incarnation: u64) -> Hosted {
    let mut hosted = Hosted::new();
    assert_eq!(start(&mut hosted, instance, incarnation), Verdict::Accepted);
    for state in [State::Preparing, State::Starting, State::Running] {
        let seen = hosted.observe(id(instance), Incarnation::new(incarnation), state);
        assert!(matches!(seen, Observed::Changed { .. }));
    }
    hosted
}

#[test]
fn a_repeated_start_is_in_effect_already() {
    let mut hosted = running("a", 3);
    assert_eq!(start(&mut hosted, "a", 3), Verdict::AlreadyInEffect);
    assert_eq!(hosted.get(id("a")).unwrap().state, State::Running);
}

#[test]
fn a_start_of_an_earlier_incarnation_is_denied() {
    let mut hosted = running("a", 3);
    let (given, current) = (Incarnation::new(2), Incarnation::new(3));
    assert_eq!(
        start(&mut hosted, "a", 2),
        Verdict::Denied(DeniedReason::StaleIncarnation { given, current })
    );
}

#[test]
fn a_start_of_a_later_incarnation_waits_for_the_end_of_the_present_one() {
    let mut hosted = running("a", 3);
    let current = Incarnation::new(3);
    assert_eq!(
        start(&mut hosted, "a", 4),
        Verdict::Denied(DeniedReason::StillAlive { current })
    );
    hosted.observe(id("a"), current, State::Crashed);
    assert_eq!(start(&mut hosted, "a", 4), Verdict::Accepted);
    assert_eq!(hosted.get(id("a")).unwrap().state, State::Scheduled);
}

#[test]
fn a_java_controller_may_use_an_id_again_after_its_end() {
    let mut hosted = running("a", 0);
    assert_eq!(start(&mut hosted, "a", 0), Verdict::AlreadyInEffect);
    hosted.observe(id("a"), Incarnation::UNKNOWN, State::Stopped);
    assert_eq!(start(&mut hosted, "a", 0), Verdict::Accepted);
}

#[test]
fn force_may_follow_grace_and_nothing_follows_force() {
    let mut hosted = running("a", 1);
    let incarnation = Incarnation::new(1);
    assert_eq!(
        hosted.stop(id("a"), incarnation, StopMode::Graceful),
        Verdict::Accepted
    );
    assert_eq!(
        hosted.stop(id("a"), incarnation, StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
    assert_eq!(
        hosted.stop(id("a"), incarnation, StopMode::Force),
        Verdict::Accepted
    );
    assert_eq!(
        hosted.stop(id("a"), incarnation, StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
    assert_eq!(
        hosted.stop(id("a"), incarnation, StopMode::Force),
        Verdict::AlreadyInEffect
    );
}

#[test]
fn a_stop_of_another_incarnation_never_touches_the_present_one() {
    let mut hosted = running("a", 5);
    let denied = hosted.stop(id("a"), Incarnation::new(4), StopMode::Force);
    assert!(matches!(
        denied,
        Verdict::Denied(DeniedReason::StaleIncarnation { .. })
    ));
    let unknown = hosted.stop(id("a"), Incarnation::new(6), StopMode::Force);
    assert_eq!(unknown, Verdict::Denied(DeniedReason::UnknownInstance));
    assert_eq!(
        hosted.stop(id("b"), Incarnation::new(1), StopMode::Force),
        Verdict::Denied(DeniedReason::UnknownInstance)
    );
}

#[test]
fn a_command_needs_a_process() {
    let mut hosted = Hosted::new();
    assert_eq!(start(&mut hosted, "a", 1), Verdict::Accepted);
    for (state, has_process) in [
        (State::Scheduled, false),
        (State::Preparing, false),
        (State::Starting, true),
        (State::Running, true),
        (State::Stopping, true),
        (State::Stopped, false),
    ] {
        let _ = hosted.observe(id("a"), Incarnation::new(1), state);
        let expected = match has_process {
            true => Ok(Incarnation::new(1)),
            false => Err(DeniedReason::WrongState { state }),
        };
        assert_eq!(hosted.command(id("a"), Incarnation::new(1)), expected, "{state}");
    }
    assert_eq!(
        running("a", 1).command(id("a"), Incarnation::UNKNOWN),
        Ok(Incarnation::new(1))
    );
}

#[test]
fn observations_of_an_earlier_incarnation_change_nothing() {
    let mut hosted = running("a", 2);
    assert_eq!(
        hosted.observe(id("a"), Incarnation::new(1), State::Crashed),
        Observed::Stale
    );
    assert_eq!(
        hosted.observe(id("a"), Incarnation::new(2), State::Starting),
        Observed::Illegal {
            state: State::Running
        }
    );
    assert_eq!(hosted.get(id("a")).unwrap().state, State::Running);
}

#[test]
fn ended_instances_are_forgotten_oldest_first_and_live_ones_never() {
    let mut hosted = Hosted::new();
    let facts = |n: usize, state| HostedInstance {
        instance: id(&format!("i{n}")),
        group: group(),
        incarnation: Incarnation::new(1),
        port: 1,
        state,
    };
    hosted.adopt(facts(0, State::Running)).unwrap();
    (1..=ENDED_KEPT + 10).for_each(|n| hosted.adopt(facts(n, State::Stopped)).unwrap());
    assert!(hosted.get(id("i0")).is_some());
    assert!(hosted.get(id("i10")).is_none() && hosted.get(id("i11")).is_some());
    assert_eq!(hosted.live().count(), 1);
}

#[test]
fn an_id_in_use_again_is_not_forgotten_with_its_earlier_use() {
    let mut hosted = Hosted::new();
    for incarnation in 1..=(ENDED_KEPT as u64 + 5) {
        assert_eq!(start(&mut hosted, "a", incarnation), Verdict::Accepted);
        let _ = hosted.observe(id("a"), Incarnation::new(incarnation), State::Stopped);
    }
    assert_eq!(start(&mut hosted, "a", 9_999), Verdict::Accepted);
    assert_eq!(hosted.get(id("a")).unwrap().state, State::Scheduled);
}

#[test]
fn an_old_end_never_forgets_a_newer_one_of_the_same_id() {
    // A Java controller names no incarnations, so two ends of an id may look alike.
    for (first, second) in [(1, 2), (0, 0), (0, 1)] {
        let mut hosted = running("a", first);
        let _ = hosted.observe(id("a"), Incarnation::new(first), State::Crashed);
        let end = |hosted: &mut Hosted, name: &str, incarnation| {
            assert_eq!(start(hosted, name, incarnation), Verdict::Accepted);
            let _ = hosted.observe(id(name), Incarnation::new(incarnation), State::Stopped);
        };
        (1..ENDED_KEPT).for_each(|n| end(&mut hosted, &format!("i{n}"), 1));
        end(&mut hosted, "a", second);
        let kept = hosted.get(id("a")).expect("the newest end of all");
        assert_eq!(
            (kept.incarnation.get(), kept.state),
            (second, State::Stopped),
            "{first} then {second}"
        );
        assert!(
            hosted.get(id("i1")).is_some(),
            "only the oldest end was forgotten"
        );
        end(&mut hosted, "z", 1);
        assert!(hosted.get(id("i1")).is_none() && hosted.get(id("a")).is_some());
    }
}

#[test]
fn more_live_instances_than_a_node_may_have_are_not_taken_and_said_so() {
    let facts = |n: usize, state| HostedInstance {
        instance: id(&format!("i{n}")),
        group: group(),
        incarnation: Incarnation::new(1),
        port: 1,
        state,
    };
    let limit = limits::INSTANCES_PER_NODE;
    let mut hosted = Hosted::new();
    (0..limit).for_each(|n| hosted.adopt(facts(n, State::Running)).unwrap());
    let full = DeniedReason::TooMany { limit };
    assert_eq!(hosted.adopt(facts(limit, State::Starting)), Err(full));
    assert!(hosted.get(id(&format!("i{limit}"))).is_none());
    assert_eq!(start(&mut hosted, "new", 1), Verdict::Denied(full));
    // Neither an end nor another word about what is known already takes a place.
    assert_eq!(hosted.adopt(facts(limit, State::Stopped)), Ok(()));
    assert_eq!(hosted.adopt(facts(0, State::Stopping)), Ok(()));
    assert_eq!(hosted.live().count(), limit);
    let _ = hosted.observe(id("i0"), Incarnation::new(1), State::Stopped);
    assert_eq!(start(&mut hosted, "new", 1), Verdict::Accepted);
}

#[test]
fn a_refused_stop_may_be_asked_for_again_and_nothing_else_may() {
    for mode in [StopMode::Graceful, StopMode::Force] {
        let mut hosted = running("a", 2);
        let incarnation = Incarnation::new(2);
        assert_eq!(hosted.stop(id("a"), incarnation, mode), Verdict::Accepted);
        hosted.stop_refused(id("a"), Incarnation::new(1));
        hosted.stop_refused(id("b"), incarnation);
        assert_eq!(hosted.stop(id("a"), incarnation, mode), Verdict::AlreadyInEffect);
        hosted.stop_refused(id("a"), incarnation);
        assert_eq!(hosted.stop(id("a"), incarnation, mode), Verdict::Accepted);
        let _ = hosted.observe(id("a"), incarnation, State::Stopped);
        hosted.stop_refused(id("a"), incarnation);
        assert_eq!(hosted.stop(id("a"), incarnation, mode), Verdict::AlreadyInEffect);
    }
}
