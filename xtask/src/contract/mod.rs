//! The contract: what `proto/` may change, and the proof that everybody noticed
//!
//! - `contracts/vN/` holds the protos of protocol version N as released; `proto/` is judged against the newest.
//! - `contracts/accepted/` holds `proto/` as of the last `accept`, so that additions since the release are guarded too.
//! - `contracts/proto-contracts.sha256` and the constants of the compat crate hold digests of `proto/`.
//!
//! [`verify`] is what CI runs. [`accept`] records a change after somebody looked at it. `classify` compares any two
//! folders.

pub mod classify;
pub mod digests;
pub mod policy;
pub mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use prexorcloud_compat::schema::{Report, SchemaChange, Tree, classify_trees};

use crate::codegen;

/// What to read before a change of the contract, from the repository root.
pub const DOCUMENT: &str = "contracts/README.md";

/// The protos as of the last [`accept`], from the repository root.
pub const ACCEPTED: &str = "contracts/accepted";

/// Every regular file below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What [`verify`] found to be in order, as one line each; or everything that is not.
///
/// # Errors
/// If a file that is needed cannot be read or compiled. What is wrong with the contract is no error but the second list.
pub fn verify(root: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    let current = tree::read(&root.join("proto"), &[])?;

    let (baseline, folder) = policy::baseline(root)?;
    let version = policy::protocol_version(root)?;
    let released = tree::read(&folder, &[])?;
    let judgement = policy::judge((baseline, &released), (version, &current));
    if judgement.objections.is_empty() {
        good.push(format!(
            "protocol version {version}: {} change against contracts/v{baseline} ({} findings)",
            judgement.report.verdict(),
            judgement.report.findings().len()
        ));
    }
    bad.extend(judgement.objections);

    match since_accepted(root, &current)? {
        None => bad.push(format!(
            "{ACCEPTED} does not exist\n  -> run `cargo xtask contract accept`"
        )),
        Some(report) if report.verdict() == SchemaChange::Breaking => bad.push(format!(
            "the change since the last `contract accept` is breaking:\n{}  -> undo these changes, or reread {DOCUMENT}",
            policy::breaking_findings(&report)
        )),
        Some(_) => {}
    }

    let mismatches = digest_mismatches(root, &current)?;
    if mismatches.is_empty() {
        good.push(format!(
            "{} and {} are current",
            digests::SUMS_FILE,
            digests::RUST_FILE
        ));
    }
    bad.extend(mismatches);

    match codegen::check(root) {
        Ok(()) => good.push(format!("{} is current", codegen::GENERATED_DIR)),
        Err(stale) => bad.push(stale.to_string()),
    }
    Ok((good, bad))
}

/// The change since the last accept; `None` if there was none.
fn since_accepted(root: &Path, current: &Tree) -> Result<Option<Report>> {
    let folder = root.join(ACCEPTED);
    if !folder.exists() {
        return Ok(None);
    }
    let accepted = tree::read(&folder, &[])?;
    Ok(Some(classify_trees(&accepted, current)))
}

fn digest_mismatches(root: &Path, current: &Tree) -> Result<Vec<String>> {
    let mut bad = Vec::new();
    let todo = format!("reread {DOCUMENT}, look at the change, then run `cargo xtask contract accept`");
    let actual = digests::of_files(root)?;
    let sums = root.join(digests::SUMS_FILE);
    let expected = match std::fs::read_to_string(&sums) {
        Ok(text) => digests::parse_sums(&text)?,
        Err(error) => {
            bad.push(format!(
                "cannot read {}: {error}\n  -> {todo}",
                digests::SUMS_FILE
            ));
            return Ok(bad);
        }
    };
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    for path in paths {
        let shown = |digest: Option<&String>| digest.map_or("none".to_owned(), Clone::clone);
        if expected.get(path) != actual.get(path) {
            bad.push(format!(
                "the digest of {path} differs\n  expected {}\n  actual   {}\n  -> {todo}",
                shown(expected.get(path)),
                shown(actual.get(path))
            ));
        }
    }
    let rust = digests::as_rust(&actual, &digests::of_wire(current.descriptors()));
    if bad.is_empty()
        && std::fs::read_to_string(root.join(digests::RUST_FILE))
            .ok()
            .as_deref()
            != Some(&rust)
    {
        bad.push(format!(
            "{} is not what `accept` writes\n  -> {todo}",
            digests::RUST_FILE
        ));
    }
    Ok(bad)
}

/// Records `proto/` as it is: digests, accepted copy and generated code. Returns what was written.
///
/// With `unreleased`, whatever was added since the newest released contract may change freely.
///
/// # Errors
/// If the change against the released or the accepted contract is breaking and the protocol version does not say so,
/// or if a file cannot be read, compiled or written.
pub fn accept(root: &Path, unreleased: bool) -> Result<Vec<String>> {
    let current = tree::read(&root.join("proto"), &[])?;
    let (baseline, folder) = policy::baseline(root)?;
    let version = policy::protocol_version(root)?;
    let released = tree::read(&folder, &[])?;
    let judgement = policy::judge((baseline, &released), (version, &current));
    if !judgement.objections.is_empty() {
        bail!("not accepted: {}", judgement.objections.join("\n"));
    }
    if let Some(report) = since_accepted(root, &current)?
        && report.verdict() == SchemaChange::Breaking
        && version == baseline
        && !unreleased
    {
        bail!(
            "not accepted: the change since the last accept is breaking, and PROTOCOL_VERSION is still {version}:\n{}  -> \
             undo these changes; if no peer has ever seen what they break, run `cargo xtask contract accept --unreleased`",
            policy::breaking_findings(&report)
        );
    }

    let files = digests::of_files(root)?;
    let mut written = Vec::new();
    replace(
        root,
        digests::SUMS_FILE,
        digests::as_sums(&files).as_bytes(),
        &mut written,
    )?;
    let rust = digests::as_rust(&files, &digests::of_wire(current.descriptors()));
    replace(root, digests::RUST_FILE, rust.as_bytes(), &mut written)?;
    replace_accepted(root, &mut written)?;
    written.extend(codegen::write(root)?);
    Ok(written)
}

/// Writes a file unless it has that content already.
fn replace(root: &Path, path: &str, content: &[u8], written: &mut Vec<String>) -> Result<()> {
    let target = root.join(path);
    if std::fs::read(&target).ok().as_deref() == Some(content) {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    std::fs::write(&target, content).with_context(|| format!("cannot write {path}"))?;
    written.push(path.to_owned());
    Ok(())
}

/// Makes [`ACCEPTED`] a copy of `proto/`.
fn replace_accepted(root: &Path, written: &mut Vec<String>) -> Result<()> {
    let proto = root.join("proto");
    let mut kept = std::collections::BTreeSet::new();
    for path in files_below(&proto)? {
        let relative = path.strip_prefix(&proto).unwrap_or(&path);
        let name = format!("{ACCEPTED}/{}", relative.display());
        replace(root, &name, &std::fs::read(&path)?, written)?;
        kept.insert(root.join(name));
    }
    for path in files_below(&root.join(ACCEPTED))? {
        if !kept.contains(&path) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            written.push(format!(
                "{} (removed)",
                path.strip_prefix(root).unwrap_or(&path).display()
            ));
        }
    }
    Ok(())
}
