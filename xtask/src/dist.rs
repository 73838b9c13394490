//! The programs as they are given to users: stripped, with their debug information beside them
//!
//! A `.debug` file is found by the link that its program carries, by debuggers and by the program itself: while it stands in the
//! same folder (or below `/usr/lib/debug`), the backtrace of a panic names functions and lines, and without it addresses,
//! which `addr2line -e prexorcloud.debug` translates later. Nothing of it is ever mapped, so it costs memory only in a panic.
//!
//! `prexor-shim` is linked statically and for fixed addresses. One runs for every server, and each page that a dynamic
//! linker has to write to is a page for every server; what it reads was written by the daemon, so a program that lies at
//! random addresses would guard nothing. `prexorcloud`, which strangers talk to, stays relocatable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

/// The programs, and what their last step of building is told beyond the profile
const PROGRAMS: [(&str, &[&str]); 2] = [
    ("prexorcloud", &[]),
    (
        "prexor-shim",
        &["-Ctarget-feature=+crt-static", "-Crelocation-model=static"],
    ),
];

/// Builds the programs in release mode and leaves them in `dist/` of Cargo's target folder, which is returned
///
/// # Errors
/// If one does not build (`prexor-shim` needs the static C library, `libc6-dev` or `glibc-static`), or `objcopy` (of binutils)
/// is missing or fails.
pub fn run(root: &Path) -> Result<PathBuf> {
    let target = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot describe the workspace")?
        .target_directory
        .into_std_path_buf();
    let folder = target.join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, flags) in PROGRAMS {
        let status = cargo(root)
            .args([
                "rustc",
                "--quiet",
                "--release",
                "--package=prexorcloud",
                "--bin",
                name,
                "--",
            ])
            .args(flags)
            .status()
            .context("cannot start cargo")?;
        ensure!(status.success(), "{name} does not build ({status})");
        split(&target.join("release").join(name), &folder)?;
    }
    Ok(folder)
}

/// Puts the program into the folder without its debug information, and that beside it
///
/// # Errors
/// If `objcopy` is missing or fails.
pub fn split(program: &Path, folder: &Path) -> Result<()> {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no name", program.display()))?;
    let debug = format!("{name}.debug");
    let program = program.to_str().context("a path that is not UTF-8")?;
    // In its folder, since the link names the file as it is named here.
    let objcopy = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("objcopy")
            .current_dir(folder)
            .args(arguments)
            .output()
            .context("cannot run objcopy, which is in binutils")?;
        if !output.status.success() {
            bail!(
                "objcopy {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    };
    // One that runs cannot be written to, and can be replaced.
    for old in [name, &debug] {
        match fs::remove_file(folder.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    objcopy(&["--only-keep-debug", "--compress-debug-sections", program, &debug])?;
    objcopy(&[
        "--strip-all",
        &format!("--add-gnu-debuglink={debug}"),
        program,
        name,
    ])
}
