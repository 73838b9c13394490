//! Judges the packages: whoever finds a crate in a registry finds out what it is, and under which licence
//!
//! Asks Cargo for the list of what it would pack, so that an `include`, an `exclude` or a link that leads nowhere is
//! noticed; nothing is built.

use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{MetadataCommand, Package, TargetKind};

use super::sources::Files;
use crate::cargo;

/// The files that every package has, from the folder of its crate.
const FILES: &[&str] = &["README.md", "LICENSE"];

/// Every published crate that a stranger could not make sense of.
pub fn check(root: &Path, files: &Files) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot describe the workspace")?;
    let mut bad = Vec::new();
    for package in metadata.workspace_packages() {
        // Tools of this repository reach no registry.
        if package.publish.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let missing = manifest(package)
            .into_iter()
            .chain(licence(metadata.workspace_root.as_std_path(), package, files))
            .chain(contents(root, package)?);
        bad.extend(missing.map(|sentence| format!("{}: {sentence}", package.name)));
    }
    Ok(bad)
}

/// What the manifest does not say.
fn manifest(package: &Package) -> Vec<String> {
    let mut bad = Vec::new();
    if package.description.is_none() {
        bad.push("write a description into Cargo.toml".into());
    }
    if package.keywords.is_empty() {
        bad.push("write keywords.workspace = true into Cargo.toml".into());
    }
    if package.license.is_none() {
        bad.push("write license.workspace = true into Cargo.toml".into());
    }
    if package.readme.as_ref().is_none_or(|readme| readme != "README.md") {
        bad.push("write readme = \"README.md\" into Cargo.toml".into());
    }
    let is_library = package
        .targets
        .iter()
        .any(|target| target.is_kind(TargetKind::Lib));
    if is_library && package.metadata["docs"]["rs"]["all-features"] != true {
        bad.push("write [package.metadata.docs.rs] all-features = true into Cargo.toml".into());
    }
    bad
}

/// Whether the licence in the crate's folder is that of the repository.
fn licence(root: &Path, package: &Package, files: &Files) -> Option<String> {
    let folder = package.manifest_path.parent()?.as_std_path();
    let name = folder.strip_prefix(root).ok()?.join("LICENSE");
    let found = files.get(name.to_str()?)?;
    (Some(found) != files.get("LICENSE"))
        .then(|| "its LICENSE is not that of the repository: link it with `ln -s ../../LICENSE`".into())
}

/// What Cargo would not pack.
fn contents(root: &Path, package: &Package) -> Result<Vec<String>> {
    let output = cargo(root)
        .args(["package", "--list", "--allow-dirty", "--quiet", "--package"])
        .arg(package.name.as_str())
        .output()
        .context("cannot run cargo package")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Ok(vec![format!("cargo package --list: {}", reason.trim())]);
    }
    let packed = String::from_utf8_lossy(&output.stdout);
    Ok(FILES
        .iter()
        .filter(|file| !packed.lines().any(|line| line == **file))
        .map(|file| format!("its package has no {file}"))
        .collect())
}
