//! Builds and runs the tests of one mutant, within bounds, and reads the verdict from what Cargo prints

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::interrupt::Group;
use super::list::LIB;
use super::workspace::Tests;

/// How long a build, or the tests of the unchanged sources, may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// A mutant may make its tests this many times slower before it counts as hanging.
const SLOWER: u32 = 10;

/// How the trial of a mutant ended
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Tests failed, and which.
    Killed(String),
    /// Tests were still running when their time was over.
    Hung(String),
    /// All tests passed.
    Survived,
    /// There is no verdict, because the mutant does not compile.
    Uncompilable(String),
}

/// Where trials take place
pub struct Bench {
    tree: PathBuf,
    target: PathBuf,
    /// The least time that tests get.
    floor: Duration,
    /// How long each of the tests may take.
    limits: BTreeMap<Tests, Duration>,
}

/// How a bounded command ended.
enum Ended {
    Passed(String),
    Failed { status: String, output: String },
    TimedOut,
}

impl Bench {
    /// A bench that builds the sources in `tree` into `target`.
    pub fn new(tree: &Path, target: &Path, floor: Duration) -> Self {
        Self {
            tree: tree.to_owned(),
            target: target.to_owned(),
            floor,
            limits: BTreeMap::new(),
        }
    }

    /// Runs tests on the unchanged sources, which they must pass, and takes their time.
    ///
    /// # Errors
    /// If they cannot be built or do not pass, or if there are none: nothing could be concluded from a mutant.
    pub fn calibrate(&mut self, tests: &Tests) -> Result<Result<Duration, String>> {
        if let Some(limit) = self.limits.get(tests) {
            return Ok(Ok(*limit));
        }
        if let Some(reason) = self.build(tests)? {
            return Ok(Err(format!("without a mutant, {tests} does not build: {reason}")));
        }
        let start = Instant::now();
        let output = match self.bounded(&mut self.cargo(tests, &[]), PATIENCE)? {
            Ended::Passed(output) => output,
            Ended::Failed { status, output } => {
                return Ok(Err(format!(
                    "without a mutant, {tests} fails: {}",
                    killers(&output, &status)
                )));
            }
            Ended::TimedOut => return Ok(Err(format!("without a mutant, {tests} never ends"))),
        };
        if passed(&output) == 0 {
            return Ok(Err(format!("there is no test in {tests}")));
        }
        let elapsed = start.elapsed();
        self.limits
            .insert(tests.clone(), self.floor.max(elapsed * SLOWER));
        Ok(Ok(elapsed))
    }

    /// Runs tests on the sources as they are now, until one kills.
    ///
    /// # Errors
    /// If Cargo cannot be run.
    pub fn judge(&self, all: &[Tests]) -> Result<Fate> {
        for tests in all {
            if let Some(reason) = self.build(tests)? {
                return Ok(Fate::Uncompilable(reason));
            }
            let limit = self.limits.get(tests).copied().unwrap_or(self.floor);
            match self.bounded(&mut self.cargo(tests, &[]), limit)? {
                Ended::Passed(_) => {}
                Ended::Failed { status, output } => {
                    return Ok(Fate::Killed(format!("{} ({tests})", killers(&output, &status))));
                }
                Ended::TimedOut => {
                    return Ok(Fate::Hung(format!(
                        "the time limit of {:.0} s ({tests})",
                        limit.as_secs_f64()
                    )));
                }
            }
        }
        Ok(Fate::Survived)
    }

    /// Builds tests without running them; the first error of the compiler if that fails.
    fn build(&self, tests: &Tests) -> Result<Option<String>> {
        Ok(
            match self.bounded(&mut self.cargo(tests, &["--no-run"]), PATIENCE)? {
                Ended::Passed(_) => None,
                Ended::Failed { status, output } => Some(first_error(&output).unwrap_or(status)),
                Ended::TimedOut => Some("the build never ends".to_owned()),
            },
        )
    }

    fn cargo(&self, tests: &Tests, more: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.tree)
            .args(["test", "--package", &tests.package, "--all-features"])
            .args(more);
        if tests.name == LIB {
            command.arg("--lib");
        } else {
            command.args(["--test", &tests.name]);
        }
        command.args(&tests.filter);
        command
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_TERM_COLOR", "never")
            // Nobody debugs a mutant; without debug information it links in half the time.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // A mutant differs from the last one in two functions. CI usually switches this off.
            .env("CARGO_INCREMENTAL", "1")
            .env("RUST_BACKTRACE", "0")
            // A test that rewrites what it compares with would pass.
            .env_remove("UPDATE_SNAPSHOTS");
        command
    }

    fn bounded(&self, command: &mut Command, limit: Duration) -> Result<Ended> {
        // A file, not a pipe: nobody has to read while the child writes, and a grandchild that outlives it is no problem.
        let mut output = tempfile::tempfile()?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        let start = Instant::now();
        let mut group = Group::spawn(command).context("cannot start cargo")?;
        loop {
            if let Some(status) = group.child.try_wait()? {
                let output = text(&mut output)?;
                return Ok(if status.success() {
                    Ended::Passed(output)
                } else {
                    let status = status.to_string();
                    Ended::Failed { status, output }
                });
            }
            if start.elapsed() >= limit {
                group.kill();
                return Ok(Ended::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Which tests failed: the first by name, the others by number.
fn killers(output: &str, status: &str) -> String {
    let failed: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .collect();
    match failed.as_slice() {
        // An abort leaves no line for the test that caused it.
        [] => output
            .lines()
            .find(|line| line.contains("(signal: "))
            .map_or_else(
                || format!("a crash, {status}"),
                |line| format!("a crash,{}", after_colon(line)),
            ),
        [only] => (*only).to_owned(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

/// `(signal: 6, SIGABRT)` of Cargo's `process didn't exit successfully: ... (signal: 6, SIGABRT: ...)`.
fn after_colon(line: &str) -> &str {
    line.split_once("(signal:")
        .and_then(|(_, rest)| rest.split([')', ':']).next())
        .unwrap_or(line)
}

/// How many tests passed, over all binaries that ran.
fn passed(output: &str) -> usize {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"))
        .filter_map(|(count, _)| count.parse::<usize>().ok())
        .sum()
}

/// The first complaint of the compiler, without the one that says that there were complaints.
fn first_error(output: &str) -> Option<String> {
    output
        .lines()
        .find(|line| line.starts_with("error"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_read_from_what_cargo_prints() {
        let output = "running 3 tests\ntest a ... ok\ntest m::b ... FAILED\ntest c ... FAILED\n\nfailures:\n";
        assert_eq!(killers(output, "exit status: 101"), "m::b and 1 more");
        assert_eq!(killers("test b ... FAILED\n", ""), "b");
        let crash = "error: test failed, to rerun pass `--test x`\n\nCaused by:\n  \
                     process didn't exit successfully: `x` (signal: 6, SIGABRT: process abort signal)\n";
        assert_eq!(killers(crash, "exit status: 101"), "a crash, 6, SIGABRT");
        assert_eq!(killers("", "exit status: 3"), "a crash, exit status: 3");

        assert_eq!(passed("test result: ok. 12 passed; 0 failed; 1 ignored\n"), 12);
        assert_eq!(passed("test result: ok. 0 passed; 0 failed; 9 filtered out\n"), 0);
        assert_eq!(passed("test result: FAILED. 3 passed; 1 failed\n"), 0);

        let complaint = "warning: unused\nerror[E0308]: mismatched types\nerror: could not compile `x`\n";
        assert_eq!(
            first_error(complaint).as_deref(),
            Some("error[E0308]: mismatched types")
        );
    }
}
