//! `contract verify` and `accept` on a copy of the repository's contract
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const DAEMON: &str = "proto/prexorcloud/daemon_service.proto";
const VERSION: &str = "crates/compat/src/negotiation.rs";
const PACKAGE: &str = "me.prexorjustin.prexorcloud.protocol";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// What the contract consists of, in a folder of its own.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in [
            "proto",
            "contracts",
            "crates/proto/src/gen",
            "crates/compat/src/gen",
            VERSION,
        ] {
            copy(&repository().join(part), &dir.path().join(part));
        }
        Self(dir)
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// Removes the one line of a message that declares `field`, with the comments before it.
    fn delete_field(&self, message: &str, field: &str) {
        let path = self.0.path().join(DAEMON);
        let text = fs::read_to_string(&path).unwrap();
        let start = text.find(&format!("\nmessage {message} {{")).unwrap();
        let (before, after) = text.split_at(start);
        let line = after
            .lines()
            .find(|line| line.contains(&format!(" {field} = ")))
            .unwrap();
        fs::write(
            path,
            format!("{before}{}", after.replacen(&format!("{line}\n"), "", 1)),
        )
        .unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("contract")
            .args(arguments)
            .arg("--root")
            .arg(self.0.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap()
    }
}

#[test]
fn the_repository_itself_verifies() {
    let (good, bad) = xtask::contract::verify(&repository()).unwrap();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(
        good[0].contains("additive change against contracts/v1"),
        "{good:?}"
    );
}

#[test]
fn generated_code_is_fresh() {
    xtask::codegen::check(&repository()).unwrap();
}

#[test]
fn stale_generated_code_is_found_by_name_and_by_byte() {
    let tree = Copy::new();
    let generated = format!("crates/proto/src/gen/{PACKAGE}.rs");
    tree.edit(&generated, "pub struct Ping", "pub struct Pang");
    fs::write(tree.0.path().join("crates/proto/src/gen/stray.rs"), "").unwrap();
    fs::remove_file(tree.0.path().join("crates/proto/src/gen/descriptor.bin")).unwrap();
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    for expected in [
        "protocol.rs (differs)",
        "stray.rs (not generated",
        "descriptor.bin (missing)",
        "cargo xtask codegen",
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
}

#[test]
fn deleting_a_released_field_names_rule_element_and_remedy() {
    let tree = Copy::new();
    tree.delete_field("StopInstance", "force");
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    for expected in [
        "the change against contracts/v1 is breaking, and PROTOCOL_VERSION is still 1",
        "rule field-removed",
        &format!("element {PACKAGE}.StopInstance.force"),
        "-> restore the field and mark it deprecated, or raise PROTOCOL_VERSION and reserve its number and name",
        "the digest of proto/prexorcloud/daemon_service.proto differs",
        "reread contracts/README.md",
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    let digest = tree.read("contracts/proto-contracts.sha256");
    let expected = digest.lines().find(|line| line.ends_with(DAEMON)).unwrap();
    assert!(text.contains(&format!("expected {}", &expected[..64])), "{text}");
    assert!(text.contains("actual   "), "{text}");

    // Accepting it is refused, and leaves everything as it was.
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("not accepted") && text.contains("rule field-removed"),
        "{text}"
    );
    assert_eq!(tree.read("contracts/proto-contracts.sha256"), digest);
}

#[test]
fn deleting_a_field_of_our_own_is_noticed_too() {
    let tree = Copy::new();
    tree.delete_field("StopInstance", "incarnation");
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the change since the last `contract accept` is breaking"),
        "{text}"
    );
    assert!(
        text.contains(&format!("element {PACKAGE}.StopInstance.incarnation")),
        "{text}"
    );
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--unreleased"), "{text}");

    // Unless nobody outside has seen the field.
    let (code, text) = tree.run(&["accept", "--unreleased"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn an_additive_variant_passes_after_accept_without_a_new_version() {
    let tree = Copy::new();
    tree.edit(
        DAEMON,
        "\nmessage ShutdownNode {",
        "\n// Asks for a greeting.\nmessage Greet {\n  // Whom to greet.\n  string name = 1;\n}\n\nmessage ShutdownNode {",
    );
    let variant = tree
        .read(DAEMON)
        .lines()
        .find(|line| line.contains("CrashReportAck crash_report_ack = 100;"))
        .unwrap()
        .to_owned();
    tree.edit(
        DAEMON,
        &variant,
        &format!("{variant}\n    // A greeting.\n    Greet greet = 150;"),
    );

    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cargo xtask contract accept"), "{text}");
    assert!(!text.contains("breaking"), "{text}");

    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(0), "{text}");
    for written in [
        "wrote contracts/proto-contracts.sha256",
        "wrote crates/compat/src/gen/digests.rs",
        "wrote contracts/accepted/prexorcloud/daemon_service.proto",
        "wrote crates/proto/src/gen/descriptor.bin",
    ] {
        assert!(text.contains(written), "{written} not in {text}");
    }
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("additive change against contracts/v1"), "{text}");

    // A second time there is nothing to do.
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "nothing to write: everything is current\n")
    );
}

#[test]
fn a_breaking_change_needs_a_higher_version_and_reserved_numbers() {
    let tree = Copy::new();
    tree.delete_field("StopInstance", "force");
    tree.edit(
        VERSION,
        "pub const PROTOCOL_VERSION: i32 = 1;",
        "pub const PROTOCOL_VERSION: i32 = 2;",
    );
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!(
            "number 2 of {PACKAGE}.StopInstance (force) vanished without being reserved"
        )),
        "{text}"
    );
    assert!(text.contains("`reserved 2;` and `reserved \"force\";`"), "{text}");

    tree.edit(
        DAEMON,
        "\nmessage StopInstance {\n",
        "\nmessage StopInstance {\n  reserved 2;\n  reserved \"force\";\n",
    );
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_version_that_nothing_asks_for_is_refused() {
    let tree = Copy::new();
    tree.edit(
        VERSION,
        "pub const PROTOCOL_VERSION: i32 = 1;",
        "pub const PROTOCOL_VERSION: i32 = 2;",
    );
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("PROTOCOL_VERSION is 2, but the change against contracts/v1 is additive"),
        "{text}"
    );

    let released = Copy::new();
    copy(
        &released.0.path().join("proto"),
        &released.0.path().join("contracts/v3"),
    );
    let (code, text) = released.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("PROTOCOL_VERSION is 1, but version 3 was released"),
        "{text}"
    );
}

#[test]
fn a_new_comment_wants_accept_and_nothing_else() {
    let tree = Copy::new();
    tree.edit(DAEMON, "\nmessage Ping {", "\n// Are you there?\nmessage Ping {");
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the digest of") && !text.contains("breaking"),
        "{text}"
    );
    let wire = |tree: &Copy| {
        let text = tree.read("crates/compat/src/gen/digests.rs");
        text.lines()
            .find(|line| line.contains("WIRE_DIGEST"))
            .unwrap()
            .to_owned()
    };
    let before = wire(&tree);
    let (code, text) = tree.run(&["accept"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(wire(&tree), before, "a comment changed the digest of the meaning");
}

#[test]
fn files_that_come_and_go_are_noticed() {
    let tree = Copy::new();
    fs::remove_file(tree.0.path().join("proto/prexorcloud/admin_service.proto")).unwrap();
    let (code, text) = tree.run(&["verify"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("rule service-removed") && text.contains("AdminService"),
        "{text}"
    );
    assert!(
        text.contains("the digest of proto/prexorcloud/admin_service.proto differs"),
        "{text}"
    );
    assert!(text.contains("actual   none"), "{text}");
}

#[test]
fn an_unreadable_contract_is_two() {
    let tree = Copy::new();
    tree.edit(DAEMON, "message Ping {", "message Ping");
    for task in ["verify", "accept"] {
        let (code, text) = tree.run(&[task]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("daemon_service.proto:"), "{text}");
    }
}

#[test]
fn the_list_of_digests_is_for_sha256sum() {
    let output = Command::new("sha256sum")
        .args(["-c", "contracts/proto-contracts.sha256"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn the_compat_crate_carries_the_digests() {
    let sums = fs::read_to_string(repository().join("contracts/proto-contracts.sha256")).unwrap();
    let constants: String = prexorcloud_compat::contract::FILES
        .iter()
        .map(|(path, digest)| format!("{digest}  {path}\n"))
        .collect();
    assert_eq!(constants, sums);
}
