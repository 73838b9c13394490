//! Random scenarios against every invariant, and the committed ones once more
//!
//! `PREXORCLOUD_SCENARIOS=100000 cargo test --release -p prexorcloud-protocol --test simulation` looks harder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use prexorcloud_testkit::{Action, Rng, Scenario};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many scenarios are played when nobody says.
const SCENARIOS: u32 = 256;
/// How many actions a scenario has at most.
const ACTIONS: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let frame = any::<u64>().prop_map(|seed| Scenario::random(seed, 0));
    let action = any::<u64>().prop_map(|seed| Action::random(&mut Rng::new(seed)));
    (frame, prop::collection::vec(action, 1..=ACTIONS))
        .prop_map(|(frame, actions)| Scenario { actions, ..frame })
}

#[test]
fn random_scenarios_break_no_invariant() {
    let asked = std::env::var("PREXORCLOUD_SCENARIOS")
        .ok()
        .map(|text| text.parse().expect("a number of scenarios"));
    let cases = asked.unwrap_or(SCENARIOS);
    // A scenario shrinks itself, faster than a strategy could.
    let config = Config {
        cases,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    let failed = TestRunner::new(config).run(&scenarios(), |scenario| {
        scenario.run().map(drop).map_err(|violation| {
            let smallest = scenario.minimised();
            let log = smallest.run_logged().err().map(|failure| failure.log.to_string()).unwrap_or_default();
            TestCaseError::fail(format!(
                "{violation}\n\nthe shortest scenario that breaks it; commit it as {}/{}.txt with a line that says \
                 what it is about:\n\n{smallest}\nits log:\n\n{log}",
                folder().display(),
                violation.invariant.replace('_', "-"),
            ))
        })
    });
    if let Err(proptest::test_runner::TestError::Fail(reason, _)) = failed {
        panic!("{reason}");
    }
    failed.unwrap();
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
