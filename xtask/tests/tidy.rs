//! `tidy` as a user runs it, on small workspaces with a planted violation
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const BANS: &str = "disallowed-methods = [
    { path = \"std::time::Instant::now\", reason = \"time is an argument\" },
    { path = \"std::time::SystemTime::now\", reason = \"time is an argument\" },
]";

const LICENCE: &str = "Do as you like.\n";

/// The guarded crates, each empty, and a crate of our own that is called like a runtime.
fn workspace() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\nexclude = [\"elsewhere\"]\n",
    );
    write(dir.path(), "LICENSE", LICENCE);
    for (folder, name) in [
        ("compat", "prexorcloud-compat"),
        ("protocol", "prexorcloud-protocol"),
        ("security", "prexorcloud-security"),
        ("content", "prexorcloud-content"),
        ("cli", "prexorctl"),
    ] {
        krate(dir.path(), folder, name, "");
    }
    for guarded in ["compat", "protocol"] {
        write(dir.path(), &format!("crates/{guarded}/clippy.toml"), BANS);
    }
    write(
        dir.path(),
        "elsewhere/runtime/Cargo.toml",
        "[package]\nname = \"tokio\"\nversion = \"1.0.0\"\nedition = \"2024\"\nrust-version = \"1.90\"\n",
    );
    write(dir.path(), "elsewhere/runtime/src/lib.rs", "");
    dir
}

fn krate(root: &Path, folder: &str, name: &str, dependencies: &str) {
    write(
        root,
        &format!("crates/{folder}/Cargo.toml"),
        &format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nrust-version = \"1.85\"\n\
             description = \"Nothing\"\nkeywords = [\"nothing\"]\nlicense = \"MIT\"\nreadme = \"README.md\"\n\
             [dependencies]\n{dependencies}\n[lints]\nworkspace = true\n\
             [package.metadata.docs.rs]\nall-features = true\n"
        ),
    );
    write(root, &format!("crates/{folder}/README.md"), "# Nothing\n");
    write(root, &format!("crates/{folder}/LICENSE"), LICENCE);
    write(
        root,
        &format!("crates/{folder}/src/lib.rs"),
        "//! Empty\n#![warn(missing_docs)]\n",
    );
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn tidy(root: &Path) -> (bool, String) {
    // Lints of the workspace have to exist for Cargo to read a crate that takes them.
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    if !manifest.contains("[workspace.lints") {
        fs::write(
            root.join("Cargo.toml"),
            format!("{manifest}\n[workspace.lints.rust]\nunsafe_code = \"deny\"\n"),
        )
        .unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["tidy", "--root"])
        .arg(root)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_tree_in_order_passes() {
    let dir = workspace();
    let (passed, text) = tidy(dir.path());
    assert!(passed, "{text}");
    assert_eq!(text, "tidy: in order\n");
}

#[test]
fn a_runtime_below_the_machines_fails() {
    let dir = workspace();
    krate(
        dir.path(),
        "protocol",
        "prexorcloud-protocol",
        "runtime = { path = \"../../elsewhere/runtime\", package = \"tokio\", optional = true }",
    );
    let (passed, text) = tidy(dir.path());
    assert!(!passed, "{text}");
    assert!(
        text.contains("prexorcloud-protocol reaches tokio 1.0.0"),
        "{text}"
    );
    assert!(
        text.contains(
            "prexorcloud-protocol has rust-version 1.85: write rust-version = \"1.90\" (tokio 1.0.0)"
        ),
        "{text}"
    );
}

#[test]
fn an_arrow_the_wrong_way_fails() {
    let dir = workspace();
    krate(
        dir.path(),
        "compat",
        "prexorcloud-compat",
        "prexorcloud-protocol = { path = \"../protocol\" }",
    );
    let (passed, text) = tidy(dir.path());
    assert!(!passed, "{text}");
    assert!(
        text.contains("prexorcloud-compat depends on prexorcloud-protocol, against the layers"),
        "{text}"
    );
}

#[test]
fn a_clock_in_a_machine_fails() {
    let dir = workspace();
    let call = concat!("std::time::Instant::", "now()");
    write(
        dir.path(),
        "crates/protocol/src/ledger.rs",
        &format!("fn f() -> std::time::Instant {{\n    {call}\n}}\n"),
    );
    let (passed, text) = tidy(dir.path());
    assert!(!passed, "{text}");
    assert!(text.contains("crates/protocol/src/ledger.rs:2: "), "{text}");
    assert!(
        text.contains("in a crate without clock and runtime\ntidy: 1 violations"),
        "{text}"
    );
}

#[test]
fn a_package_that_does_not_explain_itself_fails() {
    let manifest = "crates/security/Cargo.toml";
    for (file, from, to, sentence) in [
        (manifest, "description = \"Nothing\"\n", "", "write a description"),
        (manifest, "keywords = [\"nothing\"]\n", "", "write keywords"),
        (manifest, "license = \"MIT\"\n", "", "write license"),
        (
            manifest,
            "readme = \"README.md\"\n",
            "readme = false\n",
            "write readme",
        ),
        (
            manifest,
            "all-features = true",
            "no-default-features = true",
            "write [package.metadata.docs.rs]",
        ),
        (
            manifest,
            "[dependencies]",
            "exclude = [\"LICENSE\"]\n[dependencies]",
            "its package has no LICENSE",
        ),
        (
            manifest,
            "edition",
            "build = \"no.rs\"\nedition",
            "cargo package --list: ",
        ),
        (
            "crates/security/LICENSE",
            "like",
            "must",
            "its LICENSE is not that of the repository",
        ),
    ] {
        let dir = workspace();
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(text.contains(from), "{from}");
        write(dir.path(), file, &text.replace(from, to));
        let (passed, text) = tidy(dir.path());
        assert!(!passed, "{sentence}: {text}");
        assert!(
            text.contains(&format!("prexorcloud-security: {sentence}")),
            "{text}"
        );
    }
    for file in ["README.md", "LICENSE"] {
        let dir = workspace();
        fs::remove_file(dir.path().join("crates/security").join(file)).unwrap();
        let (passed, text) = tidy(dir.path());
        assert!(!passed, "{text}");
        assert!(text.contains("prexorcloud-security: "), "{text}");
        assert!(text.contains(file), "{text}");
    }
}

#[test]
fn a_package_that_reaches_no_registry_owes_no_explanation() {
    let dir = workspace();
    let manifest = "[package]\nname = \"prexorcloud-bench\"\nedition = \"2024\"\npublish = false\n[lints]\nworkspace = true\n";
    write(dir.path(), "crates/bench/Cargo.toml", manifest);
    write(dir.path(), "crates/bench/src/main.rs", "fn main() {}\n");
    let (passed, text) = tidy(dir.path());
    assert!(passed, "{text}");
}

#[test]
fn a_dependency_without_a_user_fails() {
    let dir = workspace();
    let runtime = "{ path = \"elsewhere/runtime\", package = \"tokio\", version = \"1\" }";
    let manifest = fs::read_to_string(dir.path().join("Cargo.toml")).unwrap();
    write(
        dir.path(),
        "Cargo.toml",
        &format!("{manifest}[workspace.dependencies]\nruntime = {runtime}\n"),
    );
    let (passed, text) = tidy(dir.path());
    assert!(!passed, "{text}");
    assert!(
        text.contains("Cargo.toml: no crate takes runtime from the workspace: drop it\ntidy: 1 violations"),
        "{text}"
    );
}
