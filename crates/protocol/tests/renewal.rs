//! When a node asks for another certificate
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant, SystemTime};

use prexorcloud_protocol::renewal::{ANSWER_WITHIN, Ask, FIRST_PAUSE, LONGEST_PAUSE, LOOK, Renewal, Timer};
use prexorcloud_testkit::Clock;
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A node with a certificate, its two clocks, and what it did
struct Bench {
    renewal: Renewal,
    start: Instant,
    epoch: SystemTime,
    elapsed: Duration,
    /// What was added to the clock on the wall by hand.
    set: Duration,
    not_before: SystemTime,
    lifetime: Duration,
}

impl Bench {
    fn new(share: u16, lifetime: Duration) -> Self {
        let epoch = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let mut bench = Self {
            renewal: Renewal::new(share),
            start: Clock::new().at(Duration::ZERO),
            epoch,
            elapsed: Duration::ZERO,
            set: Duration::ZERO,
            not_before: epoch,
            lifetime,
        };
        bench.look();
        bench
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn clock(&self) -> SystemTime {
        self.epoch + self.elapsed + self.set
    }

    fn look(&mut self) {
        let (now, clock, begin) = (self.now(), self.clock(), self.not_before);
        self.renewal
            .handle_validity(now, clock, begin, begin + self.lifetime);
    }

    /// Goes on until the node asks; how long that took
    fn until_asked(&mut self, within: Duration) -> Option<Duration> {
        let begin = self.elapsed;
        loop {
            if self.renewal.poll_output() == Some(Ask) {
                return Some(self.elapsed - begin);
            }
            let deadline = self.renewal.poll_timeout()?;
            self.elapsed = deadline.at.duration_since(self.start).max(self.elapsed);
            if self.elapsed - begin > within {
                return None;
            }
            match deadline.timer {
                Timer::Look => self.look(),
                Timer::Due | Timer::Unanswered => {
                    let now = self.now();
                    self.renewal.handle_timeout(now);
                }
            }
        }
    }

    fn take(&mut self) {
        self.not_before = self.clock();
        self.renewal.handle_issued();
        self.look();
    }
}

fn connected(share: u16, lifetime: Duration) -> Bench {
    let mut bench = Bench::new(share, lifetime);
    let now = bench.now();
    bench.renewal.handle_connected(now);
    bench
}

#[test]
fn a_node_asks_when_half_the_lifetime_has_passed_and_again_with_the_next_certificate() {
    let mut bench = connected(0, 90 * DAY);
    assert_eq!(bench.until_asked(90 * DAY), Some(45 * DAY));
    bench.take();
    assert_eq!(bench.until_asked(90 * DAY), Some(45 * DAY));
}

#[test]
fn nodes_that_enrolled_together_ask_within_a_tenth_of_the_lifetime_each_at_its_own_moment() {
    let mut first = connected(0, 90 * DAY);
    let mut middle = connected(u16::MAX / 2, 90 * DAY);
    let mut last = connected(u16::MAX, 90 * DAY);
    assert_eq!(first.until_asked(90 * DAY), Some(45 * DAY));
    let between = middle.until_asked(90 * DAY).unwrap();
    assert!(between > 49 * DAY && between < 50 * DAY, "{between:?}");
    assert_eq!(last.until_asked(90 * DAY), Some(54 * DAY));
}

#[test]
fn one_without_a_stream_asks_as_soon_as_it_has_one() {
    let mut bench = Bench::new(0, 90 * DAY);
    assert_eq!(bench.until_asked(60 * DAY), None, "nobody is there");
    let now = bench.now();
    bench.look();
    bench.renewal.handle_connected(now);
    assert_eq!(bench.until_asked(DAY), Some(Duration::ZERO));
}

#[test]
fn a_lost_answer_is_asked_for_again_and_a_refusal_is_respected() {
    let mut bench = connected(0, 90 * DAY);
    bench.until_asked(90 * DAY).unwrap();
    assert_eq!(bench.until_asked(DAY), Some(ANSWER_WITHIN + FIRST_PAUSE));
    let now = bench.now();
    bench.renewal.handle_refused(now, Duration::from_secs(7200));
    assert_eq!(bench.until_asked(DAY), Some(Duration::from_secs(7200)));
}

#[test]
fn the_stream_takes_the_question_with_it() {
    let mut bench = connected(0, 90 * DAY);
    bench.until_asked(90 * DAY).unwrap();
    bench.renewal.handle_disconnected();
    assert!(!bench.renewal.is_asking());
    let now = bench.now();
    bench.renewal.handle_connected(now);
    assert_eq!(bench.until_asked(DAY), Some(Duration::ZERO));
}

#[test]
fn an_order_spreads_over_its_time_and_the_earliest_counts() {
    let mut bench = connected(u16::MAX / 2, 90 * DAY);
    let now = bench.now();
    bench.renewal.handle_order(now, Duration::from_secs(600));
    bench.renewal.handle_order(now, Duration::from_secs(60_000));
    let asked = bench.until_asked(DAY).unwrap();
    assert!(
        asked > Duration::from_secs(298) && asked < Duration::from_secs(302),
        "{asked:?}"
    );
    bench.take();
    assert!(
        bench.until_asked(90 * DAY).unwrap() > 45 * DAY,
        "the order is done"
    );
}

#[test]
fn a_clock_that_is_set_moves_the_moment_within_an_hour() {
    let mut bench = connected(0, 90 * DAY);
    bench.set = 50 * DAY;
    assert!(bench.until_asked(DAY).unwrap() <= LOOK);
}

proptest! {
    /// Whatever a controller answers, a node asks again, not more often than the pauses say, and in time.
    #[test]
    fn a_node_that_is_refused_again_and_again_neither_floods_nor_gives_up(
        share: u16,
        lifetime_s in 64u64..400 * 24 * 3600,
        refusals in 1usize..40,
    ) {
        let lifetime = Duration::from_secs(lifetime_s);
        let mut bench = connected(share, lifetime);
        prop_assert!(bench.until_asked(lifetime).unwrap() <= lifetime * 6 / 10 + Duration::from_secs(1));
        for _ in 0..refusals {
            let now = bench.now();
            bench.renewal.handle_refused(now, Duration::ZERO);
            let pause = bench.until_asked(2 * LONGEST_PAUSE).unwrap();
            prop_assert!(pause <= LONGEST_PAUSE);
            prop_assert!(pause >= FIRST_PAUSE.min(lifetime / 32));
        }
    }
}
