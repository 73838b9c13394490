//! Kills at random moments, as a command: real programs in the middle of a push, a transfer or a preparation

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::cargo;

/// How long, which, and how much
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many moments
    #[arg(long, default_value_t = 200)]
    moments: u64,
    /// The first moment; each has the number after the one before it [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Size of the template that travels, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mib: u64,
    /// With optimised programs, whose moments are denser
    #[arg(long)]
    release: bool,
}

/// Runs `crates/prexorcloud/tests/kills`: a line for each moment, one for each violation, and a summary
///
/// # Errors
/// If it cannot be built, or finds a violation.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let another = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs()
    };
    let mut command = cargo(root);
    command.args(["test", "--quiet", "--package", "prexorcloud", "--test", "kills"]);
    if options.release {
        command.arg("--release");
    }
    let seed = options.seed.unwrap_or_else(another);
    let status = command
        .env("PREXORCLOUD_KILLS_MOMENTS", options.moments.to_string())
        .env("PREXORCLOUD_KILLS_SEED", seed.to_string())
        .env("PREXORCLOUD_KILLS_MIB", options.mib.to_string())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "something was lost, left or wrong after a kill; the lines above say what, and how to see it again ({status})"
        );
    }
    Ok(())
}
