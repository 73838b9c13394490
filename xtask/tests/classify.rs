//! `contract classify` as a user runs it: exit codes, text and JSON over folders that are not ours
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn classify(old: &Path, new: &Path, json: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["contract", "classify"]).arg(old).arg(new);
    if json {
        command.arg("--json");
    }
    command.output().unwrap()
}

fn outcome(old: &[(&str, &str)], new: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let (old, new) = (tree(old), tree(new));
    let output = classify(old.path(), new.path(), false);
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

const SHOP: &str = "syntax = \"proto3\";
package shop;
import \"google/protobuf/timestamp.proto\";
import \"shop/money.proto\";
message Order { string id = 1; shop.Money total = 2; google.protobuf.Timestamp at = 3; }
service Orders { rpc Place(Order) returns (stream Order); }
";
const MONEY: &str = "syntax = \"proto2\";
package shop;
message Money { required int64 units = 1; optional string currency = 2 [default = \"EUR\"]; }
";

#[test]
fn the_same_tree_is_identical() {
    let files = [("api/order.proto", SHOP), ("shop/money.proto", MONEY)];
    let (code, stdout, stderr) = outcome(&files, &files);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "identical\n", "")
    );
}

#[test]
fn comments_order_and_layout_are_identical() {
    let shuffled = "// Places orders\nsyntax='proto3'; package shop;
        import \"shop/money.proto\"; import \"google/protobuf/timestamp.proto\";
        service Orders { rpc Place(Order) returns (stream Order) {} }
        /* edition = 7 */ message Order { .google.protobuf.Timestamp at = 3; Money total = 2; // total
        string id = 1; }";
    let old = [("api/order.proto", SHOP), ("shop/money.proto", MONEY)];
    let new = [("api/order.proto", shuffled), ("shop/money.proto", MONEY)];
    let (code, stdout, stderr) = outcome(&old, &new);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "identical\n", "")
    );
}

#[test]
fn an_addition_is_additive() {
    let more = SHOP.replace("string id = 1;", "string id = 1; string note = 4;");
    let old = [("order.proto", SHOP), ("shop/money.proto", MONEY)];
    let new = [("order.proto", more.as_str()), ("shop/money.proto", MONEY)];
    let (code, stdout, _) = outcome(&old, &new);
    assert_eq!(code, Some(10));
    assert_eq!(
        stdout,
        "additive\nadditive field-added shop.Order.note: field 4 of type string is new\n"
    );
}

#[test]
fn a_removal_is_breaking_and_says_what_to_do() {
    let less = SHOP.replace("string id = 1;", "reserved 1; reserved \"id\";");
    let old = [("order.proto", SHOP), ("shop/money.proto", MONEY)];
    let new = [("order.proto", less.as_str()), ("shop/money.proto", MONEY)];
    let (code, stdout, _) = outcome(&old, &new);
    assert_eq!(code, Some(20));
    assert!(
        stdout.starts_with("breaking\nbreaking field-removed shop.Order.id: field 1 is gone\n  -> restore")
    );
}

#[test]
fn json_carries_the_same() {
    let old = tree(&[("money.proto", MONEY)]);
    let new = tree(&[(
        "money.proto",
        &MONEY.replace("required int64 units", "required int32 units"),
    )]);
    let output = classify(old.path(), new.path(), true);
    assert_eq!(output.status.code(), Some(20));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["verdict"], "breaking");
    let finding = &report["findings"][0];
    assert_eq!(finding["class"], "breaking");
    assert_eq!(finding["rule"], "field-type-changed");
    assert_eq!(finding["element"], "shop.Money.units");
    assert_eq!(finding["message"], "required int64 became required int32");
    assert!(
        finding["advice"]
            .as_str()
            .unwrap()
            .starts_with("restore the type")
    );
}

#[test]
fn a_custom_option_is_seen() {
    let text = |limit: u32| {
        format!(
            "syntax = \"proto2\"; package o; import \"google/protobuf/descriptor.proto\";
             extend google.protobuf.FieldOptions {{ optional int32 limit = 50000; }}
             message M {{ optional string a = 1 [(limit) = {limit}]; }}"
        )
    };
    let (code, stdout, _) = outcome(&[("o.proto", &text(1))], &[("o.proto", &text(2))]);
    assert_eq!(code, Some(10));
    assert_eq!(
        stdout,
        "additive\nadditive option-changed o.M.a: a custom option changed\n"
    );
}

#[test]
fn carrying_or_importing_well_known_files_is_no_difference() {
    let empty = "syntax = \"proto3\"; package google.protobuf;
        option java_package = \"com.google.protobuf\"; option java_outer_classname = \"EmptyProto\";
        option java_multiple_files = true; option go_package = \"google.golang.org/protobuf/types/known/emptypb\";
        option cc_enable_arenas = true; option objc_class_prefix = \"GPB\";
        option csharp_namespace = \"Google.Protobuf.WellKnownTypes\"; message Empty {}";
    let user = "syntax = \"proto3\"; import \"google/protobuf/empty.proto\"; message M { google.protobuf.Empty e = 1; }";
    let (code, stdout, stderr) = outcome(
        &[("m.proto", user)],
        &[("m.proto", user), ("google/protobuf/empty.proto", empty)],
    );
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "identical\n", "")
    );

    let (code, stdout, _) = outcome(
        &[("m.proto", user)],
        &[("m.proto", "syntax = \"proto3\"; message M {}")],
    );
    assert_eq!(code, Some(20));
    assert!(!stdout.contains("google.protobuf.Empty: "), "{stdout}");
}

#[test]
fn byte_order_marks_and_line_ends_are_formatting() {
    let text = "\u{feff}syntax = \"proto3\";\r\npackage m;\r\nmessage M { int32 a = 1; }\r\n";
    let plain = "syntax = \"proto3\";\npackage m;\nmessage M {\n  int32 a = 1;\n}\n";
    let (code, stdout, stderr) = outcome(&[("m.proto", text)], &[("m.proto", plain)]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "identical\n", "")
    );
}

#[test]
fn a_reader_that_stops_listening_does_not_change_the_verdict() {
    let old = tree(&[("m.proto", "syntax = \"proto3\"; message M { int32 a = 1; }")]);
    let new = tree(&[("m.proto", "syntax = \"proto3\"; message M {}")]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["contract", "classify"])
        .arg(old.path())
        .arg(new.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(20),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stderr.is_empty());
}

/// Files that make a tree unreadable, and what the report must say.
const UNREADABLE: &[(&str, &str, &str)] = &[
    (
        "syntax error",
        "syntax = \"proto3\";\nmessage M {\n  int32 a = ;\n}\n",
        "bad.proto:3: expected",
    ),
    (
        "missing import",
        "syntax = \"proto3\";\nimport \"no/such.proto\";\nmessage M {}\n",
        "bad.proto:2: import 'no/such.proto' not found",
    ),
    (
        "edition",
        "// fresh\nedition = \"2023\";\nmessage M {}\n",
        "bad.proto:2: editions are not supported",
    ),
    (
        "edition without blanks",
        "edition=\"2024\";",
        "bad.proto:1: editions are not supported",
    ),
    (
        "unknown syntax",
        "syntax = \"proto4\";\nmessage M {}\n",
        "bad.proto:1: ",
    ),
    (
        "unknown type",
        "syntax = \"proto3\";\nmessage M {\n  Nowhere a = 1;\n}\n",
        "bad.proto:3: ",
    ),
    (
        "one number twice",
        "syntax = \"proto3\";\nmessage M {\n  int32 a = 1;\n  int32 b = 1;\n}\n",
        "bad.proto:4: ",
    ),
    (
        "a symbol of an imported file",
        "syntax = \"proto3\";\nimport \"good.proto\";\npackage good;\nmessage Good {}\n",
        "bad.proto:4: name 'good.Good' is already defined in file 'good.proto'",
    ),
    (
        "nested without end",
        "syntax = \"proto3\";\nNEST",
        "bad.proto:2: is nested more than 100 levels deep",
    ),
    (
        "import of itself",
        "syntax = \"proto3\";\nimport \"bad.proto\";\n",
        "import cycle",
    ),
    (
        "a lone quote",
        "syntax = \"proto3\";\noption java_package = \"x;\n",
        "bad.proto:2: ",
    ),
    (
        "a comment without end",
        "syntax = \"proto3\";\n/* ...\n",
        "bad.proto:2: ",
    ),
];

#[test]
fn unreadable_input_is_two_with_file_line_and_reason() {
    let good = ("good.proto", "syntax = \"proto3\"; package good; message Good {}");
    for (what, text, expected) in UNREADABLE {
        let text = text.replace("NEST", &"message M {".repeat(5_000));
        let broken = tree(&[good, ("bad.proto", &text)]);
        let fine = tree(&[good]);
        for (old, new) in [(&broken, &fine), (&fine, &broken), (&broken, &broken)] {
            let output = classify(old.path(), new.path(), false);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
            assert!(stderr.contains(expected), "{what}: {stderr}");
            assert!(stderr.contains("bad.proto"), "{what}: {stderr}");
            assert!(output.stdout.is_empty(), "{what}");
        }
        let output = classify(broken.path(), fine.path(), true);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["verdict"], "unreadable", "{what}");
        let problem = &report["problems"][0];
        let file = problem["file"].as_str().unwrap();
        assert!(file.ends_with("bad.proto"), "{what}: {problem}");
        assert!(!problem["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn folders_that_are_none_are_unreadable() {
    let fine = tree(&[("a.proto", "syntax = \"proto3\"; message M {}")]);
    let empty = tree(&[("readme.txt", "no protos here")]);
    let file = fine.path().join("a.proto");
    let nowhere = fine.path().join("nowhere");
    for (folder, expected) in [
        (empty.path(), "holds no .proto file"),
        (file.as_path(), "is not a folder"),
        (nowhere.as_path(), "No such file"),
    ] {
        for (old, new) in [(folder, fine.path()), (fine.path(), folder), (folder, folder)] {
            let output = classify(old, new, false);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(expected), "{stderr}");
            assert!(stderr.contains(&folder.display().to_string()), "{stderr}");
        }
    }
}

#[test]
fn both_trees_are_reported() {
    let old = tree(&[("one.proto", "syntax = \"proto3\"; message {")]);
    let new = tree(&[("two.proto", "syntax = \"proto3\"; message {")]);
    let stderr = String::from_utf8(classify(old.path(), new.path(), false).stderr).unwrap();
    assert!(
        stderr.contains("one.proto:1: ") && stderr.contains("two.proto:1: "),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn odd_files_are_handled() {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    let text = "syntax = \"proto3\"; message M {}";
    let fine = tree(&[("a.proto", text), ("sub/readme.txt", "")]);

    // A link back to an ancestor ends the walk there.
    symlink(fine.path(), fine.path().join("sub/loop")).unwrap();
    let output = classify(fine.path(), fine.path(), false);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // A dangling link that should be a source is not skipped.
    let dangling = tree(&[("a.proto", text)]);
    symlink("/nowhere/b.proto", dangling.path().join("b.proto")).unwrap();
    let output = classify(fine.path(), dangling.path(), false);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("b.proto: No such file"));

    let binary = tree(&[("a.proto", text)]);
    fs::write(binary.path().join("b.proto"), b"syntax = \"proto3\"; // \xff\xfe").unwrap();
    let output = classify(fine.path(), binary.path(), false);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("b.proto:1: is not valid UTF-8"));

    let named = tree(&[("a.proto", text)]);
    let name = std::ffi::OsStr::from_bytes(b"\xff.proto");
    fs::write(named.path().join(name), "syntax = \"proto3\"; message N {}").unwrap();
    let output = classify(fine.path(), named.path(), false);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has a name that is not valid UTF-8"));
}
