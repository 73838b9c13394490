//! Scenarios of fixed seeds against every invariant, and the committed ones once more
//!
//! `PREXORCLOUD_SCENARIOS=100000 cargo test --release -p prexorcloud-protocol --test simulation` looks further, and the
//! example `hunt` of the testkit where nobody has looked yet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use prexorcloud_testkit::Scenario;

/// How many scenarios are played when nobody says.
const SCENARIOS: u64 = 2_000;
/// How many actions a scenario has.
const ACTIONS: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn play(seed: u64) {
    let scenario = Scenario::random(seed, ACTIONS);
    let Err(violation) = scenario.run() else { return };
    let smallest = scenario.minimised();
    let log = smallest
        .run_logged()
        .err()
        .map(|failure| failure.log.to_string())
        .unwrap_or_default();
    panic!(
        "{violation}\n\nthe shortest scenario that breaks it; commit it as {}/{}.txt with a line that says what it is \
         about:\n\n{smallest}\nits log:\n\n{log}",
        folder().display(),
        violation.invariant.replace('_', "-"),
    );
}

#[test]
fn scenarios_of_fixed_seeds_break_no_invariant() {
    let asked = std::env::var("PREXORCLOUD_SCENARIOS")
        .ok()
        .map(|text| text.parse().expect("a number of scenarios"));
    let scenarios = asked.unwrap_or(SCENARIOS);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for worker in 0..workers as u64 {
            scope.spawn(move || (1 + worker..=scenarios).step_by(workers).for_each(play));
        }
    });
}

#[test]
fn committed_scenarios_replay() {
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let scenario: Scenario = text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            !scenario.about.is_empty(),
            "{} does not say what it is about",
            path.display()
        );
        if let Err(failure) = scenario.run_logged() {
            panic!("{}: {}\n{}", path.display(), failure.violation, failure.log);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "there are no scenarios in {}", folder().display());
}

#[test]
fn a_scenario_survives_being_written_and_read() {
    for seed in 0..200 {
        let scenario = Scenario {
            about: "two\nlines".to_owned(),
            ..Scenario::random(seed, ACTIONS)
        };
        assert_eq!(scenario.to_string().parse::<Scenario>().unwrap(), scenario);
    }
}
