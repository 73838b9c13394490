//! The lifecycle of one incarnation
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

mod invariants;

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::lifecycle::{LATE_REPORT, MARGIN, ON_ITS_WAY, PREPARATION};
use prexorcloud_protocol::instance::{
    Cause, CrashVerdict, Desired, Input, Judgement, Lifecycle, LifecycleOutput, LifecycleTimer, Limits,
    Report, Spec, State, Transition, transition,
};
use prexorcloud_protocol::peer::{DaemonPeer, KILL_TIMEOUT as KILL};
use prexorcloud_protocol::proto::{Handshake, StartInstance};
use prexorcloud_protocol::{Capabilities, DeniedReason, Incarnation, StopMode, Verdict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const CURRENT: Incarnation = Incarnation::new(5);
const SECOND: Duration = Duration::from_secs(1);
const STARTUP: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(3600);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/lifecycle.txt",
        ))),
        ..ProptestConfig::default()
    }
}

/// A daemon that says everything, and leaves the startup deadline to the controller.
fn ours() -> DaemonPeer {
    DaemonPeer::of(
        Capabilities::INCARNATIONS
            .union(Capabilities::READINESS)
            .union(Capabilities::PREPARING_REPORTED),
    )
}

fn java() -> DaemonPeer {
    DaemonPeer::of(Capabilities::NONE)
}

fn spec(lifetime: Option<Duration>) -> Spec {
    Spec {
        instance: "lobby-1".parse().unwrap(),
        group: "lobby".parse().unwrap(),
        incarnation: CURRENT,
        port: 30_000,
        limits: Limits {
            lifetime,
            ..Limits::default()
        },
    }
}

/// A lifecycle that got to `state` by reports, over a stream of a peer that reports everything.
fn in_state(now: Instant, state: State) -> Lifecycle {
    let mut lifecycle = Lifecycle::new(now, spec(Some(LIFETIME)));
    lifecycle.handle_connected(now, ours());
    lifecycle.mark_dispatched();
    if state == State::Draining {
        let _ = lifecycle.handle_report(now, report(State::Running));
    }
    let _ = lifecycle.handle_report(now, report(state));
    drain(&mut lifecycle);
    assert_eq!(lifecycle.state(), state);
    lifecycle
}

fn report(state: State) -> Report {
    Report {
        incarnation: CURRENT,
        ..Report::of(state)
    }
}

fn drain(lifecycle: &mut Lifecycle) -> Vec<LifecycleOutput> {
    std::iter::from_fn(|| lifecycle.poll_output()).collect()
}

fn changed(from: State, to: State, cause: Cause) -> LifecycleOutput {
    LifecycleOutput::Changed { from, to, cause }
}

#[test]
fn every_report_in_every_state_follows_the_table() {
    let now = Instant::now();
    for state in State::ALL {
        for seen in State::ALL {
            let mut lifecycle = in_state(now, state);
            let judgement = lifecycle.handle_report(now, report(seen));
            let input = Input::Reported(seen);
            let expected = match transition(state, input) {
                Transition::To(to) => Judgement::Applied { from: state, to },
                Transition::Same => Judgement::Duplicate,
                Transition::Illegal => Judgement::Illegal { state, input },
            };
            assert_eq!(judgement, expected, "{state} reported {seen}");
        }
    }
}

#[test]
fn every_report_of_another_incarnation_changes_nothing() {
    let now = Instant::now();
    for state in State::ALL {
        for seen in State::ALL {
            let mut lifecycle = in_state(now, state);
            let before = lifecycle.clone();
            let older = Report {
                incarnation: Incarnation::new(4),
                player_count: 9,
                port: 1,
                ..Report::of(seen)
            };
            let newer = Report {
                incarnation: Incarnation::new(6),
                ..older
            };
            let stale = Judgement::Stale {
                given: older.incarnation,
                current: CURRENT,
            };
            assert_eq!(lifecycle.handle_report(now, older), stale);
            let ahead = Judgement::Newer {
                given: newer.incarnation,
                current: CURRENT,
            };
            assert_eq!(lifecycle.handle_report(now, newer), ahead);
            assert_eq!(
                lifecycle.handle_crash(now, older.incarnation),
                CrashVerdict::Stale
            );
            assert_eq!(
                lifecycle.handle_crash(now, newer.incarnation),
                CrashVerdict::Stale
            );
            assert_eq!(lifecycle, before, "{state} reported {seen}");
        }
    }
}

#[test]
fn a_peer_without_incarnations_is_judged_by_state_once_it_may_know_the_instance() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(now, spec(None));
    lifecycle.handle_connected(now, java());
    let late = lifecycle.handle_report(now, Report::of(State::Stopped));
    assert_eq!(
        late,
        Judgement::Stale {
            given: Incarnation::UNKNOWN,
            current: CURRENT
        },
        "of an earlier life"
    );
    assert_eq!(
        lifecycle.handle_crash(now, Incarnation::UNKNOWN),
        CrashVerdict::Stale
    );

    lifecycle.mark_dispatched();
    assert_eq!(
        lifecycle.handle_crash(now, Incarnation::UNKNOWN),
        CrashVerdict::Stale,
        "not even prepared yet"
    );
    assert!(
        lifecycle
            .handle_report(now, Report::of(State::Starting))
            .is_accepted()
    );
    assert_eq!(
        lifecycle.handle_crash(now, Incarnation::UNKNOWN),
        CrashVerdict::Current
    );
    assert_eq!(lifecycle.state(), State::Crashed);
    assert_eq!(
        lifecycle.handle_crash(now, Incarnation::UNKNOWN),
        CrashVerdict::Current,
        "status first, report second"
    );
}

#[test]
fn a_hanging_start_is_killed() {
    let now = Instant::now();
    for (state, limit, timer) in [
        (State::Preparing, PREPARATION, LifecycleTimer::Preparation),
        (State::Starting, STARTUP, LifecycleTimer::Startup),
    ] {
        let mut lifecycle = in_state(now, state);
        let deadline = lifecycle.poll_timeout().unwrap();
        assert_eq!((deadline.at, deadline.timer), (now + limit, timer));
        lifecycle.handle_timeout(deadline.at - Duration::from_nanos(1));
        assert_eq!(drain(&mut lifecycle), []);
        lifecycle.handle_timeout(deadline.at);
        assert_eq!(
            drain(&mut lifecycle),
            [
                LifecycleOutput::StartupTimedOut { limit },
                changed(state, State::Stopping, Cause::StartupTimedOut),
                LifecycleOutput::Stop(StopMode::Force)
            ]
        );
        assert_eq!(lifecycle.desired(), Desired::ForceStop);
    }
}

#[test]
fn the_startup_clock_starts_with_the_process_and_preparation_has_its_own() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Preparing);
    let _ = lifecycle.handle_report(now + STARTUP / 2, report(State::Preparing));
    assert_eq!(
        lifecycle.poll_timeout().unwrap().at,
        now + PREPARATION,
        "repeating it gains nothing"
    );
    let launched = now + 3 * STARTUP;
    let _ = lifecycle.handle_report(launched, report(State::Starting));
    assert_eq!(lifecycle.poll_timeout().unwrap().at, launched + STARTUP);
    let _ = lifecycle.handle_report(launched, report(State::Running));
    assert_eq!(lifecycle.poll_timeout().unwrap().timer, LifecycleTimer::Lifetime);

    let slow = Limits {
        startup: 2 * PREPARATION,
        ..Limits::default()
    };
    let mut lifecycle = Lifecycle::new(
        now,
        Spec {
            limits: slow,
            ..spec(None)
        },
    );
    lifecycle.handle_connected(now, ours());
    let _ = lifecycle.handle_report(now, report(State::Preparing));
    assert_eq!(
        lifecycle.poll_timeout().unwrap().at,
        now + 2 * PREPARATION,
        "never less than the startup"
    );
}

#[test]
fn a_daemon_that_keeps_the_startup_deadline_is_given_time_to_act_on_it() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(now, spec(None));
    lifecycle.handle_connected(now, DaemonPeer::of(Capabilities::SESSION));
    let _ = lifecycle.handle_report(now, report(State::Starting));
    let limit = STARTUP + GRACE + KILL + MARGIN;
    assert_eq!(lifecycle.poll_timeout().unwrap().at, now + limit);
    lifecycle.handle_timeout(now + limit);
    assert_eq!(
        lifecycle.poll_output(),
        Some(LifecycleOutput::StartupTimedOut { limit })
    );
}

#[test]
fn a_start_that_is_accepted_and_never_heard_of_again_is_given_up() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Scheduled);
    assert_eq!(lifecycle.poll_timeout(), None, "the ledger waits for the answer");
    lifecycle.handle_start_accepted(now);
    assert_eq!(lifecycle.poll_timeout().unwrap().at, now + PREPARATION);
    let _ = lifecycle.handle_report(now + STARTUP, report(State::Preparing));
    assert_eq!(
        lifecycle.poll_timeout().unwrap().at,
        now + STARTUP + PREPARATION,
        "now it prepares"
    );
}

#[test]
fn a_peer_that_never_reports_running_is_not_killed_for_it() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(now, spec(None));
    lifecycle.handle_connected(now, java());
    lifecycle.mark_dispatched();
    let _ = lifecycle.handle_report(now, Report::of(State::Preparing));
    assert_eq!(
        lifecycle.poll_timeout().unwrap().timer,
        LifecycleTimer::Preparation
    );
    let _ = lifecycle.handle_report(now, Report::of(State::Starting));
    assert_eq!(lifecycle.poll_timeout(), None);
    assert!(lifecycle.handle_ready(now).is_accepted());
    assert_eq!(lifecycle.state(), State::Running);
    assert_eq!(lifecycle.handle_ready(now), Judgement::Duplicate);
}

#[test]
fn a_stop_without_effect_becomes_a_kill_and_then_a_loss() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    assert_eq!(lifecycle.request_stop(now, StopMode::Graceful), Verdict::Accepted);
    assert_eq!(
        lifecycle.request_stop(now, StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
    assert_eq!(
        drain(&mut lifecycle),
        [
            changed(State::Running, State::Stopping, Cause::Requested),
            LifecycleOutput::Stop(StopMode::Graceful)
        ]
    );

    let overdue = now + ON_ITS_WAY + GRACE + KILL + MARGIN;
    assert_eq!(lifecycle.poll_timeout().unwrap().at, overdue);
    lifecycle.handle_timeout(overdue);
    assert_eq!(
        drain(&mut lifecycle),
        [
            LifecycleOutput::StopOverdue(StopMode::Graceful),
            LifecycleOutput::Stop(StopMode::Force)
        ]
    );

    let given_up = overdue + ON_ITS_WAY + KILL + MARGIN;
    assert_eq!(lifecycle.poll_timeout().unwrap().at, given_up);
    lifecycle.handle_timeout(given_up);
    assert_eq!(
        drain(&mut lifecycle),
        [
            LifecycleOutput::StopOverdue(StopMode::Force),
            changed(State::Stopping, State::Crashed, Cause::StopOverdue)
        ]
    );
    assert_eq!(lifecycle.poll_timeout(), None);
}

#[test]
fn a_stop_is_asked_for_again_as_long_as_the_daemons_own_figures_count_the_server() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    let _ = lifecycle.request_stop(now, StopMode::Force);
    drain(&mut lifecycle);
    lifecycle.note_lives(true);
    for round in 0..3 {
        let due = lifecycle.poll_timeout().unwrap().at;
        lifecycle.handle_timeout(due);
        let said = [LifecycleOutput::StillRuns].into_iter().filter(|_| round == 0);
        let expected: Vec<_> = said.chain([LifecycleOutput::Stop(StopMode::Force)]).collect();
        assert_eq!(drain(&mut lifecycle), expected);
        assert_eq!(lifecycle.state(), State::Stopping);
    }
    lifecycle.note_lives(false);
    let due = lifecycle.poll_timeout().unwrap().at;
    lifecycle.handle_timeout(due);
    assert!(lifecycle.is_lost(), "nothing says any more that it runs");
}

#[test]
fn a_stop_of_what_only_counts_as_ended_asks_the_daemon() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    lifecycle.handle_lost(now, Cause::Reconciled);
    drain(&mut lifecycle);
    assert_eq!(lifecycle.request_stop(now, StopMode::Graceful), Verdict::Accepted);
    assert_eq!(
        drain(&mut lifecycle),
        [
            changed(State::Crashed, State::Stopping, Cause::TakenBack),
            LifecycleOutput::Stop(StopMode::Graceful)
        ]
    );
    lifecycle.handle_stop_acknowledged(now, true);
    let due = lifecycle.poll_timeout().unwrap().at;
    lifecycle.handle_timeout(due);
    assert_eq!(lifecycle.state(), State::Stopped);
    assert_eq!(
        lifecycle.request_stop(now, StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
}

#[test]
fn a_lifetime_counts_from_starting_where_running_may_never_come() {
    let now = Instant::now();
    let hour = Duration::from_secs(3600);
    let mut lifecycle = Lifecycle::new(now, spec(Some(hour)));
    lifecycle.handle_connected(now, java());
    lifecycle.mark_dispatched();
    let _ = lifecycle.handle_report(now, Report::of(State::Starting));
    drain(&mut lifecycle);
    let deadline = lifecycle.poll_timeout().unwrap();
    assert_eq!(
        (deadline.at, deadline.timer),
        (now + hour, LifecycleTimer::Lifetime)
    );
    // It says so after all, by its plugin: the life began before.
    let _ = lifecycle.handle_ready(now + hour / 2);
    assert_eq!(lifecycle.poll_timeout().unwrap().at, now + hour);
    lifecycle.handle_timeout(now + hour);
    assert_eq!(lifecycle.state(), State::Stopping);

    let mut ours = Lifecycle::new(now, spec(Some(hour)));
    ours.handle_connected(now, self::ours());
    ours.mark_dispatched();
    let _ = ours.handle_report(now, report(State::Starting));
    assert_eq!(ours.poll_timeout().unwrap().timer, LifecycleTimer::Startup);
}

#[test]
fn force_shortens_a_stop_and_grace_does_not_lengthen_it() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    let _ = lifecycle.request_stop(now, StopMode::Graceful);
    drain(&mut lifecycle);
    assert_eq!(lifecycle.request_stop(now, StopMode::Force), Verdict::Accepted);
    assert_eq!(drain(&mut lifecycle), [LifecycleOutput::Stop(StopMode::Force)]);
    assert_eq!(
        lifecycle.poll_timeout().unwrap().at,
        now + ON_ITS_WAY + KILL + MARGIN
    );
    lifecycle.handle_stop_acknowledged(now, false);
    assert_eq!(lifecycle.poll_timeout().unwrap().at, now + KILL + MARGIN);
    assert_eq!(
        lifecycle.request_stop(now, StopMode::Graceful),
        Verdict::AlreadyInEffect
    );
    assert_eq!(lifecycle.desired(), Desired::ForceStop);
}

#[test]
fn a_conclusive_acknowledgement_without_last_words_means_stopped() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    let _ = lifecycle.request_stop(now, StopMode::Graceful);
    drain(&mut lifecycle);
    lifecycle.handle_stop_acknowledged(now, true);
    let deadline = lifecycle.poll_timeout().unwrap();
    assert_eq!(deadline.at, now + LATE_REPORT);
    lifecycle.handle_timeout(deadline.at);
    assert_eq!(
        drain(&mut lifecycle),
        [changed(State::Stopping, State::Stopped, Cause::StopAcknowledged)]
    );
}

#[test]
fn a_full_life_ends_with_a_graceful_stop() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    assert_eq!(lifecycle.poll_timeout().unwrap().at, now + LIFETIME);
    let half = now + LIFETIME / 4;
    let _ = lifecycle.handle_report(
        half,
        Report {
            uptime: LIFETIME / 2,
            ..report(State::Running)
        },
    );
    let end = half + LIFETIME / 2;
    assert_eq!(
        lifecycle.poll_timeout().unwrap().at,
        end,
        "counted from the start of the process"
    );
    lifecycle.handle_disconnected(end);
    lifecycle.handle_timeout(end);
    assert_eq!(
        drain(&mut lifecycle),
        [
            LifecycleOutput::LifetimeOver,
            changed(State::Running, State::Stopping, Cause::LifetimeOver),
            LifecycleOutput::Stop(StopMode::Graceful)
        ],
        "our own plan does not wait for the stream"
    );
    assert_eq!(lifecycle.poll_timeout(), None, "but the daemon's answer does");
}

#[test]
fn a_drain_survives_reports_and_ends_when_it_is_taken_back() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    assert_eq!(lifecycle.request_drain(now), Verdict::Accepted);
    assert_eq!(lifecycle.request_drain(now), Verdict::AlreadyInEffect);
    let players = Report {
        player_count: 3,
        ..report(State::Running)
    };
    assert_eq!(lifecycle.handle_report(now, players), Judgement::Duplicate);
    assert_eq!(
        (lifecycle.state(), lifecycle.player_count()),
        (State::Draining, 3)
    );
    assert_eq!(lifecycle.cancel_drain(now), Verdict::Accepted);
    assert_eq!(lifecycle.cancel_drain(now), Verdict::AlreadyInEffect);
    assert_eq!(lifecycle.state(), State::Running);

    let denied = Verdict::Denied(DeniedReason::WrongState {
        state: State::Starting,
    });
    assert_eq!(in_state(now, State::Starting).request_drain(now), denied);
    let ended = Verdict::Denied(DeniedReason::AlreadyEnded);
    assert_eq!(in_state(now, State::Stopped).request_drain(now), ended);
}

#[test]
fn waiting_timers_rest_without_a_stream() {
    let now = Instant::now();
    let long = now + Duration::from_secs(7 * 24 * 3600);
    let mut starting = in_state(now, State::Starting);
    starting.handle_disconnected(now);
    assert_eq!(starting.poll_timeout(), None);
    starting.handle_timeout(long);
    assert_eq!(drain(&mut starting), []);
    starting.handle_connected(long, ours());
    assert_eq!(
        starting.poll_timeout().unwrap().at,
        long + STARTUP,
        "nobody could have acted meanwhile"
    );
    let _ = starting.handle_listed(long, report(State::Running));
    starting.handle_timeout(long);
    assert_eq!(starting.state(), State::Running);

    let mut stopping = in_state(now, State::Running);
    stopping.handle_disconnected(now);
    let _ = stopping.request_stop(now, StopMode::Graceful);
    stopping.handle_timeout(long);
    assert_eq!(stopping.state(), State::Stopping);
    stopping.handle_connected(long, ours());
    assert_eq!(
        stopping.poll_timeout().unwrap().at,
        long + ON_ITS_WAY + GRACE + KILL + MARGIN
    );
}

#[test]
fn a_graceful_stop_gets_its_grace_again_after_a_reconnect() {
    let now = Instant::now();
    let lost = now + GRACE;
    let back = now + Duration::from_secs(3600);
    let mut stopping = in_state(now, State::Running);
    let _ = stopping.request_stop(now, StopMode::Graceful);
    drain(&mut stopping);
    assert!(stopping.handle_report(now, report(State::Stopping)).is_accepted());
    stopping.handle_disconnected(lost);
    stopping.handle_connected(back, ours());
    let full = back + GRACE + KILL + MARGIN;
    let unheard = full + ON_ITS_WAY;
    let mut begun = stopping.clone();

    let _ = stopping.handle_listed(back, report(State::Running));
    assert_eq!(stopping.poll_timeout().unwrap().at, unheard, "the order was lost");
    stopping.handle_timeout(unheard - Duration::from_nanos(1));
    assert_eq!(drain(&mut stopping), []);

    assert!(begun.handle_listed(back, report(State::Stopping)).is_accepted());
    assert_eq!(
        begun.poll_timeout().unwrap().at,
        back + KILL + MARGIN,
        "what was left"
    );

    let mut restored = Lifecycle::restored(now, spec(None), State::Running, Desired::Stop);
    restored.handle_connected(back, ours());
    let _ = restored.handle_listed(back, report(State::Stopping));
    assert_eq!(
        restored.poll_timeout().unwrap().at,
        full,
        "nobody knows what was left"
    );
}

#[test]
fn a_grace_begins_when_the_daemon_has_shown_that_it_has_the_order() {
    let now = Instant::now();
    let heard = now + Duration::from_secs(80);
    type Showing = fn(&mut Lifecycle, Instant);
    let showings: [Showing; 3] = [
        |lifecycle, now| {
            assert!(
                lifecycle
                    .handle_report(now, report(State::Stopping))
                    .is_accepted()
            )
        },
        |lifecycle, now| lifecycle.handle_stop_acknowledged(now, false),
        |lifecycle, now| lifecycle.handle_stop_heard(now),
    ];
    for show in showings {
        let mut lifecycle = in_state(now, State::Running);
        assert_eq!(lifecycle.request_stop(now, StopMode::Graceful), Verdict::Accepted);
        drain(&mut lifecycle);
        // The link to the daemon stalls for a while, and nobody can tell yet.
        lifecycle.handle_timeout(heard);
        assert_eq!(
            drain(&mut lifecycle),
            [],
            "a kill would arrive together with the stop"
        );
        show(&mut lifecycle, heard);
        let full = heard + GRACE + KILL + MARGIN;
        assert_eq!(lifecycle.poll_timeout().unwrap().at, full);
        show(&mut lifecycle, heard + SECOND);
        assert_eq!(lifecycle.poll_timeout().unwrap().at, full, "and once");
    }
}

#[test]
fn a_forced_stop_is_given_its_time_again_after_a_reconnect() {
    let now = Instant::now();
    let back = now + Duration::from_secs(3600);
    let mut killed = in_state(now, State::Running);
    let _ = killed.request_stop(now, StopMode::Force);
    killed.handle_disconnected(now + KILL);
    killed.handle_connected(back, ours());
    let _ = killed.handle_listed(back, report(State::Stopping));
    assert_eq!(killed.poll_timeout().unwrap().at, back + KILL + MARGIN);
    killed.handle_timeout(back);
    assert!(!killed.is_terminal());
}

#[test]
fn silence_judges_nobody() {
    let now = Instant::now();
    let long = now + Duration::from_secs(3600);
    for (state, limit) in [(State::Preparing, PREPARATION), (State::Starting, STARTUP)] {
        let mut coming = in_state(now, state);
        coming.handle_silence();
        assert_eq!(coming.poll_timeout(), None);
        coming.handle_timeout(long);
        assert_eq!(coming.state(), state);
        coming.handle_heard(long);
        assert_eq!(coming.poll_timeout().unwrap().at, long + limit);
        coming.handle_heard(long + SECOND);
        assert_eq!(
            coming.poll_timeout().unwrap().at,
            long + limit,
            "it was not silent any more"
        );
    }
    for (mode, limit) in [
        (StopMode::Graceful, ON_ITS_WAY + GRACE + KILL + MARGIN),
        (StopMode::Force, ON_ITS_WAY + KILL + MARGIN),
    ] {
        let mut stopping = in_state(now, State::Running);
        let _ = stopping.request_stop(now, mode);
        stopping.handle_silence();
        drain(&mut stopping);
        stopping.handle_timeout(long);
        assert_eq!((drain(&mut stopping), stopping.poll_timeout()), (vec![], None));
        stopping.handle_heard(long);
        assert_eq!(stopping.poll_timeout().unwrap().at, long + limit);
    }
    let mut asked = in_state(now, State::Running);
    asked.handle_silence();
    assert_eq!(
        asked.poll_timeout().unwrap().timer,
        LifecycleTimer::Lifetime,
        "a plan of our own goes on"
    );
    let _ = asked.request_stop(now, StopMode::Graceful);
    asked.handle_timeout(long);
    assert_eq!(asked.desired(), Desired::Stop, "asked for while it was silent");
}

#[test]
fn a_restored_wish_to_stop_is_a_stop() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::restored(now, spec(None), State::Running, Desired::Stop);
    assert_eq!(lifecycle.state(), State::Stopping);
    lifecycle.handle_connected(now, ours());
    assert_eq!(lifecycle.poll_timeout().unwrap().timer, LifecycleTimer::Stop);
    let ended = Lifecycle::restored(now, spec(None), State::Stopped, Desired::Stop);
    assert_eq!(ended.state(), State::Stopped);
}

#[test]
fn unpolled_changes_are_told_as_one() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Scheduled);
    for state in [State::Preparing, State::Starting, State::Running] {
        let _ = lifecycle.handle_report(now, report(state));
    }
    assert_eq!(
        drain(&mut lifecycle),
        [changed(State::Scheduled, State::Running, Cause::Reported)]
    );
}

#[test]
fn news_comes_in_the_order_in_which_it_came_about() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    let late = now + LIFETIME + SECOND;
    assert_eq!(lifecycle.request_drain(now), Verdict::Accepted);
    lifecycle.handle_timeout(late);
    lifecycle.handle_timeout(late + ON_ITS_WAY + GRACE + KILL + MARGIN);
    assert_eq!(
        drain(&mut lifecycle),
        [
            LifecycleOutput::LifetimeOver,
            changed(State::Running, State::Stopping, Cause::LifetimeOver),
            LifecycleOutput::StopOverdue(StopMode::Graceful),
            LifecycleOutput::Stop(StopMode::Force),
        ]
    );
}

#[test]
fn a_daemon_that_takes_longer_to_kill_is_given_the_time() {
    let now = Instant::now();
    let minute = Handshake {
        kill_timeout_seconds: 60,
        ..Handshake::default()
    };
    let patient = DaemonPeer::from_handshake(&minute, Capabilities::SESSION);
    for (state, until_forced) in [(State::Running, GRACE), (State::Starting, STARTUP + GRACE)] {
        let mut lifecycle = in_state(now, state);
        lifecycle.handle_connected(now, patient);
        if state == State::Running {
            assert_eq!(lifecycle.request_stop(now, StopMode::Graceful), Verdict::Accepted);
            assert!(
                lifecycle
                    .handle_report(now, report(State::Stopping))
                    .is_accepted()
            );
        }
        let forced = now + until_forced + 60 * SECOND + MARGIN;
        assert_eq!(lifecycle.poll_timeout().unwrap().at, forced, "{state}");
        lifecycle.handle_timeout(forced);
        assert_eq!(lifecycle.desired(), Desired::ForceStop);
        assert_eq!(
            lifecycle.poll_timeout().unwrap().at,
            forced + ON_ITS_WAY + 60 * SECOND + MARGIN
        );
    }
    for (said, meant) in [(0, 10), (1, 1), (u32::MAX, 24 * 3600)] {
        let handshake = Handshake {
            kill_timeout_seconds: said,
            ..Handshake::default()
        };
        let peer = DaemonPeer::from_handshake(&handshake, Capabilities::NONE);
        assert_eq!(peer.kill_timeout, Duration::from_secs(meant));
    }
}

#[test]
fn there_and_back_is_no_change() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    assert_eq!(lifecycle.request_drain(now), Verdict::Accepted);
    assert_eq!(lifecycle.cancel_drain(now), Verdict::Accepted);
    assert_eq!(drain(&mut lifecycle), []);
}

#[test]
fn a_drain_does_not_lengthen_a_life() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    let due = lifecycle.poll_timeout();
    assert_eq!(due.map(|due| due.at), Some(now + LIFETIME));
    assert_eq!(lifecycle.request_drain(now + GRACE), Verdict::Accepted);
    assert_eq!(lifecycle.poll_timeout(), due);
}

#[test]
fn a_stop_that_is_taken_back_before_it_left_does_not_leave() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Starting);
    lifecycle.handle_timeout(now + STARTUP);
    assert_eq!(lifecycle.desired(), Desired::ForceStop);
    assert!(
        lifecycle
            .handle_report(now + STARTUP, report(State::Running))
            .is_accepted()
    );
    assert_eq!(
        drain(&mut lifecycle),
        [
            LifecycleOutput::StartupTimedOut { limit: STARTUP },
            changed(State::Starting, State::Running, Cause::TakenBack),
        ]
    );
}

#[test]
fn nothing_is_expected_of_a_start_that_nobody_has_accepted() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(now, spec(None));
    lifecycle.handle_connected(now, ours());
    lifecycle.mark_dispatched();
    lifecycle.handle_silence();
    lifecycle.handle_heard(now + SECOND);
    assert_eq!(lifecycle.poll_timeout(), None);
}

#[test]
fn no_players_is_a_fact_only_from_a_daemon_that_counts_them() {
    let now = Instant::now();
    for (peer, players) in [(ours(), 0), (java(), 7)] {
        let mut lifecycle = in_state(now, State::Running);
        lifecycle.handle_connected(now, peer);
        for player_count in [7, 0] {
            let report = Report {
                player_count,
                ..report(State::Running)
            };
            assert!(lifecycle.handle_report(now, report).is_accepted());
        }
        assert_eq!(lifecycle.player_count(), players);
    }
}

#[test]
fn what_has_been_superseded_is_not_taken_back() {
    let now = Instant::now();
    for (cause, is_lost) in [(Cause::Superseded, false), (Cause::DeclaredLost, true)] {
        let mut lifecycle = in_state(now, State::Running);
        lifecycle.handle_lost(now, cause);
        assert_eq!(
            (lifecycle.state(), lifecycle.is_lost()),
            (State::Crashed, is_lost)
        );
        let judgement = lifecycle.handle_report(now, report(State::Running));
        assert_eq!(judgement.is_accepted(), is_lost);
    }
}

#[test]
fn a_late_rejection_ends_a_stop_only_where_no_process_was_seen() {
    let now = Instant::now();
    let all = [
        State::Scheduled,
        State::Preparing,
        State::Starting,
        State::Running,
    ];
    for (state, is_launched) in all.into_iter().zip([false, false, true, true]) {
        let mut stopping = in_state(now, state);
        assert_eq!(stopping.request_stop(now, StopMode::Graceful), Verdict::Accepted);
        let mut seen = stopping.clone();
        stopping.handle_start_failed(now);
        assert_eq!(stopping.state() == State::Stopping, is_launched, "{state}");

        // Only a process can be seen to stop.
        assert!(seen.handle_report(now, report(State::Stopping)).is_accepted());
        seen.handle_start_failed(now);
        assert_eq!(seen.state(), State::Stopping, "{state}");

        let mut restored = Lifecycle::restored(now, spec(None), state, Desired::Stop);
        restored.handle_start_failed(now);
        assert_eq!(restored.state() == State::Stopping, is_launched, "{state}");
    }
}

#[test]
fn nobody_is_asked_to_stop_what_has_ended() {
    let now = Instant::now();
    let mut lifecycle = in_state(now, State::Running);
    assert_eq!(lifecycle.request_stop(now, StopMode::Graceful), Verdict::Accepted);
    let _ = lifecycle.handle_report(now, report(State::Stopped));
    assert_eq!(
        drain(&mut lifecycle),
        [changed(State::Running, State::Stopped, Cause::Reported)]
    );
}

#[test]
fn limits_come_from_the_start_message() {
    let start = StartInstance {
        startup_timeout_seconds: 120,
        shutdown_grace_seconds: i32::MAX,
        max_lifetime_seconds: -1,
        ..Default::default()
    };
    let limits = Limits::of(&start);
    assert_eq!(limits.startup.as_secs(), 120);
    assert_eq!(limits.grace.as_secs(), i32::MAX as u64);
    assert_eq!(limits.lifetime, None);
    assert_eq!(Limits::of(&StartInstance::default()), Limits::default());
}

#[test]
fn endless_durations_do_not_overflow() {
    let now = Instant::now();
    let limits = Limits {
        startup: Duration::MAX,
        grace: Duration::MAX,
        lifetime: Some(Duration::MAX),
    };
    let mut lifecycle = Lifecycle::new(now, Spec { limits, ..spec(None) });
    lifecycle.handle_connected(now, ours());
    lifecycle.mark_dispatched();
    for state in [State::Preparing, State::Running] {
        let _ = lifecycle.handle_report(
            now,
            Report {
                uptime: Duration::MAX,
                ..report(state)
            },
        );
    }
    let _ = lifecycle.request_stop(now, StopMode::Graceful);
    assert_eq!(lifecycle.poll_timeout(), None, "never is never");
    let _ = lifecycle.request_stop(now, StopMode::Force);
    assert!(lifecycle.poll_timeout().is_some());
}
