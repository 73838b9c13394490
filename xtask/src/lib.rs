//! Build, contract and release tasks of the workspace, as functions that tests can call

pub mod bench;
pub mod ci;
pub mod codegen;
pub mod conformance;
pub mod contract;
pub mod demo_jar;
pub mod dist;
pub mod kills;
pub mod mutants;
mod peers;
mod sources;
pub mod tidy;
pub mod worst_week;

use std::path::Path;
use std::process::Command;

/// The Cargo that runs us, so that the toolchain is the same, for the workspace at `root`.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
