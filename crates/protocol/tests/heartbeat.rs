//! Both sides of the heartbeat, against every kind of answer and clock
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prexorcloud_protocol::proto::Ping;
use prexorcloud_protocol::unstable::heartbeat::{
    HeartbeatConfig, News, PongError, ProbeOutput, Prober, SilenceWatch, answer, interval_from_wire,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const INTERVAL: Duration = Duration::from_secs(30);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/heartbeat.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn outputs(prober: &mut Prober) -> Vec<ProbeOutput> {
    std::iter::from_fn(|| prober.poll_output()).collect()
}

fn ping(sequence: i64) -> ProbeOutput {
    ping_after(0, sequence)
}

fn ping_after(answered: i64, sequence: i64) -> ProbeOutput {
    ProbeOutput::SendPing { sequence, answered }
}

#[test]
fn first_ping_goes_out_at_once_and_then_every_interval() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    assert_eq!(outputs(&mut prober), [ping(1)]);
    for tick in 1..10_u32 {
        let at = start + tick * INTERVAL;
        assert_eq!(prober.poll_timeout().unwrap().at, at);
        prober
            .handle_pong(at - Duration::from_secs(1), i64::from(tick))
            .unwrap();
        if tick % 2 == 0 {
            prober.confirm();
        }
        prober.handle_timeout(at - Duration::from_millis(1));
        assert_eq!(outputs(&mut prober), [], "an early timeout is harmless");
        prober.handle_timeout(at);
        prober.handle_timeout(at);
        assert_eq!(
            outputs(&mut prober),
            [ping_after(i64::from(tick / 2 * 2), i64::from(tick) + 1)],
            "so is a repeated one"
        );
    }
    assert!(prober.is_reachable());
}

#[test]
fn silent_peer_is_reported_once_after_ninety_seconds() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    let mut news = Vec::new();
    while let Some(deadline) = prober.poll_timeout() {
        if deadline.at > start + 20 * INTERVAL {
            break;
        }
        prober.handle_timeout(deadline.at);
        news.extend(
            outputs(&mut prober)
                .into_iter()
                .filter_map(|output| match output {
                    ProbeOutput::News(news) => Some((deadline.at - start, news)),
                    ProbeOutput::SendPing { .. } => None,
                }),
        );
    }
    let silent_for = Duration::from_secs(90);
    assert_eq!(
        news,
        [(
            silent_for,
            News::Unreachable {
                missed: 3,
                silent_for
            }
        )]
    );
}

#[test]
fn late_pong_recovers_once_and_pings_never_stop() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    for tick in 1..=4 {
        prober.handle_timeout(start + tick * INTERVAL);
    }
    let unreachable = outputs(&mut prober);
    assert!(matches!(
        unreachable[..],
        [
            ProbeOutput::News(News::Unreachable { .. }),
            ProbeOutput::SendPing { sequence: 5, .. }
        ]
    ));

    let back = start + 4 * INTERVAL + Duration::from_secs(7);
    let trip = prober.handle_pong(back, 2).unwrap();
    assert_eq!(trip.time, back - (start + INTERVAL), "an old answer still counts");
    let after = Duration::from_secs(37);
    assert_eq!(
        outputs(&mut prober),
        [ProbeOutput::News(News::Recovered { after })]
    );
    prober.handle_pong(back, 5).unwrap();
    assert_eq!(outputs(&mut prober), []);
    assert!(prober.is_reachable());
}

#[test]
fn an_answer_to_the_second_last_ping_is_a_sign_of_life() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    // Each pong takes 40 s: slow, but never three unanswered pings in a row.
    for tick in 1..20_u32 {
        prober.handle_timeout(start + tick * INTERVAL);
        prober
            .handle_pong(start + tick * INTERVAL + Duration::from_secs(10), i64::from(tick))
            .unwrap();
    }
    assert!(prober.is_reachable());
    assert!(
        outputs(&mut prober)
            .iter()
            .all(|output| matches!(output, ProbeOutput::SendPing { .. }))
    );
}

#[test]
fn wrong_pongs_are_told_apart() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    assert_eq!(
        prober.handle_pong(start, 0),
        Err(PongError::Unsolicited {
            sequence: 0,
            last_sent: 1
        })
    );
    assert_eq!(
        prober.handle_pong(start, -1),
        Err(PongError::Unsolicited {
            sequence: -1,
            last_sent: 1
        })
    );
    assert_eq!(
        prober.handle_pong(start, 2),
        Err(PongError::Unsolicited {
            sequence: 2,
            last_sent: 1
        })
    );
    assert!(prober.handle_pong(start, 1).is_ok());
    assert_eq!(
        prober.handle_pong(start, 1),
        Err(PongError::Repeated { sequence: 1 })
    );
    for tick in 1..=16 {
        prober.handle_timeout(start + tick * INTERVAL);
    }
    assert_eq!(
        prober.handle_pong(start, 1),
        Err(PongError::Forgotten {
            sequence: 1,
            oldest: 2
        })
    );
}

#[test]
fn a_timer_that_is_hours_late_costs_one_ping_and_one_miss() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    outputs(&mut prober);
    let morning = start + Duration::from_secs(8 * 3600);
    prober.handle_timeout(morning);
    assert_eq!(outputs(&mut prober), [ping(2)]);
    assert!(prober.is_reachable());
    assert_eq!(prober.poll_timeout().unwrap().at, morning + INTERVAL);
}

#[test]
fn silly_configurations_are_brought_into_range() {
    let start = Instant::now();
    let interval = |interval| {
        Prober::new(
            start,
            HeartbeatConfig {
                interval,
                missed_limit: 0,
            },
        )
        .interval()
    };
    assert_eq!(interval(Duration::ZERO), INTERVAL);
    assert_eq!(interval(Duration::from_millis(1)), Duration::from_secs(1));
    assert_eq!(interval(Duration::MAX), Duration::from_secs(3600));
    for (wire, seconds) in [
        (0, 30),
        (1, 1),
        (-1, 1),
        (i64::MIN, 1),
        (1_500, 1),
        (i64::MAX, 3600),
    ] {
        assert_eq!(interval_from_wire(wire).as_secs(), seconds, "{wire} ms");
    }
}

#[test]
fn the_answer_echoes_the_sequence() {
    assert_eq!(
        answer(&Ping {
            sequence: 77,
            answered: 0
        })
        .sequence,
        77
    );
}

#[test]
fn any_message_keeps_the_watch_quiet() {
    let start = Instant::now();
    let mut watch = SilenceWatch::new(start, INTERVAL);
    for tick in 1..100_u32 {
        let at = start + tick * (3 * INTERVAL - Duration::from_millis(1));
        assert_eq!(watch.handle_timeout(at), None);
        watch.handle_message(at);
    }
}

#[test]
fn a_sleeper_judges_nobody_on_waking() {
    let start = Instant::now();
    let mut watch = SilenceWatch::new(start, INTERVAL);
    let morning = start + Duration::from_secs(8 * 3600);
    assert_eq!(watch.handle_timeout(morning), None, "nobody was listening");
    assert_eq!(watch.poll_timeout().unwrap().at, morning + INTERVAL);
    assert_eq!(
        watch.handle_timeout(morning + INTERVAL),
        Some(morning + INTERVAL - start)
    );
    assert_eq!(watch.poll_timeout(), None);
    watch.handle_message(morning + INTERVAL);
    assert_eq!(
        watch.handle_timeout(morning + 100 * INTERVAL),
        None,
        "given up is given up"
    );
}

#[test]
fn an_answer_in_the_moment_of_the_next_ping_clears_the_misses() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    prober.handle_timeout(start + INTERVAL);
    prober.handle_timeout(start + 2 * INTERVAL);
    prober.handle_pong(start + 2 * INTERVAL, 1).unwrap();
    prober.handle_timeout(start + 3 * INTERVAL);
    assert!(prober.is_reachable(), "heard an interval ago");
    prober.handle_timeout(start + 4 * INTERVAL);
    assert!(prober.is_reachable());
    prober.handle_timeout(start + 5 * INTERVAL);
    assert!(!prober.is_reachable());
}

#[test]
fn a_limit_of_zero_misses_is_a_limit_of_one() {
    let start = Instant::now();
    let config = HeartbeatConfig {
        interval: INTERVAL,
        missed_limit: 0,
    };
    let mut prober = Prober::new(start, config);
    assert!(prober.is_reachable());
    prober.handle_timeout(start + INTERVAL);
    assert!(!prober.is_reachable());
}

#[test]
fn what_nobody_polled_is_told_in_order_or_not_at_all() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    for tick in 1..=3 {
        prober.handle_timeout(start + tick * INTERVAL);
    }
    prober.handle_pong(start + 3 * INTERVAL, 4).unwrap();
    let told = outputs(&mut prober);
    assert!(
        matches!(
            told[..],
            [
                ProbeOutput::News(News::Unreachable { .. }),
                ProbeOutput::News(News::Recovered { .. }),
                ProbeOutput::SendPing { .. }
            ]
        ),
        "{told:?}"
    );

    for tick in 4..=7 {
        prober.handle_timeout(start + tick * INTERVAL);
    }
    assert!(matches!(
        outputs(&mut prober)[..],
        [ProbeOutput::News(News::Unreachable { .. }), _]
    ));
    prober.handle_pong(start + 7 * INTERVAL, 8).unwrap();
    for tick in 8..=11 {
        prober.handle_timeout(start + tick * INTERVAL);
    }
    assert!(!prober.is_reachable());
    assert_eq!(
        outputs(&mut prober),
        [ping(12)],
        "a recovery that nobody heard of has not happened"
    );
}

#[test]
fn one_extra_interval_is_granted_and_a_message_ends_it() {
    let start = Instant::now();
    let morning = start + Duration::from_secs(8 * 3600);
    let mut watch = SilenceWatch::new(start, INTERVAL);
    assert_eq!(watch.handle_timeout(morning), None);
    watch.handle_message(morning + Duration::from_secs(1));
    assert_eq!(
        watch.handle_timeout(morning + INTERVAL),
        None,
        "heard 29 seconds ago"
    );

    let mut watch = SilenceWatch::new(start, INTERVAL);
    assert_eq!(watch.handle_timeout(morning), None);
    let noon = morning + Duration::from_secs(4 * 3600);
    assert_eq!(
        watch.handle_timeout(noon),
        Some(noon - start),
        "a second sleep excuses nothing"
    );
}

#[test]
fn a_timer_that_is_late_by_an_interval_still_judges() {
    let start = Instant::now();
    let mut watch = SilenceWatch::new(start, INTERVAL);
    assert_eq!(watch.handle_timeout(start + 4 * INTERVAL), Some(4 * INTERVAL));
}

#[derive(Clone, Debug)]
enum Action {
    Pass(Duration),
    /// Fires the timer when it is due, or later by this much.
    Fire(Duration),
    /// Fires the timer at a moment that nobody asked for.
    FireNow,
    /// Answers the ping that is this many behind the last one.
    Pong(i64),
    /// Answers with a sequence of the peer's own choosing.
    Nonsense(i64),
    Poll,
}

fn delays() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..40_000_u64).prop_map(Duration::from_millis),
        1 => (0..1_000_000_000_u64).prop_map(Duration::from_secs),
        1 => Just(Duration::ZERO),
    ]
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        2 => delays().prop_map(Action::Pass),
        4 => prop_oneof![3 => Just(Duration::ZERO), 1 => delays()].prop_map(Action::Fire),
        1 => Just(Action::FireNow),
        3 => prop_oneof![4 => Just(0_i64), 2 => 0..20_i64].prop_map(Action::Pong),
        1 => any::<i64>().prop_map(Action::Nonsense),
        3 => Just(Action::Poll),
    ];
    prop::collection::vec(action, 1..80)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn prober_keeps_its_invariants(actions in actions(), missed_limit in 1..5_u32) {
        let start = Instant::now();
        let mut now = start;
        let mut prober = Prober::new(now, HeartbeatConfig { interval: INTERVAL, missed_limit });
        let (mut last_sent, mut last_life) = (0_i64, now);
        let mut told_unreachable = false;
        let mut answered = BTreeSet::new();

        for action in actions {
            let before = prober.clone();
            let mut fired = false;
            match action {
                Action::Pass(delay) => now += delay,
                Action::Fire(late) => {
                    now = now.max(prober.poll_timeout().unwrap().at) + late;
                    prober.handle_timeout(now);
                    fired = true;
                }
                Action::FireNow => {
                    prober.handle_timeout(now);
                    fired = true;
                }
                Action::Pong(_) | Action::Nonsense(_) => {
                    let sequence = match action {
                        Action::Nonsense(sequence) => sequence,
                        Action::Pong(behind) => last_sent.saturating_sub(behind),
                        _ => unreachable!(),
                    };
                    match prober.handle_pong(now, sequence) {
                        Ok(_) => {
                            prop_assert!(answered.insert(sequence), "bad_pong_changes_nothing");
                            last_life = now;
                        }
                        Err(_) => prop_assert_eq!(&prober, &before, "bad_pong_changes_nothing"),
                    }
                }
                Action::Poll => {
                    while let Some(output) = prober.poll_output() {
                        match output {
                            ProbeOutput::SendPing { sequence, .. } => {
                                prop_assert!(sequence > last_sent, "sequences_rise");
                                last_sent = sequence;
                            }
                            ProbeOutput::News(News::Unreachable { missed, silent_for }) => {
                                prop_assert!(!std::mem::replace(&mut told_unreachable, true), "news_alternates");
                                prop_assert!(missed >= missed_limit);
                                prop_assert!(silent_for >= missed_limit * INTERVAL, "unreachable_only_after_the_limit");
                            }
                            ProbeOutput::News(News::Recovered { .. }) => {
                                prop_assert!(std::mem::replace(&mut told_unreachable, false), "news_alternates");
                                prop_assert!(last_life <= now);
                            }
                        }
                    }
                    prop_assert_eq!(told_unreachable, !prober.is_reachable(), "news_alternates");
                }
            }
            let deadline = prober.poll_timeout();
            prop_assert!(deadline.is_some(), "always_pinging");
            if fired {
                prop_assert!(deadline.unwrap().at > now, "always_pinging");
                prop_assert!(deadline.unwrap().at <= now + INTERVAL, "always_pinging");
            }
        }
    }

    #[test]
    fn one_ping_per_interval(delays in prop::collection::vec(delays(), 1..60)) {
        let mut now = Instant::now();
        let mut prober = Prober::new(now, HeartbeatConfig::default());
        prop_assert_eq!(outputs(&mut prober), [ping(1)]);
        let mut sent_at = now;
        for delay in delays {
            now += delay;
            prober.handle_timeout(now);
            let pings = outputs(&mut prober).iter().filter(|output| matches!(output, ProbeOutput::SendPing { .. })).count();
            prop_assert!(pings <= 1);
            prop_assert_eq!(pings == 1, now >= sent_at + INTERVAL);
            if pings == 1 {
                sent_at = now;
            }
        }
    }

    #[test]
    fn watch_keeps_its_invariants(steps in prop::collection::vec((delays(), 0..3_u8), 1..80)) {
        let mut now = Instant::now();
        let mut watch = SilenceWatch::new(now, INTERVAL);
        let mut heard = now;
        let mut given_up = false;
        for (delay, step) in steps {
            match step {
                0 => now += delay,
                1 => {
                    now += delay;
                    watch.handle_message(now);
                    heard = now;
                }
                _ => {
                    if let Some(deadline) = watch.poll_timeout() {
                        now = now.max(deadline.at);
                    }
                    if let Some(silent_for) = watch.handle_timeout(now) {
                        prop_assert!(!std::mem::replace(&mut given_up, true), "silence_is_reported_once");
                        prop_assert!(silent_for >= 3 * INTERVAL, "silent_only_after_the_limit");
                        prop_assert_eq!(silent_for, now - heard);
                    }
                    let later = watch.poll_timeout().is_none_or(|deadline| deadline.at > now);
                    prop_assert!(later, "no_deadline_in_the_past_after_timeout");
                }
            }
            prop_assert_eq!(watch.poll_timeout().is_none(), given_up, "silence_is_reported_once");
        }
    }
}
