//! The plan that brings belief and report together
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_protocol::instance::{Age, Desired, Input, State, Transition, transition};
use prexorcloud_protocol::peer::DaemonPeer;
use prexorcloud_protocol::proto::RunningInstance;
use prexorcloud_protocol::unstable::reconcile::{
    Action, GroupPolicy, Ignored, KnownInstance, OrphanReason, ReconcilePolicy, Rest, plan,
};
use prexorcloud_protocol::{Capabilities, Incarnation, InstanceId};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/reconcile.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn rust_peer() -> ReconcilePolicy {
    ReconcilePolicy {
        peer: DaemonPeer::of(Capabilities::SESSION),
        ..Default::default()
    }
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn known(state: State, desired: Desired) -> KnownInstance {
    KnownInstance {
        instance: id("lobby-1"),
        incarnation: Incarnation::new(5),
        state,
        desired,
        draining: false,
        can_dispatch: true,
        lost: false,
    }
}

fn listed(incarnation: u64, state: State) -> RunningInstance {
    RunningInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: 30_000,
        state: state.to_wire(),
        incarnation,
    }
}

fn only(actions: Vec<Action>) -> Action {
    assert_eq!(actions.len(), 1, "{actions:?}");
    actions[0]
}

#[test]
fn every_known_state_against_every_listed_state() {
    for state in State::ALL {
        for desired in [Desired::Run, Desired::Stop] {
            for seen in State::ALL {
                let action = plan(&[known(state, desired)], &[listed(5, seen)], &rust_peer());
                let instance = id("lobby-1");
                let wanted = transition(state, Input::Reported(seen));
                let expected = if state.is_terminal() && !seen.is_terminal() {
                    vec!["stop orphan (ended)", "leave alone"]
                } else if state.is_terminal() {
                    vec!["leave alone"]
                } else if seen.is_terminal() {
                    vec!["update"]
                } else if desired == Desired::Stop {
                    vec!["stop again"]
                } else if matches!(wanted, Transition::To(_)) {
                    vec!["update"]
                } else {
                    vec!["leave alone"]
                };
                let got: Vec<_> = action
                    .iter()
                    .map(|action| match action {
                        Action::StopOrphan {
                            reason: OrphanReason::Ended,
                            is_known: false,
                            ..
                        } => "stop orphan (ended)",
                        Action::LeaveAlone { .. } => "leave alone",
                        Action::Update { state, .. } => {
                            assert_eq!(*state, seen);
                            "update"
                        }
                        Action::StopAgain { state, .. } => {
                            assert_eq!(*state, Some(seen));
                            "stop again"
                        }
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert_eq!(got, expected, "known {state}, wanted {desired:?}, listed {seen}");
                assert!(action.iter().all(|action| action.instance() == Some(instance)));
            }
        }
    }
}

#[test]
fn what_a_rust_daemon_does_not_list_it_does_not_have() {
    let instance = id("lobby-1");
    for state in State::ALL {
        let expected = match state {
            State::Scheduled | State::Preparing => Action::Redispatch { instance },
            State::Starting | State::Running | State::Draining => Action::MarkLost { instance },
            State::Stopping => Action::MarkStopped { instance },
            State::Stopped | State::Crashed => Action::LeaveAlone {
                instance,
                rest: Rest::Ended,
                is_known: true,
                is_listed: false,
            },
        };
        assert_eq!(
            only(plan(&[known(state, Desired::Run)], &[], &rust_peer())),
            expected,
            "{state}"
        );
        if !state.is_terminal() {
            let stopped = only(plan(&[known(state, Desired::Stop)], &[], &rust_peer()));
            assert_eq!(stopped, Action::MarkStopped { instance }, "{state}");
        }
    }
}

#[test]
fn a_java_daemon_may_run_what_it_does_not_list() {
    let java = ReconcilePolicy::default();
    for state in [State::Preparing, State::Starting] {
        let action = only(plan(&[known(state, Desired::Run)], &[], &java));
        let instance = id("lobby-1");
        assert_eq!(
            action,
            Action::MarkLost { instance },
            "{state}: never a second copy"
        );
    }
    let instance = id("lobby-1");
    let scheduled = known(State::Scheduled, Desired::Run);
    assert_eq!(
        only(plan(&[scheduled], &[], &java)),
        Action::Redispatch { instance }
    );
    let adopted = KnownInstance {
        can_dispatch: false,
        ..scheduled
    };
    assert_eq!(only(plan(&[adopted], &[], &java)), Action::MarkLost { instance });
    assert!(matches!(
        only(plan(&[known(State::Running, Desired::Run)], &[], &java)),
        Action::MarkLost { .. }
    ));
}

#[test]
fn a_drain_of_ours_goes_on_while_the_server_runs_and_one_of_the_daemons_is_over() {
    let of_theirs = known(State::Draining, Desired::Run);
    let of_ours = KnownInstance {
        draining: true,
        ..of_theirs
    };
    let running = [listed(5, State::Running)];
    let agreed = Action::LeaveAlone {
        instance: id("lobby-1"),
        rest: Rest::Agreed,
        is_known: true,
        is_listed: true,
    };
    assert_eq!(only(plan(&[of_ours], &running, &rust_peer())), agreed);
    let over = Action::Update {
        instance: id("lobby-1"),
        state: State::Running,
        port: 30_000,
    };
    assert_eq!(only(plan(&[of_theirs], &running, &rust_peer())), over);
}

#[test]
fn a_lost_instance_is_taken_back_unless_it_runs_elsewhere_by_now() {
    let lost = KnownInstance {
        lost: true,
        ..known(State::Crashed, Desired::Run)
    };
    let running = [listed(5, State::Running)];
    let taken_back = Action::Update {
        instance: id("lobby-1"),
        state: State::Running,
        port: 30_000,
    };
    assert_eq!(only(plan(&[lost], &running, &rust_peer())), taken_back);
    let elsewhere = ReconcilePolicy {
        elsewhere: vec![id("lobby-1")],
        ..rust_peer()
    };
    let actions = plan(&[lost], &running, &elsewhere);
    assert!(
        matches!(
            actions[..],
            [
                Action::StopOrphan { is_known: false, .. },
                Action::LeaveAlone {
                    rest: Rest::Ended,
                    ..
                }
            ]
        ),
        "{actions:?}"
    );
}

#[test]
fn an_unknown_instance_is_adopted_as_what_it_is() {
    let adopted = |action| match action {
        Action::Adopt {
            incarnation,
            state,
            port: 30_000,
            supersedes: None,
            ..
        } => (incarnation.get(), state),
        other => panic!("{other:?}"),
    };
    let action = only(plan(&[], &[listed(7, State::Starting)], &rust_peer()));
    assert_eq!(adopted(action), (7, State::Starting));
    // A Java daemon never says more than STARTING of a server that runs, and its numbers mean nothing.
    let action = only(plan(
        &[],
        &[listed(7, State::Starting)],
        &ReconcilePolicy::default(),
    ));
    assert_eq!(adopted(action), (0, State::Running));
    let unspecified = RunningInstance {
        state: 0,
        ..listed(7, State::Running)
    };
    assert_eq!(
        adopted(only(plan(&[], &[unspecified], &rust_peer()))),
        (7, State::Running)
    );
    let ended = only(plan(&[], &[listed(7, State::Crashed)], &rust_peer()));
    assert!(matches!(
        ended,
        Action::LeaveAlone {
            rest: Rest::Ended,
            is_known: false,
            is_listed: true,
            ..
        }
    ));
}

#[test]
fn orphans_are_told_by_their_reason() {
    let reason = |known: &[KnownInstance], entry: RunningInstance, policy: &ReconcilePolicy| {
        let stops: Vec<_> = plan(known, &[entry], policy)
            .into_iter()
            .filter_map(|action| match action {
                Action::StopOrphan { reason, .. } => Some(reason),
                _ => None,
            })
            .collect();
        assert_eq!(stops.len(), 1);
        stops[0]
    };
    let running = listed(5, State::Running);
    let gone = ReconcilePolicy {
        groups: GroupPolicy::Only(vec!["other".parse().unwrap()]),
        ..rust_peer()
    };
    assert_eq!(reason(&[], running.clone(), &gone), OrphanReason::UnknownGroup);
    let unsafe_group = RunningInstance {
        group: "../etc".into(),
        ..running.clone()
    };
    assert_eq!(
        reason(&[], unsafe_group, &rust_peer()),
        OrphanReason::InvalidGroup
    );
    let elsewhere = ReconcilePolicy {
        elsewhere: vec![id("lobby-1")],
        ..rust_peer()
    };
    assert_eq!(
        reason(&[], running.clone(), &elsewhere),
        OrphanReason::OnAnotherNode
    );
    let wanted = known(State::Running, Desired::Run);
    assert_eq!(
        reason(&[wanted], running.clone(), &elsewhere),
        OrphanReason::OnAnotherNode
    );
    assert_eq!(
        reason(&[wanted], listed(4, State::Running), &rust_peer()),
        OrphanReason::Superseded
    );
    let ended = known(State::Crashed, Desired::Run);
    assert_eq!(reason(&[ended], running, &rust_peer()), OrphanReason::Ended);
}

#[test]
fn an_earlier_incarnation_is_stopped_and_the_wanted_one_starts() {
    let actions = plan(
        &[known(State::Scheduled, Desired::Run)],
        &[listed(4, State::Running)],
        &rust_peer(),
    );
    assert!(matches!(
        actions[..],
        [
            Action::StopOrphan {
                reason: OrphanReason::Superseded,
                is_known: false,
                ..
            },
            Action::Redispatch { .. }
        ]
    ));
}

#[test]
fn a_later_incarnation_takes_the_place_of_ours() {
    let action = only(plan(
        &[known(State::Running, Desired::Run)],
        &[listed(6, State::Running)],
        &rust_peer(),
    ));
    assert!(matches!(action, Action::Adopt { supersedes: Some(old), .. } if old == Incarnation::new(5)));
}

#[test]
fn an_unspecified_state_is_alive_and_nothing_more() {
    for value in [0, -1, 99] {
        let entry = RunningInstance {
            state: value,
            ..listed(5, State::Running)
        };
        let action = only(plan(
            &[known(State::Starting, Desired::Run)],
            &[entry],
            &rust_peer(),
        ));
        assert!(matches!(
            action,
            Action::LeaveAlone {
                rest: Rest::Agreed,
                is_known: true,
                is_listed: true,
                ..
            }
        ));
    }
}

#[test]
fn unsafe_ids_and_duplicates_are_ignored_and_say_where_they_stood() {
    let evil = RunningInstance {
        instance_id: "../x".into(),
        ..listed(5, State::Running)
    };
    let entries = [
        evil,
        listed(4, State::Running),
        listed(5, State::Running),
        listed(5, State::Running),
    ];
    let actions = plan(&[known(State::Running, Desired::Run)], &entries, &rust_peer());
    let ignored: BTreeMap<_, _> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Ignore { index, problem } => Some((*index, *problem)),
            _ => None,
        })
        .collect();
    let expected = [
        (0, Ignored::UnsafeId),
        (1, Ignored::Earlier),
        (3, Ignored::Duplicate),
    ];
    assert_eq!(ignored, BTreeMap::from(expected));
}

#[test]
fn what_is_listed_twice_lives_if_one_of_them_does() {
    for ended in [State::Stopped, State::Crashed] {
        let mut entries = vec![listed(5, State::Running), listed(5, ended)];
        for _ in 0..2 {
            let actions = plan(&[known(State::Running, Desired::Run)], &entries, &rust_peer());
            let is_fault = |action: &&Action| {
                matches!(
                    action,
                    Action::Ignore {
                        problem: Ignored::Duplicate,
                        ..
                    }
                )
            };
            assert_eq!(actions.iter().filter(is_fault).count(), 1, "{actions:?}");
            assert!(
                actions
                    .iter()
                    .any(|action| matches!(action, Action::LeaveAlone { .. })),
                "{actions:?}"
            );
            entries.reverse();
        }
    }
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["a", "b", "c", "d", "e"][..])
}

fn groups() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["lobby", "game", "gone", "", "../up"][..])
}

fn some_known() -> impl Strategy<Value = Vec<KnownInstance>> {
    let one = (
        names(),
        0..4_u64,
        prop::sample::select(&State::ALL[..]),
        0..3_u8,
        any::<bool>(),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(name, incarnation, state, desired, draining, (can_dispatch, lost))| {
                let desired = match desired {
                    0 => Desired::Stop,
                    _ => Desired::Run,
                };
                // What the roster holds to: a wanted stop is a state, too.
                let state = if desired == Desired::Stop && !state.is_terminal() {
                    State::Stopping
                } else {
                    state
                };
                KnownInstance {
                    instance: id(name),
                    incarnation: Incarnation::new(incarnation),
                    state,
                    desired,
                    draining: draining && state == State::Draining,
                    can_dispatch,
                    lost: lost && state == State::Crashed,
                }
            },
        );
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let unique: BTreeMap<_, _> = all.into_iter().map(|known| (known.instance, known)).collect();
        unique.into_values().collect()
    })
}

fn some_listed() -> impl Strategy<Value = Vec<RunningInstance>> {
    let name = prop_oneof![8 => names().prop_map(str::to_owned), 1 => Just("../x".to_owned()), 1 => Just(String::new())];
    let one = (name, groups(), -1..70_000_i32, -1..10_i32, 0..4_u64).prop_map(
        |(instance_id, group, port, state, incarnation)| RunningInstance {
            instance_id,
            group: group.to_owned(),
            port,
            state,
            incarnation,
        },
    );
    prop::collection::vec(one, 0..10)
}

fn policy() -> impl Strategy<Value = ReconcilePolicy> {
    let elsewhere = prop::collection::vec(names().prop_map(id), 0..2);
    let groups = prop_oneof![
        Just(GroupPolicy::AdoptAny),
        Just(GroupPolicy::Only(vec![
            "lobby".parse().unwrap(),
            "game".parse().unwrap()
        ])),
    ];
    (elsewhere, groups, any::<bool>(), any::<bool>()).prop_map(
        |(elsewhere, groups, lists_preparing, ours)| {
            let mut peer = DaemonPeer::default();
            peer.lists_preparing = lists_preparing;
            peer.names_incarnations = ours;
            peer.judges_readiness = ours;
            ReconcilePolicy {
                elsewhere,
                groups,
                peer,
            }
        },
    )
}

/// What the plan's actions do to belief, in the simplest terms.
fn apply(known: &[KnownInstance], actions: &[Action]) -> Vec<KnownInstance> {
    let mut all: BTreeMap<InstanceId, KnownInstance> =
        known.iter().map(|known| (known.instance, *known)).collect();
    for action in actions {
        let Some(instance) = action.instance() else {
            continue;
        };
        let mut set = |state| {
            if let Some(known) = all.get_mut(&instance) {
                known.state = state;
                known.lost = false;
            }
        };
        match *action {
            Action::Adopt {
                incarnation, state, ..
            } => {
                let (desired, draining) = (Desired::Run, state == State::Draining);
                let adopted = KnownInstance {
                    instance,
                    incarnation,
                    state,
                    desired,
                    draining,
                    can_dispatch: false,
                    lost: false,
                };
                all.insert(instance, adopted);
            }
            Action::Update { state, .. } => set(state),
            Action::MarkLost { .. } => {
                set(State::Crashed);
                if let Some(known) = all.get_mut(&instance) {
                    known.lost = true;
                }
            }
            Action::MarkStopped { .. } => set(State::Stopped),
            Action::Redispatch { .. } => set(State::Scheduled),
            Action::StopOrphan { is_known: true, .. } => {
                set(State::Stopping);
                if let Some(known) = all.get_mut(&instance) {
                    known.desired = known.desired.max(Desired::Stop);
                }
            }
            Action::StopAgain { .. }
            | Action::StopOrphan { .. }
            | Action::LeaveAlone { .. }
            | Action::Ignore { .. } => {}
        }
    }
    all.into_values().collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn everything_is_covered_once(known in some_known(), listed in some_listed(), policy in policy()) {
        let actions = plan(&known, &listed, &policy);
        for known in &known {
            let covering: Vec<_> = actions
                .iter()
                .filter(|action| action.covers_known() && action.instance() == Some(known.instance))
                .collect();
            prop_assert_eq!(covering.len(), 1, "{:?} in {:?}", known, actions);
        }
        let mut listed_ids: BTreeMap<Option<InstanceId>, usize> = BTreeMap::new();
        for entry in &listed {
            *listed_ids.entry(InstanceId::new(&entry.instance_id).ok()).or_default() += 1;
        }
        let mut ignored = BTreeSet::new();
        for action in &actions {
            if let Action::Ignore { index, .. } = action {
                prop_assert!(ignored.insert(*index), "{index} twice in {actions:?}");
                let name = InstanceId::new(&listed[*index].instance_id).ok();
                *listed_ids.get_mut(&name).unwrap() -= 1;
            } else if action.covers_listed() {
                let left = listed_ids.get_mut(&action.instance());
                prop_assert!(left.is_some(), "{action:?} covers what is not listed");
                *left.unwrap() -= 1;
            }
            if action.covers_known() {
                prop_assert!(known.iter().any(|known| Some(known.instance) == action.instance()));
            }
        }
        prop_assert!(listed_ids.values().all(|left| *left == 0), "{listed_ids:?} in {actions:?}");
    }

    #[test]
    fn applying_the_plan_settles_it(known in some_known(), listed in some_listed(), policy in policy()) {
        let settled = apply(&known, &plan(&known, &listed, &policy));
        let again = plan(&settled, &listed, &policy);
        prop_assert_eq!(apply(&settled, &again), settled.clone(), "{:?}", again);
        for action in again {
            let quiet = matches!(
                action,
                Action::LeaveAlone { .. }
                    | Action::Ignore { .. }
                    | Action::StopAgain { .. }
                    | Action::StopOrphan { .. }
                    | Action::Redispatch { .. }
            );
            prop_assert!(quiet, "{action:?}");
        }
    }

    #[test]
    fn what_is_stopped_is_not_adopted(known in some_known(), listed in some_listed(), policy in policy()) {
        let actions = plan(&known, &listed, &policy);
        for action in &actions {
            if let Action::Adopt { instance, group, incarnation, state, .. } = action {
                let stopped = actions.iter().any(|other| {
                    other.instance() == Some(*instance)
                        && matches!(other, Action::StopOrphan { .. } | Action::StopAgain { .. })
                });
                prop_assert!(!stopped);
                prop_assert!(!policy.elsewhere.contains(instance));
                prop_assert!(!state.is_terminal());
                if let GroupPolicy::Only(groups) = &policy.groups {
                    prop_assert!(groups.contains(group));
                }
                for known in known.iter().filter(|known| known.instance == *instance) {
                    prop_assert_eq!(Age::of(*incarnation, known.incarnation), Age::Newer);
                }
            }
        }
    }

    #[test]
    fn order_does_not_matter(
        known in some_known(),
        listed in some_listed(),
        policy in policy(),
        seed in any::<u64>(),
    ) {
        let mut shuffled_known = known.clone();
        let mut order: Vec<usize> = (0..listed.len()).collect();
        let mut random = seed;
        let mut next = move |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % bound.max(1)
        };
        for last in (1..order.len()).rev() {
            order.swap(last, next(last + 1));
        }
        for last in (1..shuffled_known.len()).rev() {
            shuffled_known.swap(last, next(last + 1));
        }
        let shuffled: Vec<_> = order.iter().map(|&index| listed[index].clone()).collect();
        let normal = |actions: Vec<Action>, listed: &[RunningInstance]| {
            let mut decided = Vec::new();
            let mut ignored = Vec::new();
            for action in actions {
                match action {
                    // Entries that are ignored are known by what they say, not by where they stand.
                    Action::Ignore { index, problem } => ignored.push(format!("{problem:?} {:?}", normalized(&listed[index], &policy))),
                    action => decided.push(action),
                }
            }
            ignored.sort();
            (decided, ignored)
        };
        prop_assert_eq!(
            normal(plan(&known, &listed, &policy), &listed),
            normal(plan(&shuffled_known, &shuffled, &policy), &shuffled)
        );
    }
}

/// An entry without what the plan does not look at.
fn normalized(
    entry: &RunningInstance,
    policy: &ReconcilePolicy,
) -> (String, u64, Option<State>, u16, String) {
    let group = if prexorcloud_protocol::GroupName::new(&entry.group).is_ok() {
        entry.group.clone()
    } else {
        String::new()
    };
    (
        entry.instance_id.clone(),
        if policy.peer.names_incarnations {
            entry.incarnation
        } else {
            0
        },
        State::try_from(entry.state).ok(),
        u16::try_from(entry.port).unwrap_or_default(),
        group,
    )
}
