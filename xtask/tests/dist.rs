//! A program without its debug information, and that beside it: tried on this very test
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use xtask::dist::split;

const ASKED: &str = "XTASK_TEST_PANICS";

#[inline(never)]
fn a_function_that_panics() {
    panic!("as was asked for");
}

#[test]
fn panics_if_asked_to() {
    if std::env::var_os(ASKED).is_some() {
        a_function_that_panics();
    }
}

fn backtrace(program: &Path) -> String {
    let output = Command::new(program)
        .args(["--exact", "panics_if_asked_to", "--nocapture"])
        .env(ASKED, "1")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_stripped_program_names_functions_while_its_debug_file_is_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::env::current_exe().unwrap();
    split(&whole, folder.path()).unwrap();
    let program = folder.path().join(whole.file_name().unwrap());
    let debug = folder
        .path()
        .join(format!("{}.debug", whole.file_name().unwrap().to_str().unwrap()));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&program) < size(&whole) / 2 && size(&debug) > 0);
    let told = backtrace(&program);
    assert!(
        told.contains("a_function_that_panics") && told.contains("dist.rs"),
        "{told}"
    );
    fs::remove_file(&debug).unwrap();
    let told = backtrace(&program);
    assert!(
        told.contains("as was asked for") && !told.contains("a_function_that_panics"),
        "{told}"
    );
    // It is made anew over an old one.
    split(&whole, folder.path()).unwrap();
}
