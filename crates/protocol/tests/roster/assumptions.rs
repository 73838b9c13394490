//! What is believed without having been seen, and is taken back

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Cause, Desired, Judgement, State};
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::{Incarnation, StopMode, Verdict};

use crate::{
    changes, connected, crash, events, id, java_peer, listed, roster, running, rust_peer, sent, start, state,
    status, stopped,
};

const LATE: Duration = Duration::from_secs(105);

/// A roster whose `a` has just become too late.
fn too_late(now: Instant) -> Roster {
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    sent(&mut roster);
    let _ = roster.handle_status(now, &status("a", 1, State::Starting));
    roster.handle_timeout(now + LATE);
    assert_eq!(state(&roster, "a"), State::Stopping);
    events(&mut roster);
    roster
}

#[test]
fn a_report_of_running_takes_back_a_startup_stop_that_has_not_arrived() {
    let now = Instant::now();
    for polled in [false, true] {
        let mut roster = too_late(now);
        if polled {
            assert_eq!(sent(&mut roster), ["kill a 1"]);
        }
        let report = roster.handle_status(now + LATE, &status("a", 1, State::Running));
        assert!(matches!(
            report,
            Judgement::Applied {
                to: State::Running,
                ..
            }
        ));
        assert_eq!(
            changes(&mut roster),
            [(State::Stopping, State::Running, Cause::TakenBack)]
        );
        assert_eq!(roster.get(id("a")).unwrap().desired(), Desired::Run);
        assert_eq!((sent(&mut roster), roster.poll_timeout()), (vec![], None));
        // The daemon may carry it out all the same; then that is what is believed.
        let _ = roster.handle_stop_ack(now + LATE, &stopped("a", 1));
        assert_eq!(state(&roster, "a"), State::Running);
        let _ = roster.handle_status(now + LATE, &status("a", 1, State::Stopping));
        let _ = roster.handle_status(now + LATE, &status("a", 1, State::Crashed));
        assert_eq!(state(&roster, "a"), State::Crashed);
    }
}

#[test]
fn a_startup_stop_that_the_stream_took_with_it_is_taken_back_by_the_list() {
    let now = Instant::now();
    let mut roster = too_late(now);
    assert_eq!(sent(&mut roster), ["kill a 1"]);
    roster.handle_handshake(now + LATE, &[listed("a", 1, State::Running)], &rust_peer());
    assert_eq!((sent(&mut roster), state(&roster, "a")), (vec![], State::Running));
    assert_eq!(
        roster.stop(now + LATE, id("a"), StopMode::Graceful),
        Verdict::Accepted
    );
    assert_eq!(sent(&mut roster), ["stop a 1"], "an ordinary instance again");

    let mut hangs = too_late(now);
    sent(&mut hangs);
    hangs.handle_handshake(now + LATE, &[listed("a", 1, State::Starting)], &rust_peer());
    assert_eq!(sent(&mut hangs), ["kill a 1"], "it is late still");
}

#[test]
fn a_startup_stop_that_has_arrived_or_that_somebody_wants_is_not_taken_back() {
    let now = Instant::now();
    let arrived: [fn(&mut Roster, Instant); 3] = [
        |roster, now| {
            let _ = roster.handle_stop_ack(now, &stopped("a", 1));
        },
        |roster, now| {
            let _ = roster.handle_status(now, &status("a", 1, State::Stopping));
        },
        |roster, now| {
            let _ = roster.stop(now, id("a"), StopMode::Graceful);
        },
    ];
    for act in arrived {
        let mut roster = too_late(now);
        sent(&mut roster);
        act(&mut roster, now + LATE);
        let report = roster.handle_status(now + LATE, &status("a", 1, State::Running));
        assert!(matches!(report, Judgement::Illegal { .. }));
        assert_eq!(state(&roster, "a"), State::Stopping);
    }
}

#[test]
fn what_was_only_lost_is_taken_back_when_it_lives() {
    let now = Instant::now();
    for policy in [rust_peer(), java_peer()] {
        let said = u64::from(policy.peer.names_incarnations);
        for alive in [State::Running, State::Draining] {
            let mut unlisted = running(now, &policy, "a", 1);
            unlisted.handle_handshake(now, &[], &policy);
            assert_eq!(state(&unlisted, "a"), State::Crashed);
            let mut declared = running(now, &policy, "a", 1);
            let _ = declared.declare_lost(now, id("a"));
            for mut roster in [unlisted, declared] {
                assert!(roster.get(id("a")).unwrap().is_lost());
                events(&mut roster);
                let mut reported = roster.clone();
                let report = reported.handle_status(now, &status("a", said, alive));
                assert!(matches!(report, Judgement::Applied { .. }));
                roster.handle_handshake(now, &[listed("a", said, alive)], &policy);
                for mut roster in [roster, reported] {
                    let back = (State::Crashed, alive, Cause::TakenBack);
                    assert_eq!(changes(&mut roster), [back]);
                    assert_eq!((roster.orphans().count(), sent(&mut roster)), (0, vec![]));
                    let lobby = roster.get(id("a")).unwrap();
                    assert_eq!((lobby.desired(), lobby.is_lost()), (Desired::Run, false));
                    let _ = roster.stop(now, id("a"), StopMode::Graceful);
                    assert_eq!(sent(&mut roster), ["stop a 1"], "an ordinary instance again");
                }
            }
        }
    }
}

#[test]
fn a_java_server_that_was_lost_runs_when_it_is_listed() {
    let now = Instant::now();
    let mut roster = running(now, &java_peer(), "a", 1);
    roster.handle_handshake(now, &[], &java_peer());
    roster.handle_handshake(now, &[listed("a", 0, State::Starting)], &java_peer());
    assert_eq!(
        state(&roster, "a"),
        State::Running,
        "it never says more than STARTING"
    );
}

#[test]
fn an_end_that_was_seen_or_wanted_is_not_taken_back() {
    let now = Instant::now();
    let ends: [fn(&mut Roster, Instant); 4] = [
        |roster, now| {
            let _ = roster.handle_status(now, &status("a", 1, State::Crashed));
        },
        |roster, now| {
            let _ = roster.handle_crash(now, &crash("a", 1));
        },
        |roster, now| {
            // Lost first, and then the crash report arrives.
            let _ = roster.declare_lost(now, id("a"));
            let _ = roster.handle_crash(now, &crash("a", 1));
        },
        |roster, now| {
            let _ = roster.stop(now, id("a"), StopMode::Graceful);
            let _ = roster.declare_lost(now, id("a"));
        },
    ];
    for end in ends {
        let mut reported = running(now, &rust_peer(), "a", 1);
        end(&mut reported, now);
        sent(&mut reported);
        let mut returns = reported.clone();
        let report = reported.handle_status(now, &status("a", 1, State::Running));
        assert!(matches!(report, Judgement::Illegal { .. }));
        returns.handle_handshake(now, &[listed("a", 1, State::Running)], &rust_peer());
        for mut roster in [reported, returns] {
            assert_eq!(sent(&mut roster), ["stop a 1"]);
            assert_eq!(state(&roster, "a"), State::Crashed);
            events(&mut roster);
        }
    }
}

#[test]
fn the_crash_of_an_orphan_is_never_that_of_the_entry() {
    let now = Instant::now();
    for said in [0, 5] {
        let mut roster = roster();
        let _ = roster.start(now, start("a", 6));
        roster.handle_handshake(now, &[listed("a", 5, State::Running)], &rust_peer());
        assert_eq!(sent(&mut roster), ["stop a 5"]);
        let verdict = roster.handle_crash(now, &crash("a", said));
        assert_eq!(verdict, prexorcloud_protocol::roster::CrashVerdict::Stale);
        assert_eq!(state(&roster, "a"), State::Scheduled);
        assert_eq!(roster.orphans().count(), 0, "it is gone all the same");
        assert_eq!(sent(&mut roster), ["start a 6"]);
    }
}

#[test]
fn no_peer_can_use_up_the_incarnations_of_an_id() {
    let now = Instant::now();
    let most = Incarnation::MAX_LISTED.get();
    for absurd in [most + 1, u64::MAX] {
        let mut roster = roster();
        roster.handle_handshake(now, &[listed("a", absurd, State::Running)], &rust_peer());
        assert_eq!(roster.entries().count(), 0);
        assert_eq!(roster.start(now, start("a", 1)), Verdict::Accepted);
        roster.handle_handshake(now, &[listed("a", absurd, State::Running)], &rust_peer());
        assert_eq!(roster.get(id("a")).unwrap().incarnation(), Incarnation::new(1));
        let report = roster.handle_status(now, &status("a", absurd, State::Running));
        assert!(matches!(report, Judgement::Newer { .. }));
    }
    let mut roster = roster();
    roster.handle_handshake(now, &[listed("a", most, State::Running)], &rust_peer());
    let _ = roster.handle_status(now, &status("a", most, State::Stopped));
    assert_eq!(
        roster.start(now, start("a", most + 1)),
        Verdict::Accepted,
        "our own go on"
    );
    roster.handle_handshake(now, &[listed("a", most + 1, State::Running)], &rust_peer());
    assert_eq!(state(&roster, "a"), State::Running);
}

#[test]
fn a_start_with_its_secrets_is_kept_only_while_it_may_have_to_go_out() {
    let now = Instant::now();
    let keeps = |roster: &Roster| format!("{roster:?}").contains("marker.jar");
    let ends: [fn(&mut Roster, Instant); 4] = [
        |roster, now| {
            let _ = roster.handle_status(now, &status("a", 1, State::Running));
        },
        |roster, now| {
            let _ = roster.handle_status(now, &status("a", 1, State::Stopped));
        },
        |roster, now| {
            let _ = roster.stop(now, id("a"), StopMode::Graceful);
        },
        |roster, now| {
            let _ = roster.declare_lost(now, id("a"));
        },
    ];
    for end in ends {
        let mut roster = connected(now, &rust_peer());
        let mut marked = start("a", 1);
        marked.jar_file = "marker.jar".into();
        let _ = roster.start(now, marked);
        sent(&mut roster);
        for before in [State::Preparing, State::Starting] {
            let _ = roster.handle_status(now, &status("a", 1, before));
            assert!(keeps(&roster), "{before}");
        }
        end(&mut roster, now);
        assert!(!keeps(&roster), "{}", state(&roster, "a"));
    }
}

#[test]
fn events_do_not_overtake_the_notice_that_some_were_lost() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    for _ in 0..=prexorcloud_protocol::roster::EVENTS_KEPT / 2 {
        let _ = roster.drain(now, id("a"));
        let _ = roster.undrain(now, id("a"));
    }
    // There is room again, but what happens now comes after what was lost.
    for _ in 0..10 {
        assert!(roster.poll_event().is_some());
    }
    let _ = roster.drain(now, id("a"));
    let told = events(&mut roster);
    let lost = told
        .iter()
        .position(|event| matches!(event, InstanceEvent::Lagged { dropped: 3 }));
    assert_eq!(lost, Some(told.len() - 1));
    let _ = roster.undrain(now, id("a"));
    assert_eq!(changes(&mut roster).len(), 1);
}
