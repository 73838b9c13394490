//! The interoperability tests in Python, in a virtual environment below the target folder

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Context, Outcome, run as run_command};

/// What the peers need, from the repository root.
const REQUIREMENTS: &str = "interop/requirements.txt";

pub(super) fn run(ci: &Context) -> Result<Outcome> {
    let python = match environment(ci)? {
        Ok(python) => python,
        Err(reason) => return Ok(ci.without(reason)),
    };
    // The same command as the step `build`, so that nothing is built twice.
    if let failed @ Outcome::Failed(_) = ci.cargo(&[
        "build",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--all-features",
    ])? {
        return Ok(failed);
    }
    let mut command = Command::new(python);
    command
        .current_dir(&ci.root)
        .arg("interop/run.py")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PREXORCLOUD_BIN", ci.target.join("debug/prexorcloud"));
    run_command(&mut command)
}

/// The Python of the virtual environment, which is made when it is missing or its requirements changed; or why not.
fn environment(ci: &Context) -> Result<Result<PathBuf, String>> {
    let wanted = std::fs::read_to_string(ci.root.join(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let folder = ci.target.join("interop/venv");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    if python.exists() && std::fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
        return Ok(Ok(python));
    }
    if !succeeds(Command::new("python3").arg("--version")) {
        return Ok(Err("python3 is not installed".into()));
    }
    if let Outcome::Failed(_) = run_command(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )? {
        return Ok(Err(
            "cannot make a virtual environment; is python3-venv installed?".into(),
        ));
    }
    let installed = run_command(
        pip(&python)
            .args(["install", "--quiet", "--requirement"])
            .arg(ci.root.join(REQUIREMENTS)),
    )?;
    if let Outcome::Failed(_) = installed {
        return Ok(Err(format!(
            "cannot install {REQUIREMENTS} into {}",
            folder.display()
        )));
    }
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(Ok(python))
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
