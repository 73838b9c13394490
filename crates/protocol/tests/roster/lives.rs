//! Starts and stops, answered, refused and unanswered

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Cause, State};
use prexorcloud_protocol::proto::{StartFailureDisposition, StartInstance};
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::unstable::ledger::{RETRIES, START_ANSWER, UNANSWERED};
use prexorcloud_protocol::{DeniedReason, Incarnation, StopMode, Verdict};

use crate::{
    SECOND, changes, connected, events, id, roster, run_timers, running, rust_peer, sent, start,
    start_failed, started, state, status, stopped,
};

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
        1 + RETRIES as usize,
        "{out:?}"
    );
    assert_eq!(state(&roster, "a"), State::Crashed);
    assert!(now <= begin + Duration::from_secs(240));
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
