//! Whether a change may be made with the protocol version as it is

use std::path::Path;

use anyhow::{Context as _, Result};
use prexorcloud_compat::schema::{Class, Report, SchemaChange, Tree, classify_trees, vanished_numbers};

/// Where the protocol version stands, from the repository root.
pub const VERSION_FILE: &str = "crates/compat/src/negotiation.rs";

/// Reads `PROTOCOL_VERSION` from the source below `root`, which may be another tree than the one this tool was built in.
pub fn protocol_version(root: &Path) -> Result<u32> {
    let path = root.join(VERSION_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("pub const PROTOCOL_VERSION: i32 = "))
        .and_then(|rest| rest.strip_suffix(';'))
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{VERSION_FILE} has no line `pub const PROTOCOL_VERSION: i32 = <number>;`"))
}

/// The newest released contract: the highest N of `contracts/vN`, with its folder.
pub fn baseline(root: &Path) -> Result<(u32, std::path::PathBuf)> {
    let folder = root.join("contracts");
    let mut newest = None;
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let version = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix('v'))
            .and_then(|number| number.parse::<u32>().ok());
        if let Some(version) = version
            && newest.as_ref().is_none_or(|(found, _)| version > *found)
        {
            newest = Some((version, entry.path()));
        }
    }
    newest.with_context(|| {
        format!(
            "{} holds no released contract (a folder v1, v2, ...)",
            folder.display()
        )
    })
}

/// What is wrong with a change, each entry a paragraph that says what to do.
pub struct Judgement {
    /// The change itself.
    pub report: Report,
    /// Empty if the change may be made.
    pub objections: Vec<String>,
}

/// Judges `proto/` against a released contract.
///
/// Identical or additive wants the released version, breaking wants a higher one and every vanished number reserved.
pub fn judge(released: (u32, &Tree), current: (u32, &Tree)) -> Judgement {
    let ((baseline, old), (version, new)) = (released, current);
    let report = classify_trees(old, new);
    let mut objections = Vec::new();
    if version < baseline {
        objections.push(format!(
            "PROTOCOL_VERSION is {version}, but version {baseline} was released (contracts/v{baseline}).\n  -> raise \
             PROTOCOL_VERSION in {VERSION_FILE}"
        ));
    } else if report.verdict() == SchemaChange::Breaking && version == baseline {
        objections.push(format!(
            "the change against contracts/v{baseline} is breaking, and PROTOCOL_VERSION is still {version}:\n{}  -> undo \
             these changes; if they must be, raise PROTOCOL_VERSION in {VERSION_FILE} and reserve every number that \
             vanishes",
            breaking_findings(&report)
        ));
    } else if report.verdict() == SchemaChange::Breaking {
        for vanished in vanished_numbers(old.descriptors(), new.descriptors()) {
            objections.push(format!(
                "number {} of {} ({}) vanished without being reserved\n  -> write `reserved {};` and `reserved {:?};` \
                 into {}",
                vanished.number,
                vanished.element,
                vanished.name,
                vanished.number,
                vanished.name,
                vanished.element
            ));
        }
    } else if version > baseline {
        objections.push(format!(
            "PROTOCOL_VERSION is {version}, but the change against contracts/v{baseline} is {}, which every peer of \
             version {baseline} can live with\n  -> set PROTOCOL_VERSION in {VERSION_FILE} to {baseline}",
            report.verdict()
        ));
    }
    Judgement { report, objections }
}

/// The breaking findings of a report, each with its rule, element and advice.
pub fn breaking_findings(report: &Report) -> String {
    report
        .findings()
        .iter()
        .filter(|finding| finding.class() == Class::Breaking)
        .map(|finding| {
            format!(
                "  rule {}\n    element {}\n    {}\n    -> {}\n",
                finding.rule.id(),
                finding.element,
                finding.message,
                finding.rule.advice()
            )
        })
        .collect()
}
