//! What a source spells out and what it leaves to be implied: the same, unless a peer could tell
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use prexorcloud_compat::schema::{canonical_text, classify};
use support::compile;

fn found(old: &str, new: &str) -> Vec<String> {
    let report = classify(&compile(old), &compile(new));
    let findings = report.findings().iter();
    findings
        .map(|finding| format!("{} {}", finding.rule.id(), finding.element))
        .collect()
}

/// Pairs of bodies that say the same; a source begins with its syntax, then `|`.
fn assert_same(pairs: &[(&str, &str)]) {
    for (one, other) in pairs {
        let [one, other] = [one, other].map(|text| {
            let (syntax, body) = text.split_once('|').unwrap();
            format!("syntax = '{syntax}'; package p; {body}")
        });
        assert_eq!(found(&one, &other), [""; 0], "{one}\n{other}");
        assert_eq!(found(&other, &one), [""; 0], "{other}\n{one}");
        assert_eq!(
            canonical_text(&compile(&one)),
            canonical_text(&compile(&other)),
            "{one}\n{other}"
        );
    }
}

#[test]
fn optional_on_a_message_is_no_difference() {
    assert_same(&[
        (
            "proto3|message N {} message M { N a = 1; }",
            "proto3|message N {} message M { optional N a = 1; }",
        ),
        (
            "proto3|import 'google/protobuf/any.proto'; message M { google.protobuf.Any a = 1; }",
            "proto3|import 'google/protobuf/any.proto'; message M { optional google.protobuf.Any a = 1; }",
        ),
    ]);
}

#[test]
fn optional_on_anything_else_is_judged() {
    for kind in ["int32", "string", "bytes", "bool", "E"] {
        let [plain, optional] = ["", "optional "].map(|label| {
            format!("syntax = 'proto3'; package p; enum E {{ A = 0; }} message M {{ {label}{kind} a = 1; }}")
        });
        assert_eq!(found(&plain, &optional), ["field-gained-optional p.M.a"]);
        assert_eq!(found(&optional, &plain), ["field-lost-optional p.M.a"]);
    }
    // Nor does a change of the type bring up what the keyword never meant.
    let text = |field: &str| format!("syntax = 'proto3'; package p; message N {{}} message M {{ {field} }}");
    for (old, new) in [
        ("optional int32 a = 1;", "optional N a = 1;"),
        ("N a = 1;", "optional int32 a = 1;"),
    ] {
        assert_eq!(found(&text(old), &text(new)), ["field-type-changed p.M.a"]);
    }
    assert_eq!(
        found(&text("optional N a = 1;"), &text("repeated N a = 1;")),
        ["field-cardinality-changed p.M.a"]
    );
    assert_eq!(
        found(&text("optional N a = 1;"), &text("oneof o { N a = 1; }")),
        ["field-entered-oneof p.M.a", "oneof-added p.M.o"]
    );
}

#[test]
fn an_idempotency_level_is_a_promise() {
    let text = |level: Option<&str>| {
        let option = level.map_or(String::new(), |level| {
            format!("option idempotency_level = {level};")
        });
        format!(
            "syntax = 'proto3'; package p; message M {{}}
             service S {{ rpc R(M) returns (M) {{ {option} }} }}"
        )
    };
    let (weak, strong) = (Some("IDEMPOTENT"), Some("NO_SIDE_EFFECTS"));
    let unknown = Some("IDEMPOTENCY_UNKNOWN");
    for (old, new, rule) in [
        (weak, None, "rpc-idempotency-changed"),
        (strong, None, "rpc-idempotency-changed"),
        (strong, unknown, "rpc-idempotency-changed"),
        (strong, weak, "rpc-idempotency-changed"),
        (weak, strong, "rpc-idempotency-changed"),
        (None, weak, "rpc-idempotency-gained"),
        (unknown, strong, "rpc-idempotency-gained"),
    ] {
        assert_eq!(
            found(&text(old), &text(new)),
            [format!("{rule} p.S.R")],
            "{old:?} {new:?}"
        );
        assert_ne!(
            canonical_text(&compile(&text(old))),
            canonical_text(&compile(&text(new)))
        );
    }
    let report = classify(&compile(&text(strong)), &compile(&text(None)));
    assert_eq!(
        report.findings()[0].to_string(),
        "breaking rpc-idempotency-changed p.S.R: the idempotency level was no_side_effects, now unknown"
    );
}

const OPTIONS: &[&str] = &[
    "File",
    "Message",
    "Field",
    "Oneof",
    "ExtensionRange",
    "Enum",
    "EnumValue",
    "Service",
    "Method",
];

#[test]
fn extensions_of_options_are_options() {
    for element in OPTIONS {
        let text = |field: &str| {
            format!(
                "syntax = 'proto2'; package p; import 'google/protobuf/descriptor.proto';
                 message N {{}} extend google.protobuf.{element}Options {{ optional int32 kept = 50001; {field} }}"
            )
        };
        let old = text("optional int32 a = 50000;");
        for new in [
            "",
            "optional int32 a = 50002;",
            "optional string a = 50000;",
            "repeated int32 a = 50000;",
            "optional int32 a = 50000 [default = 4];",
        ] {
            assert_eq!(found(&old, &text(new)), ["option-changed p.a"], "{element} {new}");
            assert_eq!(found(&text(new), &old), ["option-changed p.a"], "{element} {new}");
            assert_eq!(
                canonical_text(&compile(&old)),
                canonical_text(&compile(&text(new)))
            );
        }
        let mut renamed = found(&old, &text("optional int32 b = 50000;"));
        renamed.sort();
        assert_eq!(renamed, ["option-changed p.a", "option-changed p.b"]);
    }
}

#[test]
fn extensions_of_anything_else_are_judged_in_full() {
    let text = |target: &str| {
        format!(
            "syntax = 'proto2'; package p; import 'google/protobuf/descriptor.proto';
             message MyOptions {{ extensions 50000 to 50009; }} extend {target} {{ optional int32 a = 50000; }}"
        )
    };
    let (own, option) = (text("MyOptions"), text("google.protobuf.FieldOptions"));
    assert!(
        found(
            &own,
            &text("MyOptions").replace("extend MyOptions { optional int32 a = 50000; }", "")
        )
        .contains(&"extension-removed p.a".to_owned())
    );
    let mut became = found(&own, &option);
    became.sort();
    assert_eq!(became, ["extension-removed p.a", "option-changed p.a"]);
    let mut became = found(&option, &own);
    became.sort();
    assert_eq!(became, ["extension-added p.a", "option-changed p.a"]);
}

#[test]
fn an_option_that_goes_with_its_message_is_not_told_again() {
    let text = |message: &str| {
        format!("syntax = 'proto3'; package p; import 'google/protobuf/descriptor.proto'; {message}")
    };
    let message = "message M { extend google.protobuf.FieldOptions { optional int32 a = 50000; } }";
    assert_eq!(found(&text(message), &text("")), ["message-removed p.M"]);
    assert_eq!(found(&text(""), &text(message)), ["message-added p.M"]);
    // In proto3 the keyword changes nothing about an extension either.
    assert_eq!(
        found(&text(message), &text(&message.replace("optional ", ""))),
        [""; 0]
    );
}
