//! What a new stream means

use std::collections::BTreeMap;
use std::time::Instant;

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::proto::RunningInstance;
use prexorcloud_protocol::roster::{GroupPolicy, OrphanReason, ReconcilePolicy};
use prexorcloud_protocol::roster::{InstanceEvent, RosterEntry};

use crate::{
    SECOND, connected, events, id, listed, roster, run_timers, running, rust_peer, sent, start, state, status,
};

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
        lost: false,
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
fn an_adopted_instance_that_never_moves_is_given_up() {
    let mut now = Instant::now();
    for before in [
        State::Scheduled,
        State::Preparing,
        State::Starting,
        State::Stopping,
    ] {
        let mut roster = roster();
        roster.handle_handshake(now, &[listed("a", 1, before)], &rust_peer());
        assert_eq!(state(&roster, "a"), before);
        run_timers(&mut roster, &mut now, 40);
        assert_eq!(state(&roster, "a"), State::Crashed, "{before}");
    }
}
