//! Plays random scenarios until one breaks an invariant, and prints the shortest form of it
//!
//! ```text
//! cargo run --release -p prexorcloud-testkit --example hunt -- [SCENARIOS] [ACTIONS] [FIRST_SEED] [--peer PEERS]
//! cargo run --release -p prexorcloud-testkit --example hunt -- replay FILE
//! ```
//!
//! `--peer` is what a scenario's `peers` are, such as `plain-daemon` or `plain-controller`.
#![allow(clippy::expect_used, reason = "a wrong argument ends an example")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use prexorcloud_testkit::{Failure, Peers, Scenario};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let peers: Option<Peers> = arguments.iter().position(|word| word == "--peer").map(|at| {
        let named: Vec<String> = arguments.drain(at..(at + 2).min(arguments.len())).collect();
        let peers = named.get(1).expect("--peer has a value");
        peers.parse().expect("the peer is known")
    });
    if let [first, file] = arguments.as_slice()
        && first == "replay"
    {
        let text = std::fs::read_to_string(file).expect("the file can be read");
        let scenario: Scenario = text.parse().expect("the file holds a scenario");
        return match scenario.run_logged() {
            Ok(log) => {
                print!("{log}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                let Failure { violation, log } = *failure;
                println!("{log}\n{violation}");
                ExitCode::FAILURE
            }
        };
    }
    let number = |at: usize, otherwise: u64| {
        arguments
            .get(at)
            .map_or(otherwise, |word| word.parse().expect("the arguments are numbers"))
    };
    let (scenarios, actions, first) = (number(0, 1_000), number(1, 60), number(2, 1));
    let mut found: BTreeMap<&'static str, (u64, Scenario)> = BTreeMap::new();
    let mut busiest = 0;
    let began = Instant::now();
    for seed in first..first + scenarios {
        let random = Scenario::random(seed, actions as usize);
        let scenario = match peers {
            Some(peers) => random.between(peers),
            None => random,
        };
        match scenario.run() {
            Ok(busy) => busiest = busiest.max(busy),
            Err(violation) => {
                let entry = found
                    .entry(violation.invariant)
                    .or_insert_with(|| (0, scenario.clone()));
                entry.0 += 1;
                if scenario.actions.len() < entry.1.actions.len() {
                    entry.1 = scenario;
                }
            }
        }
    }
    let per_second = scenarios as f64 / began.elapsed().as_secs_f64();
    println!(
        "{per_second:.0} scenarios per second; the busiest stream carried {busiest} messages in a virtual second"
    );
    for (invariant, (count, scenario)) in &found {
        let smallest = scenario.minimised();
        println!("--- {invariant}: broken by {count} of {scenarios}; the first, minimised:");
        print!("{smallest}");
        if let Err(failure) = smallest.run_logged() {
            let Failure { violation, log } = *failure;
            let heartbeat = |line: &&String| {
                ["Ping", "Pong", "NodeStatus", "Heartbeat"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            log.lines()
                .iter()
                .filter(|line| !heartbeat(line))
                .for_each(|line| println!("{line}"));
            println!("{violation}\n");
        }
    }
    println!("{scenarios} scenarios, {} invariants broken", found.len());
    if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
