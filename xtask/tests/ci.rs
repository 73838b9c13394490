//! `ci` as a user runs it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::{Command, Output};

fn ci(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("ci")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_list_names_every_step() {
    let output = ci(&["--list"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for step in [
        "fmt", "tidy", "contract", "clippy", "features", "docs", "package", "doctests", "tests", "mutants",
        "interop", "payloads", "demo",
    ] {
        assert!(names.contains(&step), "{step} not in {names:?}");
    }
}

#[test]
fn one_step_runs_alone_and_ends_in_a_table() {
    let output = ci(&["--only", "contract"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("=== contract: "), "{text}");
    assert!(text.contains("\ncontract   passed "), "{text}");
    assert!(text.ends_with("ci: every step passed\n"), "{text}");
    assert!(!text.contains("=== fmt"), "{text}");
}

#[test]
fn an_unknown_step_is_an_error() {
    let output = ci(&["--only", "everything"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("there is no step everything; the steps are fmt, "),
        "{text}"
    );
}
