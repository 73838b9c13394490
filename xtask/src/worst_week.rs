//! The worst week of an operator, as a command: real programs on full disks, behind stalled links, stopped and bare

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cargo;

/// Runs the cases of `crates/prexorcloud/tests/worst_week` that this machine allows, a line for each
///
/// # Errors
/// If they cannot be built, or one of them breaks.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let status = cargo(root)
        .args([
            "test",
            "--quiet",
            "--package",
            "prexorcloud",
            "--test",
            "worst_week",
            "--",
        ])
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the worst week was too much ({status})");
    }
    Ok(())
}
