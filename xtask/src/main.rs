//! Build, contract and release tasks: `cargo xtask --help` lists them

mod codegen;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Regenerate crates/proto/src/gen from proto/
    Codegen {
        /// Change nothing; fail if the committed files are stale
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = repository_root();
    match Arguments::parse().task {
        Task::Codegen { check: true } => codegen::check(&root),
        Task::Codegen { check: false } => codegen::write(&root),
    }
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}
