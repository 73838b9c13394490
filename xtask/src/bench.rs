//! Runs the benchmarks in release mode and leaves their figures in `target/bench.json`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cargo;

/// Builds and runs `prexorcloud-bench`; `arguments` are handed on to it
///
/// # Errors
/// If it cannot be built, or a measurement fails. A figure that misses its aim is printed, not an error: machines differ.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let json = root.join("target").join("bench.json");
    let program = release(root)?;
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

/// Builds the release binary and says where it is
fn release(root: &Path) -> Result<PathBuf> {
    let status = cargo(root)
        .args(["build", "--quiet", "--release", "--package", "prexorcloud"])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the release binary does not build ({status})");
    }
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot describe the workspace")?;
    Ok(metadata
        .target_directory
        .into_std_path_buf()
        .join("release/prexorcloud"))
}
