//! Runs the benchmarks in release mode and leaves their figures in `target/bench.json`

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, dist};

/// Builds and runs `prexorcloud-bench`; `arguments` are handed on to it
///
/// # Errors
/// If it cannot be built, or a measurement fails. A figure that misses its aim is printed, not an error: machines differ.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let json = root.join("target").join("bench.json");
    // The programs as users have them: their memory is not that of what Cargo leaves.
    let program = dist::run(root)?.join("prexorcloud");
    let status = cargo(root)
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "prexorcloud-bench",
            "--",
            "--json",
        ])
        .arg(&json)
        .arg("--program")
        .arg(&program)
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the benchmark failed ({status})");
    }
    Ok(())
}
