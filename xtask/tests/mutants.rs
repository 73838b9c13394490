//! `mutants` on a crate made for it, and the committed list against the sources
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xtask::mutants;

const SOURCE: &str = "
pub fn is_full(len: usize) -> bool {
    len >= 3
}

pub fn untested(len: usize) -> bool {
    len > 7
}

pub fn rounds(count: u32) -> u32 {
    let mut left = count;
    let mut rounds = 0;
    while left > 0 {
        left -= 1;
        rounds += 1;
    }
    rounds
}
";

const TEST: &str = r#"
#[test]
fn three_are_full() {
    assert!(tiny::is_full(3));
    assert!(!tiny::is_full(2));
}

#[test]
fn each_is_a_round() {
    assert_eq!(tiny::rounds(2), 2);
}

#[test]
fn failures_leave_a_file() {
    let left = concat!(env!("CARGO_MANIFEST_DIR"), "/left.txt");
    assert!(!std::path::Path::new(left).exists(), "the copy is not what it was");
    if !tiny::is_full(3) {
        std::fs::write(left, "x").unwrap();
    }
}
"#;

fn entry(name: &str, find: &str, replace: &str, more: &str) -> String {
    let tests = if more.contains("tests = ") {
        ""
    } else {
        "tests = ['behaviour']\n"
    };
    format!(
        "[[mutant]]\nname = '{name}'\nfile = 'src/lib.rs'\nfind = '{find}'\nreplace = '{replace}'\n{tests}{more}\n"
    )
}

/// A crate with three tests, and a list of these entries.
fn tiny(entries: &[String]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "Cargo.toml",
        "[workspace]\n[package]\nname = 'tiny'\nversion = '0.0.0'\nedition = '2024'\n",
    );
    write("src/lib.rs", SOURCE);
    write("tests/behaviour.rs", TEST);
    write("xtask/mutants/tiny.toml", &entries.concat());
    root
}

fn hanging() -> String {
    entry("a-round-that-never-ends", "left -= 1;", "left -= 0;", "")
}

/// The task, which gives a hanging test as long as a test that does nothing may take on a busy machine.
fn task(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .env("CARGO_TARGET_DIR", root.join("target"))
        .args(["mutants", "--root"])
        .arg(root)
        .args(arguments);
    if !arguments.contains(&"--least-time") {
        command.args(["--least-time", "4"]);
    }
    command
}

/// Whether it went well, and what it said.
fn run(root: &Path, arguments: &[&str]) -> (bool, String) {
    let output = task(root, arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

#[test]
fn each_mutant_gets_its_verdict_and_the_checkout_stays_as_it_is() {
    let root = tiny(&[
        entry("full-is-one-late", "len >= 3", "len > 3", ""),
        entry("seven-is-enough", "len > 7", "len >= 7", ""),
        hanging(),
        entry("a-word-for-a-number", "len > 7", "len > \"7\"", ""),
        entry(
            "never-below-zero",
            "left > 0",
            "left != 0",
            "equivalent = 'an unsigned number is never below zero'",
        ),
        entry("not-in-the-file", "len > 8", "len > 9", ""),
        entry(
            "tests-that-are-none",
            "len > 7",
            "len < 7",
            "tests = ['behaviour::no_such_test']",
        ),
    ]);
    let (good, text) = run(root.path(), &[]);
    assert!(!good, "{text}");
    for line in [
        "unchanged tiny/behaviour passes in ",
        "killed    full-is-one-late  by three_are_full (tiny/behaviour)  ",
        "SURVIVED  seven-is-enough  in src/lib.rs  ",
        "killed    a-round-that-never-ends  by the time limit of ",
        "ERROR     a-word-for-a-number  does not compile: error[E0308]: mismatched types  ",
        "ERROR     not-in-the-file  what it replaces does not stand in src/lib.rs (any more)\n",
        "ERROR     tests-that-are-none  there is no test in tiny/behaviour::no_such_test\n",
        "\nmutants: 2 killed (1 by a time limit), 1 survived, 3 errors, 1 equivalent left out; ",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert_eq!(
        fs::read_to_string(root.path().join("src/lib.rs")).unwrap(),
        SOURCE
    );

    let (good, text) = run(root.path(), &["--equivalent"]);
    assert!(good, "{text}");
    assert!(
        text.contains("survived  never-below-zero  as an equivalent one must  "),
        "{text}"
    );
    let (good, text) = run(root.path(), &["--only", "late"]);
    assert!(good, "{text}");
    assert!(
        text.contains("\nmutants: 1 killed, 0 survived, 0 errors, 0 equivalent left out; "),
        "{text}"
    );
    let (good, text) = run(root.path(), &["--only", "no-such"]);
    assert_eq!((good, text.as_str()), (false, "no mutant is chosen\n"));
}

#[test]
fn an_equivalent_one_that_is_killed_is_an_error() {
    let root = tiny(&[entry(
        "full-is-one-late",
        "len >= 3",
        "len > 3",
        "equivalent = 'so it seemed'",
    )]);
    let (good, text) = run(root.path(), &["--equivalent"]);
    assert!(!good, "{text}");
    assert!(
        text.contains("ERROR     full-is-one-late  is said to be equivalent, but killed by three_are_full "),
        "{text}"
    );
}

#[test]
fn the_exit_code_tells_a_list_in_order_from_one_with_faults() {
    let good = tiny(&[hanging()]);
    let told = |good: bool, text: &str| (good, text.to_owned());
    assert_eq!(
        run(good.path(), &["--check"]),
        told(true, "mutants: 1 in the list, 0 faults\n")
    );
    assert_eq!(
        run(good.path(), &["--list"]),
        told(true, "a-round-that-never-ends  src/lib.rs  killed by behaviour\n")
    );

    let bad = tiny(&[hanging(), hanging()]);
    assert_eq!(
        run(bad.path(), &["--check"]),
        told(
            false,
            "mutants: 2 in the list, 1 faults\na-round-that-never-ends: another mutant has the same name\n"
        )
    );
}

#[test]
fn an_interrupted_run_leaves_no_process_and_no_copy() {
    let root = tiny(&[hanging()]);
    let temporary = tempfile::tempdir().unwrap();
    let mut child = task(root.path(), &["--least-time", "600"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The test binary is the only program below the crate's target folder.
    let running = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            fs::read_link(entry.path().join("exe"))
                .is_ok_and(|exe| exe.starts_with(root.path().canonicalize().unwrap()))
        })
    };
    let planted = || {
        fs::read_dir(temporary.path()).unwrap().flatten().any(|entry| {
            fs::read_to_string(entry.path().join("src/lib.rs")).is_ok_and(|text| text.contains("left -= 0;"))
        })
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    while !(planted() && running()) {
        assert!(Instant::now() < deadline, "the mutant is never run");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(
        fs::read_dir(temporary.path()).unwrap().count(),
        0,
        "the copy stays behind"
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while running() {
        assert!(Instant::now() < deadline, "the test goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_committed_list_fits_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (bad, count) = mutants::check(&root).unwrap();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(count > 0);
}
