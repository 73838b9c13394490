//! `contract classify OLD NEW`: the change between any two folders of `.proto` files

use std::path::Path;
use std::process::ExitCode;

use prexorcloud_compat::schema::{self, Finding, Report, Rule, Verdict};
use serde_json::{Value, json};

use super::tree::{Tree, Unreadable};

/// The outcome as an exit code: 0 identical, 10 additive, 20 breaking.
pub fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Identical => 0,
        Verdict::Additive => 10,
        Verdict::Breaking => 20,
    })
}

/// The exit code for input that cannot be read.
pub const UNREADABLE: u8 = 2;

/// Reads both folders and compares them; reports what is wrong with both before it gives up.
pub fn compare(old: &Path, new: &Path) -> Result<Report, Unreadable> {
    match (Tree::read(old), Tree::read(new)) {
        (Ok(mut old), Ok(mut new)) => {
            old.complete_well_known(&mut new);
            Ok(compare_trees(&old, &new))
        }
        (Err(old), Err(new)) => Err(Unreadable {
            problems: [old.problems, new.problems].concat(),
        }),
        (Err(unreadable), Ok(_)) | (Ok(_), Err(unreadable)) => Err(unreadable),
    }
}

/// The classifier's report, plus changes of custom options, which it cannot see.
pub fn compare_trees(old: &Tree, new: &Tree) -> Report {
    let report = schema::classify(&old.descriptors, &new.descriptors);
    let changed = old
        .custom_options
        .iter()
        .filter(|(element, options)| new.custom_options.get(*element) != Some(options))
        .chain(
            new.custom_options
                .iter()
                .filter(|(element, _)| !old.custom_options.contains_key(*element)),
        )
        // An element that came or went is a finding of its own.
        .filter(|(element, _)| {
            !report
                .findings()
                .iter()
                .any(|finding| finding.element == **element)
        })
        .map(|(element, _)| Finding {
            element: element.clone(),
            rule: Rule::OptionChanged,
            message: "a custom option changed".into(),
        });
    report.findings().iter().cloned().chain(changed).collect()
}

/// The report as text: the verdict, then a line for each finding and one for what to do.
pub fn as_text(report: &Report) -> String {
    let mut text = format!("{}\n", report.verdict());
    for finding in report.findings() {
        text.push_str(&format!("{finding}\n"));
        if finding.class() == schema::Class::Breaking {
            text.push_str(&format!("  -> {}\n", finding.rule.advice()));
        }
    }
    text
}

/// The report as JSON. Fields may be added; those that are there keep their names and meaning.
pub fn as_json(report: &Report) -> Value {
    json!({
        "schema": 1,
        "verdict": report.verdict().as_str(),
        "findings": report
            .findings()
            .iter()
            .map(|finding| json!({
                "class": finding.class().as_str(),
                "rule": finding.rule.id(),
                "element": finding.element,
                "message": finding.message,
                "advice": finding.rule.advice(),
            }))
            .collect::<Vec<_>>(),
    })
}

/// Unreadable input as JSON, with the same `schema` and `verdict` fields as a report.
pub fn unreadable_as_json(unreadable: &Unreadable) -> Value {
    json!({
        "schema": 1,
        "verdict": "unreadable",
        "problems": unreadable
            .problems
            .iter()
            .map(|problem| json!({
                "file": problem.file,
                "line": problem.line,
                "reason": problem.reason,
            }))
            .collect::<Vec<_>>(),
    })
}
