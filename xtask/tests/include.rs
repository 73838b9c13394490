//! `contract classify` over trees that do not stand alone: include paths, unrelated files, and every problem at once
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

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

/// Exit code, standard output and standard error.
fn classify(old: &Path, new: &Path, includes: &[&Path], more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["contract", "classify"])
        .arg(old)
        .arg(new)
        .args(more);
    for include in includes {
        command.arg("--include").arg(include);
    }
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

const ORDER: &str = "syntax = \"proto3\";
package shop;
import \"validate/validate.proto\";
import \"base/unit.proto\";
message Order { string id = 1 [(validate.rules).min_len = 3]; base.Unit unit = 2; }
";
const VALIDATE: &str = "syntax = \"proto2\";
package validate;
import \"google/protobuf/descriptor.proto\";
message Rules { optional uint32 min_len = 1; }
extend google.protobuf.FieldOptions { optional Rules rules = 1071; }
";
const UNIT: &str = "syntax = \"proto3\"; package base; message Unit { int32 a = 1; }";

#[test]
fn imports_are_found_below_include_paths_and_not_compared() {
    let old = tree(&[("order.proto", ORDER)]);
    let new = tree(&[("order.proto", &ORDER.replace("min_len = 3", "min_len = 4"))]);
    let validate = tree(&[
        ("validate/validate.proto", VALIDATE),
        ("validate/broken.proto", "nobody imports this"),
        (
            "google/protobuf/descriptor.proto",
            "the one that is built in is taken",
        ),
    ]);
    let base = tree(&[("base/unit.proto", UNIT)]);
    let both = [validate.path(), base.path()];

    let (code, stdout, stderr) = classify(old.path(), old.path(), &both, &[]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "identical\n", "")
    );
    let (code, stdout, _) = classify(old.path(), new.path(), &both, &[]);
    assert_eq!(code, Some(10));
    assert_eq!(
        stdout,
        "additive\nadditive option-changed shop.Order.id: a custom option changed\n"
    );

    let (code, _, stderr) = classify(old.path(), new.path(), &[validate.path()], &[]);
    assert_eq!(code, Some(2));
    for side in [&old, &new] {
        let place = side.path().join("order.proto");
        let expected = format!("{}:4: import 'base/unit.proto' not found", place.display());
        assert!(stderr.contains(&expected), "{stderr}");
    }
    assert!(!stderr.contains("validate.proto"), "{stderr}");
}

#[test]
fn the_tree_comes_first_then_the_include_paths_in_order() {
    let unit = |field: &str| format!("syntax = \"proto3\"; package base; message {field} {{}}");
    let user = "syntax = \"proto3\"; import \"base/unit.proto\"; message M { base.Right r = 1; }";
    let right = tree(&[("base/unit.proto", &unit("Right"))]);
    let wrong = tree(&[("base/unit.proto", &unit("Wrong"))]);
    let alone = tree(&[("m.proto", user)]);
    let (code, ..) = classify(alone.path(), alone.path(), &[right.path(), wrong.path()], &[]);
    assert_eq!(code, Some(0));
    let (code, _, stderr) = classify(alone.path(), alone.path(), &[wrong.path(), right.path()], &[]);
    assert_eq!(code, Some(2), "{stderr}");
    let own = tree(&[("m.proto", user), ("base/unit.proto", &unit("Right"))]);
    let (code, ..) = classify(own.path(), own.path(), &[wrong.path()], &[]);
    assert_eq!(code, Some(0));
}

#[test]
fn a_problem_in_an_include_path_names_its_file_once() {
    let user = tree(&[(
        "m.proto",
        "syntax = \"proto3\"; import \"base/unit.proto\"; message M {}",
    )]);
    let base = tree(&[("base/unit.proto", "syntax = \"proto3\";\nmessage {")]);
    let (code, stdout, stderr) = classify(user.path(), user.path(), &[base.path()], &[]);
    let place = base.path().join("base/unit.proto");
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.starts_with(&format!("{}:2: expected", place.display())),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn an_include_path_that_is_no_folder_is_a_problem() {
    let user = tree(&[("m.proto", "syntax = \"proto3\"; message M {}")]);
    for (include, expected) in [
        (user.path().join("nowhere"), "No such file"),
        (user.path().join("m.proto"), "is not a folder"),
    ] {
        let (code, _, stderr) = classify(user.path(), user.path(), &[&include], &[]);
        assert_eq!(code, Some(2));
        assert!(
            stderr.starts_with(&format!("{}: ", include.display())),
            "{stderr}"
        );
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn an_import_never_leaves_the_include_paths() {
    let outside = tree(&[
        ("secret.proto", "syntax = \"proto3\"; message S {}"),
        ("lib/readme", ""),
    ]);
    let include = outside.path().join("lib");
    let absolute = outside.path().join("secret.proto").display().to_string();
    for import in ["../secret.proto", &absolute, "lib/../../secret.proto"] {
        let text = format!("syntax = \"proto3\";\nimport \"{import}\";\nmessage M {{}}");
        let user = tree(&[("m.proto", text.as_str())]);
        let (code, _, stderr) = classify(user.path(), user.path(), &[&include], &[]);
        assert_eq!(code, Some(2), "{import}: {stderr}");
        assert!(stderr.contains("m.proto:2: "), "{import}: {stderr}");
    }
}

#[test]
fn an_unrelated_package_does_not_make_a_tree_unreadable() {
    let user = "syntax = \"proto3\"; package envoy.extensions.filters; import \"core.proto\";
        message Filter { config.core.Flag flag = 1; }";
    let core = "syntax = \"proto3\"; package envoy.config.core; message Flag {}";
    let other = "syntax = \"proto3\"; package envoy.extensions.config.core; message Else {}";
    let old = tree(&[("user.proto", user), ("core.proto", core)]);
    let new = tree(&[
        ("user.proto", user),
        ("core.proto", core),
        ("a/other.proto", other),
    ]);
    let (code, stdout, stderr) = classify(old.path(), new.path(), &[], &[]);
    assert_eq!((code, stderr.as_str()), (Some(10), ""));
    assert_eq!(
        stdout,
        "additive\nadditive file-added a/other.proto: the file is new\n\
         additive message-added envoy.extensions.config.core.Else: the message is new\n"
    );
}

#[test]
fn namesakes_in_unrelated_files_are_told_apart() {
    let text = |field: &str| format!("syntax = \"proto3\"; package p; message M {{ {field} }}");
    let old = tree(&[
        ("a.proto", &text("int32 a = 1;")),
        ("b.proto", &text("int32 b = 1;")),
    ]);
    let new = tree(&[
        ("a.proto", &text("int32 a = 1;")),
        ("b.proto", &text("int64 b = 1;")),
    ]);
    let (code, stdout, stderr) = classify(old.path(), new.path(), &[], &[]);
    assert_eq!((code, stderr.as_str()), (Some(20), ""));
    assert!(
        stdout.contains("breaking field-type-changed p.M (b.proto).b: int32 became int64\n"),
        "{stdout}"
    );
    let (code, ..) = classify(old.path(), old.path(), &[], &[]);
    assert_eq!(code, Some(0));
}

#[test]
fn every_problem_of_both_trees_is_told_at_once() {
    let old = tree(&[
        ("fine.proto", "syntax = \"proto3\"; message Fine {}"),
        (
            "one.proto",
            "syntax = \"proto3\";\nmessage A {\n  int32 a = ;\n}\nmessage B {\n  int32 = 1;\n}\n",
        ),
        (
            "two.proto",
            "syntax = \"proto3\";\nimport \"no.proto\";\nimport \"nowhere.proto\";\n",
        ),
    ]);
    let new = tree(&[
        ("edition.proto", "edition = \"2023\";"),
        (
            "three.proto",
            "syntax = \"proto3\";\nmessage M {\n  Gone a = 1;\n  int32 b = 1;\n}\n",
        ),
    ]);
    fs::write(new.path().join("bytes.proto"), b"\n// \xff").unwrap();
    let places = [
        (&old, "one.proto", 3),
        (&old, "one.proto", 6),
        (&old, "two.proto", 2),
        (&old, "two.proto", 3),
        (&new, "bytes.proto", 2),
        (&new, "edition.proto", 1),
        (&new, "three.proto", 3),
        (&new, "three.proto", 4),
    ];
    let (code, stdout, stderr) = classify(old.path(), new.path(), &[], &[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), places.len(), "{stderr}");
    for (line, (tree, file, number)) in lines.iter().zip(places) {
        let place = format!("{}:{number}: ", tree.path().join(file).display());
        assert!(line.starts_with(&place), "{line} does not start with {place}");
    }

    let (code, stdout, _) = classify(old.path(), new.path(), &[], &["--json"]);
    assert_eq!(code, Some(2));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["verdict"], "unreadable");
    let problems = report["problems"].as_array().unwrap();
    for (problem, (tree, file, number)) in problems.iter().zip(places) {
        assert_eq!(problem["file"], tree.path().join(file).display().to_string());
        assert_eq!(problem["line"], number);
    }
    assert_eq!(problems.len(), places.len());
}

/// Old, new, exit code and the rule of the one finding, if there is one.
const KINDS: &[(&str, &str, i32, &str)] = &[
    (
        "syntax = \"proto2\"; message M { optional int32 a = 1 [default = 0]; }",
        "syntax = \"proto2\"; message M { optional int32 a = 1; }",
        0,
        "",
    ),
    (
        "syntax = \"proto3\"; message M { M a = 1; }",
        "syntax = \"proto3\"; message M { optional M a = 1; }",
        0,
        "",
    ),
    (
        "syntax = \"proto3\"; message M {} service S { rpc R(M) returns (M) { option idempotency_level = IDEMPOTENT; } }",
        "syntax = \"proto3\"; message M {} service S { rpc R(M) returns (M); }",
        20,
        "rpc-idempotency-changed",
    ),
    (
        "syntax = \"proto2\"; import \"google/protobuf/descriptor.proto\";
         extend google.protobuf.FieldOptions { optional int32 a = 50000; }",
        "syntax = \"proto2\"; import \"google/protobuf/descriptor.proto\";",
        10,
        "option-changed",
    ),
];

#[test]
fn what_a_peer_could_tell_decides() {
    for (old, new, expected, rule) in KINDS {
        let (old, new) = (tree(&[("m.proto", old)]), tree(&[("m.proto", new)]));
        let (code, stdout, stderr) = classify(old.path(), new.path(), &[], &[]);
        assert_eq!(code, Some(*expected), "{stdout}{stderr}");
        assert!(stdout.contains(rule), "{stdout}");
    }
}
