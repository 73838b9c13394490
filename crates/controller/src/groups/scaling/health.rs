//! When servers of a group end too often to be started again at once
//!
//! [`CRASHES`] ends of the wrong kind within [`WINDOW_MS`] pause the group, for [`FIRST_PAUSE_MS`] at first and twice as long each time, up
//! to [`LONGEST_PAUSE_MS`]. An hour without any makes the next pause a first one again. An end counts once, by the incarnation of its server,
//! however often it is observed and whenever the controller was restarted.

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_protocol::{InstanceId, instance::State};

use super::Observed;

/// Crashes that pause a group
pub(crate) const CRASHES: usize = 3;

/// The time in which they have to fall
pub(crate) const WINDOW_MS: i64 = 300_000;

pub(crate) const FIRST_PAUSE_MS: i64 = 60_000;

pub(crate) const LONGEST_PAUSE_MS: i64 = 3_600_000;

/// After so long without a crash, and without a pause, the next pause is a first one
pub(crate) const HEALTHY_MS: i64 = 3_600_000;

/// What ended well by itself sooner than this after it was ready is as bad as a crash
const SHORT_LIFE_MS: i64 = 60_000;

/// Longest cause that is kept, in bytes
const MAX_CAUSE: usize = 512;

/// In the place of a cause until somebody says it: the report of a crash may come after the crash
const UNSAID: &str = "nobody has said why; see prexorctl crash list";

/// What is remembered of the crashes of a group
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Ends before this count for nothing
    pub(crate) known_since_ms: i64,
    /// The incarnations whose ends have been counted
    pub(crate) counted: BTreeMap<InstanceId, u64>,
    /// When crashes were, as long as they matter
    pub(crate) recent_ms: Vec<i64>,
    pub(crate) last_crash_ms: i64,
    /// Pauses in a row
    pub(crate) pauses: u32,
    /// 0 = it was never paused
    pub(crate) paused_until_ms: i64,
    /// Why, for people
    pub(crate) cause: String,
}

/// A group was paused
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrashLoop {
    pub(crate) crashes: usize,
    /// The first of them
    pub(crate) since_ms: i64,
    pub(crate) until_ms: i64,
}

impl Health {
    /// Takes in what has ended; says whether the group is paused for it
    ///
    /// All servers that are recorded have to be there, since what is not any more is forgotten here as well.
    pub(crate) fn note(&mut self, now_ms: i64, observed: &[Observed]) -> Option<CrashLoop> {
        // A clock that was set back must not pause for longer than any pause lasts.
        self.paused_until_ms = self.paused_until_ms.min(now_ms + LONGEST_PAUSE_MS);
        let mut ended: Vec<&Observed> = observed.iter().filter(|one| one.state.is_terminal()).collect();
        ended.sort_by_key(|one| (one.ended_at_ms, one.instance));
        let mut looped = None;
        for one in &ended {
            let known = self.counted.get(&one.instance);
            if known.is_some_and(|known| *known >= one.incarnation) {
                continue;
            }
            if is_bad(one) && one.ended_at_ms >= self.known_since_ms {
                self.counted.insert(one.instance, one.incarnation);
                looped = self.count(now_ms, one).or(looped);
            }
        }
        if let Some(known) = self.cause.strip_suffix(UNSAID)
            && let Some(said) = ended
                .iter()
                .rev()
                .find(|one| is_bad(one) && !one.cause.is_empty())
        {
            self.cause = shortened(format!("{known}{}", said.cause));
        }
        let recorded: BTreeSet<InstanceId> = observed.iter().map(|one| one.instance).collect();
        self.counted.retain(|instance, _| recorded.contains(instance));
        looped
    }

    fn count(&mut self, now_ms: i64, one: &Observed) -> Option<CrashLoop> {
        let at_ms = one.ended_at_ms.min(now_ms);
        let healthy_since = self.last_crash_ms.max(self.paused_until_ms);
        if at_ms - healthy_since >= HEALTHY_MS {
            self.pauses = 0;
        }
        self.last_crash_ms = self.last_crash_ms.max(at_ms).min(now_ms);
        if self.paused_until_ms > now_ms {
            return None;
        }
        self.recent_ms.push(at_ms);
        self.recent_ms.retain(|crash| at_ms - crash <= WINDOW_MS);
        self.recent_ms.sort_unstable();
        if self.recent_ms.len() < CRASHES {
            return None;
        }
        let pause = FIRST_PAUSE_MS
            .saturating_mul(1 << self.pauses.min(16))
            .min(LONGEST_PAUSE_MS);
        self.pauses = self.pauses.saturating_add(1);
        self.paused_until_ms = now_ms + pause;
        let since_ms = self.recent_ms.first().copied().unwrap_or(at_ms);
        let crashes = self.recent_ms.len();
        self.recent_ms.clear();
        let last = match one.cause.as_str() {
            "" => UNSAID,
            cause => cause,
        };
        self.cause = shortened(format!(
            "{crashes} ends within {} s, the last one of {}: {last}",
            (at_ms - since_ms) / 1000,
            one.instance
        ));
        Some(CrashLoop {
            crashes,
            since_ms,
            until_ms: self.paused_until_ms,
        })
    }

    /// Somebody has looked after it: it may start again, as if nothing had been
    pub(crate) fn resume(&mut self) {
        self.recent_ms.clear();
        self.pauses = 0;
        self.paused_until_ms = 0;
        self.cause.clear();
    }
}

fn shortened(mut cause: String) -> String {
    let mut ends = (0..=MAX_CAUSE.min(cause.len())).rev();
    let end = ends.find(|end| cause.is_char_boundary(*end));
    cause.truncate(end.unwrap_or(0));
    cause
}

/// Whether an end says that something is wrong with the servers of the group
///
/// A lost node says nothing about them, and what somebody has stopped may end as it likes.
fn is_bad(one: &Observed) -> bool {
    if one.is_lost || !one.is_wanted {
        return false;
    }
    match one.state {
        State::Crashed => true,
        State::Stopped => one.ready_at_ms == 0 || one.ended_at_ms - one.ready_at_ms < SHORT_LIFE_MS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_700_000_000_000;

    impl Health {
        fn since(now_ms: i64) -> Self {
            Self {
                known_since_ms: now_ms,
                ..Self::default()
            }
        }
    }

    fn crash(name: &str, incarnation: u64, at_ms: i64) -> Observed {
        Observed {
            instance: name.parse().unwrap(),
            incarnation,
            node: "node-1".parse().unwrap(),
            state: State::Crashed,
            is_wanted: true,
            is_lost: false,
            players: 0,
            empty_since_ms: None,
            away_since_ms: None,
            ready_at_ms: 0,
            ended_at_ms: at_ms,
            cause: "The JVM ran out of memory".to_owned(),
        }
    }

    /// One server that crashes at these times, in seconds
    fn crashes(health: &mut Health, incarnation: &mut u64, seconds: &[i64]) -> Vec<CrashLoop> {
        let mut loops = Vec::new();
        for second in seconds {
            *incarnation += 1;
            let at = START + second * 1000;
            let seen = [crash("lobby-1", *incarnation, at)];
            loops.extend(health.note(at, &seen));
            // It is looked at again and again, and counts once.
            assert_eq!(health.note(at + 1, &seen), None);
        }
        loops
    }

    #[test]
    fn three_crashes_within_five_minutes_pause() {
        let (mut health, mut number) = (Health::since(START), 0);
        assert_eq!(crashes(&mut health, &mut number, &[0, 100, 301, 402]), []);
        let loops = crashes(&mut health, &mut number, &[403]);
        let expected = CrashLoop {
            crashes: 3,
            since_ms: START + 301_000,
            until_ms: START + 463_000,
        };
        assert_eq!(loops, [expected]);
        assert_eq!(
            health.cause,
            "3 ends within 102 s, the last one of lobby-1: The JVM ran out of memory"
        );
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_a_healthy_hour_begins_anew() {
        let (mut health, mut number) = (Health::since(START), 0);
        let mut second = 0;
        for expected in [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] {
            let loops = crashes(&mut health, &mut number, &[second, second + 1, second + 2]);
            let pause = (loops[0].until_ms - START) / 1000 - second - 2;
            assert_eq!(pause, expected);
            second += 2 + pause;
        }
        // The hour begins when the pause is over.
        let loops = crashes(&mut health, &mut number, &[second + 3599]);
        assert_eq!((loops.len(), health.pauses), (0, 9));
        second += 3599 + 3600;
        let loops = crashes(&mut health, &mut number, &[second, second + 1, second + 2]);
        assert_eq!(loops[0].until_ms - START, (second + 2 + 60) * 1000);
    }

    #[test]
    fn only_what_nobody_asked_for_counts() {
        let mut health = Health::since(START);
        let at = |name: &str| crash(name, 1, START + 1);
        let kinds = [
            Observed {
                is_lost: true,
                ..at("a")
            },
            Observed {
                is_wanted: false,
                ..at("b")
            },
            Observed {
                ended_at_ms: START - 1,
                ..at("c")
            },
            Observed {
                state: State::Running,
                ..at("d")
            },
            Observed {
                state: State::Stopped,
                ready_at_ms: START - SHORT_LIFE_MS,
                ..at("e")
            },
        ];
        for number in 0..4 {
            let now = START + number;
            assert_eq!(health.note(now, &kinds), None);
        }
        assert!(health.recent_ms.is_empty(), "{health:?}");
        // What ends well before it was ready, or right after, would be started for ever.
        let short = |name: &str, ready_at_ms| Observed {
            state: State::Stopped,
            ready_at_ms,
            ..at(name)
        };
        let loops = health.note(START + 9, &[short("f", 0), short("g", START), short("h", 0)]);
        assert_eq!(loops.unwrap().crashes, 3);
    }

    #[test]
    fn crashes_during_a_pause_are_over_with_it_and_resuming_forgets() {
        let mut health = Health::since(START);
        let three = ["a", "b", "c"].map(|name| crash(name, 1, START));
        assert!(health.note(START, &three).is_some());
        let more: Vec<Observed> = ["d", "e", "f", "g"]
            .map(|name| crash(name, 1, START + 1))
            .to_vec();
        let all: Vec<Observed> = three.iter().cloned().chain(more).collect();
        assert_eq!(health.note(START + 1, &all), None);
        assert_eq!(health.note(START + 60_000, &all), None);
        assert!(health.recent_ms.is_empty());
        health.resume();
        assert_eq!((health.paused_until_ms, health.pauses), (0, 0));
        assert_eq!(health.note(START + 60_001, &all), None, "they were counted");
        // What is not recorded any more is not remembered.
        assert_eq!(health.note(START + 60_002, &[]), None);
        assert!(health.counted.is_empty());
    }

    #[test]
    fn a_cause_may_come_after_the_crash() {
        let mut health = Health::since(START);
        let mut three = ["a", "b", "c"].map(|name| Observed {
            cause: String::new(),
            ..crash(name, 1, START)
        });
        assert!(health.note(START, &three).is_some());
        assert!(health.cause.ends_with(UNSAID), "{health:?}");
        three[1].cause = "The port is in use".to_owned();
        assert_eq!(health.note(START + 1, &three), None);
        assert!(health.cause.ends_with("of c: The port is in use"), "{health:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_pauses_for_an_hour_at_most() {
        let mut health = Health {
            paused_until_ms: START,
            ..Health::since(0)
        };
        health.note(1_000, &[]);
        assert_eq!(health.paused_until_ms, 1_000 + LONGEST_PAUSE_MS);
    }

    proptest! {
        #[test]
        fn an_end_counts_once_in_whatever_order(
            ends in proptest::collection::vec((0_usize..6, 1_u64..4, 0_i64..600_000), 0..20),
            repeats in 1_usize..4,
        ) {
            // One record for each id, its latest incarnation.
            let mut latest: BTreeMap<usize, (u64, i64)> = BTreeMap::new();
            for (name, incarnation, at) in ends {
                let known = latest.entry(name).or_insert((incarnation, at));
                if incarnation > known.0 {
                    *known = (incarnation, at);
                }
            }
            let mut observed: Vec<Observed> = latest
                .iter()
                .map(|(name, (incarnation, at))| crash(&format!("lobby-{name}"), *incarnation, START + at))
                .collect();
            let now = START + 600_000;
            let mut once = Health::since(START);
            let first = once.note(now, &observed);
            let settled = once.clone();
            for _ in 0..repeats {
                observed.reverse();
                prop_assert_eq!(once.note(now, &observed), None);
            }
            prop_assert_eq!(&once, &settled);
            let mut other = Health::since(START);
            prop_assert_eq!(other.note(now, &observed), first);
            prop_assert_eq!(other, settled);
        }
    }
}
