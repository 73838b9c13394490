//! Conformance as a command: every payload of the contract, between ours and between each of ours and two foreign peers

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::peers::{self, Missing};

/// Which payloads, in which pairings, and how they are told
#[derive(Debug, Default, clap::Args)]
pub struct Payloads {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Only this payload, as the .proto file names it, for instance `node_status`. May be given several times
    #[arg(long, value_name = "NAME")]
    payload: Vec<String>,
    /// Only this pairing, as the table names it. May be given several times
    #[arg(long, value_name = "PAIRING")]
    pairing: Vec<String>,
}

/// Prints a table of all payloads: what went in, what came out, pass or fail; returns whether none failed
///
/// # Errors
/// If something is missing on this machine, or does not build.
pub fn payloads(root: &Path, options: &Payloads) -> Result<bool> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot describe the workspace")?;
    match command(root, metadata.target_directory.as_std_path(), options)? {
        Ok(mut command) => {
            let status = command
                .status()
                .context("cannot run the Python of the virtual environment")?;
            Ok(status.success())
        }
        Err(Missing(reason)) => anyhow::bail!("{reason}"),
    }
}

/// The command that drives the payloads, once all that it needs is built
pub(crate) fn command(root: &Path, target: &Path, options: &Payloads) -> Result<Result<Command, Missing>> {
    let python = match peers::python(root, target)? {
        Ok(python) => python,
        Err(missing) => return Ok(Err(missing)),
    };
    let java = match peers::java(root, target)? {
        Ok(java) => java,
        Err(missing) => return Ok(Err(missing)),
    };
    let programs = peers::programs(root, target)?;
    let mut command = peers::script(root, &python, &programs, "payloads.py");
    command.env("PREXORCLOUD_JAVA_PEERS", java);
    if options.json {
        command.arg("--json");
    }
    for payload in &options.payload {
        command.args(["--payload", payload]);
    }
    for pairing in &options.pairing {
        command.args(["--pairing", pairing]);
    }
    Ok(Ok(command))
}
