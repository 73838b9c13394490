//! What the peers of `interop/` run with: the programs under test, a virtual environment, and the classes of the peers in Java
//!
//! All of it is below the target folder. What a machine lacks is a [`Missing`] of one line, so that a caller can go without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::sources::{digest, files_below};
use crate::{cargo, ci};

/// What the peers in Python need, from the repository root.
const REQUIREMENTS: &str = "interop/requirements.txt";
const JAVA: &str = "interop/java";

/// What Maven says when it cannot get something, which is nobody's mistake here.
const UNREACHABLE: [&str; 5] = [
    "Could not transfer",
    "Could not resolve",
    "Could not find artifact",
    "Unknown host",
    "could not be resolved",
];

/// What this machine lacks, in one line
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub(crate) String);

/// Builds the programs; the folder where they are
///
/// # Errors
/// If they do not build.
pub(crate) fn programs(root: &Path, target: &Path) -> Result<PathBuf> {
    // The same command as the step `build` of `ci`, so that nothing is built twice.
    let mut build = cargo(root);
    build.args([
        "build",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--all-features",
    ]);
    if !succeeds(&mut build)? {
        bail!("the programs do not build");
    }
    Ok(target.join("debug"))
}

/// A command that runs `script` of `interop/` against these programs.
pub(crate) fn script(root: &Path, python: &Path, programs: &Path, script: &str) -> Command {
    let mut command = Command::new(python);
    command
        .current_dir(root)
        .arg(Path::new("interop").join(script))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PREXORCLOUD_BIN", programs.join("prexorcloud"));
    command
}

/// The Python of the virtual environment, which is made when it is missing or its requirements changed
///
/// # Errors
/// If the requirements cannot be read, or a tool that is there cannot be run.
pub(crate) fn python(root: &Path, target: &Path) -> Result<Result<PathBuf, Missing>> {
    let wanted =
        fs::read_to_string(root.join(REQUIREMENTS)).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let folder = target.join("interop/venv");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    if python.exists() && fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
        return Ok(Ok(python));
    }
    if !is_there("python3", "--version") {
        return Ok(Err(Missing("python3 is not installed".into())));
    }
    if !succeeds(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )? {
        let reason = "cannot make a virtual environment; is python3-venv installed?";
        return Ok(Err(Missing(reason.into())));
    }
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "--disable-pip-version-check"])
        .args(["install", "--quiet", "--requirement"])
        .arg(root.join(REQUIREMENTS));
    if !succeeds(&mut install)? {
        let reason = format!("cannot install {REQUIREMENTS} into {}", folder.display());
        return Ok(Err(Missing(reason)));
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(Ok(python))
}

/// The folder of the peers in Java, which Maven builds when their sources or the contract changed
///
/// What Maven downloads stays in its own repository, which is the user's.
///
/// # Errors
/// If the peers do not compile.
pub(crate) fn java(root: &Path, target: &Path) -> Result<Result<PathBuf, Missing>> {
    let folder = target.join("interop/java");
    let stamp = folder.join("sources.sha256");
    let wanted = sources(root)?;
    if fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
        return Ok(Ok(folder));
    }
    for (tool, question) in [("javac", "-version"), ("mvn", "--version")] {
        if !is_there(tool, question) {
            let reason =
                format!("the peers in Java need a JDK 17 and Maven (Debian: maven), and {tool} is not here");
            return Ok(Err(Missing(reason)));
        }
    }
    let mut build = Command::new("mvn");
    build
        .current_dir(root.join(JAVA))
        .args(["--quiet", "--batch-mode", "process-classes"])
        .arg(format!("-Dbuilt={}", folder.display()));
    eprintln!("$ {}", ci::shown(&build));
    let output = build.stdin(Stdio::null()).output().context("mvn cannot be run")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if let Some(missing) = missing(&said) {
            return Ok(Err(missing));
        }
        bail!("the peers in {JAVA} do not compile:\n{said}");
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(Ok(folder))
}

/// What Maven could not get, if that is why it failed
fn missing(said: &str) -> Option<Missing> {
    let is_about_it = |line: &&str| UNREACHABLE.iter().any(|words| line.contains(words));
    let line = said.lines().find(is_about_it)?;
    Some(Missing(format!(
        "the peers in Java need a registry that Maven reaches, such as Maven Central: {}",
        line.trim_start_matches("[ERROR]").trim()
    )))
}

/// One digest over everything that the peers in Java are built from
fn sources(root: &Path) -> Result<String> {
    let mut files = files_below(&root.join(JAVA))?;
    files.extend(files_below(&root.join("proto"))?);
    digest(root, &files)
}

/// Runs a command whose output goes to standard error, where it is in nobody's way.
fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("$ {}", ci::shown(command));
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(status.success())
}

fn is_there(tool: &str, question: &str) -> bool {
    let asked = Command::new(tool).arg(question).output();
    asked.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_maven_cannot_get_is_told_in_one_line_and_is_no_mistake_in_the_sources() {
        let offline = "[ERROR] Plugin a:b:1 or one of its dependencies could not be resolved: no route to host\n[ERROR] more";
        let Missing(reason) = missing(offline).unwrap();
        assert!(
            reason
                .ends_with("Plugin a:b:1 or one of its dependencies could not be resolved: no route to host")
        );
        assert_eq!(reason.lines().count(), 1);
        assert_eq!(
            missing("[ERROR] COMPILATION ERROR :\n[ERROR] Pin.java:[3,1] cannot find symbol"),
            None
        );
    }

    #[test]
    fn the_peers_in_java_are_built_anew_when_the_contract_or_their_sources_change() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            sources(root.path()).unwrap()
        };
        fs::create_dir_all(root.path().join("proto")).unwrap();
        let first = write("interop/java/pom.xml", "<project/>");
        let second = write("proto/a/b.proto", "syntax");
        let third = write("interop/java/pom.xml", "<project></project>");
        assert!(first != second && second != third);
        assert_eq!(third, sources(root.path()).unwrap());
    }
}
