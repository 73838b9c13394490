//! `contract classify OLD NEW`: the change between any two folders of `.proto` files

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use prexorcloud_compat::schema::{self, Report, SchemaChange};
use serde_json::{Value, json};

use super::tree::{self, Unreadable};

/// The outcome as an exit code: 0 identical, 10 additive, 20 breaking.
pub fn exit_code(verdict: SchemaChange) -> ExitCode {
    ExitCode::from(match verdict {
        SchemaChange::Identical => 0,
        SchemaChange::Additive => 10,
        SchemaChange::Breaking => 20,
    })
}

/// The exit code for input that cannot be read.
pub const UNREADABLE: u8 = 2;

/// Reads both folders and compares them; reports what is wrong with both before it gives up.
///
/// Imports that a folder lacks are looked for below `includes`, and are not compared.
pub fn compare(old: &Path, new: &Path, includes: &[PathBuf]) -> Result<Report, Unreadable> {
    match (tree::read(old, includes), tree::read(new, includes)) {
        (Ok(old), Ok(new)) => Ok(schema::classify_trees(&old, &new)),
        (Err(mut unreadable), Err(new)) => {
            // What is included may be at fault on both sides.
            let more = new.problems.into_iter();
            let more: Vec<_> = more
                .filter(|problem| !unreadable.problems.contains(problem))
                .collect();
            unreadable.problems.extend(more);
            Err(unreadable)
        }
        (Err(unreadable), Ok(_)) | (Ok(_), Err(unreadable)) => Err(unreadable),
    }
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
