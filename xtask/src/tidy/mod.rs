//! What no compiler checks: who may know whom, who uses what, and what may not stand in the sources
//!
//! [`graph`] judges the dependency graph, [`dependencies`] the manifests, [`packages`] what a registry gets, [`sources`]
//! the tracked files. All return sentences; none means in order.

pub mod dependencies;
pub mod graph;
pub mod packages;
pub mod sources;

use std::path::Path;

use anyhow::Result;

/// Every violation in the tree below `root`, sorted.
///
/// # Errors
/// If Cargo cannot describe the workspace or a file cannot be read.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let files = sources::tracked(root)?;
    let mut bad = sources::check(&files);
    bad.extend(dependencies::check(&files));
    bad.extend(graph::check(root)?);
    bad.extend(packages::check(root, &files)?);
    bad.sort();
    bad.dedup();
    Ok(bad)
}
