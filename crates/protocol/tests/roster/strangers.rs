//! Instances that are in the way, late news, and peers that do not say everything

use std::time::Instant;

use prexorcloud_protocol::instance::{Judgement, State};
use prexorcloud_protocol::roster::OrphanReason;
use prexorcloud_protocol::roster::{CrashVerdict, InstanceEvent};
use prexorcloud_protocol::unstable::ledger::START_ANSWER;
use prexorcloud_protocol::{StopMode, Verdict};

use crate::{
    SECOND, changes, connected, crash, events, id, java_peer, listed, roster, run_timers, running, rust_peer,
    sent, start, state, status, stopped,
};

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
fn a_start_about_to_leave_is_held_back_by_an_orphan() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.declare_lost(now, id("a"));
    let _ = roster.start(now, start("a", 2));
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Stopped));
    assert_eq!(sent(&mut roster), ["start a 2"]);
}

#[test]
fn a_start_that_left_before_its_orphan_was_seen_is_not_repeated_before_it_is_gone() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.declare_lost(now, id("a"));
    let _ = roster.start(now, start("a", 2));
    assert_eq!(sent(&mut roster), ["start a 2"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Stopping));
    roster.handle_timeout(now + START_ANSWER);
    assert_eq!(sent(&mut roster), Vec::<String>::new());
    let _ = roster.handle_status(now, &status("a", 1, State::Stopped));
    assert_eq!(sent(&mut roster), ["start a 2"]);
}

#[test]
fn news_without_a_stream_makes_no_orphans() {
    let now = Instant::now();
    let mut roster = roster();
    let _ = roster.start(now, start("a", 2));
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(roster.orphans().count(), 0);
}

#[test]
fn what_runs_although_it_ended_is_stopped() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.handle_crash(now, &crash("a", 1));
    assert_eq!(roster.declare_lost(now, id("a")), Verdict::AlreadyInEffect);
    let report = roster.handle_status(now, &status("a", 1, State::Running));
    assert!(matches!(report, Judgement::Illegal { .. }));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(sent(&mut roster), Vec::<String>::new(), "once is enough");
    assert_eq!(state(&roster, "a"), State::Crashed);

    let mut returns = running(now, &rust_peer(), "a", 1);
    returns.handle_disconnected(now);
    let _ = returns.handle_crash(now, &crash("a", 1));
    returns.handle_handshake(now, &[listed("a", 1, State::Running)], &rust_peer());
    assert_eq!(sent(&mut returns), ["stop a 1"]);
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
    assert_eq!(sent(&mut roster), Vec::<String>::new(), "not in a storm");
    roster.handle_timeout(now + SECOND);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    assert_eq!(state(&roster, "a"), State::Stopping);
    assert_eq!(
        roster.poll_timeout().unwrap().at,
        now + 11 * SECOND,
        "it has to be answered again"
    );
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
fn a_secret_start_is_forgotten_once_it_runs() {
    let now = Instant::now();
    let mut roster = connected(now, &java_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    roster.handle_handshake(now, &[], &java_peer());
    assert_eq!(sent(&mut roster), ["start a 1"], "it may not have got there");
    let _ = roster.handle_status(now, &status("a", 0, State::Starting));
    assert!(roster.ready(now, id("a")).is_accepted());
    assert_eq!(state(&roster, "a"), State::Running);
    roster.handle_handshake(now, &[], &java_peer());
    assert_eq!(sent(&mut roster), Vec::<String>::new());
    assert_eq!(state(&roster, "a"), State::Crashed);
}
