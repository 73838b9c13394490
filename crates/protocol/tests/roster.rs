//! The roster of one node, across streams
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Cause, Desired, Judgement, Lifecycle, State};
use prexorcloud_protocol::ledger::{RETRIES, START_ANSWER, UNANSWERED};
use prexorcloud_protocol::limits::INSTANCES_PER_NODE;
use prexorcloud_protocol::proto::{
    CrashReport, InstanceStatusUpdate, RunningInstance, StartFailureDisposition, StartInstance,
    StartInstanceAck, StopInstance, StopInstanceAck,
};
use prexorcloud_protocol::reconcile::{GroupPolicy, OrphanReason, ReconcilePolicy};
use prexorcloud_protocol::roster::{CrashVerdict, Dispatch, EVENTS_KEPT, InstanceEvent, Roster, RosterEntry};
use prexorcloud_protocol::{DeniedReason, Incarnation, InstanceId, NodeId, StopMode, Verdict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/roster.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn rust_peer() -> ReconcilePolicy {
    ReconcilePolicy {
        reports_preparing: true,
        incarnations: true,
        ..Default::default()
    }
}

fn java_peer() -> ReconcilePolicy {
    ReconcilePolicy::default()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn start(name: &str, incarnation: u64) -> Box<StartInstance> {
    Box::new(StartInstance {
        instance_id: name.into(),
        group: "lobby".into(),
        port: 30_000,
        incarnation,
        ..Default::default()
    })
}

fn status(name: &str, incarnation: u64, state: State) -> InstanceStatusUpdate {
    InstanceStatusUpdate {
        instance_id: name.into(),
        state: state.to_wire(),
        incarnation,
        ..Default::default()
    }
}

fn listed(name: &str, incarnation: u64, state: State) -> RunningInstance {
    RunningInstance {
        instance_id: name.into(),
        group: "lobby".into(),
        port: 30_000,
        state: state.to_wire(),
        incarnation,
    }
}

fn started(name: &str, incarnation: u64) -> StartInstanceAck {
    StartInstanceAck {
        instance_id: name.into(),
        accepted: true,
        incarnation,
        ..Default::default()
    }
}

fn start_failed(name: &str, incarnation: u64, disposition: StartFailureDisposition) -> StartInstanceAck {
    StartInstanceAck {
        error_code: "START_FAILED".into(),
        failure_disposition: disposition as i32,
        retry_after_seconds: 5,
        accepted: false,
        ..started(name, incarnation)
    }
}

fn stopped(name: &str, incarnation: u64) -> StopInstanceAck {
    StopInstanceAck {
        instance_id: name.into(),
        accepted: true,
        incarnation,
        ..Default::default()
    }
}

fn crash(name: &str, incarnation: u64) -> CrashReport {
    CrashReport {
        instance_id: name.into(),
        group: "lobby".into(),
        incarnation,
        ..Default::default()
    }
}

fn roster() -> Roster {
    Roster::new(NodeId::new("node-1").unwrap())
}

/// A roster with a stream to a peer that has nothing.
fn connected(now: Instant, policy: &ReconcilePolicy) -> Roster {
    let mut roster = roster();
    roster.handle_handshake(now, &[], policy);
    roster
}

/// A roster in which `name` runs.
fn running(now: Instant, policy: &ReconcilePolicy, name: &str, incarnation: u64) -> Roster {
    let mut roster = connected(now, policy);
    assert_eq!(roster.start(now, start(name, incarnation)), Verdict::Accepted);
    assert_eq!(sent(&mut roster), [format!("start {name} {incarnation}")]);
    let said = if policy.incarnations { incarnation } else { 0 };
    assert!(
        roster
            .handle_status(now, &status(name, said, State::Running))
            .is_accepted()
    );
    events(&mut roster);
    roster
}

/// What goes out, in short.
fn sent(roster: &mut Roster) -> Vec<String> {
    std::iter::from_fn(|| roster.poll_dispatch())
        .map(|dispatch| match dispatch {
            Dispatch::Start(start) => format!("start {} {}", start.instance_id, start.incarnation),
            Dispatch::Stop(StopInstance {
                instance_id,
                force,
                incarnation,
            }) => {
                let how = if force { "kill" } else { "stop" };
                format!("{how} {instance_id} {incarnation}")
            }
        })
        .collect()
}

fn events(roster: &mut Roster) -> Vec<InstanceEvent> {
    std::iter::from_fn(|| roster.poll_event()).collect()
}

/// The changes of state among the events, in short.
fn changes(roster: &mut Roster) -> Vec<(State, State, Cause)> {
    events(roster)
        .into_iter()
        .filter_map(|event| match event {
            InstanceEvent::Changed { from, to, cause, .. } => Some((from, to, cause)),
            _ => None,
        })
        .collect()
}

fn state(roster: &Roster, name: &str) -> State {
    roster.get(id(name)).unwrap().state()
}

/// Fires timers until none is armed, at most `limit` times.
fn run_timers(roster: &mut Roster, now: &mut Instant, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..limit {
        let Some(deadline) = roster.poll_timeout() else {
            break;
        };
        *now = (*now).max(deadline.at);
        roster.handle_timeout(*now);
        all.extend(sent(roster));
    }
    all
}

#[test]
fn a_whole_life() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    assert_eq!(roster.start(now, start("a", 1)), Verdict::Accepted);
    assert_eq!(roster.start(now, start("a", 1)), Verdict::AlreadyInEffect);
    assert_eq!(sent(&mut roster), ["start a 1"]);
    let mut ack = started("a", 1);
    ack.plan_hash = "abc".into();
    assert!(roster.handle_start_ack(now, &ack).is_accepted());
    for state in [State::Preparing, State::Starting, State::Running] {
        assert!(roster.handle_status(now, &status("a", 1, state)).is_accepted());
    }
    assert_eq!(roster.stop(now, id("a"), StopMode::Graceful), Verdict::Accepted);
    assert_eq!(
        roster.stop(now, id("a"), StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    for state in [State::Stopping, State::Stopped] {
        assert!(roster.handle_status(now, &status("a", 1, state)).is_accepted());
    }
    assert!(roster.handle_stop_ack(now, &stopped("a", 1)).is_accepted());
    let story = events(&mut roster);
    assert!(matches!(&story[0], InstanceEvent::StartAccepted { plan_hash, .. } if plan_hash == "abc"));
    let states: Vec<_> = story[1..]
        .iter()
        .map(|event| match event {
            InstanceEvent::Changed { to, .. } => *to,
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        State::Preparing,
        State::Starting,
        State::Running,
        State::Stopping,
        State::Stopped,
    ];
    assert_eq!(states, expected);
    assert_eq!((roster.poll_timeout(), sent(&mut roster)), (None, vec![]));
    assert_eq!(roster.forget(id("a")), Verdict::Accepted);
    assert_eq!(roster.entries().count(), 0);
}

#[test]
fn a_start_waits_for_the_handshake_and_survives_a_lost_stream() {
    let now = Instant::now();
    let mut roster = roster();
    let _ = roster.start(now, start("a", 1));
    assert_eq!((sent(&mut roster), roster.poll_timeout()), (vec![], None));
    roster.handle_handshake(now, &[], &rust_peer());
    assert_eq!(sent(&mut roster), ["start a 1"]);
    roster.handle_disconnected(now);
    roster.handle_disconnected(now);
    assert_eq!((sent(&mut roster), roster.poll_timeout()), (vec![], None));

    let mut arrived = roster.clone();
    roster.handle_handshake(now, &[], &rust_peer());
    assert_eq!(sent(&mut roster), ["start a 1"], "it never got there");
    arrived.handle_handshake(now, &[listed("a", 1, State::Preparing)], &rust_peer());
    assert_eq!(sent(&mut arrived), Vec::<String>::new(), "it did get there");
    assert_eq!(state(&arrived, "a"), State::Preparing);
}

#[test]
fn a_new_stream_replaces_one_whose_end_nobody_saw() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    assert_eq!(sent(&mut roster), ["start a 1"]);
    roster.handle_handshake(now, &[], &rust_peer());
    assert_eq!(sent(&mut roster), ["start a 1"]);
}

#[test]
fn a_start_that_never_left_is_withdrawn_by_a_stop() {
    let now = Instant::now();
    let mut roster = roster();
    let _ = roster.start(now, start("a", 1));
    assert_eq!(roster.stop(now, id("a"), StopMode::Graceful), Verdict::Accepted);
    assert_eq!(state(&roster, "a"), State::Stopped);
    assert!(matches!(
        changes(&mut roster)[..],
        [.., (State::Stopping, State::Stopped, Cause::Withdrawn)]
    ));
    roster.handle_handshake(now, &[], &rust_peer());
    assert_eq!(sent(&mut roster), Vec::<String>::new());
}

#[test]
fn incarnations_decide_what_a_start_means() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 5);
    let current = Incarnation::new(5);
    let stale = |given| {
        Verdict::Denied(DeniedReason::StaleIncarnation {
            given: Incarnation::new(given),
            current,
        })
    };
    assert_eq!(roster.start(now, start("a", 5)), Verdict::AlreadyInEffect);
    assert_eq!(roster.start(now, start("a", 4)), stale(4));
    assert_eq!(
        roster.start(now, start("a", 6)),
        Verdict::Denied(DeniedReason::StillAlive { current })
    );
    assert_eq!(
        roster.forget(id("a")),
        Verdict::Denied(DeniedReason::StillAlive { current })
    );
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    let stopping = Verdict::Denied(DeniedReason::WrongState {
        state: State::Stopping,
    });
    assert_eq!(roster.start(now, start("a", 5)), stopping);
    let _ = roster.handle_status(now, &status("a", 5, State::Stopped));
    assert_eq!(roster.start(now, start("a", 5)), stale(5));
    assert_eq!(roster.start(now, start("a", 6)), Verdict::Accepted);
    assert_eq!(roster.get(id("a")).unwrap().incarnation(), Incarnation::new(6));
}

#[test]
fn bad_starts_are_denied_with_the_field() {
    let now = Instant::now();
    let mut roster = roster();
    for (bad, field) in [
        (
            StartInstance {
                instance_id: "../x".into(),
                ..*start("a", 1)
            },
            "instance_id",
        ),
        (
            StartInstance {
                group: String::new(),
                ..*start("a", 1)
            },
            "start_instance.group",
        ),
        (
            StartInstance {
                port: 70_000,
                ..*start("a", 1)
            },
            "start_instance.port",
        ),
        (*start("a", 0), "start_instance.incarnation"),
    ] {
        match roster.start(now, Box::new(bad)) {
            Verdict::Denied(DeniedReason::Invalid(invalid)) => assert_eq!(invalid.field, field),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        roster.stop(now, id("a"), StopMode::Force),
        Verdict::Denied(DeniedReason::UnknownInstance)
    );
    assert_eq!(
        roster.drain(now, id("a")),
        Verdict::Denied(DeniedReason::UnknownInstance)
    );
    assert_eq!(roster.forget(id("a")), Verdict::AlreadyInEffect);
}

#[test]
fn an_old_crash_report_does_not_touch_the_new_instance() {
    let now = Instant::now();
    for (policy, said) in [(rust_peer(), 1), (java_peer(), 0)] {
        let mut roster = running(now, &policy, "a", 1);
        assert!(
            roster
                .handle_status(now, &status("a", said, State::Crashed))
                .is_accepted()
        );
        assert_eq!(roster.start(now, start("a", 2)), Verdict::Accepted);
        assert_eq!(sent(&mut roster), ["start a 2"]);
        assert_eq!(roster.handle_crash(now, &crash("a", said)), CrashVerdict::Stale);
        assert_eq!(state(&roster, "a"), State::Scheduled);
    }
    let mut roster = running(now, &rust_peer(), "a", 1);
    assert_eq!(roster.handle_crash(now, &crash("a", 1)), CrashVerdict::Current);
    assert_eq!(state(&roster, "a"), State::Crashed);
    assert_eq!(
        roster.handle_crash(now, &crash("a", 1)),
        CrashVerdict::Current,
        "the report follows the status"
    );
    assert_eq!(roster.handle_crash(now, &crash("b", 1)), CrashVerdict::Stale);
    assert_eq!(roster.handle_crash(now, &crash("../b", 1)), CrashVerdict::Stale);
}

#[test]
fn a_start_waits_until_the_earlier_incarnation_is_gone() {
    let now = Instant::now();
    let mut roster = roster();
    let _ = roster.start(now, start("a", 6));
    roster.handle_handshake(now, &[listed("a", 5, State::Running)], &rust_peer());
    assert_eq!(sent(&mut roster), ["stop a 5"]);
    assert!(events(&mut roster).iter().any(|event| matches!(
        event,
        InstanceEvent::OrphanStopped { reason: OrphanReason::Superseded, incarnation, .. } if incarnation.get() == 5
    )));
    assert_eq!(roster.orphans().count(), 1);
    assert!(roster.handle_stop_ack(now, &stopped("a", 5)).is_accepted());
    assert!(
        roster
            .handle_status(now, &status("a", 5, State::Stopping))
            .is_accepted()
    );
    assert_eq!(sent(&mut roster), Vec::<String>::new());
    assert!(
        roster
            .handle_status(now, &status("a", 5, State::Stopped))
            .is_accepted()
    );
    assert_eq!(sent(&mut roster), ["start a 6"]);
    assert_eq!(roster.orphans().count(), 0);
    assert_eq!(changes(&mut roster), [], "nobody is told of the orphan's states");
}

#[test]
fn an_orphan_that_ignores_everything_is_given_up_and_the_start_goes_on() {
    let mut now = Instant::now();
    let mut roster = roster();
    let _ = roster.start(now, start("a", 6));
    roster.handle_handshake(now, &[listed("a", 5, State::Running)], &rust_peer());
    let out = run_timers(&mut roster, &mut now, 40);
    let kill = out.iter().position(|line| line == "kill a 5").unwrap();
    let begin = out.iter().position(|line| line == "start a 6").unwrap();
    assert!(kill < begin);
    assert_eq!(roster.orphans().count(), 0);
}

#[test]
fn rejections_end_or_repeat_a_start() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let _ = roster.handle_status(now, &status("a", 1, State::Preparing));
    let transient = start_failed("a", 1, StartFailureDisposition::Transient);
    assert!(roster.handle_start_ack(now, &transient).is_accepted());
    assert_eq!(state(&roster, "a"), State::Scheduled);
    let told = events(&mut roster);
    assert!(told.iter().any(|event| matches!(
        event,
        InstanceEvent::StartRetrying { attempt: 2, after, failure, .. }
            if *after == 5 * SECOND && failure.error_code == "START_FAILED"
    )));
    roster.handle_timeout(now + 5 * SECOND);
    assert_eq!(sent(&mut roster), ["start a 1"]);
    let permanent = start_failed("a", 1, StartFailureDisposition::Permanent);
    assert!(roster.handle_start_ack(now, &permanent).is_accepted());
    let told = events(&mut roster);
    assert!(matches!(told[0], InstanceEvent::StartFailed { .. }));
    assert!(matches!(
        told[1],
        InstanceEvent::Changed {
            to: State::Crashed,
            cause: Cause::StartFailed,
            ..
        }
    ));
    assert!(roster.handle_start_ack(now, &permanent).is_accepted());
    assert_eq!(events(&mut roster), [], "told twice is told once");
}

#[test]
fn a_daemon_that_never_answers_fails_the_start() {
    let begin = Instant::now();
    let mut now = begin;
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let repeats = run_timers(&mut roster, &mut now, 40);
    assert_eq!(repeats, vec!["start a 1"; RETRIES as usize]);
    assert_eq!(now, begin + (RETRIES + 1) * START_ANSWER);
    assert_eq!(state(&roster, "a"), State::Crashed);
    assert!(events(&mut roster).iter().any(|event| matches!(
        event,
        InstanceEvent::StartFailed { failure, .. } if failure.error_code == UNANSWERED
    )));
    assert_eq!(roster.poll_timeout(), None);
}

#[test]
fn a_mute_daemon_cannot_keep_an_instance_stopping() {
    let begin = Instant::now();
    let mut now = begin;
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let out = run_timers(&mut roster, &mut now, 40);
    assert_eq!(
        out.iter().filter(|line| *line == "kill a 1").count(),
        2,
        "{out:?}"
    );
    assert_eq!(state(&roster, "a"), State::Crashed);
    assert!(now <= begin + Duration::from_secs(60));
    let told = events(&mut roster);
    let overdue: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            InstanceEvent::StopOverdue { mode, .. } => Some(*mode),
            _ => None,
        })
        .collect();
    assert_eq!(overdue, [StopMode::Graceful, StopMode::Force]);
}

#[test]
fn a_java_daemon_that_starts_what_it_was_told_to_stop_is_told_again() {
    let now = Instant::now();
    let mut roster = connected(now, &java_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    assert!(
        roster.handle_stop_ack(now, &stopped("a", 0)).is_accepted(),
        "it knows no such instance yet"
    );
    let report = roster.handle_status(now, &status("a", 0, State::Starting));
    assert!(matches!(report, Judgement::Illegal { .. }));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    assert_eq!(state(&roster, "a"), State::Stopping);
}

#[test]
fn a_java_daemon_that_had_nothing_to_stop_means_stopped() {
    let now = Instant::now();
    let mut roster = running(now, &java_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    sent(&mut roster);
    let _ = roster.handle_stop_ack(now, &stopped("a", 0));
    roster.handle_timeout(now + 5 * SECOND);
    assert_eq!(state(&roster, "a"), State::Stopped);
}

#[test]
fn a_stop_that_overtakes_a_rejection_ends_as_stopped() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    let _ = roster.handle_start_ack(now, &start_failed("a", 1, StartFailureDisposition::Permanent));
    assert_eq!(state(&roster, "a"), State::Stopped);
    assert_eq!(
        sent(&mut roster),
        Vec::<String>::new(),
        "there is nothing left to stop"
    );
}

#[test]
fn what_runs_although_it_ended_is_stopped() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    assert_eq!(roster.declare_lost(now, id("a")), Verdict::Accepted);
    assert_eq!(roster.declare_lost(now, id("a")), Verdict::AlreadyInEffect);
    let report = roster.handle_status(now, &status("a", 1, State::Running));
    assert!(matches!(report, Judgement::Illegal { .. }));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(sent(&mut roster), Vec::<String>::new(), "once is enough");
    assert_eq!(state(&roster, "a"), State::Crashed);

    let mut returns = running(now, &rust_peer(), "a", 1);
    returns.handle_disconnected(now);
    let _ = returns.declare_lost(now, id("a"));
    returns.handle_handshake(now, &[listed("a", 1, State::Running)], &rust_peer());
    assert_eq!(sent(&mut returns), ["stop a 1"]);
}

#[test]
fn a_handshake_brings_belief_and_report_together() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    for name in ["crashed", "gone", "kept", "stopping", "waiting"] {
        let _ = roster.start(now, start(name, 1));
    }
    sent(&mut roster);
    for name in ["crashed", "gone", "kept", "stopping"] {
        let _ = roster.handle_status(now, &status(name, 1, State::Running));
    }
    let _ = roster.stop(now, id("stopping"), StopMode::Graceful);
    events(&mut roster);
    sent(&mut roster);
    roster.handle_disconnected(now);

    let only_lobby = ReconcilePolicy {
        groups: GroupPolicy::Only(vec!["lobby".parse().unwrap()]),
        ..rust_peer()
    };
    let stranger = RunningInstance {
        group: "other".into(),
        ..listed("stranger", 1, State::Running)
    };
    let reported = [
        listed("crashed", 1, State::Crashed),
        listed("found", 3, State::Running),
        listed("kept", 1, State::Running),
        listed("stopping", 1, State::Running),
        stranger,
        listed("../x", 1, State::Running),
    ];
    roster.handle_handshake(now, &reported, &only_lobby);
    let mut out = sent(&mut roster);
    out.sort();
    assert_eq!(out, ["start waiting 1", "stop stopping 1", "stop stranger 1"]);
    let states: BTreeMap<_, _> = roster
        .entries()
        .map(|known| (known.instance().to_string(), known.state()))
        .collect();
    let expected = [
        ("crashed", State::Crashed),
        ("found", State::Running),
        ("gone", State::Crashed),
        ("kept", State::Running),
        ("stopping", State::Stopping),
        ("waiting", State::Scheduled),
    ];
    assert_eq!(
        states,
        expected.map(|(name, state)| (name.to_owned(), state)).into()
    );
    let told = events(&mut roster);
    assert!(told.iter().any(|event| matches!(
        event,
        InstanceEvent::Adopted { instance, state: State::Running, .. } if instance.as_str() == "found"
    )));
    assert!(told.iter().any(|event| matches!(
        event,
        InstanceEvent::OrphanStopped { instance, reason: OrphanReason::UnknownGroup, .. }
            if instance.as_str() == "stranger"
    )));
}

#[test]
fn a_clean_stop_during_a_disconnect_is_a_stop() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    roster.handle_disconnected(now);
    roster.handle_handshake(now, &[], &rust_peer());
    assert_eq!(state(&roster, "a"), State::Stopped);
}

#[test]
fn a_restarted_controller_goes_on_where_it_was() {
    let now = Instant::now();
    let entry = |name: &str, state, desired| RosterEntry {
        start: start(name, 1),
        state,
        desired,
    };
    let mut roster = roster();
    let refused = roster.restore(
        now,
        [
            entry("begun", State::Starting, Desired::Run),
            entry("bye", State::Running, Desired::Stop),
            entry("new", State::Scheduled, Desired::Run),
            entry("old", State::Stopped, Desired::Stop),
            entry("up", State::Running, Desired::Run),
            entry("../x", State::Running, Desired::Run),
        ],
    );
    assert_eq!(refused.len(), 1);
    assert_eq!(
        events(&mut roster),
        [],
        "the application knows what it has stored"
    );
    let reported = [
        listed("begun", 1, State::Starting),
        listed("bye", 1, State::Running),
        listed("up", 1, State::Running),
    ];
    roster.handle_handshake(now, &reported, &rust_peer());
    let mut out = sent(&mut roster);
    out.sort();
    assert_eq!(out, ["start new 1", "stop bye 1"]);
    let deadline = roster.poll_timeout().unwrap();
    assert_eq!(
        deadline.at,
        now + 10 * SECOND,
        "the stop is the first to be answered"
    );
}

#[test]
fn a_secret_start_is_forgotten_once_it_runs() {
    let now = Instant::now();
    let mut roster = connected(now, &java_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let _ = roster.handle_status(now, &status("a", 0, State::Starting));
    roster.handle_handshake(now, &[], &java_peer());
    assert_eq!(
        sent(&mut roster),
        ["start a 1"],
        "a Java daemon may be preparing it silently"
    );
    assert!(roster.ready(now, id("a")).is_accepted());
    assert_eq!(state(&roster, "a"), State::Running);
    roster.handle_handshake(now, &[], &java_peer());
    assert_eq!(sent(&mut roster), Vec::<String>::new());
    assert_eq!(state(&roster, "a"), State::Crashed);
}

#[test]
fn the_number_of_instances_is_bounded() {
    let now = Instant::now();
    let mut roster = roster();
    for index in 0..INSTANCES_PER_NODE {
        assert_eq!(
            roster.start(now, start(&format!("i{index}"), 1)),
            Verdict::Accepted
        );
    }
    let full = Verdict::Denied(DeniedReason::TooMany {
        limit: INSTANCES_PER_NODE,
    });
    assert_eq!(roster.start(now, start("more", 1)), full);
    let _ = roster.stop(now, id("i7"), StopMode::Graceful);
    assert_eq!(roster.forget(id("i7")), Verdict::Accepted);
    assert_eq!(roster.start(now, start("more", 1)), Verdict::Accepted);

    let strangers: Vec<_> = (0..INSTANCES_PER_NODE + 9)
        .map(|index| listed(&format!("s{index}"), 1, State::Running))
        .collect();
    let policy = ReconcilePolicy {
        groups: GroupPolicy::Only(vec![]),
        ..rust_peer()
    };
    roster.handle_handshake(now, &strangers, &policy);
    assert_eq!(roster.orphans().count(), INSTANCES_PER_NODE);
    assert_eq!(sent(&mut roster).len(), 2 * INSTANCES_PER_NODE);
}

#[test]
fn events_that_nobody_polls_are_bounded_and_missed_ones_are_told() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let rounds = EVENTS_KEPT / 2 + 10;
    for _ in 0..rounds {
        let _ = roster.drain(now, id("a"));
        let _ = roster.undrain(now, id("a"));
    }
    let told = events(&mut roster);
    assert_eq!(told.len(), EVENTS_KEPT + 1);
    let dropped = (2 * rounds - EVENTS_KEPT) as u64;
    assert_eq!(told.last(), Some(&InstanceEvent::Lagged { dropped }));
    let _ = roster.drain(now, id("a"));
    assert_eq!(changes(&mut roster).len(), 1, "and then it goes on");
}

#[test]
fn many_timers_fire_in_order_and_only_when_due() {
    let begin = Instant::now();
    let mut roster = connected(begin, &rust_peer());
    for index in 0..500_u32 {
        let now = begin + index * Duration::from_millis(10);
        roster.handle_timeout(now);
        let _ = roster.start(now, start(&format!("i{index}"), 1));
        sent(&mut roster);
        let _ = roster.handle_status(now, &status(&format!("i{index}"), 1, State::Starting));
    }
    events(&mut roster);
    for index in 0..500_u32 {
        let deadline = roster.poll_timeout().unwrap();
        assert_eq!(deadline.timer.instance, id(&format!("i{index}")));
        assert_eq!(
            deadline.at,
            begin + index * Duration::from_millis(10) + Duration::from_secs(60)
        );
        if index % 2 == 0 {
            let _ = roster.handle_status(deadline.at, &status(&format!("i{index}"), 1, State::Running));
        } else {
            roster.handle_timeout(deadline.at);
            let _ = roster.handle_status(deadline.at, &status(&format!("i{index}"), 1, State::Stopped));
        }
    }
    assert_eq!(roster.poll_timeout(), None);
}

#[derive(Clone, Debug)]
enum Action {
    Pass(Duration),
    Fire(Duration),
    FireNow,
    Handshake {
        java: bool,
        reported: Vec<RunningInstance>,
        elsewhere: bool,
        only_lobby: bool,
    },
    /// A handshake in which the daemon lists what the controller believes in.
    Agree {
        java: bool,
    },
    Disconnect,
    Start {
        name: &'static str,
        higher: u64,
    },
    Restart {
        name: &'static str,
        incarnation: u64,
    },
    Stop {
        name: &'static str,
        mode: StopMode,
    },
    Drain {
        name: &'static str,
    },
    Undrain {
        name: &'static str,
    },
    Forget {
        name: &'static str,
    },
    Lose {
        name: &'static str,
    },
    Ready {
        name: &'static str,
    },
    /// Messages; `behind` is how far their incarnation lies behind the current one, `None` if they name none.
    Status {
        name: &'static str,
        behind: Option<u64>,
        state: i32,
    },
    StartAck {
        name: &'static str,
        behind: Option<u64>,
        accepted: bool,
        permanent: bool,
        seconds: i32,
    },
    StopAck {
        name: &'static str,
        behind: Option<u64>,
        accepted: bool,
    },
    Crash {
        name: &'static str,
        behind: Option<u64>,
    },
    Send,
}

fn names() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(&["a", "b", "c"][..])
}

fn delays() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..40_000_u64).prop_map(Duration::from_millis),
        1 => (0..1_000_000_000_u64).prop_map(Duration::from_secs),
    ]
}

fn reported() -> impl Strategy<Value = Vec<RunningInstance>> {
    let one = (names(), any::<bool>(), -1..10_i32, 0..6_u64).prop_map(|(name, lobby, state, incarnation)| {
        RunningInstance {
            group: if lobby { "lobby" } else { "other" }.into(),
            state,
            ..listed(name, incarnation, State::Running)
        }
    });
    prop::collection::vec(one, 0..5)
}

fn action() -> impl Strategy<Value = Action> {
    let behind = prop_oneof![6 => Just(Some(0_u64)), 2 => Just(None), 1 => Just(Some(1_u64)), 1 => Just(Some(u64::MAX))];
    let mode = prop_oneof![Just(StopMode::Graceful), Just(StopMode::Force)];
    let (b1, b2, b3, b4) = (behind.clone(), behind.clone(), behind.clone(), behind);
    prop_oneof![
        2 => delays().prop_map(Action::Pass),
        5 => prop_oneof![3 => Just(Duration::ZERO), 1 => delays()].prop_map(Action::Fire),
        1 => Just(Action::FireNow),
        2 => (any::<bool>(), reported(), any::<bool>(), any::<bool>()).prop_map(
            |(java, reported, elsewhere, only_lobby)| Action::Handshake { java, reported, elsewhere, only_lobby }
        ),
        3 => any::<bool>().prop_map(|java| Action::Agree { java }),
        1 => Just(Action::Disconnect),
        5 => (names(), 0..3_u64).prop_map(|(name, higher)| Action::Start { name, higher }),
        1 => (names(), 0..4_u64).prop_map(|(name, incarnation)| Action::Restart { name, incarnation }),
        2 => (names(), mode).prop_map(|(name, mode)| Action::Stop { name, mode }),
        1 => names().prop_map(|name| Action::Drain { name }),
        1 => names().prop_map(|name| Action::Undrain { name }),
        1 => names().prop_map(|name| Action::Forget { name }),
        1 => names().prop_map(|name| Action::Lose { name }),
        1 => names().prop_map(|name| Action::Ready { name }),
        8 => (names(), b1, prop_oneof![6 => 1..7_i32, 1 => any::<i32>(), 1 => 1..9_i32]).prop_map(
            |(name, behind, state)| Action::Status { name, behind, state }
        ),
        4 => (names(), b2, any::<bool>(), any::<bool>(), -1..9_i32).prop_map(
            |(name, behind, accepted, permanent, seconds)| Action::StartAck {
                name, behind, accepted, permanent, seconds
            }
        ),
        2 => (names(), b3, any::<bool>()).prop_map(
            |(name, behind, accepted)| Action::StopAck { name, behind, accepted }
        ),
        1 => (names(), b4).prop_map(|(name, behind)| Action::Crash { name, behind }),
        4 => Just(Action::Send),
    ]
}

/// What an application knows that does nothing but follow the events.
#[derive(Default)]
struct Follower {
    known: BTreeMap<InstanceId, (Incarnation, State)>,
    ended: BTreeMap<(InstanceId, Incarnation), State>,
}

impl Follower {
    fn follow(&mut self, roster: &mut Roster) -> Result<(), TestCaseError> {
        while let Some(event) = roster.poll_event() {
            match event {
                InstanceEvent::Changed {
                    instance,
                    incarnation,
                    from,
                    to,
                    ..
                } => {
                    let known = self.known.get_mut(&instance);
                    prop_assert!(known.is_some(), "{instance} changed and is not known");
                    let known = known.unwrap();
                    prop_assert_eq!(*known, (incarnation, from), "events_tell_the_whole_story");
                    prop_assert!(!from.is_terminal(), "terminal_is_final");
                    known.1 = to;
                    if to.is_terminal() {
                        let again = self.ended.insert((instance, incarnation), to);
                        prop_assert!(
                            again.is_none() || !incarnation.is_known(),
                            "terminal_is_final: {instance} {incarnation}"
                        );
                    }
                }
                InstanceEvent::Adopted {
                    instance,
                    incarnation,
                    state,
                    ..
                } => {
                    if let Some((earlier, was)) = self.known.insert(instance, (incarnation, state)) {
                        prop_assert!(was.is_terminal(), "adopted over a live one");
                        prop_assert!(incarnation > earlier, "incarnations_only_rise");
                    }
                }
                _ => {}
            }
        }
        let entries: BTreeMap<_, _> = roster
            .entries()
            .map(|known| (known.instance(), (known.incarnation(), known.state())))
            .collect();
        prop_assert_eq!(&entries, &self.known, "events_tell_the_whole_story");
        Ok(())
    }
}

struct World {
    now: Instant,
    roster: Roster,
    follower: Follower,
    /// Starts that have left and were neither answered nor overtaken.
    live: BTreeMap<String, u64>,
    connected: bool,
}

impl World {
    fn incarnation(&self, name: &str, behind: Option<u64>) -> u64 {
        let current = self
            .roster
            .get(id(name))
            .map_or(3, |known| known.incarnation().get());
        match behind {
            None => 0,
            // So far behind that it is ahead.
            Some(u64::MAX) => current + 1,
            Some(behind) => current.saturating_sub(behind),
        }
    }

    fn handshake(&mut self, reported: &[RunningInstance], policy: &ReconcilePolicy) {
        self.roster.handle_handshake(self.now, reported, policy);
        self.live.clear();
        self.connected = true;
    }

    fn fire(&mut self) -> Result<(), TestCaseError> {
        let before = self.roster.poll_timeout();
        if let Some(deadline) = before.filter(|deadline| deadline.at > self.now) {
            let state = format!("{:?}", self.roster);
            self.roster.handle_timeout(self.now);
            prop_assert_eq!(
                format!("{:?}", self.roster),
                state,
                "earliest_deadline_is_exact: {:?}",
                deadline
            );
        } else if let Some(deadline) = before {
            let state = format!("{:?}", self.roster);
            self.roster.handle_timeout(self.now);
            prop_assert_ne!(
                format!("{:?}", self.roster),
                state,
                "earliest_deadline_is_exact: {:?}",
                deadline
            );
            self.live.clear();
        }
        let later = self
            .roster
            .poll_timeout()
            .is_none_or(|deadline| deadline.at > self.now);
        prop_assert!(later, "no_deadline_in_the_past_after_timeout");
        Ok(())
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        while let Some(dispatch) = self.roster.poll_dispatch() {
            prop_assert!(self.connected, "nothing_leaves_while_disconnected");
            match dispatch {
                Dispatch::Start(start) => {
                    let known = self.roster.get(id(&start.instance_id)).unwrap();
                    prop_assert_eq!(start.incarnation, known.incarnation().get());
                    prop_assert!(known.desired() == Desired::Run && known.state().is_coming_up());
                    let orphan = self
                        .roster
                        .orphans()
                        .any(|orphan| orphan.instance() == known.instance());
                    prop_assert!(!orphan, "a start waits for its orphan");
                    let twice = self.live.insert(start.instance_id.clone(), start.incarnation);
                    prop_assert!(twice.is_none(), "at_most_one_live_attempt");
                }
                Dispatch::Stop(stop) => {
                    let meant = |known: &Lifecycle| {
                        known.instance().as_str() == stop.instance_id
                            && known.incarnation().get() == stop.incarnation
                            && known.desired() != Desired::Run
                    };
                    let found = self.roster.entries().any(meant) || self.roster.orphans().any(meant);
                    prop_assert!(found, "{stop:?} stops what nobody wants stopped");
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, action: Action) -> Result<(), TestCaseError> {
        let now = self.now;
        if let Action::Start { .. } | Action::Restart { .. } | Action::Forget { .. } = action {
            // Whoever adds or removes something itself should know what there is.
            self.follower.follow(&mut self.roster)?;
        }
        match action {
            Action::Pass(delay) => self.now += delay,
            Action::Fire(late) => {
                if let Some(deadline) = self.roster.poll_timeout() {
                    self.now = now.max(deadline.at) + late;
                }
                self.fire()?;
            }
            Action::FireNow => self.fire()?,
            Action::Handshake {
                java,
                reported,
                elsewhere,
                only_lobby,
            } => {
                let policy = ReconcilePolicy {
                    elsewhere: if elsewhere { vec![id("b")] } else { vec![] },
                    groups: if only_lobby {
                        GroupPolicy::Only(vec!["lobby".parse().unwrap()])
                    } else {
                        GroupPolicy::AdoptAny
                    },
                    reports_preparing: !java,
                    incarnations: !java,
                };
                self.handshake(&reported, &policy);
            }
            Action::Agree { java } => {
                let alive = self.roster.entries().filter(|known| !known.is_terminal());
                let reported: Vec<_> = alive
                    .filter(|known| known.is_dispatched())
                    .map(|known| {
                        listed(
                            known.instance().as_str(),
                            known.incarnation().get(),
                            known.state(),
                        )
                    })
                    .collect();
                self.handshake(&reported, &if java { java_peer() } else { rust_peer() });
            }
            Action::Disconnect => {
                self.roster.handle_disconnected(now);
                self.live.clear();
                self.connected = false;
            }
            Action::Start { name, higher } => {
                let current = self
                    .roster
                    .get(id(name))
                    .map_or(0, |known| known.incarnation().get());
                let incarnation = (current + higher).max(1);
                if self.roster.start(now, start(name, incarnation)) == Verdict::Accepted {
                    prop_assert!(incarnation > current, "incarnations_only_rise");
                    self.live.remove(name);
                    self.follower
                        .known
                        .insert(id(name), (Incarnation::new(incarnation), State::Scheduled));
                }
            }
            Action::Restart { name, incarnation } => {
                if let Verdict::Denied(DeniedReason::StaleIncarnation { current, .. }) =
                    self.roster.start(now, start(name, incarnation.max(1)))
                {
                    prop_assert!(current.get() >= incarnation);
                } else if let Some(known) = self.roster.get(id(name)) {
                    let incarnation = known.incarnation();
                    if self
                        .follower
                        .known
                        .get(&id(name))
                        .is_none_or(|(was, _)| *was != incarnation)
                    {
                        self.live.remove(name);
                        self.follower
                            .known
                            .insert(id(name), (incarnation, State::Scheduled));
                    }
                }
            }
            Action::Stop { name, mode } => {
                if self.roster.stop(now, id(name), mode) == Verdict::Accepted {
                    self.live.remove(name);
                }
            }
            Action::Drain { name } => drop(self.roster.drain(now, id(name))),
            Action::Undrain { name } => drop(self.roster.undrain(now, id(name))),
            Action::Forget { name } => {
                if self.roster.forget(id(name)) == Verdict::Accepted {
                    self.follower.known.remove(&id(name));
                    self.follower
                        .ended
                        .retain(|(instance, _), _| *instance != id(name));
                    self.live.remove(name);
                }
            }
            Action::Lose { name } => {
                let _ = self.roster.declare_lost(now, id(name));
                self.live.remove(name);
            }
            Action::Ready { name } => drop(self.roster.ready(now, id(name))),
            Action::Status { name, behind, state } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                let update = InstanceStatusUpdate {
                    state,
                    ..status(name, incarnation, State::Running)
                };
                let judgement = self.roster.handle_status(now, &update);
                if judgement.is_accepted() {
                    self.live.remove(name);
                }
                let current = before.as_ref().map_or(0, |known| known.incarnation().get());
                if incarnation != 0 && incarnation != current {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                }
            }
            Action::StartAck {
                name,
                behind,
                accepted,
                permanent,
                seconds,
            } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                let disposition = if permanent {
                    StartFailureDisposition::Permanent
                } else {
                    StartFailureDisposition::Transient
                };
                let mut ack = start_failed(name, incarnation, disposition);
                ack.accepted = accepted;
                ack.retry_after_seconds = seconds;
                let judgement = self.roster.handle_start_ack(now, &ack);
                if judgement.is_accepted() {
                    self.live.remove(name);
                }
                let current = before.as_ref().map_or(0, |known| known.incarnation().get());
                if incarnation != 0 && incarnation != current {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                }
            }
            Action::StopAck {
                name,
                behind,
                accepted,
            } => {
                let ack = StopInstanceAck {
                    accepted,
                    ..stopped(name, self.incarnation(name, behind))
                };
                let _ = self.roster.handle_stop_ack(now, &ack);
            }
            Action::Crash { name, behind } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                if self.roster.handle_crash(now, &crash(name, incarnation)) == CrashVerdict::Stale {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                } else {
                    prop_assert!(self.roster.get(id(name)).unwrap().is_terminal());
                }
            }
            Action::Send => self.send()?,
        }
        if !self.connected {
            prop_assert_eq!(
                self.roster.poll_dispatch(),
                None,
                "nothing_leaves_while_disconnected"
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn roster_keeps_its_invariants(
        actions in prop::collection::vec(action(), 1..80),
        follow_always in any::<bool>(),
    ) {
        let mut world = World {
            now: Instant::now(),
            roster: roster(),
            follower: Follower::default(),
            live: BTreeMap::new(),
            connected: false,
        };
        for action in actions {
            world.step(action)?;
            if follow_always {
                world.follower.follow(&mut world.roster)?;
            }
        }

        // A handshake that lists everything that may be there, and from then on silence.
        world.step(Action::Agree { java: false })?;
        for _ in 0..200 {
            world.send()?;
            if world.roster.poll_timeout().is_none() {
                break;
            }
            world.step(Action::Fire(Duration::ZERO))?;
        }
        prop_assert!(world.roster.poll_timeout().is_none(), "nothing_waits_for_ever");
        prop_assert_eq!(world.roster.orphans().count(), 0, "nothing_waits_for_ever");
        for known in world.roster.entries() {
            let waits = known.desired() != Desired::Run || known.state().is_coming_up() || known.state() == State::Stopping;
            prop_assert!(known.is_terminal() || !waits, "nothing_waits_for_ever: {known:?}");
        }
        if follow_always {
            world.follower.follow(&mut world.roster)?;
        }
    }
}
