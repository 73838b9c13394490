//! The commands of one incarnation
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::proto::{
    StartFailureDisposition, StartInstanceAck, StartPreparationStage, StopInstanceAck,
};
use prexorcloud_protocol::unstable::ledger::{
    ALREADY_RUNNING, ALREADY_STARTING, Answer, CommandId, CommandTimer, Disposition, Expired, Kind, Ledger,
    MAX_RETRY_DELAY, MIN_RETRY_DELAY, Order, REFUSED_STOP_DELAY, RETRIES, Reissue, START_ANSWER, STOP_ANSWER,
    StartFailure,
};
use prexorcloud_protocol::{Incarnation, StopMode, Verdict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const GRACEFUL: Order = Order::Stop(StopMode::Graceful);
const FORCE: Order = Order::Stop(StopMode::Force);
const SECOND: Duration = Duration::from_secs(1);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/ledger.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn ledger() -> Ledger {
    Ledger::new("lobby-1".parse().unwrap(), Incarnation::new(5))
}

/// A ledger with `order` on its way.
fn sent(now: Instant, order: Order) -> Ledger {
    let mut ledger = ledger();
    ledger.handle_connected(now);
    assert_eq!(ledger.issue(now, order), Verdict::Accepted);
    assert_eq!(ledger.poll_dispatch(), Some(order));
    ledger
}

fn accepted() -> StartInstanceAck {
    StartInstanceAck {
        accepted: true,
        incarnation: 5,
        ..Default::default()
    }
}

fn rejected(disposition: StartFailureDisposition, retry_after_seconds: i32) -> StartInstanceAck {
    StartInstanceAck {
        accepted: false,
        error_code: "RUNTIME_PROVISION_FAILED".into(),
        error_message: "no route to the archive".into(),
        stage: StartPreparationStage::RuntimeProvision as i32,
        failure_disposition: disposition as i32,
        retry_after_seconds,
        incarnation: 5,
        ..Default::default()
    }
}

fn transient(seconds: i32) -> StartInstanceAck {
    rejected(StartFailureDisposition::Transient, seconds)
}

#[test]
fn a_command_waits_for_a_stream_and_leaves_once() {
    let now = Instant::now();
    let mut ledger = ledger();
    assert_eq!(ledger.issue(now, Order::Start), Verdict::Accepted);
    assert_eq!(ledger.issue(now, Order::Start), Verdict::AlreadyInEffect);
    assert_eq!((ledger.poll_dispatch(), ledger.poll_timeout()), (None, None));
    ledger.handle_connected(now);
    assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
    assert_eq!(ledger.poll_dispatch(), None);
    let id = ledger.command().unwrap();
    let expected = CommandId {
        instance: "lobby-1".parse().unwrap(),
        incarnation: Incarnation::new(5),
        kind: Kind::Start,
    };
    assert_eq!(id, expected);
}

#[test]
fn a_stop_supersedes_a_start_and_force_supersedes_grace() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    assert_eq!(ledger.issue(now, GRACEFUL), Verdict::Accepted);
    assert!(matches!(ledger.issue(now, Order::Start), Verdict::Denied(_)));
    assert_eq!(ledger.handle_start_ack(now, &accepted()), Answer::Unexpected);
    assert_eq!(ledger.issue(now, FORCE), Verdict::Accepted);
    assert_eq!(ledger.issue(now, GRACEFUL), Verdict::AlreadyInEffect);
    assert_eq!(ledger.poll_dispatch(), Some(FORCE));
    assert_eq!(
        ledger.poll_dispatch(),
        None,
        "what was superseded before it left never leaves"
    );
}

#[test]
fn a_repeated_start_that_runs_already_is_a_success() {
    let now = Instant::now();
    for code in [ALREADY_RUNNING, ALREADY_STARTING] {
        let mut ledger = sent(now, Order::Start);
        let mut ack = rejected(StartFailureDisposition::Permanent, 0);
        ack.error_code = code.into();
        assert_eq!(ledger.handle_start_ack(now, &ack), Answer::Settled);
        assert_eq!(ledger.handle_start_ack(now, &ack), Answer::Repeated);
        assert_eq!(ledger.poll_timeout(), None);
    }
}

#[test]
fn a_transient_rejection_is_retried_three_times() {
    let mut now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    for attempt in 2..=RETRIES + 1 {
        let after = 7 * SECOND;
        assert_eq!(
            ledger.handle_start_ack(now, &transient(7)),
            Answer::Retrying { attempt, after }
        );
        assert_eq!(
            ledger.handle_start_ack(now, &transient(7)),
            Answer::Repeated,
            "told twice is told once"
        );
        let deadline = ledger.poll_timeout().unwrap();
        assert_eq!((deadline.at, deadline.timer), (now + after, CommandTimer::Retry));
        assert_eq!(ledger.poll_dispatch(), None);
        now = deadline.at;
        assert_eq!(ledger.handle_timeout(now), None);
        assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
    }
    assert_eq!(ledger.handle_start_ack(now, &transient(7)), Answer::Failed);
    assert_eq!((ledger.command(), ledger.poll_timeout()), (None, None));
}

#[test]
fn a_daemon_that_does_not_say_means_transient_and_waits_are_bounded() {
    let now = Instant::now();
    let delay = |ack| match sent(now, Order::Start).handle_start_ack(now, &ack) {
        Answer::Retrying { attempt: 2, after } => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(delay(rejected(StartFailureDisposition::Unspecified, 0)), SECOND);
    assert_eq!(
        delay(StartInstanceAck {
            failure_disposition: 99,
            ..transient(3)
        }),
        3 * SECOND
    );
    assert_eq!(delay(transient(-5)), SECOND);
    assert_eq!(delay(transient(i32::MAX)), MAX_RETRY_DELAY);
}

#[test]
fn a_permanent_rejection_is_final() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    let ack = rejected(StartFailureDisposition::Permanent, 5);
    assert_eq!(ledger.handle_start_ack(now, &ack), Answer::Failed);
    assert_eq!(ledger.handle_start_ack(now, &ack), Answer::Unexpected);
    let failure = StartFailure::of(&ack);
    assert_eq!(failure.disposition, Disposition::Permanent);
    assert_eq!(failure.stage, StartPreparationStage::RuntimeProvision);
    assert_eq!(failure.retry_after, 5 * SECOND);
}

#[test]
fn an_unanswered_attempt_is_repeated_and_then_given_up() {
    for (order, wait) in [
        (Order::Start, START_ANSWER),
        (GRACEFUL, STOP_ANSWER),
        (FORCE, STOP_ANSWER),
    ] {
        let mut now = Instant::now();
        let mut ledger = sent(now, order);
        for attempt in 2..=RETRIES + 1 {
            let deadline = ledger.poll_timeout().unwrap();
            assert_eq!((deadline.at, deadline.timer), (now + wait, CommandTimer::Answer));
            now = deadline.at;
            assert_eq!(
                ledger.handle_timeout(now),
                Some(Expired::Retrying { order, attempt })
            );
            assert_eq!(ledger.handle_timeout(now), None);
            assert_eq!(ledger.poll_dispatch(), Some(order));
        }
        assert_eq!(ledger.handle_timeout(now + wait), Some(Expired::Failed { order }));
        assert_eq!(ledger.poll_timeout(), None);
        match order {
            Order::Start => assert_eq!(ledger.command(), None),
            Order::Stop(_) => assert!(ledger.is_given_up(), "a late answer still counts"),
        }
    }
}

#[test]
fn hours_without_a_timer_cost_one_attempt() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    let morning = now + Duration::from_secs(8 * 3600);
    assert_eq!(
        ledger.handle_timeout(morning),
        Some(Expired::Retrying {
            order: Order::Start,
            attempt: 2
        })
    );
    assert_eq!(ledger.handle_timeout(morning), None);
    assert_eq!(ledger.poll_timeout().unwrap().at, morning + START_ANSWER);
}

#[test]
fn an_attempt_that_the_stream_took_with_it_does_not_count() {
    let mut now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    for _ in 0..20 {
        ledger.handle_disconnected();
        assert_eq!((ledger.poll_dispatch(), ledger.poll_timeout()), (None, None));
        now += Duration::from_secs(3600);
        ledger.handle_connected(now);
        assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
    }
    let answer = ledger.handle_start_ack(now, &transient(1));
    assert_eq!(
        answer,
        Answer::Retrying {
            attempt: 2,
            after: SECOND
        }
    );
}

#[test]
fn a_retry_that_falls_due_without_a_stream_leaves_with_the_next_one() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    let _ = ledger.handle_start_ack(now, &transient(5));
    ledger.handle_disconnected();
    assert_eq!(ledger.handle_timeout(now + 5 * SECOND), None);
    assert_eq!(ledger.poll_dispatch(), None);
    ledger.handle_connected(now + 9 * SECOND);
    assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
}

#[test]
fn acknowledgements_without_incarnation_match_the_attempt_and_older_ones_do_not() {
    let now = Instant::now();
    let with = |incarnation| StartInstanceAck {
        incarnation,
        ..accepted()
    };
    let mut ledger = sent(now, Order::Start);
    let before = ledger.clone();
    assert_eq!(ledger.handle_start_ack(now, &with(4)), Answer::Stale);
    assert_eq!(ledger.handle_start_ack(now, &with(6)), Answer::Newer);
    let stop = StopInstanceAck {
        accepted: true,
        incarnation: 5,
        ..Default::default()
    };
    assert_eq!(ledger.handle_stop_ack(now, &stop), Answer::Unexpected);
    assert_eq!(ledger, before);
    assert_eq!(ledger.handle_start_ack(now, &with(0)), Answer::Settled);
}

#[test]
fn an_acknowledgement_of_a_start_that_never_left_is_not_ours() {
    let now = Instant::now();
    let mut ledger = ledger();
    let _ = ledger.issue(now, Order::Start);
    let ack = StartInstanceAck {
        incarnation: 0,
        ..accepted()
    };
    assert_eq!(ledger.handle_start_ack(now, &ack), Answer::Unexpected);
    ledger.handle_connected(now);
    assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
}

#[test]
fn already_starting_may_still_fail() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    let already = StartInstanceAck {
        error_code: ALREADY_STARTING.into(),
        ..transient(0)
    };
    assert_eq!(ledger.handle_start_ack(now, &already), Answer::Settled);
    assert_eq!(
        ledger.handle_start_ack(now, &transient(3)),
        Answer::Retrying {
            attempt: 2,
            after: 3 * SECOND
        }
    );
}

#[test]
fn a_report_answers_and_the_acknowledgement_after_it_is_still_news() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    ledger.handle_evidence();
    assert_eq!(ledger.poll_timeout(), None);
    assert_eq!(ledger.handle_start_ack(now, &accepted()), Answer::Settled);
    assert_eq!(ledger.handle_start_ack(now, &accepted()), Answer::Repeated);
}

fn refused() -> StopInstanceAck {
    StopInstanceAck {
        error_message: "stop failed".into(),
        incarnation: 5,
        ..Default::default()
    }
}

#[test]
fn a_refused_stop_is_asked_for_until_it_is_taken() {
    for order in [GRACEFUL, FORCE] {
        let mut now = Instant::now();
        let mut ledger = sent(now, order);
        for attempt in 2..40 {
            let after = if attempt <= RETRIES + 1 {
                MIN_RETRY_DELAY
            } else {
                REFUSED_STOP_DELAY
            };
            assert_eq!(
                ledger.handle_stop_ack(now, &refused()),
                Answer::Retrying { attempt, after }
            );
            assert_eq!(
                ledger.handle_stop_ack(now, &refused()),
                Answer::Repeated,
                "told twice is told once"
            );
            assert_eq!(ledger.poll_timeout().unwrap().at, now + after);
            assert_eq!(ledger.handle_timeout(now + after - SECOND / 10), None);
            assert_eq!(ledger.poll_dispatch(), None);
            now += after;
            assert_eq!(ledger.handle_timeout(now), None);
            assert_eq!(ledger.poll_dispatch(), Some(order));
        }
        let taken = StopInstanceAck {
            accepted: true,
            ..refused()
        };
        assert_eq!(ledger.handle_stop_ack(now, &taken), Answer::Settled);
        assert_eq!(ledger.poll_timeout(), None);
    }
}

/// A stop that has been refused as often as it is asked for quickly, and is on its way once more.
fn refused_and_sent(now: &mut Instant, order: Order) -> Ledger {
    let mut ledger = sent(*now, order);
    for _ in 0..=RETRIES {
        let _ = ledger.handle_stop_ack(*now, &refused());
        *now = ledger.poll_timeout().unwrap().at;
        let _ = ledger.handle_timeout(*now);
        assert_eq!(ledger.poll_dispatch(), Some(order));
    }
    ledger
}

#[test]
fn a_daemon_that_has_refused_a_stop_has_all_attempts_to_answer_the_next_one() {
    let mut now = Instant::now();
    let mut ledger = refused_and_sent(&mut now, FORCE);
    for _ in 1..RETRIES {
        now += STOP_ANSWER;
        assert!(matches!(
            ledger.handle_timeout(now),
            Some(Expired::Retrying { .. })
        ));
        assert_eq!(ledger.poll_dispatch(), Some(FORCE));
    }
    now += STOP_ANSWER;
    let order = FORCE;
    assert_eq!(ledger.handle_timeout(now), Some(Expired::Failed { order }));

    // It was slow, and refuses after all; so it is asked again.
    let answer = ledger.handle_stop_ack(now, &refused());
    assert!(
        matches!(
            answer,
            Answer::Retrying {
                after: REFUSED_STOP_DELAY,
                ..
            }
        ),
        "{answer:?}"
    );
    let _ = ledger.handle_timeout(now + REFUSED_STOP_DELAY);
    assert_eq!(ledger.poll_dispatch(), Some(FORCE));
}

#[test]
fn one_attempt_is_refused_once() {
    let now = Instant::now();
    let mut ledger = sent(now, GRACEFUL);
    assert!(matches!(
        ledger.handle_stop_ack(now, &refused()),
        Answer::Retrying { attempt: 2, .. }
    ));
    let due = ledger.poll_timeout().unwrap().at;
    for step in 1..999 {
        // STOPPING and refused by turns.
        let now = now + Duration::from_millis(step);
        ledger.handle_evidence();
        assert_eq!(ledger.handle_stop_ack(now, &refused()), Answer::Repeated);
        assert_eq!(ledger.poll_timeout().unwrap().at, due);
    }
    assert_eq!(ledger.handle_timeout(due), None);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
}

#[test]
fn the_answer_to_a_later_attempt_settles_what_an_earlier_one_was_refused() {
    let now = Instant::now();
    let mut ledger = sent(now, GRACEFUL);
    assert!(ledger.handle_timeout(now + STOP_ANSWER).is_some());
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
    let now = now + STOP_ANSWER;
    assert!(matches!(
        ledger.handle_stop_ack(now, &refused()),
        Answer::Retrying { .. }
    ));
    let taken = StopInstanceAck {
        accepted: true,
        ..refused()
    };
    assert_eq!(ledger.handle_stop_ack(now, &taken), Answer::Settled);

    // And what is said of a graceful stop is not taken for the answer to the kill after it.
    let mut ledger = sent(now, GRACEFUL);
    let _ = ledger.issue(now, FORCE);
    assert_eq!(ledger.poll_dispatch(), Some(FORCE));
    assert!(matches!(
        ledger.handle_stop_ack(now, &refused()),
        Answer::Retrying { .. }
    ));
    assert_eq!(ledger.handle_stop_ack(now, &taken), Answer::Settled);
}

#[test]
fn a_stop_is_not_held_back() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    ledger.hold(now, true);
    let _ = ledger.issue(now, GRACEFUL);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
    let mut ledger = sent(now, GRACEFUL);
    let _ = ledger.handle_timeout(now + STOP_ANSWER);
    ledger.hold(now, true);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
}

#[test]
fn a_refused_stop_leaves_at_once_on_a_new_stream() {
    let mut now = Instant::now();
    let mut ledger = refused_and_sent(&mut now, GRACEFUL);
    let _ = ledger.handle_stop_ack(now, &refused());
    ledger.handle_disconnected();
    assert_eq!(ledger.poll_timeout(), None);
    ledger.handle_connected(now + SECOND);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
}

#[test]
fn a_failed_stop_is_repeated_too() {
    let now = Instant::now();
    let mut ledger = sent(now, GRACEFUL);
    assert_eq!(
        ledger.handle_stop_ack(now, &refused()),
        Answer::Retrying {
            attempt: 2,
            after: SECOND
        }
    );
    assert_eq!(ledger.handle_timeout(now + SECOND), None);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
    let done = StopInstanceAck {
        accepted: true,
        ..refused()
    };
    assert_eq!(ledger.handle_stop_ack(now, &done), Answer::Settled);
    assert_eq!(ledger.reissue(now), Reissue::Again);
    assert_eq!(ledger.poll_dispatch(), None, "not at once");
    assert_eq!(ledger.reissue(now), Reissue::Pending);
    assert_eq!(ledger.handle_timeout(now + SECOND), None);
    assert_eq!(
        ledger.poll_dispatch(),
        Some(GRACEFUL),
        "it had no effect after all"
    );
}

#[test]
fn a_silent_daemon_is_given_its_time_to_answer_again() {
    let now = Instant::now();
    let mut ledger = sent(now, Order::Start);
    ledger.handle_silence();
    let later = now + Duration::from_secs(3600);
    assert_eq!(
        (ledger.poll_timeout(), ledger.handle_timeout(later)),
        (None, None)
    );
    ledger.handle_heard(later);
    assert_eq!(ledger.poll_timeout().unwrap().at, later + START_ANSWER);
    assert_eq!(ledger.poll_dispatch(), None, "it is on its way still");
}

#[test]
fn a_command_that_never_has_an_effect_is_not_repeated_for_ever() {
    let mut now = Instant::now();
    let mut ledger = sent(now, GRACEFUL);
    let done = StopInstanceAck {
        accepted: true,
        incarnation: 5,
        ..Default::default()
    };
    for _ in 0..RETRIES {
        assert_eq!(ledger.handle_stop_ack(now, &done), Answer::Settled);
        assert_eq!(ledger.reissue(now), Reissue::Again);
        assert_eq!(ledger.poll_timeout().unwrap().at, now + MIN_RETRY_DELAY);
        now += MIN_RETRY_DELAY;
        assert_eq!(ledger.handle_timeout(now), None);
        assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
    }
    assert_eq!(ledger.handle_stop_ack(now, &done), Answer::Settled);
    let before = ledger.clone();
    assert_eq!(ledger.reissue(now), Reissue::Exhausted);
    assert_eq!(ledger, before);
    // A new stream is a new chance.
    ledger.handle_disconnected();
    ledger.renew(now);
    ledger.handle_connected(now);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
}

#[test]
fn what_had_no_effect_goes_out_again_although_it_is_acknowledged_once_more() {
    let now = Instant::now();
    let mut ledger = sent(now, GRACEFUL);
    let done = StopInstanceAck {
        accepted: true,
        incarnation: 5,
        ..Default::default()
    };
    assert_eq!(ledger.handle_stop_ack(now, &done), Answer::Settled);
    assert_eq!(ledger.reissue(now), Reissue::Again);
    let waiting = ledger.clone();
    assert_eq!(ledger.handle_stop_ack(now, &done), Answer::Repeated);
    assert_eq!(ledger, waiting);
    assert_eq!(ledger.handle_timeout(now + MIN_RETRY_DELAY), None);
    assert_eq!(ledger.poll_dispatch(), Some(GRACEFUL));
}

#[test]
fn a_start_that_an_earlier_controller_sent_can_be_rejected() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.assume(Order::Start);
    ledger.handle_connected(now);
    assert_eq!((ledger.poll_dispatch(), ledger.is_settled()), (None, true));
    let permanent = rejected(StartFailureDisposition::Permanent, 0);
    assert_eq!(ledger.handle_start_ack(now, &permanent), Answer::Failed);
    let mut stopping = sent(now, FORCE);
    stopping.assume(Order::Start);
    assert_eq!(stopping.order(), Some(FORCE), "what is in force stays");
}

#[test]
fn what_is_held_back_leaves_when_it_is_let_go() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.handle_connected(now);
    ledger.hold(now, true);
    let _ = ledger.issue(now, Order::Start);
    assert_eq!((ledger.poll_dispatch(), ledger.poll_timeout()), (None, None));
    ledger.hold(now, false);
    assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
}

#[derive(Clone, Debug)]
enum Action {
    Pass(Duration),
    Fire(Duration),
    FireNow,
    Connect,
    Disconnect,
    Hold(bool),
    Issue(Order),
    Reissue,
    Renew,
    Assume(Order),
    Silence,
    Heard,
    Withdraw,
    Evidence,
    StartAck {
        incarnation: u64,
        accepted: bool,
        already: bool,
        permanent: bool,
        seconds: i32,
    },
    StopAck {
        incarnation: u64,
        accepted: bool,
    },
    Poll,
}

fn delays() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..40_000_u64).prop_map(Duration::from_millis),
        1 => (0..1_000_000_000_u64).prop_map(Duration::from_secs),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let order = prop_oneof![2 => Just(Order::Start), 1 => Just(GRACEFUL), 1 => Just(FORCE)];
    let order2 = order.clone();
    let incarnation = prop_oneof![5 => Just(5_u64), 2 => Just(0_u64), 1 => Just(4_u64), 1 => Just(6_u64)];
    let seconds = prop_oneof![3 => 0..20_i32, 1 => any::<i32>()];
    prop_oneof![
        2 => delays().prop_map(Action::Pass),
        5 => prop_oneof![3 => Just(Duration::ZERO), 1 => delays()].prop_map(Action::Fire),
        1 => Just(Action::FireNow),
        3 => Just(Action::Connect),
        1 => Just(Action::Disconnect),
        1 => any::<bool>().prop_map(Action::Hold),
        4 => order.prop_map(Action::Issue),
        2 => Just(Action::Reissue),
        1 => Just(Action::Renew),
        1 => order2.prop_map(Action::Assume),
        1 => Just(Action::Silence),
        1 => Just(Action::Heard),
        1 => Just(Action::Withdraw),
        1 => Just(Action::Evidence),
        5 => (incarnation.clone(), any::<bool>(), any::<bool>(), any::<bool>(), seconds).prop_map(
            |(incarnation, accepted, already, permanent, seconds)| Action::StartAck {
                incarnation, accepted, already, permanent, seconds
            }
        ),
        3 => (incarnation, any::<bool>()).prop_map(|(incarnation, accepted)| Action::StopAck { incarnation, accepted }),
        5 => Just(Action::Poll),
    ]
}

#[test]
fn an_attempt_that_has_not_left_is_owed_no_answer() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.handle_connected(now);
    let _ = ledger.issue(now, Order::Start);
    let mut later = now;
    for _ in 0..100 {
        later += START_ANSWER;
        assert_eq!(ledger.handle_timeout(later), None);
    }
    assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
    let expired = ledger.handle_timeout(later + START_ANSWER);
    let order = Order::Start;
    assert_eq!(expired, Some(Expired::Retrying { order, attempt: 2 }));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn ledger_keeps_its_invariants(actions in prop::collection::vec(action(), 1..80)) {
        let mut now = Instant::now();
        let mut ledger = ledger();
        let (mut connected, mut held, mut silent) = (false, false, false);
        // Attempts given out since the command was issued or the stream changed.
        let mut given = 0_u32;
        let mut live = false;
        let mut retry_not_before: Option<Instant> = None;
        // Of the command, on this stream.
        let mut refusals = 0_u32;

        for action in actions {
            let before = ledger.clone();
            let order = ledger.order();
            let mut fired = false;
            match action {
                Action::Pass(delay) => now += delay,
                Action::Fire(_) | Action::FireNow => {
                    let deadline = ledger.poll_timeout();
                    if let (Action::Fire(late), Some(deadline)) = (action, deadline) {
                        now = now.max(deadline.at) + late;
                    }
                    let given_up =
                        deadline.is_some_and(|deadline| deadline.at <= now && deadline.timer == CommandTimer::Answer);
                    let expired = ledger.handle_timeout(now);
                    fired = true;
                    live &= !given_up;
                    prop_assert!(given_up || expired.is_none(), "only an attempt can expire");
                    if let Some(Expired::Failed { order }) = expired {
                        prop_assert_eq!(ledger.command().is_none(), order == Order::Start);
                        prop_assert_eq!(ledger.is_given_up(), order != Order::Start);
                    }
                }
                Action::Connect => {
                    ledger.handle_connected(now);
                    (connected, silent) = (true, false);
                }
                Action::Disconnect => {
                    ledger.handle_disconnected();
                    (connected, held, silent, live, given) = (false, false, false, false, 0);
                    // A new stream is a new chance for a refused stop.
                    refusals = 0;
                    retry_not_before = retry_not_before.filter(|_| order == Some(Order::Start));
                }
                Action::Hold(hold) => {
                    ledger.hold(now, hold);
                    held = hold;
                }
                Action::Issue(wanted) => match ledger.issue(now, wanted) {
                    Verdict::Accepted => (live, given, retry_not_before, refusals) = (false, 0, None, 0),
                    Verdict::AlreadyInEffect => prop_assert_eq!(&ledger, &before),
                    Verdict::Denied(_) => {
                        prop_assert_eq!(&ledger, &before);
                        prop_assert!(wanted == Order::Start && matches!(order, Some(Order::Stop(_))));
                    }
                },
                Action::Reissue => {
                    let settled = ledger.is_settled();
                    match ledger.reissue(now) {
                        Reissue::Again => {
                            prop_assert!(settled);
                            live = false;
                            let pause = if refusals > RETRIES { REFUSED_STOP_DELAY } else { MIN_RETRY_DELAY };
                            retry_not_before = now.checked_add(pause).filter(|_| connected);
                        }
                        Reissue::Exhausted | Reissue::Pending => prop_assert_eq!(&ledger, &before),
                    }
                }
                Action::Renew => {
                    // At a handshake, before the new stream counts.
                    ledger.handle_disconnected();
                    ledger.renew(now);
                    (connected, held, silent, live, given) = (false, false, false, false, 0);
                    refusals = 0;
                    retry_not_before = retry_not_before.filter(|_| order == Some(Order::Start));
                }
                Action::Assume(order) => {
                    ledger.assume(order);
                    if before.command().is_none() {
                        (live, given, retry_not_before, refusals) = (false, 1, None, 0);
                    } else {
                        prop_assert_eq!(&ledger, &before);
                    }
                }
                Action::Silence => {
                    ledger.handle_silence();
                    silent = connected;
                }
                Action::Heard => {
                    ledger.handle_heard(now);
                    silent = false;
                }
                Action::Withdraw => {
                    ledger.withdraw();
                    (live, given, retry_not_before, refusals) = (false, 0, None, 0);
                }
                Action::Evidence => {
                    ledger.handle_evidence();
                    (live, retry_not_before) = (false, None);
                }
                Action::StartAck { .. } | Action::StopAck { .. } => {
                    let (answer, permanent) = match action {
                        Action::StartAck { incarnation, accepted, already, permanent, seconds } => {
                            let disposition = if permanent {
                                StartFailureDisposition::Permanent
                            } else {
                                StartFailureDisposition::Transient
                            };
                            let mut ack = rejected(disposition, seconds);
                            ack.incarnation = incarnation;
                            ack.accepted = accepted;
                            if already {
                                ack.error_code = ALREADY_RUNNING.into();
                            }
                            (ledger.handle_start_ack(now, &ack), permanent && !accepted && !already)
                        }
                        Action::StopAck { incarnation, accepted } => {
                            let ack = StopInstanceAck { accepted, incarnation, ..Default::default() };
                            (ledger.handle_stop_ack(now, &ack), false)
                        }
                        _ => unreachable!(),
                    };
                    if let Action::StartAck { incarnation, .. } | Action::StopAck { incarnation, .. } = action
                        && ![0, 5].contains(&incarnation)
                    {
                        prop_assert_eq!(&ledger, &before, "stale_acks_change_nothing");
                    }
                    match answer {
                        Answer::Settled => {
                            prop_assert!(ledger.is_settled());
                            (live, retry_not_before) = (false, None);
                        }
                        Answer::Retrying { attempt, after } => {
                            prop_assert!(!permanent, "permanent_is_never_retried");
                            prop_assert!(attempt >= 2 && after >= SECOND && after <= MAX_RETRY_DELAY);
                            if let Some(Order::Stop(_)) = order {
                                refusals += 1;
                                let pause = if refusals > RETRIES { REFUSED_STOP_DELAY } else { MIN_RETRY_DELAY };
                                prop_assert_eq!((attempt, after), (refusals + 1, pause));
                                // Attempts that are not answered count from here anew.
                                given = given.min(1);
                            } else {
                                prop_assert!(attempt <= RETRIES + 1, "retries_are_bounded");
                            }
                            live = false;
                            retry_not_before = Some(now + after);
                        }
                        Answer::Failed => {
                            prop_assert_eq!(ledger.command(), None);
                            (live, given, retry_not_before) = (false, 0, None);
                        }
                        Answer::Repeated if matches!(action, Action::StopAck { .. }) => {
                            // It may wait again for the attempt that it has been refused, and for no other.
                            prop_assert!(ledger.has_dispatch() == before.has_dispatch());
                            if before.is_settled() && !ledger.is_settled() {
                                (live, retry_not_before) = (false, ledger.poll_timeout().map(|deadline| deadline.at));
                            }
                        }
                        _ => prop_assert_eq!(&ledger, &before, "stale_acks_change_nothing"),
                    }
                }
                Action::Poll => {
                    if let Some(left) = ledger.poll_dispatch() {
                        prop_assert!(connected, "nothing_leaves_while_disconnected");
                        prop_assert!(!live, "at_most_one_live_attempt");
                        prop_assert_eq!(Some(left), ledger.order(), "stop_supersedes_start");
                        prop_assert!(retry_not_before.is_none_or(|at| now >= at), "a retry waits for its time");
                        given += 1;
                        live = true;
                        retry_not_before = None;
                        prop_assert!(given <= 1 + RETRIES, "retries_are_bounded");
                        prop_assert_eq!(ledger.poll_dispatch(), None, "at_most_one_live_attempt");
                    }
                }
            }
            if fired {
                let later = ledger.poll_timeout().is_none_or(|deadline| deadline.at > now);
                prop_assert!(later, "no_deadline_in_the_past_after_timeout");
            }
            if silent {
                prop_assert_eq!(ledger.poll_timeout(), None, "silence judges nobody");
            }
            let is_held = held && ledger.order() == Some(Order::Start);
            let is_done = ledger.command().is_none() || ledger.is_settled() || ledger.is_given_up();
            if connected && !is_held && !silent && !is_done {
                prop_assert!(ledger.poll_timeout().is_some(), "connected_commands_always_have_a_deadline");
            }
        }

        // A mute daemon, from wherever the ledger has got to.
        ledger.handle_connected(now);
        ledger.hold(now, false);
        for _ in 0..2 * (RETRIES + 2) {
            // What has not been sent is not overdue.
            let _ = ledger.poll_dispatch();
            let Some(deadline) = ledger.poll_timeout() else { break };
            prop_assert!(deadline.at <= now + MAX_RETRY_DELAY.max(START_ANSWER));
            now = now.max(deadline.at);
            ledger.handle_timeout(now);
        }
        let is_done = ledger.command().is_none() || ledger.is_settled() || ledger.is_given_up();
        prop_assert!(is_done, "connected_commands_always_have_a_deadline");
    }
}
