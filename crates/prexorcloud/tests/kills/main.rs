//! `kill -9` at random moments of a push, a transfer and a preparation, and a look at all that is left
//!
//! `cargo xtask kills` runs two hundred moments, and as a test there are a few. Each has a seed of its own, from which it can be made again: it says who
//! is killed, how often, and how far through the work; how long the work takes is measured before. After each, what runs has the
//! bytes that were ordered or says that it failed, a static folder is what it was or complete, nothing half-made is left, and every blob of the controller is there once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod content;
mod field;
#[path = "../cluster/link.rs"]
#[allow(dead_code, reason = "part of the rig")]
mod link;
mod moment;
mod remains;
#[allow(dead_code, reason = "what the tests of a cluster need beyond this")]
#[path = "../cluster/rig.rs"]
mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};

use field::Field;
use moment::{Moment, Victim, Work};

/// As many moments from here on meet all of it: each work, both victims, and kills while they recover
const USUAL_SEED: u64 = 81;
const USUAL_MOMENTS: u64 = 6;

/// Lines about one moment
const MOST_TOLD: usize = 10;

/// How long, how much, and which
#[derive(Clone, Copy)]
struct Plan {
    moments: u64,
    seed: u64,
    /// Size of what travels
    mebibytes: u64,
}

impl Plan {
    fn from_environment() -> Self {
        fn number<T: FromStr>(name: &str, default: T) -> T {
            match std::env::var(name) {
                Ok(text) => text
                    .parse()
                    .unwrap_or_else(|_| panic!("{name}={text} is no number")),
                Err(_) => default,
            }
        }
        Self {
            moments: number("PREXORCLOUD_KILLS_MOMENTS", USUAL_MOMENTS),
            seed: number("PREXORCLOUD_KILLS_SEED", USUAL_SEED),
            mebibytes: number("PREXORCLOUD_KILLS_MIB", 32),
        }
    }
}

fn main() -> ExitCode {
    let trial = Trial::test("whoever_is_killed_at_whatever_moment", || {
        run(Plan::from_environment())
    });
    let usual = Trial::test("the_usual_moments_meet_all_of_it", || {
        the_usual_moments_meet_all_of_it();
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![usual, trial]).exit_code()
}

fn the_usual_moments_meet_all_of_it() {
    let moments: Vec<Moment> = (0..USUAL_MOMENTS)
        .map(|number| Moment::of(USUAL_SEED + number))
        .collect();
    let meets = |is_it: &dyn Fn(&Moment) -> bool| moments.iter().any(is_it);
    for work in [Work::Push, Work::Transfer, Work::Preparation, Work::Static] {
        assert!(meets(&|moment| moment.work == work), "{work:?}");
    }
    for victim in [Victim::Daemon, Victim::Controller] {
        assert!(meets(&|moment| moment.first.victim == victim), "{victim:?}");
    }
    assert!(meets(&|moment| moment.second.is_some()), "while they recover");
    assert!(meets(&|moment| moment.starts > 1), "several starts at once");
}

/// A line for each problem, as far as somebody reads them
fn tell(head: &str, found: &[String]) {
    for problem in found.iter().take(MOST_TOLD) {
        println!("{head}: {problem}");
    }
    if let Some(more) = found.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        println!("{head}: and {more} more");
    }
}

fn run(plan: Plan) -> Result<(), Failed> {
    let begun = Instant::now();
    println!(
        "kills: {} moments from seed {} on, {} MiB on the way",
        plan.moments, plan.seed, plan.mebibytes
    );
    let mut field: Option<Field> = None;
    let mut violations = 0;
    for seed in (0..plan.moments).map(|number| plan.seed.wrapping_add(number)) {
        let moment = Moment::of(seed);
        let lived = catch_unwind(AssertUnwindSafe(|| {
            field
                .get_or_insert_with(|| Field::new(plan.mebibytes))
                .live_through(&moment)
        }));
        let (outcome, found) = lived.unwrap_or_else(|panic| {
            let problem = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let problem = problem.unwrap_or_else(|| "a check panicked".to_owned());
            ("it went no further".to_owned(), vec![problem])
        });
        println!("moment {seed}: {moment}: {outcome}");
        let again = format!("VIOLATION at moment {seed} (cargo xtask kills --seed {seed} --moments 1)");
        tell(&again, &found);
        violations += found.len();
        if !found.is_empty() {
            // The next one begins with a clean slate.
            field = None;
        }
    }
    if let Some(mut field) = field {
        let found = field.collect();
        tell("VIOLATION at the end", &found);
        violations += found.len();
    }
    let took = begun.elapsed().as_secs();
    println!(
        "kills: {} moments from seed {} on in {took} s, {violations} violations",
        plan.moments, plan.seed
    );
    match violations {
        0 => Ok(()),
        count => Err(format!("{count} violations").into()),
    }
}
