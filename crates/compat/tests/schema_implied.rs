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

fn field(text: &str) -> String {
    format!(
        "syntax = 'proto2'; package p; enum E {{ option allow_alias = true; A = 3; B = 1; A2 = 3; }} message M {{ {text} }}"
    )
}

#[test]
fn a_default_that_is_the_implicit_one_is_no_default() {
    for kind in [
        "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
        "sfixed64", "float", "double",
    ] {
        for zero in ["0", "0x0"] {
            let [plain, spelled] = [
                format!("optional {kind} a = 1;"),
                format!("optional {kind} a = 1 [default = {zero}];"),
            ];
            assert_eq!(found(&field(&plain), &field(&spelled)), [""; 0], "{spelled}");
            assert_eq!(found(&field(&spelled), &field(&plain)), [""; 0], "{spelled}");
        }
        let seven = format!("optional {kind} a = 1 [default = 7];");
        let none = format!("optional {kind} a = 1;");
        assert_eq!(found(&field(&seven), &field(&none)), ["default-changed p.M.a"]);
        assert_eq!(found(&field(&none), &field(&seven)), ["default-changed p.M.a"]);
    }
    for (kind, implicit, other) in [
        ("double", "0.0", "-0.0"),
        ("float", "0e3", "nan"),
        ("float", "0.0", "inf"),
        ("bool", "false", "true"),
        ("string", "''", "'0'"),
        ("bytes", "''", "'\\000'"),
        ("E", "A", "B"),
        ("E", "A2", "B"),
    ] {
        let none = field(&format!("optional {kind} a = 1;"));
        let spelled = field(&format!("optional {kind} a = 1 [default = {implicit}];"));
        let changed = field(&format!("optional {kind} a = 1 [default = {other}];"));
        assert_eq!(found(&none, &spelled), [""; 0], "{spelled}");
        assert_eq!(found(&spelled, &none), [""; 0], "{spelled}");
        assert_eq!(
            canonical_text(&compile(&none)),
            canonical_text(&compile(&spelled)),
            "{spelled}"
        );
        assert_eq!(found(&spelled, &changed), ["default-changed p.M.a"], "{changed}");
        assert_eq!(found(&changed, &none), ["default-changed p.M.a"], "{changed}");
        assert_eq!(found(&changed, &changed), [""; 0], "{changed}");
    }
}

#[test]
fn a_default_is_the_same_in_every_notation() {
    for (kind, one, other) in [
        ("int32", "16", "0x10"),
        ("double", "1", "1.0"),
        ("double", "1e2", "100"),
        ("float", "0.1", "0.10"),
        ("E", "A", "A2"),
    ] {
        let [one, other] = [one, other].map(|value| {
            field(&format!(
                "optional {kind} a = 1 [default = {value}]; optional E z = 2 [default = B];"
            ))
        });
        assert_eq!(found(&one, &other), [""; 0], "{one}");
        assert_eq!(canonical_text(&compile(&one)), canonical_text(&compile(&other)));
    }
}

#[test]
fn a_default_follows_the_number_of_its_enum_value() {
    let text = |values: &str, option: &str| {
        format!(
            "syntax = 'proto2'; package p; enum E {{ {values} }} message M {{ optional E a = 1 {option}; }}"
        )
    };
    // The enum says it already.
    assert_eq!(
        found(&text("A = 0; B = 1;", ""), &text("B = 1; A = 0;", "")),
        ["enum-default-changed p.E"]
    );
    assert_eq!(
        found(
            &text("A = 0; B = 1;", "[default = A]"),
            &text("B = 1; A = 0;", "[default = A]")
        ),
        ["enum-default-changed p.E"]
    );
    assert_eq!(
        found(
            &text("A = 0; B = 1;", "[default = B]"),
            &text("A = 0; C = 1;", "[default = C]")
        ),
        ["enum-value-renamed p.E.B"]
    );
    assert_eq!(
        found(
            &text("A = 0; B = 1;", "[default = B]"),
            &text("A = 0; B = 1;", "[default = A]")
        ),
        ["default-changed p.M.a"]
    );
}

#[test]
fn packing_that_is_the_implicit_one_is_no_packing() {
    assert_same(&[
        (
            "proto3|message M { repeated int32 a = 1; }",
            "proto3|message M { repeated int32 a = 1 [packed = true]; }",
        ),
        (
            "proto2|message M { repeated bool a = 1; }",
            "proto2|message M { repeated bool a = 1 [packed = false]; }",
        ),
        (
            "proto3|enum E { A = 0; } message M { repeated E a = 1; }",
            "proto3|enum E { A = 0; } message M { repeated E a = 1 [packed = true]; }",
        ),
        (
            "proto2|message M { extensions 9; } extend M { repeated int32 a = 9; }",
            "proto2|message M { extensions 9; } extend M { repeated int32 a = 9 [packed = false]; }",
        ),
    ]);
    let [none, off] = ["", "[packed = false]"].map(|option| {
        format!("syntax = 'proto3'; package p; message M {{ repeated int32 a = 1 {option}; }}")
    });
    assert_eq!(found(&none, &off), ["packing-changed p.M.a"]);
    assert_eq!(found(&off, &none), ["packing-changed p.M.a"]);
}

#[test]
fn options_that_are_set_to_their_default_are_not_set() {
    assert_same(&[
        (
            "proto3|option deprecated = false; option java_multiple_files = false; option optimize_for = SPEED;
             option cc_enable_arenas = true; option py_generic_services = false; message M {}",
            "proto3|message M {}",
        ),
        (
            "proto3|message M { option deprecated = false; option no_standard_descriptor_accessor = false; }",
            "proto3|message M {}",
        ),
        (
            "proto2|message M { option message_set_wire_format = false; extensions 4 to max; }",
            "proto2|message M { extensions 4 to max; }",
        ),
        (
            "proto3|message M { M a = 1 [lazy = false, deprecated = false]; string b = 2 [ctype = STRING];
             int64 c = 3 [jstype = JS_NORMAL]; }",
            "proto3|message M { M a = 1; string b = 2; int64 c = 3; }",
        ),
        (
            "proto3|enum E { option allow_alias = false; option deprecated = false; A = 0 [deprecated = false]; }",
            "proto3|enum E { A = 0; }",
        ),
        (
            "proto3|message M {} service S { option deprecated = false;
             rpc R(M) returns (M) { option deprecated = false; option idempotency_level = IDEMPOTENCY_UNKNOWN; } }",
            "proto3|message M {} service S { rpc R(M) returns (M); }",
        ),
    ]);
}

#[test]
fn other_options_are_changes_that_no_peer_sees() {
    for (kind, option) in [
        ("M", "lazy = true"),
        ("string", "ctype = CORD"),
        ("int64", "jstype = JS_STRING"),
        ("int32", "deprecated = true"),
    ] {
        let plain = format!("syntax = 'proto3'; package p; message M {{ {kind} a = 1; }}");
        let marked = format!("syntax = 'proto3'; package p; message M {{ {kind} a = 1 [{option}]; }}");
        assert_eq!(found(&plain, &marked), ["option-changed p.M.a"]);
        assert_eq!(found(&marked, &plain), ["option-changed p.M.a"]);
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
