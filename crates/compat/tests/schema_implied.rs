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
