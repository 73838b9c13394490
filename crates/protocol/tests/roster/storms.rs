//! Daemons that do not do what they say cost a bounded number of messages, and are judged at their deadline

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Cause, State};
use prexorcloud_protocol::proto::{StartFailureDisposition, StartInstance, StopInstanceAck};
use prexorcloud_protocol::roster::{GroupPolicy, ReconcilePolicy};
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::unstable::ledger::{FORGOTTEN, MIN_RETRY_DELAY, REFUSED_STOP_DELAY, RETRIES};
use prexorcloud_protocol::{InstanceId, StopMode};

use crate::{
    changes, connected, events, id, java_peer, listed, running, rust_peer, sent, start, start_failed,
    started, state, status, stopped,
};

/// The attempts of one command.
const ATTEMPTS: usize = 1 + RETRIES as usize;
const STEP: Duration = Duration::from_millis(20);

/// Ten minutes of a daemon that says all of `says` fifty times a second; what that costs.
fn storm(
    roster: &mut Roster,
    mut now: Instant,
    says: impl Fn(&mut Roster, Instant),
) -> (Vec<String>, Instant) {
    let (end, mut out) = (now + Duration::from_secs(600), Vec::new());
    let mut ended = None;
    while now < end {
        roster.handle_timeout(now);
        out.extend(sent(roster));
        says(roster, now);
        out.extend(sent(roster));
        if ended.is_none() && state(roster, "a").is_terminal() {
            ended = Some(now);
        }
        now += STEP;
    }
    (out, ended.unwrap_or(end))
}

fn said(policy: &ReconcilePolicy) -> u64 {
    u64::from(policy.peer.names_incarnations)
}

#[test]
fn a_daemon_that_answers_a_stop_with_running_for_ever_is_given_up() {
    for policy in [rust_peer(), java_peer()] {
        let now = Instant::now();
        let mut roster = running(now, &policy, "a", 1);
        let _ = roster.stop(now, id("a"), StopMode::Graceful);
        let said = said(&policy);
        let (out, ended) = storm(&mut roster, now, |roster, now| {
            let _ = roster.handle_stop_ack(now, &stopped("a", said));
            let _ = roster.handle_status(now, &status("a", said, State::Running));
        });
        let (stops, kills) = out.split_at(out.iter().position(|line| line == "kill a 1").unwrap());
        assert_eq!(stops, vec!["stop a 1"; ATTEMPTS]);
        assert!(kills[..ATTEMPTS].iter().all(|line| line == "kill a 1"));
        assert!(
            ended < now + Duration::from_secs(90),
            "it counts as ended in time"
        );
        let verdict = changes(&mut roster)
            .into_iter()
            .find(|(_, to, _)| to.is_terminal());
        assert_eq!(
            verdict,
            Some((State::Stopping, State::Crashed, Cause::StopOverdue))
        );
        // What runs on is an orphan; that is bounded, too.
        assert!(
            out.len() <= 2 * ATTEMPTS + ATTEMPTS * 2 * ATTEMPTS,
            "{}",
            out.len()
        );
    }
}

#[test]
fn a_daemon_that_acknowledges_everything_and_does_nothing_is_given_up() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    let (out, _) = storm(&mut roster, now, |roster, now| {
        let _ = roster.handle_stop_ack(now, &stopped("a", 1));
    });
    assert_eq!(out, ["stop a 1", "kill a 1"]);
    assert_eq!(state(&roster, "a"), State::Crashed);

    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    let (out, _) = storm(&mut roster, now, |roster, now| {
        let _ = roster.handle_start_ack(now, &started("a", 1));
    });
    assert_eq!(out, ["start a 1"]);
    roster.handle_timeout(now + Duration::from_secs(600));
    assert_eq!(sent(&mut roster), ["kill a 1"], "its preparation has a deadline");
}

/// What is asked in ten minutes for a stop that is refused every time.
const REFUSED: usize = ATTEMPTS + 600 / REFUSED_STOP_DELAY.as_secs() as usize;

#[test]
fn what_a_daemon_refuses_to_stop_is_neither_killed_nor_given_up() {
    for (mode, line) in [(StopMode::Graceful, "stop a 1"), (StopMode::Force, "kill a 1")] {
        for policy in [rust_peer(), java_peer()] {
            let now = Instant::now();
            let mut roster = running(now, &policy, "a", 1);
            let _ = roster.stop(now, id("a"), mode);
            let refused = StopInstanceAck {
                accepted: false,
                error_message: "no space left on device".into(),
                ..stopped("a", said(&policy))
            };
            let (out, _) = storm(&mut roster, now, |roster, now| {
                let _ = roster.handle_stop_ack(now, &refused);
            });
            assert!(out.iter().all(|sent| sent == line), "{out:?}");
            assert!((REFUSED - 2..=REFUSED).contains(&out.len()), "{}", out.len());
            assert_eq!(state(&roster, "a"), State::Stopping);
            let told = events(&mut roster);
            let says = |event: &&InstanceEvent| matches!(event, InstanceEvent::StopRefused { message, .. } if message == "no space left on device");
            assert_eq!(
                told.iter().filter(says).count(),
                out.len(),
                "each refusal is told once"
            );

            // The daemon can again, and does.
            // Although the controller has slept past the next attempt and its deadline.
            let now = now + Duration::from_secs(600 + 200);
            roster.handle_timeout(now);
            assert_eq!(sent(&mut roster), [line]);
            let _ = roster.handle_stop_ack(now, &stopped("a", said(&policy)));
            let _ = roster.handle_status(now, &status("a", said(&policy), State::Stopped));
            assert_eq!(state(&roster, "a"), State::Stopped);
        }
    }
}

#[test]
fn a_refusal_gives_the_grace_again_and_a_silence_after_it_does_not_last() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(now, &status("a", 1, State::Stopping));
    let late = now + Duration::from_secs(29);
    let _ = roster.handle_stop_ack(
        late,
        &StopInstanceAck {
            accepted: false,
            ..stopped("a", 1)
        },
    );
    roster.handle_timeout(late + MIN_RETRY_DELAY);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let mut soon = late;
    for _ in 0..100 {
        soon += Duration::from_secs(1);
        roster.handle_timeout(soon);
        let kill = "kill a 1".to_owned();
        assert!(!sent(&mut roster).contains(&kill), "its grace has not begun");
    }

    // Never another word: the deadlines see to it.
    let mut ended = soon;
    for _ in 0..600 {
        ended += Duration::from_secs(1);
        roster.handle_timeout(ended);
        let _ = sent(&mut roster);
    }
    assert_eq!(state(&roster, "a"), State::Crashed);
}

/// Refused as often as it is asked for quickly, and asked for once more.
fn refused_and_sent(roster: &mut Roster, mut now: Instant, refused: &StopInstanceAck) -> Instant {
    sent(roster);
    for _ in 0..ATTEMPTS {
        let _ = roster.handle_stop_ack(now, refused);
        now = roster.poll_timeout().unwrap().at;
        roster.handle_timeout(now);
        assert_eq!(sent(roster).len(), 1);
    }
    now
}

#[test]
fn a_refusal_that_takes_long_is_one_all_the_same() {
    for (mode, line) in [(StopMode::Graceful, "stop a 1"), (StopMode::Force, "kill a 1")] {
        for slow in [11, 25, 60] {
            let now = Instant::now();
            let mut roster = running(now, &rust_peer(), "a", 1);
            let _ = roster.stop(now, id("a"), mode);
            let refused = StopInstanceAck {
                accepted: false,
                ..stopped("a", 1)
            };
            let mut now = refused_and_sent(&mut roster, now, &refused);
            for _ in 0..20 {
                for _ in 0..slow {
                    now += Duration::from_secs(1);
                    roster.handle_timeout(now);
                    let out = sent(&mut roster);
                    assert!(out.iter().all(|sent| sent == line), "{out:?} after {slow} s");
                }
                let _ = roster.handle_stop_ack(now, &refused);
                assert_eq!(state(&roster, "a"), State::Stopping, "refused after {slow} s");
            }
        }
    }
}

#[test]
fn a_stop_passes_an_orphan_that_is_not_stopped() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 2);
    let _ = roster.handle_status(now, &status("a", 1, State::Running));
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_stop_ack(
        now,
        &StopInstanceAck {
            accepted: false,
            ..stopped("a", 1)
        },
    );
    let told = events(&mut roster);
    let of_orphan = |event: &InstanceEvent| matches!(event, InstanceEvent::StopRefused { incarnation, .. } if incarnation.get() == 1);
    assert!(told.iter().any(of_orphan), "{told:?}");
    let _ = roster.stop(now, id("a"), StopMode::Force);
    assert_eq!(sent(&mut roster), ["kill a 2"]);
}

#[test]
fn a_start_behind_an_orphan_that_is_not_stopped_waits() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    let unwanted = ReconcilePolicy {
        groups: GroupPolicy::Only(vec![]),
        ..rust_peer()
    };
    roster.handle_handshake(now, &[listed("a", 1, State::Running)], &unwanted);
    let _ = roster.start(now, start("a", 2));
    let refused = StopInstanceAck {
        accepted: false,
        ..stopped("a", 1)
    };
    let (out, _) = storm(&mut roster, now, |roster, now| {
        let _ = roster.handle_stop_ack(now, &refused);
    });
    assert!(
        out.iter().all(|sent| sent == "stop a 1"),
        "two of one id: {out:?}"
    );
    assert_eq!(state(&roster, "a"), State::Scheduled);
}

#[test]
fn a_daemon_that_refuses_every_start_is_asked_a_few_times() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    let mut refused = start_failed("a", 1, StartFailureDisposition::Transient);
    refused.retry_after_seconds = 0;
    let (out, ended) = storm(&mut roster, now, |roster, now| {
        let _ = roster.handle_status(now, &status("a", 1, State::Preparing));
        let _ = roster.handle_start_ack(now, &refused);
    });
    assert!(out.len() <= ATTEMPTS, "{out:?}");
    assert!(ended < now + Duration::from_secs(600));
    assert!(state(&roster, "a").is_terminal());
}

#[test]
fn a_daemon_that_says_everything_all_the_time_costs_a_bounded_number_of_messages() {
    let now = Instant::now();
    for policy in [rust_peer(), java_peer()] {
        let mut roster = connected(now, &policy);
        let _ = roster.start(
            now,
            Box::new(StartInstance {
                max_lifetime_seconds: 60,
                ..*start("a", 1)
            }),
        );
        let said = said(&policy);
        let (out, _) = storm(&mut roster, now, |roster, now| {
            for state in State::ALL {
                let _ = roster.handle_status(now, &status("a", said, state));
            }
            let _ = roster.handle_start_ack(now, &started("a", said));
            let _ = roster.handle_stop_ack(now, &stopped("a", said));
        });
        assert!(
            out.len() <= 4 * ATTEMPTS + ATTEMPTS * 2 * ATTEMPTS,
            "{} messages",
            out.len()
        );
    }
}

#[test]
fn an_incarnation_that_ends_and_lives_by_turns_is_not_stopped_for_ever() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.handle_crash(now, &crate::crash("a", 1));
    let (out, _) = storm(&mut roster, now, |roster, now| {
        let _ = roster.handle_status(now, &status("a", 1, State::Running));
        let _ = roster.handle_status(now, &status("a", 1, State::Stopped));
    });
    assert!(out.len() <= ATTEMPTS, "{} stops", out.len());
    roster.handle_handshake(now, &[listed("a", 1, State::Running)], &rust_peer());
    assert_eq!(sent(&mut roster), ["stop a 1"], "a new stream is a new chance");
}

#[test]
fn a_start_that_the_daemon_loses_every_time_has_failed() {
    let mut now = Instant::now();
    let a: InstanceId = id("a");
    let mut roster = connected(now, &rust_peer());
    let _ = roster.start(now, start("a", 1));
    for attempt in 1..=ATTEMPTS {
        assert_eq!(sent(&mut roster), ["start a 1"], "attempt {attempt}");
        let _ = roster.handle_status(now, &status("a", 1, State::Preparing));
        now += STEP;
        roster.handle_handshake(now, &[], &rust_peer());
    }
    assert_eq!(
        (sent(&mut roster), roster.get(a).unwrap().state()),
        (vec![], State::Crashed)
    );
    assert!(events(&mut roster).iter().any(|event| matches!(
        event,
        InstanceEvent::StartFailed { failure, .. } if failure.error_code == FORGOTTEN
    )));
}

#[test]
fn a_rejection_ends_a_start_that_an_earlier_controller_sent() {
    let now = Instant::now();
    for before in [State::Scheduled, State::Preparing, State::Starting] {
        for adopted in [false, true] {
            let mut roster = crate::roster();
            if !adopted {
                let entry = prexorcloud_protocol::roster::RosterEntry {
                    start: start("a", 1),
                    state: before,
                    desired: prexorcloud_protocol::instance::Desired::Run,
                    lost: false,
                };
                assert!(roster.restore(now, [entry]).is_empty());
            }
            roster.handle_handshake(now, &[listed("a", 1, before)], &rust_peer());
            assert_eq!(sent(&mut roster), Vec::<String>::new());
            events(&mut roster);
            // An adopted one cannot be sent again, so there any rejection is final.
            let disposition = if adopted {
                StartFailureDisposition::Transient
            } else {
                StartFailureDisposition::Permanent
            };
            let judgement = roster.handle_start_ack(now, &start_failed("a", 1, disposition));
            assert!(judgement.is_accepted());
            assert_eq!(state(&roster, "a"), State::Crashed, "{before}");
            let told = events(&mut roster);
            assert!(
                matches!(&told[0], InstanceEvent::StartFailed { failure, .. } if failure.error_code == "START_FAILED")
            );
        }
    }
}

#[test]
fn a_rejection_never_touches_what_is_up() {
    let now = Instant::now();
    for disposition in [
        StartFailureDisposition::Transient,
        StartFailureDisposition::Permanent,
    ] {
        for draining in [false, true] {
            let mut roster = running(now, &rust_peer(), "a", 1);
            if draining {
                let _ = roster.drain(now, id("a"));
            }
            events(&mut roster);
            let before = roster.clone();
            let _ = roster.handle_start_ack(now, &start_failed("a", 1, disposition));
            let _ = roster.handle_start_ack(now, &start_failed("a", 0, disposition));
            assert!(roster == before, "{disposition:?}, draining: {draining}");
        }
    }
}

#[test]
fn a_rejection_without_an_incarnation_is_about_a_start_only_where_the_peer_names_none() {
    let now = Instant::now();
    let permanent = StartFailureDisposition::Permanent;
    for (peer, expected) in [(rust_peer(), State::Preparing), (java_peer(), State::Crashed)] {
        let mut roster = connected(now, &peer);
        let _ = roster.start(now, start("a", 1));
        assert_eq!(sent(&mut roster), ["start a 1"]);
        assert!(
            roster
                .handle_status(now, &status("a", 0, State::Preparing))
                .is_accepted()
        );
        let _ = roster.handle_start_ack(now, &start_failed("a", 0, permanent));
        assert_eq!(state(&roster, "a"), expected);
        let _ = roster.handle_start_ack(now, &start_failed("a", 1, permanent));
        assert_eq!(state(&roster, "a"), State::Crashed);
    }
}

#[test]
fn a_report_that_overtakes_the_poll_of_its_start_counts_as_its_arrival() {
    let now = Instant::now();
    for seen in [State::Preparing, State::Starting, State::Running] {
        let mut roster = connected(now, &rust_peer());
        let _ = roster.start(now, start("a", 1));
        assert!(roster.handle_status(now, &status("a", 1, seen)).is_accepted());
        let _ = roster.stop(now, id("a"), StopMode::Graceful);
        assert_eq!(sent(&mut roster), ["stop a 1"], "{seen}");
        assert_eq!(state(&roster, "a"), State::Stopping);
    }
}
