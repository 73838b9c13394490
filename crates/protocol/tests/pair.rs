//! Two whole sessions against each other: one behaviour per test
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::daemon::HandshakeFailure;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::controller::REPLACED;
use prexorcloud_protocol::proto::{DaemonMessage, InstanceStatusUpdate, daemon_message};
use prexorcloud_protocol::session::controller::ControllerOutcome;
use prexorcloud_protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonOutcome,
    DaemonSession, InstanceId, NodeId, Session as _,
};
use prexorcloud_testkit::{Action, Behaviour, Clock, Direction, Garbage, Pair, Peers, Scenario, Side};

const LOBBY: &str = "lobby-1";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn lobby() -> InstanceId {
    LOBBY.parse().unwrap()
}

fn connected(seed: u64) -> Pair {
    let mut pair = Pair::new(seed);
    pair.run_until(30 * SECOND, Pair::is_established).unwrap();
    pair
}

fn running(seed: u64, behaviour: Behaviour) -> Pair {
    let mut pair = connected(seed);
    pair.start(LOBBY, behaviour).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    pair
}

fn apply(pair: &mut Pair, action: &str) {
    pair.apply(&action.parse().unwrap()).unwrap();
}

/// Loses everything on its way; both sides notice at once.
fn cut(pair: &mut Pair) {
    apply(pair, "break keep 0 up 0 down noticed by daemon 0s controller 0s");
    pair.run_for(Duration::ZERO).unwrap();
    assert!(!pair.is_established());
}

fn reconnected(pair: &mut Pair) {
    pair.run_until(5 * MINUTE, Pair::is_established).unwrap();
}

fn launches(pair: &Pair) -> usize {
    pair.daemon().facts.launches.len()
}

#[test]
fn an_instance_lives_its_whole_life() {
    let mut pair = running(1, Behaviour::default());
    apply(&mut pair, "stop lobby-1");
    pair.run_until(30 * SECOND, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.come_to_rest().unwrap();
    let changes: Vec<_> = pair
        .log()
        .matching("lobby-1#1")
        .filter(|line| line.contains("->"))
        .collect();
    let states = ["PREPARING", "STARTING", "RUNNING", "STOPPING", "STOPPED"];
    for state in states {
        assert!(
            changes.iter().any(|line| line.contains(&format!("-> {state}"))),
            "{state} in {changes:#?}"
        );
    }
}

#[test]
fn a_silent_controller_is_given_up_after_three_intervals_and_dialled_again() {
    let mut pair = connected(2);
    apply(
        &mut pair,
        "break keep 0 up 0 down noticed by daemon 10h controller 10h",
    );
    let cut_at = pair.now();
    let silent = |pair: &Pair| {
        matches!(
            pair.daemon().facts.last_outcome,
            Some(DaemonOutcome::ControllerSilent { .. })
        )
    };
    pair.run_until(3 * MINUTE, silent).unwrap();
    let waited = pair.now() - cut_at;
    assert!(waited > 60 * SECOND && waited <= 91 * SECOND, "{waited:?}");
    reconnected(&mut pair);
    // The controller never saw the old stream end; the new one replaced it.
    let outcomes: Vec<_> = pair.controller().facts.closed.values().flatten().collect();
    let replaced = Close::new(Code::Aborted, REPLACED);
    assert_eq!(outcomes, [&ControllerOutcome::Ended(replaced)]);
}

#[test]
fn a_silent_daemon_is_unreachable_once_and_recovers_once() {
    let mut pair = connected(3);
    apply(&mut pair, "stall up");
    pair.run_for(5 * MINUTE).unwrap();
    assert_eq!(
        (
            pair.controller().facts.unreachable,
            pair.controller().facts.recovered
        ),
        (1, 0)
    );
    apply(&mut pair, "resume");
    pair.run_for(SECOND).unwrap();
    assert_eq!(
        (
            pair.controller().facts.unreachable,
            pair.controller().facts.recovered
        ),
        (1, 1)
    );
    assert!(pair.is_established());
}

#[test]
fn a_reconnect_during_preparation_keeps_the_instance() {
    let mut pair = connected(4);
    pair.start(
        LOBBY,
        Behaviour {
            prepare: 20 * SECOND,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.run_until(SECOND, |pair| pair.believed(LOBBY) == Some(State::Preparing))
        .unwrap();
    cut(&mut pair);
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Preparing));
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    assert_eq!(launches(&pair), 1);
    assert_eq!(pair.log().matching("daemon prepares").count(), 1);
}

#[test]
fn a_start_that_is_lost_with_the_stream_is_sent_again() {
    let mut pair = connected(5);
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_until(SECOND, |pair| {
        pair.log().matching("-> StartInstance").next().is_some()
    })
    .unwrap();
    assert_eq!(pair.real(LOBBY), None);
    cut(&mut pair);
    pair.run_until(5 * MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    assert_eq!(launches(&pair), 1);
}

#[test]
fn a_stop_that_is_lost_with_the_stream_is_sent_again() {
    let mut pair = running(6, Behaviour::default());
    apply(&mut pair, "stop lobby-1");
    pair.run_until(SECOND, |pair| {
        pair.log().matching("-> StopInstance").next().is_some()
    })
    .unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    cut(&mut pair);
    pair.run_until(5 * MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Stopped));
}

#[test]
fn a_clean_stop_during_a_disconnect_is_stopped_not_crashed() {
    let mut pair = running(
        7,
        Behaviour {
            stop: Some(3 * SECOND),
            ..Behaviour::default()
        },
    );
    apply(&mut pair, "stop lobby-1");
    pair.run_until(SECOND, |pair| pair.real(LOBBY) == Some(State::Stopping))
        .unwrap();
    apply(&mut pair, "partition");
    cut(&mut pair);
    pair.run_for(10 * SECOND).unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Stopped));
    apply(&mut pair, "heal");
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Stopped));
    assert!(pair.store().crashes.is_empty());
}

#[test]
fn an_exit_with_code_0_during_a_disconnect_is_stopped_not_lost() {
    let mut pair = running(8, Behaviour::default());
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "exit lobby-1");
    apply(&mut pair, "wait 1s");
    apply(&mut pair, "heal");
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Stopped));
}

#[test]
fn a_crash_report_across_three_reconnects_is_stored_once() {
    let mut pair = running(9, Behaviour::default());
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "crash lobby-1");
    apply(&mut pair, "heal");
    for attempt in 1..=3 {
        // The report gets through each time, the acknowledgement never.
        let sent = move |pair: &Pair| pair.log().matching("<- CrashReport").count() == attempt;
        pair.run_until(5 * MINUTE, sent).unwrap();
        cut(&mut pair);
    }
    pair.come_to_rest().unwrap();
    assert!(pair.log().matching("<- CrashReport").count() >= 4);
    assert_eq!(pair.store().crashes.len(), 1);
    assert_eq!(pair.daemon().facts.forgotten, ["crash-1"]);
}

#[test]
fn a_crash_while_the_daemon_is_down_is_reported_after_it_came_back() {
    let mut pair = running(10, Behaviour::default());
    apply(&mut pair, "restart-daemon 10s");
    apply(&mut pair, "crash lobby-1");
    pair.come_to_rest().unwrap();
    assert_eq!(pair.believed(LOBBY), Some(State::Crashed));
    assert_eq!(pair.store().crashes.len(), 1);
}

#[test]
fn a_deposed_controller_is_refused() {
    let mut pair = running(11, Behaviour::default());
    apply(&mut pair, "failover");
    cut(&mut pair);
    reconnected(&mut pair);
    assert_eq!(pair.highest_epoch(), 2);
    apply(&mut pair, "dial-deposed");
    cut(&mut pair);
    let refused = |pair: &Pair| {
        matches!(
            pair.daemon().facts.last_outcome,
            Some(DaemonOutcome::Handshake(HandshakeFailure::Stale(_)))
        )
    };
    pair.run_until(5 * MINUTE, refused).unwrap();
    reconnected(&mut pair);
    assert_eq!(pair.real(LOBBY), Some(State::Running));
}

#[test]
fn a_deposed_controller_stops_nothing() {
    let mut pair = running(12, Behaviour::default());
    apply(&mut pair, "failover");
    cut(&mut pair);
    reconnected(&mut pair);
    apply(&mut pair, "inject down stale");
    apply(&mut pair, "deposed-stops-all");
    pair.come_to_rest().unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    assert!(pair.controller().facts.daemon_errors.contains_key("STALE_EPOCH"));
}

#[test]
fn the_fence_outlives_the_daemon() {
    let mut pair = connected(13);
    apply(&mut pair, "failover");
    cut(&mut pair);
    reconnected(&mut pair);
    apply(&mut pair, "dial-deposed");
    apply(&mut pair, "restart-daemon 1s");
    let refused = |pair: &Pair| {
        matches!(
            pair.daemon().facts.last_outcome,
            Some(DaemonOutcome::Handshake(HandshakeFailure::Stale(_)))
        )
    };
    pair.run_until(MINUTE, refused).unwrap();
}

#[test]
fn late_messages_of_the_old_stream_do_not_spoil_the_new_handshake() {
    let mut pair = connected(14);
    pair.start(
        LOBBY,
        Behaviour {
            startup: Some(SECOND / 10),
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.run_until(SECOND, |pair| pair.believed(LOBBY) == Some(State::Preparing))
        .unwrap();
    // What is said now takes a while, and the daemon does not wait for it.
    apply(&mut pair, "latency 5s 0s");
    pair.run_until(30 * SECOND, |pair| pair.real(LOBBY) == Some(State::Starting))
        .unwrap();
    apply(&mut pair, "latency 1ms 0s");
    apply(&mut pair, "slow-admission 9s");
    apply(
        &mut pair,
        "break keep 9 up 0 down noticed by daemon 0s controller 10h",
    );
    pair.run_for(Duration::ZERO).unwrap();
    reconnected(&mut pair);
    let line = |text: &str| {
        pair.log()
            .lines()
            .iter()
            .position(|line| line.contains(text))
            .unwrap()
    };
    let handshake = line("2 controller 1 <- Handshake");
    let late = line("1 controller 1 <- InstanceStatusUpdate lobby-1#1 STARTING");
    let accepted = line("controller 1: stream 2: Established");
    assert!(handshake < late && late < accepted);
    pair.run_until(SECOND, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    assert!(pair.controller().facts.ignored.is_empty());
    pair.come_to_rest().unwrap();
}

#[test]
fn a_daemon_that_does_not_read_is_closed_as_a_slow_peer() {
    let mut pair = running(15, Behaviour::default());
    apply(&mut pair, "narrow 200");
    apply(&mut pair, "stall down");
    for _ in 0..400 {
        apply(&mut pair, "command lobby-1 say hello");
    }
    let slow = |pair: &Pair| {
        pair.controller()
            .facts
            .closed
            .values()
            .flatten()
            .any(|end| matches!(end, ControllerOutcome::SlowPeer(_)))
    };
    pair.run_until(MINUTE, slow).unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Running));
}

#[test]
fn a_console_that_is_too_fast_loses_lines_visibly_and_nothing_else() {
    let mut pair = running(16, Behaviour::default());
    apply(&mut pair, "narrow 500");
    apply(&mut pair, "flood lobby-1 5000");
    apply(&mut pair, "stop lobby-1");
    // A stop and its answers do not wait behind the flood.
    pair.run_until(30 * SECOND, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.come_to_rest().unwrap();
    assert!(pair.controller().facts.gap_records > 0);
    assert!(pair.controller().facts.console_lines < 5_000);
    assert!(pair.is_established());
}

#[test]
fn versions_that_do_not_fit_end_in_upgrade_required_on_both_sides() {
    let now = Clock::new().at(Duration::ZERO);
    for version in [0, -1, 7] {
        let node = NodeId::new("node-1").unwrap();
        let mut daemon = DaemonSession::new(
            DaemonConfig::new(node, "test"),
            Hosted::new(),
            EpochFence::default(),
        );
        let mut controller = ControllerSession::new(ControllerConfig::default(), node, 1);
        daemon.handle_connected(now);
        controller.handle_connected(now);
        let mut first = daemon.poll_transmit().unwrap();
        if let Some(daemon_message::Payload::Handshake(handshake)) = &mut first.payload {
            (handshake.protocol_version, handshake.min_protocol_version) = (version, version);
        }
        controller.handle_message(now, first.into());
        let answer = controller.poll_transmit().unwrap();
        assert_eq!(
            controller.close().unwrap().code,
            Code::FailedPrecondition,
            "version {version}"
        );
        assert!(matches!(
            controller.poll_event(),
            Some(ControllerEvent::Closed(ControllerOutcome::Refused(_)))
        ));
        daemon.handle_message(now, answer.into());
        assert!(daemon.close().is_some());
        daemon.handle_disconnected(now);
        let outcome = daemon.last_outcome().unwrap();
        assert!(
            matches!(
                outcome,
                DaemonOutcome::Handshake(HandshakeFailure::UpgradeRequired(_))
            ),
            "version {version}: {outcome:?}"
        );
        assert!(!outcome.reached_established());
    }
}

#[test]
fn a_redirected_daemon_says_where_to() {
    let mut pair = Pair::new(17);
    apply(&mut pair, "redirect");
    let redirected = |pair: &Pair| {
        matches!(
            &pair.daemon().facts.last_outcome,
            Some(DaemonOutcome::Handshake(HandshakeFailure::Redirected { to, .. })) if to == "leader.example:9090"
        )
    };
    pair.run_until(30 * SECOND, redirected).unwrap();
    reconnected(&mut pair);
}

#[test]
fn an_admission_that_takes_too_long_ends_the_stream_on_both_sides() {
    let mut pair = Pair::new(18);
    apply(&mut pair, "slow-admission 15s");
    let timed_out = |pair: &Pair| {
        matches!(
            pair.daemon().facts.last_outcome,
            Some(DaemonOutcome::Handshake(HandshakeFailure::AckTimedOut { .. }))
        )
    };
    pair.run_until(30 * SECOND, timed_out).unwrap();
    reconnected(&mut pair);
    pair.come_to_rest().unwrap();
}

#[test]
fn a_second_handshake_ends_the_stream() {
    let mut pair = running(19, Behaviour::default());
    apply(&mut pair, "inject up repeated");
    pair.run_until(SECOND, |pair| !pair.is_established()).unwrap();
    let outcomes: Vec<_> = pair.controller().facts.closed.values().flatten().collect();
    assert!(
        matches!(outcomes.as_slice(), [ControllerOutcome::Refused(_)]),
        "{outcomes:?}"
    );
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
}

#[test]
fn a_second_acknowledgement_ends_the_stream() {
    let mut pair = running(20, Behaviour::default());
    apply(&mut pair, "inject down repeated");
    pair.run_until(SECOND, |pair| !pair.is_established()).unwrap();
    assert_eq!(
        pair.daemon().facts.last_outcome,
        Some(DaemonOutcome::AcknowledgedTwice)
    );
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
}

#[test]
fn unknown_variants_are_reported_once_per_tag_and_harm_nothing() {
    let mut pair = running(21, Behaviour::default());
    for direction in [Direction::Up, Direction::Down] {
        for tag in [100, 101, 100, 100] {
            pair.apply(&Action::Inject(direction, Garbage::UnknownVariant(tag)))
                .unwrap();
        }
    }
    pair.run_for(SECOND).unwrap();
    assert_eq!(
        pair.controller().facts.ignored.len(),
        2,
        "{:?}",
        pair.controller().facts.ignored
    );
    assert_eq!(pair.log().matching("daemon ignores").count(), 2);
    assert_eq!(pair.daemon().session().unwrap().unknown_variants(), 4);
    assert!(pair.is_established());
}

#[test]
fn garbage_is_answered_and_changes_nothing() {
    let mut pair = running(22, Behaviour::default());
    for direction in [Direction::Up, Direction::Down] {
        for garbage in [
            Garbage::Empty,
            Garbage::UnsafeId,
            Garbage::TooLong,
            Garbage::OutOfRange,
            Garbage::Stranger,
        ] {
            pair.apply(&Action::Inject(direction, garbage)).unwrap();
        }
    }
    apply(&mut pair, "inject up stale");
    pair.run_for(SECOND).unwrap();
    assert_eq!(
        pair.controller().facts.ignored.len(),
        6,
        "{:#?}",
        pair.controller().facts.ignored
    );
    let errors = &pair.controller().facts.daemon_errors;
    assert_eq!(errors.get("UNKNOWN_INSTANCE"), Some(&1), "{errors:?}");
    assert_eq!(
        errors.get("INVALID_MESSAGE"),
        Some(&1),
        "the unsafe id; the error that is too long is not answered: {errors:?}"
    );
    assert!(pair.is_established());
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
}

#[test]
fn instances_outlive_the_daemon() {
    let mut pair = running(
        23,
        Behaviour {
            lines: 200,
            every: SECOND / 2,
            ..Behaviour::default()
        },
    );
    apply(&mut pair, "restart-daemon 10s");
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
    pair.come_to_rest().unwrap();
    assert_eq!(launches(&pair), 1);
    assert!(pair.controller().facts.console_lines > 100);
}

#[test]
fn a_preparation_dies_with_the_daemon_and_the_start_is_not_forgotten_by_the_controller() {
    let mut pair = connected(24);
    pair.start(
        LOBBY,
        Behaviour {
            prepare: 20 * SECOND,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.run_until(SECOND, |pair| pair.believed(LOBBY) == Some(State::Preparing))
        .unwrap();
    apply(&mut pair, "restart-daemon 1s");
    pair.come_to_rest().unwrap();
    assert!(
        matches!(pair.believed(LOBBY), Some(State::Crashed | State::Running)),
        "{pair}"
    );
    assert!(launches(&pair) <= 1);
}

#[test]
fn a_restarted_controller_goes_on_where_its_store_ends() {
    let mut pair = connected(25);
    pair.start(LOBBY, Behaviour::default()).unwrap();
    // The record is committed; nothing has reached the daemon.
    pair.run_until(SECOND, |pair| pair.store().records.contains_key(&lobby()))
        .unwrap();
    apply(&mut pair, "restart-controller 5s");
    pair.run_until(5 * MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    reconnected(&mut pair);
    assert_eq!(launches(&pair), 1);
    assert_eq!(pair.highest_epoch(), 2);
}

#[test]
fn a_wish_to_stop_outlives_the_controller() {
    let mut pair = running(26, Behaviour::default());
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "stop lobby-1");
    apply(&mut pair, "wait 1s");
    apply(&mut pair, "restart-controller 5s");
    pair.come_to_rest().unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Stopped));
    assert_eq!(pair.believed(LOBBY), Some(State::Stopped));
}

#[test]
fn an_instance_that_was_given_up_is_stopped_when_its_node_comes_back() {
    let mut pair = running(27, Behaviour::default());
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "declare-lost lobby-1");
    pair.start(LOBBY, Behaviour::default()).unwrap();
    apply(&mut pair, "wait 1m");
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    pair.come_to_rest().unwrap();
    // The first is gone, the second runs, and at no time there were two.
    assert_eq!(launches(&pair), 2);
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    assert_eq!(pair.log().matching("OrphanStopped").count(), 1);
}

#[test]
fn a_start_that_is_recorded_while_the_former_one_is_taken_back_replaces_it() {
    let mut pair = running(27, Behaviour::default());
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "declare-lost lobby-1");
    apply(&mut pair, "wait 1s");
    apply(&mut pair, "slow-store 10m");
    pair.start(LOBBY, Behaviour::default()).unwrap();
    apply(&mut pair, "heal");
    reconnected(&mut pair);
    assert_eq!(pair.log().matching("CRASHED -> RUNNING (TakenBack)").count(), 1);
    assert_eq!(launches(&pair), 1);
    pair.come_to_rest().unwrap();
    assert_eq!(launches(&pair), 2);
    assert_eq!(pair.real(LOBBY), Some(State::Running));
    assert_eq!(pair.log().matching("reason: Superseded").count(), 1);
    assert_eq!(pair.log().matching("ends: Obeyed").count(), 1);
}

#[test]
fn nothing_is_acknowledged_that_the_store_refuses() {
    let mut pair = running(27, Behaviour::default());
    apply(&mut pair, "fail-store 1m");
    apply(&mut pair, "crash lobby-1");
    apply(&mut pair, "wait 50s");
    assert!(pair.daemon().facts.forgotten.is_empty());
    assert_eq!(pair.believed(LOBBY), Some(State::Crashed));
    assert!(!pair.store().records[&lobby()].state.is_terminal());
    // An order is refused, and says so.
    pair.start(LOBBY, Behaviour::default()).unwrap();
    apply(&mut pair, "wait 50s");
    assert_eq!(pair.daemon().facts.forgotten, ["crash-1"]);
    pair.come_to_rest().unwrap();
    assert_eq!(pair.store().crashes.len(), 1);
}

#[test]
fn an_order_without_effect_says_so() {
    let mut pair = connected(27);
    for order in [
        "stop lobby-1",
        "forget lobby-1",
        "declare-lost lobby-1",
        "deposed-stops-all",
        "dial-deposed",
        "undrain lobby-1",
        "undrain-node",
        "command lobby-1 list",
        "crash lobby-1",
        "exit lobby-1",
        "flood lobby-1 9",
        "resume",
        "uncordon",
        "replay up 0",
        "replay down 0",
        "inject up rival",
        "inject down stale",
    ] {
        let before = pair.log().matching("no effect").count();
        apply(&mut pair, order);
        apply(&mut pair, "wait 1s");
        let said = pair.log().matching("no effect").count() - before;
        assert_eq!(said, 1, "{order}");
    }
}

#[test]
fn a_crash_that_cannot_be_written_down_is_told_all_the_same() {
    let mut pair = running(27, Behaviour::default());
    apply(&mut pair, "fail-disk 1h");
    apply(&mut pair, "crash lobby-1");
    pair.run_until(SECOND, |pair| pair.store().crashes.len() == 1)
        .unwrap();
    assert!(pair.daemon().supervisor.disk.spool.is_empty());
    assert_eq!(pair.believed(LOBBY), Some(State::Crashed));
    pair.come_to_rest().unwrap();
}

#[test]
fn a_crash_that_cannot_be_written_down_survives_its_daemon_all_the_same() {
    let mut pair = running(27, Behaviour::default());
    apply(&mut pair, "fail-disk 1h");
    apply(&mut pair, "partition");
    cut(&mut pair);
    apply(&mut pair, "crash lobby-1");
    apply(&mut pair, "wait 1s");
    apply(&mut pair, "restart-daemon 1s");
    apply(&mut pair, "wait 5s");
    apply(&mut pair, "heal");
    pair.come_to_rest().unwrap();
    assert_eq!(pair.store().crashes.len(), 1);
}

#[test]
fn a_node_that_is_drained_runs_empty_and_is_shut_down() {
    let mut pair = running(27, Behaviour::default());
    let slow = Behaviour {
        stop: None,
        ..Behaviour::default()
    };
    pair.start("lobby-2", slow).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed("lobby-2") == Some(State::Running))
        .unwrap();
    apply(&mut pair, "drain-node 10s shutdown");
    pair.run_until(5 * SECOND, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    assert_eq!(pair.believed("lobby-2"), Some(State::Stopping));
    // Its grace is longer than the drain may take.
    pair.run_until(10 * SECOND, |pair| {
        pair.believed("lobby-2") == Some(State::Stopped)
    })
    .unwrap();
    pair.run_until(10 * SECOND, |pair| pair.store().drain.is_none())
        .unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(pair.log().matching("daemon shuts down").count(), 1);
}

#[test]
fn a_server_that_never_gets_ready_is_killed() {
    let mut pair = connected(28);
    pair.start(
        LOBBY,
        Behaviour {
            startup: None,
            stop: None,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(pair.real(LOBBY), Some(State::Crashed));
    assert_eq!(pair.believed(LOBBY), Some(State::Crashed));
    let stopped = "lobby-1#1 is stopped: StartupTimeout";
    assert_eq!(pair.log().matching(stopped).count(), 1);
}

#[test]
fn a_server_that_ignores_a_stop_is_killed_by_its_daemon() {
    let mut pair = running(
        29,
        Behaviour {
            stop: None,
            grace_seconds: 5,
            ..Behaviour::default()
        },
    );
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    assert_eq!(pair.log().matching("ends: Killed").count(), 1);
}

#[test]
fn a_transient_failure_is_tried_again_and_a_permanent_one_is_not() {
    let mut pair = connected(30);
    pair.start(
        LOBBY,
        Behaviour {
            transient_failures: 2,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.start(
        "lobby-2",
        Behaviour {
            refuse: true,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.start(
        "lobby-3",
        Behaviour {
            transient_failures: 9,
            ..Behaviour::default()
        },
    )
    .unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
    assert_eq!(pair.believed("lobby-2"), Some(State::Crashed));
    assert_eq!(pair.believed("lobby-3"), Some(State::Crashed));
    assert_eq!(pair.log().matching("daemon prepares lobby-2").count(), 1);
    assert_eq!(pair.log().matching("daemon prepares lobby-3").count(), 4);
}

#[test]
fn a_drain_survives_reports_and_reconnects() {
    let mut pair = running(31, Behaviour::default());
    apply(&mut pair, "drain lobby-1");
    cut(&mut pair);
    reconnected(&mut pair);
    assert_eq!(pair.believed(LOBBY), Some(State::Draining));
    apply(&mut pair, "undrain lobby-1");
    assert_eq!(pair.believed(LOBBY), Some(State::Running));
}

#[test]
fn an_order_that_arrives_again_changes_nothing() {
    let mut pair = running(36, Behaviour::default());
    let again = |pair: &mut Pair| {
        for back in 0..6 {
            pair.apply(&Action::Replay(Direction::Down, back)).unwrap();
            pair.run_for(5 * SECOND).unwrap();
        }
    };
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    again(&mut pair);
    assert_eq!((pair.real(LOBBY), launches(&pair)), (Some(State::Stopped), 1));
    // The second use of the id does not mind the orders of the first.
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    again(&mut pair);
    assert_eq!((pair.real(LOBBY), launches(&pair)), (Some(State::Running), 2));
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    again(&mut pair);
    assert_eq!((pair.real(LOBBY), launches(&pair)), (Some(State::Stopped), 2));
    pair.come_to_rest().unwrap();
}

/// Such a report is about nothing that runs. What it leads to must not hold the real instance back.
#[test]
fn a_late_report_of_an_earlier_incarnation_keeps_nobody_from_stopping_the_present_one() {
    let mut pair = running(38, Behaviour::default());
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    let late = InstanceStatusUpdate {
        instance_id: LOBBY.to_owned(),
        state: State::Running.to_wire(),
        incarnation: 1,
        ..Default::default()
    };
    let payload = Some(daemon_message::Payload::InstanceStatus(late));
    assert!(pair.inject_up(DaemonMessage { payload }.into()));
    apply(&mut pair, "wait 6s");
    apply(&mut pair, "stop lobby-1");
    pair.run_until(10 * SECOND, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.come_to_rest().unwrap();
}

#[test]
fn a_later_incarnation_waits_until_the_one_before_it_has_ended() {
    let mut pair = running(37, Behaviour::default());
    apply(&mut pair, "inject down rival");
    pair.run_for(SECOND).unwrap();
    assert_eq!((pair.real(LOBBY), launches(&pair)), (Some(State::Running), 1));
    assert_eq!(
        pair.log().matching("INSTANCE_STILL_ALIVE").count(),
        2,
        "sent, and heard"
    );
    pair.come_to_rest().unwrap();
}

#[test]
fn hours_of_sleep_on_either_side_end_no_instance() {
    for (seed, side) in [(32, Side::Daemon), (33, Side::Controller)] {
        for action in [
            Action::Suspend(side, 3 * 60 * MINUTE),
            Action::Leap(side, 3 * 60 * MINUTE),
        ] {
            let mut pair = running(seed, Behaviour::default());
            pair.apply(&action).unwrap();
            pair.run_for(4 * 60 * MINUTE).unwrap();
            pair.come_to_rest().unwrap();
            assert_eq!(pair.real(LOBBY), Some(State::Running), "{action}");
            assert_eq!(launches(&pair), 1, "{action}");
        }
    }
}

#[test]
fn a_java_daemon_runs_an_instance_through_its_life() {
    let mut pair = Pair::of(&Scenario {
        peers: Peers::JavaDaemon,
        ..Scenario::new(34)
    });
    pair.run_until(30 * SECOND, Pair::is_established).unwrap();
    pair.start(LOBBY, Behaviour::default()).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
    cut(&mut pair);
    reconnected(&mut pair);
    apply(&mut pair, "stop lobby-1");
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Stopped))
        .unwrap();
    pair.come_to_rest().unwrap();
    assert_eq!(launches(&pair), 1);
}

#[test]
fn commands_of_a_java_leader_before_its_acknowledgement_are_carried_out_after_it() {
    let scenario = Scenario {
        peers: Peers::JavaController,
        ..Scenario::new(35)
    };
    let mut pair = Pair::of(&scenario).with_log(prexorcloud_testkit::Log::new());
    apply(&mut pair, "partition");
    pair.start(LOBBY, Behaviour::default()).unwrap();
    apply(&mut pair, "wait 1s");
    apply(&mut pair, "heal");
    pair.run_until(5 * MINUTE, |pair| pair.real(LOBBY) == Some(State::Running))
        .unwrap();
    let arrived = |kind: &str| {
        pair.log()
            .lines()
            .iter()
            .position(|line| line.contains(&format!("daemon <- {kind}")))
    };
    assert!(arrived("StartInstance") < arrived("HandshakeAck") || arrived("Ping") < arrived("HandshakeAck"));
    pair.come_to_rest().unwrap();
    assert_eq!(launches(&pair), 1);
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let log = |seed: u64| Scenario::random(seed, 60).run_logged().map(|log| log.to_string());
    for seed in 1..=8 {
        let (first, second) = (log(seed), log(seed));
        assert_eq!(first.unwrap(), second.unwrap(), "seed {seed}");
    }
    assert_ne!(log(1).unwrap(), log(2).unwrap());
}

#[test]
fn a_server_on_a_java_node_is_ready_by_its_console_alone() {
    let scenario = Scenario {
        peers: Peers::JavaDaemon,
        ..Scenario::new(7)
    };
    let mut pair = Pair::of(&scenario);
    pair.run_until(30 * SECOND, Pair::is_established).unwrap();
    let bare = Behaviour {
        bare: true,
        ..Behaviour::default()
    };
    pair.start(LOBBY, bare).unwrap();
    pair.run_until(MINUTE, |pair| pair.believed(LOBBY) == Some(State::Running))
        .unwrap();
}
