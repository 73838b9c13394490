//! An operator's worst week: real programs on full disks, behind stalled links, without descriptors, stopped and bare
//!
//! `cargo xtask worst-week` runs these cases and prints a line for each. What this machine does not let us do (mounts need
//! root or user namespaces) is listed as ignored, with the reason in its name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod console;
mod diagnostics;
mod disk;
mod disks;
#[path = "../cluster/link.rs"]
mod link;
mod links;
mod processes;
#[allow(dead_code, reason = "what the tests of a cluster need beyond these cases")]
#[path = "../cluster/rig.rs"]
mod rig;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A case that takes nothing but the programs
fn case(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// A case on a small disk of its own
fn on_a_small_disk(name: &str, run: fn()) -> Trial {
    match disk::refusal() {
        None => case(name, run),
        Some(reason) => case(name, run).with_kind(reason).with_ignored_flag(true),
    }
}

fn main() -> ExitCode {
    let trials = [
        diagnostics::cases(),
        disks::cases(),
        links::cases(),
        processes::cases(),
        console::cases(),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}
