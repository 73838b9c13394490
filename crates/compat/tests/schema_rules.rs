//! Every rule with a minimal pair of schemas, and the traps
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use prexorcloud_compat::schema::{Rule, SchemaChange, classify, vanished_numbers};
use prost_types::FileDescriptorSet;
use support::compile;

/// Old, new, and every finding as `rule element`.
type Case<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Sources without a syntax line are proto3 in package `p`.
fn source(text: &str) -> String {
    let mut whole = String::new();
    let sections: Vec<_> = if text.trim_start().starts_with(">>") {
        text.split(">> ")
            .filter(|s| !s.trim().is_empty())
            .map(|s| s.split_once('\n').unwrap_or((s, "")))
            .collect()
    } else {
        vec![("a.proto", text)]
    };
    for (name, body) in sections {
        whole.push_str(&format!(">> {}\n", name.trim()));
        let (syntax, body) = match body.trim_start().split_once(';') {
            Some((syntax, rest)) if syntax.starts_with("syntax") => (syntax, rest),
            _ => ("syntax = 'proto3'", body),
        };
        whole.push_str(&format!("{syntax};\n"));
        if !body.trim_start().starts_with("package ") {
            whole.push_str("package p;\n");
        }
        whole.push_str(body);
        whole.push('\n');
    }
    whole
}

fn found(old: &str, new: &str) -> Vec<String> {
    let report = classify(&compile(&source(old)), &compile(&source(new)));
    report
        .findings()
        .iter()
        .map(|finding| format!("{} {}", finding.rule.id(), finding.element))
        .collect()
}

const FILES: &[Case<'_>] = &[
    (
        "message M {}",
        ">> a.proto\nmessage M {}\n>> b.proto\n",
        &["file-added b.proto"],
    ),
    (
        ">> a.proto\nmessage M {}\n>> b.proto\n",
        "message M {}",
        &["file-removed b.proto"],
    ),
    (
        ">> a.proto\nmessage M {}\n>> b.proto\nmessage N {}",
        ">> a.proto\nimport 'b.proto'; message M {}\n>> b.proto\nmessage N {}",
        &["imports-changed a.proto"],
    ),
    (
        ">> a.proto\nimport 'b.proto'; message M {}\n>> b.proto\nmessage N {}",
        ">> a.proto\nimport public 'b.proto'; message M {}\n>> b.proto\nmessage N {}",
        &["imports-changed a.proto"],
    ),
    (
        "package p; message M {}",
        "package q; message M {}",
        &[
            "message-removed p.M",
            "package-changed a.proto",
            "message-added q.M",
        ],
    ),
    (
        "syntax = 'proto3'; message M {}",
        "syntax = 'proto2'; message M {}",
        &["syntax-changed a.proto"],
    ),
    (
        ">> a.proto\nmessage M {}\n>> b.proto\n",
        ">> a.proto\n>> b.proto\nmessage M {}",
        &["type-moved p.M"],
    ),
    (
        ">> a.proto\nenum E { A = 0; }\n>> b.proto\nsyntax='proto2';",
        ">> a.proto\n>> b.proto\nsyntax='proto2'; enum E { A = 0; }",
        &["syntax-changed p.E", "type-moved p.E"],
    ),
    // a move of a message takes along what is nested in it
    (
        ">> a.proto\nmessage M { message N { int32 a = 1; } enum E { Z = 0; } N n = 1; }",
        ">> b.proto\nmessage M { message N { int32 a = 1; } enum E { Z = 0; } N n = 1; }",
        &["file-removed a.proto", "file-added b.proto", "type-moved p.M"],
    ),
    (
        "message M {}",
        "option java_package = 'x'; message M {}",
        &["option-changed a.proto"],
    ),
    (
        "message M {}",
        "message M { option deprecated = true; }",
        &["option-changed p.M"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int32 a = 1 [deprecated = true]; }",
        &["option-changed p.M.a"],
    ),
    (
        "enum E { A = 0; }",
        "enum E { A = 0 [deprecated = true]; }",
        &["option-changed p.E.A"],
    ),
    (
        "enum E { A = 0; }",
        "enum E { option deprecated = true; A = 0; }",
        &["option-changed p.E"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M); }",
        "message M {} service S { option deprecated = true; rpc R(M) returns (M) { option deprecated = true; } }",
        &["option-changed p.S", "option-changed p.S.R"],
    ),
];

const MESSAGES: &[Case<'_>] = &[
    ("", "message M {}", &["message-added p.M"]),
    ("message M {}", "", &["message-removed p.M"]),
    (
        "message M {}",
        "message N {}",
        &["message-removed p.M", "message-added p.N"],
    ),
    (
        "message M { message N { enum E { A = 0; } } }",
        "",
        &["message-removed p.M"],
    ),
    (
        "message M { message N {} enum E { A = 0; } }",
        "message M {}",
        &["enum-removed p.M.E", "message-removed p.M.N"],
    ),
    (
        "message M {}",
        "message M { message N {} }",
        &["message-added p.M.N"],
    ),
    (
        "message X {}",
        "enum X { A = 0; }",
        &["message-removed p.X", "enum-added p.X"],
    ),
    (
        "syntax='proto2'; message M { extensions 4 to 999; }",
        "syntax='proto2'; message M { option message_set_wire_format = true; extensions 4 to 999; }",
        &["message-set-changed p.M"],
    ),
    (
        "message M {}",
        "message M { reserved 1; }",
        &["number-reserved p.M"],
    ),
    (
        "message M {}",
        "message M { reserved 'a'; }",
        &["name-reserved p.M"],
    ),
    (
        "message M { reserved 1 to 3; }",
        "message M { reserved 1, 3; }",
        &["reserved-number-released p.M"],
    ),
    (
        "message M { reserved 'a'; }",
        "message M {}",
        &["reserved-name-released p.M"],
    ),
    (
        "message M { reserved 2; }",
        "message M { int32 a = 2; }",
        &["reserved-number-used p.M.a"],
    ),
    (
        "message M { reserved 'a'; }",
        "message M { int32 a = 2; }",
        &["reserved-name-used p.M.a"],
    ),
    (
        "message M { reserved 2; reserved 'a'; }",
        "message M { int32 a = 2; }",
        &["reserved-name-used p.M.a", "reserved-number-used p.M.a"],
    ),
    (
        "message M { int32 a = 1; reserved 2; }",
        "message M { int32 a = 2; }",
        &["field-renumbered p.M.a", "reserved-number-used p.M.a"],
    ),
    (
        "message M { int32 a = 1; reserved 'b'; }",
        "message M { int32 b = 1; }",
        &["field-renamed p.M.a", "reserved-name-used p.M.b"],
    ),
    // notation only
    (
        "message M { reserved 1 to 3; }",
        "message M { reserved 3, 1, 2; }",
        &[],
    ),
    (
        "message M { reserved 1 to max; }",
        "message M { reserved 1 to 536870911; }",
        &[],
    ),
    // the end of a message's range is exclusive in descriptors: 4 was never reserved, and taking it is fine
    (
        "message M { reserved 1 to 3; }",
        "message M { reserved 1 to 3; int32 a = 4; }",
        &["field-added p.M.a"],
    ),
    (
        "message M { reserved 1 to 3; }",
        "message M { reserved 1 to 2; int32 a = 3; }",
        &["reserved-number-used p.M.a"],
    ),
    (
        "syntax='proto2'; message M {}",
        "syntax='proto2'; message M { extensions 100 to 199; }",
        &["extension-range-added p.M"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; }",
        "syntax='proto2'; message M { extensions 100 to 198; }",
        &["extension-range-removed p.M"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; }",
        "syntax='proto2'; message M { extensions 150 to 199, 100 to 149; }",
        &[],
    ),
];

const FIELDS: &[Case<'_>] = &[
    (
        "message M {}",
        "message M { int32 a = 1; }",
        &["field-added p.M.a"],
    ),
    (
        "message M {}",
        "message M { optional int32 a = 1; }",
        &["field-added p.M.a"],
    ),
    (
        "syntax='proto2'; message M {}",
        "syntax='proto2'; message M { required int32 a = 1; }",
        &["required-field-added p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M {}",
        &["field-removed p.M.a"],
    ),
    (
        "message M { optional int32 a = 1; }",
        "message M {}",
        &["field-removed p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { reserved 1; reserved 'a'; }",
        &["field-removed p.M.a", "name-reserved p.M", "number-reserved p.M"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int32 b = 1; }",
        &["field-renamed p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int32 a = 2; }",
        &["field-renumbered p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { string b = 1; }",
        &["field-renamed p.M.a", "field-type-changed p.M.a"],
    ),
    (
        "message M { int32 a = 1; int32 b = 2; }",
        "message M { int32 b = 1; int32 a = 2; }",
        &["field-renumbered p.M.a", "field-renumbered p.M.b"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int32 a = 2; int32 c = 1; }",
        &["field-renumbered p.M.a", "number-reused p.M.c"],
    ),
    (
        "message M { int32 a = 1; int32 b = 2; }",
        "message M { int32 b = 1; }",
        &["field-removed p.M.a", "field-renumbered p.M.b"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int64 a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "message M { string a = 1; }",
        "message M { bytes a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { sint32 a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "enum E { A = 0; } message M { E a = 1; }",
        "enum E { A = 0; } message M { int32 a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "message N {} message O {} message M { N a = 1; }",
        "message N {} message O {} message M { O a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "message M { map<string, int32> a = 1; }",
        "message M { map<string, int64> a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    (
        "message M { map<string, int32> a = 1; }",
        "message M { map<int32, int32> a = 1; }",
        &["field-type-changed p.M.a"],
    ),
    // the same bytes, another type
    (
        "message M { map<string, int32> a = 1; }",
        "message M { message AEntry { string key = 1; int32 value = 2; } repeated AEntry a = 1; }",
        &["field-type-changed p.M.a", "message-added p.M.AEntry"],
    ),
    (
        "syntax='proto2'; message M { optional group G = 1 { optional int32 a = 1; } }",
        "syntax='proto2'; message M { message G { optional int32 a = 1; } optional G g = 1; }",
        &["field-type-changed p.M.g"],
    ),
    (
        "syntax='proto2'; message M { optional group G = 1 { optional int32 a = 1; } }",
        "syntax='proto2'; message M { optional group G = 1 { optional int64 a = 1; } }",
        &["field-type-changed p.M.G.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { repeated int32 a = 1; }",
        &["field-cardinality-changed p.M.a"],
    ),
    (
        "syntax='proto2'; message M { required int32 a = 1; }",
        "syntax='proto2'; message M { optional int32 a = 1; }",
        &["field-cardinality-changed p.M.a"],
    ),
    (
        "syntax='proto2'; message M { optional int32 a = 1; }",
        "syntax='proto2'; message M { required int32 a = 1; }",
        &["field-cardinality-changed p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { optional int32 a = 1; }",
        &["field-gained-optional p.M.a"],
    ),
    (
        "message M { optional int32 a = 1; }",
        "message M { int32 a = 1; }",
        &["field-lost-optional p.M.a"],
    ),
    (
        "message M { int32 a = 1; }",
        "message M { int32 a = 1 [json_name = 'x']; }",
        &["json-name-changed p.M.a"],
    ),
    // spelled out, but the same
    (
        "message M { int32 log_tail = 1; }",
        "message M { int32 log_tail = 1 [json_name = 'logTail']; }",
        &[],
    ),
    (
        "syntax='proto2'; message M { optional int32 a = 1; }",
        "syntax='proto2'; message M { optional int32 a = 1 [default = 4]; }",
        &["default-changed p.M.a"],
    ),
    (
        "syntax='proto2'; message M { optional int32 a = 1 [default = 5]; }",
        "syntax='proto2'; message M { optional int32 a = 1 [default = 4]; }",
        &["default-changed p.M.a"],
    ),
    (
        "message M { repeated int32 a = 1; }",
        "message M { repeated int32 a = 1 [packed = false]; }",
        &["packing-changed p.M.a"],
    ),
    (
        "syntax='proto2'; message M { repeated int32 a = 1; }",
        "syntax='proto2'; message M { repeated int32 a = 1 [packed = true]; }",
        &["packing-changed p.M.a"],
    ),
    // order and comments
    (
        "message M { int32 a = 1; string b = 2; } message N {}",
        "// news\nmessage N {} message M { /* b */ string b = 2; int32 a = 1; // a\n }",
        &[],
    ),
];

const ONEOFS: &[Case<'_>] = &[
    (
        "message M { int32 z = 9; }",
        "message M { int32 z = 9; oneof o { int32 a = 1; int32 b = 2; } }",
        &["field-added p.M.a", "field-added p.M.b", "oneof-added p.M.o"],
    ),
    (
        "message M { oneof o { int32 a = 1; } }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        &["oneof-variant-added p.M.b"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; } }",
        &["oneof-variant-removed p.M.b"],
    ),
    (
        "message M { oneof o { int32 a = 1; } }",
        "message M { }",
        &["oneof-variant-removed p.M.a", "oneof-removed p.M.o"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof x { int32 a = 1; int32 b = 2; } }",
        &["oneof-renamed p.M.o"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; } int32 b = 2; }",
        &["field-left-oneof p.M.b"],
    ),
    (
        "message M { oneof o { int32 a = 1; } int32 b = 2; }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        &["field-entered-oneof p.M.b"],
    ),
    (
        "message M { oneof o { int32 a = 1; } oneof x { int32 b = 2; int32 c = 3; } }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } oneof x { int32 c = 3; } }",
        &["field-changed-oneof p.M.b"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; } oneof x { int32 b = 2; } }",
        &["field-changed-oneof p.M.b", "oneof-added p.M.x"],
    ),
    // Split in two, neither of which is the old one
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof x { int32 a = 1; } oneof y { int32 b = 2; } }",
        &[
            "field-changed-oneof p.M.a",
            "field-changed-oneof p.M.b",
            "oneof-removed p.M.o",
            "oneof-added p.M.x",
            "oneof-added p.M.y",
        ],
    ),
    // `optional` makes a synthetic oneof, which is none
    (
        "message M { optional int32 a = 1; }",
        "message M { oneof o { int32 a = 1; } }",
        &["field-entered-oneof p.M.a", "oneof-added p.M.o"],
    ),
    (
        "message M { oneof o { int32 a = 1; } }",
        "message M { optional int32 a = 1; }",
        &["field-left-oneof p.M.a", "oneof-removed p.M.o"],
    ),
    (
        "message M { optional int32 a = 1; oneof o { int32 b = 2; } }",
        "message M { oneof o { int32 b = 2; } optional int32 a = 1; }",
        &[],
    ),
    (
        "message M { oneof o { int32 a = 1; } }",
        "message M { oneof o { int64 a = 1; } }",
        &["field-type-changed p.M.a"],
    ),
];

const ENUMS: &[Case<'_>] = &[
    ("", "enum E { A = 0; }", &["enum-added p.E"]),
    ("enum E { A = 0; }", "", &["enum-removed p.E"]),
    (
        "enum E { A = 0; }",
        "enum E { A = 0; B = 1; }",
        &["enum-value-added p.E.B"],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { A = 0; }",
        &["enum-value-removed p.E.B"],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { A = 0; reserved 1; reserved 'B'; }",
        &[
            "enum-value-removed p.E.B",
            "name-reserved p.E",
            "number-reserved p.E",
        ],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { A = 0; C = 1; }",
        &["enum-value-renamed p.E.B"],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { A = 0; B = 2; }",
        &["enum-value-renumbered p.E.B"],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { A = 0; B = 2; C = 1; }",
        &["enum-value-renumbered p.E.B", "number-reused p.E.C"],
    ),
    (
        "enum E { A = 0; B = 1; }",
        "enum E { option allow_alias = true; A = 0; B = 1; C = 1; }",
        &["enum-alias-added p.E.C", "option-changed p.E"],
    ),
    (
        "enum E { option allow_alias = true; A = 0; B = 1; C = 1; }",
        "enum E { option allow_alias = true; A = 0; B = 1; C = 1; D = 1; }",
        &["enum-alias-added p.E.D"],
    ),
    (
        "enum E { option allow_alias = true; A = 0; B = 1; C = 1; }",
        "enum E { A = 0; B = 1; }",
        &["enum-value-removed p.E.C", "option-changed p.E"],
    ),
    (
        "enum E { option allow_alias = true; A = 0; B = 1; C = 1; }",
        "enum E { option allow_alias = true; A = 0; B = 1; D = 1; }",
        &["enum-value-renamed p.E.C"],
    ),
    (
        "enum E { A = 0; }",
        "enum E { A = 0; reserved 5 to 7; }",
        &["number-reserved p.E"],
    ),
    // the end of an enum's range is inclusive in descriptors
    (
        "enum E { A = 0; reserved 5 to 7; }",
        "enum E { A = 0; reserved 5 to 6; }",
        &["reserved-number-released p.E"],
    ),
    (
        "enum E { A = 0; reserved 5 to 7; }",
        "enum E { A = 0; reserved 5 to 6; B = 7; }",
        &["reserved-number-used p.E.B"],
    ),
    (
        "enum E { A = 0; reserved 5 to 7; }",
        "enum E { A = 0; reserved 5 to 7; B = 8; }",
        &["enum-value-added p.E.B"],
    ),
    (
        "enum E { A = 0; reserved 5 to max; }",
        "enum E { A = 0; reserved 5 to 2147483647; }",
        &[],
    ),
    (
        "enum E { A = 0; reserved -4 to -2; }",
        "enum E { A = 0; reserved -2, -3, -4; }",
        &[],
    ),
    (
        "enum E { A = 0; reserved 'B'; }",
        "enum E { A = 0; B = 1; }",
        &["reserved-name-used p.E.B"],
    ),
    (
        "enum E { A = 0; reserved 'B'; }",
        "enum E { A = 0; }",
        &["reserved-name-released p.E"],
    ),
    // order is formatting, except for what an absent proto2 field means
    (
        "enum E { A = 0; B = 1; C = 2; }",
        "enum E { A = 0; C = 2; B = 1; }",
        &[],
    ),
    (
        "syntax='proto2'; enum E { A = 0; B = 1; }",
        "syntax='proto2'; enum E { B = 1; A = 0; }",
        &["enum-default-changed p.E"],
    ),
    (
        "syntax='proto2'; enum E { A = 3; B = 1; C = 2; }",
        "syntax='proto2'; enum E { A = 3; C = 2; B = 1; }",
        &[],
    ),
    (
        "syntax='proto2'; enum E { A = 3; }",
        "syntax='proto2'; enum E { A = 3; B = 1; }",
        &["enum-value-added p.E.B"],
    ),
];

const SERVICES: &[Case<'_>] = &[
    (
        "message M {}",
        "message M {} service S { rpc R(M) returns (M); }",
        &["service-added p.S"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M); }",
        "message M {}",
        &["service-removed p.S"],
    ),
    (
        "message M {} service S {}",
        "message M {} service S { rpc R(M) returns (M); }",
        &["rpc-added p.S.R"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M); }",
        "message M {} service S {}",
        &["rpc-removed p.S.R"],
    ),
    (
        "message M {} message N {} service S { rpc R(M) returns (M); }",
        "message M {} message N {} service S { rpc R(N) returns (M); }",
        &["rpc-request-changed p.S.R"],
    ),
    (
        "message M {} message N {} service S { rpc R(M) returns (M); }",
        "message M {} message N {} service S { rpc R(M) returns (N); }",
        &["rpc-response-changed p.S.R"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M); }",
        "message M {} service S { rpc R(stream M) returns (M); }",
        &["rpc-streaming-changed p.S.R"],
    ),
    (
        "message M {} service S { rpc R(M) returns (stream M); }",
        "message M {} service S { rpc R(M) returns (M); }",
        &["rpc-streaming-changed p.S.R"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M); }",
        "message M {} service S { rpc R(M) returns (M) { option idempotency_level = IDEMPOTENT; } }",
        &["rpc-idempotency-gained p.S.R"],
    ),
    (
        "message M {} service S { rpc R(M) returns (M) { option idempotency_level = IDEMPOTENT; } }",
        "message M {} service S { rpc R(M) returns (M); }",
        &["rpc-idempotency-changed p.S.R"],
    ),
    (
        ">> a.proto\nmessage M {}\nservice S { rpc R(M) returns (M); }\n>> b.proto\nimport 'a.proto';",
        ">> a.proto\nmessage M {}\n>> b.proto\nimport 'a.proto'; service S { rpc R(M) returns (M); }",
        &["type-moved p.S"],
    ),
];

const EXTENSIONS: &[Case<'_>] = &[
    (
        "syntax='proto2'; message M { extensions 100 to 199; }",
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int32 a = 100; }",
        &["extension-added p.a"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int32 a = 100; }",
        "syntax='proto2'; message M { extensions 100 to 199; }",
        &["extension-removed p.a"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int32 a = 100; }",
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int64 a = 101; }",
        &["field-renumbered p.a", "field-type-changed p.a"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int32 a = 100; }",
        "syntax='proto2'; message M { extensions 100 to 199; } extend M { optional int32 b = 100; }",
        &["field-renamed p.a"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; } message N { extensions 100 to 199; }
         extend M { optional int32 a = 100; }",
        "syntax='proto2'; message M { extensions 100 to 199; } message N { extensions 100 to 199; }
         extend N { optional int32 a = 100; }",
        &["extension-target-changed p.a"],
    ),
    (
        "syntax='proto2'; message M { extensions 100 to 199; } message N { extend M { optional int32 a = 100; } }",
        "syntax='proto2'; message M { extensions 100 to 199; } message N { }",
        &["extension-removed p.N.a"],
    ),
];

fn tables() -> impl Iterator<Item = &'static Case<'static>> {
    [FILES, MESSAGES, FIELDS, ONEOFS, ENUMS, SERVICES, EXTENSIONS]
        .into_iter()
        .flatten()
}

#[test]
fn each_case_yields_exactly_its_findings() {
    let mut failures = Vec::new();
    for (old, new, expected) in tables() {
        let found = found(old, new);
        let sorted = |list: &mut dyn Iterator<Item = String>| list.collect::<BTreeSet<_>>();
        if sorted(&mut found.iter().cloned()) != sorted(&mut expected.iter().map(ToString::to_string)) {
            failures.push(format!(
                "{old}\n  -> {new}\n  expected {expected:?}\n  found    {found:?}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn each_rule_has_a_case() {
    let covered: BTreeSet<_> = tables()
        .flat_map(|(_, _, expected)| expected.iter())
        .filter_map(|finding| finding.split(' ').next())
        .collect();
    for rule in Rule::ALL {
        // These two need descriptors that no compiler makes; tests below build them.
        if !matches!(rule, Rule::UnsupportedSyntax | Rule::InvalidSchema) {
            assert!(covered.contains(rule.id()), "no case for {}", rule.id());
        }
    }
}

#[test]
fn findings_read_like_sentences() {
    let report = classify(
        &compile(&source(
            "message M { oneof o { int32 a = 1; } map<string, int32> m = 2; }",
        )),
        &compile(&source(
            "message M { oneof o { int32 a = 1; M b = 4; } map<string, M> m = 2; }",
        )),
    );
    let text: Vec<_> = report.findings().iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "breaking field-type-changed p.M.m: map<string, int32> became map<string, message p.M>",
            "additive oneof-variant-added p.M.b: variant 4 of oneof o is new",
        ]
    );
}

/// Changes one descriptor set in place and returns the rules found between the original and the result.
fn after(source_text: &str, change: impl FnOnce(&mut FileDescriptorSet)) -> Vec<&'static str> {
    let old = compile(&source(source_text));
    let mut new = old.clone();
    change(&mut new);
    let report = classify(&old, &new);
    assert_ne!(report.verdict(), SchemaChange::Identical);
    report
        .findings()
        .iter()
        .map(|finding| finding.rule.id())
        .collect()
}

#[test]
fn editions_are_never_called_identical() {
    let mut set = compile(&source("message M {}"));
    set.file[0].syntax = Some("editions".into());
    let report = classify(&set, &set);
    assert_eq!(report.verdict(), SchemaChange::Breaking);
    assert_eq!(report.findings()[0].rule, Rule::UnsupportedSyntax);
}

#[test]
fn what_no_compiler_makes_is_invalid_and_not_ignored() {
    let text = "message M { int32 a = 1; oneof o { int32 b = 2; } map<string, int32> m = 3; }
                enum E { A = 0; } service S { rpc R(M) returns (M); }";
    type Damage = (&'static str, fn(&mut FileDescriptorSet));
    let damages: &[Damage] = &[
        ("message without a name", |set| {
            set.file[0].message_type[0].name = None
        }),
        ("enum without a name", |set| set.file[0].enum_type[0].name = None),
        ("file without a name", |set| set.file[0].name = None),
        ("field without a name", |set| {
            set.file[0].message_type[0].field[0].name = None
        }),
        ("field without a number", |set| {
            set.file[0].message_type[0].field[0].number = None
        }),
        ("field with number -1", |set| {
            set.file[0].message_type[0].field[0].number = Some(-1)
        }),
        ("field without a type", |set| {
            set.file[0].message_type[0].field[0].r#type = None
        }),
        ("field of type 77", |set| {
            set.file[0].message_type[0].field[0].r#type = Some(77)
        }),
        ("field with label 9", |set| {
            set.file[0].message_type[0].field[0].label = Some(9)
        }),
        ("message field without a type name", |set| {
            set.file[0].message_type[0].field[0].r#type = Some(11)
        }),
        ("oneof index out of range", |set| {
            set.file[0].message_type[0].field[1].oneof_index = Some(7)
        }),
        ("negative oneof index", |set| {
            set.file[0].message_type[0].field[1].oneof_index = Some(-7)
        }),
        ("two fields with one number", |set| {
            set.file[0].message_type[0].field[0].number = Some(2)
        }),
        ("two fields with one name", |set| {
            set.file[0].message_type[0].field[0].name = Some("b".into())
        }),
        ("two messages with one name", |set| {
            let copy = set.file[0].message_type[0].clone();
            set.file[0].message_type.push(copy);
        }),
        ("a message named like an enum", |set| {
            set.file[0].message_type[0].name = Some("E".into())
        }),
        ("a file twice", |set| {
            let copy = set.file[0].clone();
            set.file.push(copy);
        }),
        ("map entry without a value", |set| {
            set.file[0].message_type[0].nested_type[0].field.pop();
        }),
        ("map entry that nobody uses", |set| {
            set.file[0].message_type[0]
                .field
                .retain(|field| field.name() != "m");
        }),
        ("empty reserved range", |set| {
            set.file[0].message_type[0]
                .reserved_range
                .push(Default::default());
        }),
        ("enum value without a number", |set| {
            set.file[0].enum_type[0].value[0].number = None
        }),
        ("rpc without a request", |set| {
            set.file[0].service[0].method[0].input_type = None
        }),
        ("two rpcs with one name", |set| {
            let copy = set.file[0].service[0].method[0].clone();
            set.file[0].service[0].method.push(copy);
        }),
    ];
    for (what, damage) in damages {
        let rules = after(text, damage);
        assert!(rules.contains(&"invalid-schema"), "{what}: {rules:?}");
        let mut damaged = compile(&source(text));
        damage(&mut damaged);
        assert_eq!(
            classify(&damaged, &damaged).verdict(),
            SchemaChange::Breaking,
            "{what}, compared with itself"
        );
    }
}

#[test]
fn vanished_numbers_are_those_neither_used_nor_reserved() {
    let old = compile(&source(
        "message M { int32 a = 1; int32 b = 2; int32 c = 3; } enum E { Z = 0; Y = 1; X = 2; }",
    ));
    let new = compile(&source(
        "message M { reserved 1; int32 c = 3; } enum E { Z = 0; reserved 2; }",
    ));
    let vanished: Vec<_> = vanished_numbers(&old, &new)
        .iter()
        .map(|v| format!("{}.{} {}", v.element, v.name, v.number))
        .collect();
    assert_eq!(vanished, ["p.M.b 2", "p.E.Y 1"]);
}
