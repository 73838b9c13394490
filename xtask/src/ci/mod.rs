//! Everything that must be green, as named steps: what a laptop runs is what the server runs
//!
//! The steps run in order, each to its end even if an earlier one failed, and a table closes the run. Cheap steps come
//! first, and what shares compiled code stands together.

mod features;
mod package;
mod peers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, contract, mutants, tidy};

/// What a step has to work with.
pub struct Context {
    root: PathBuf,
    /// Where Cargo puts what it builds.
    target: PathBuf,
    /// Crates that are tools of this repository only.
    unpublished: Vec<String>,
    /// Whether this is the server, where a step that cannot run has failed.
    server: bool,
}

/// How a step ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// It could not run here, and why.
    Skipped(String),
    Failed(String),
}

/// A step: its name, what it proves, and how.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Context) -> Result<Outcome>,
}

/// As many mutants as two minutes have room for, on a fresh machine with two cores.
const MUTANTS: usize = 12;

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the formatting is rustfmt's",
        run: |ci| ci.cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "tidy",
        about: "layers, forbidden and unused dependencies, packages, what may not stand in the sources",
        run: |ci| sentences(&tidy::check(&ci.root)?),
    },
    Step {
        name: "contract",
        about: "the protos are what was accepted, and changed by the rules",
        run: |ci| {
            let (good, bad) = contract::verify(&ci.root)?;
            for line in good {
                println!("{line}");
            }
            sentences(&bad)
        },
    },
    Step {
        name: "clippy",
        about: "no warnings in any target with all features",
        run: |ci| {
            ci.cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Step {
        name: "features",
        about: "each library builds alone, with each feature, none and all, without warnings",
        run: features::run,
    },
    Step {
        name: "docs",
        about: "the documentation builds without warnings",
        run: |ci| {
            let mut command = ci.command(&["doc", "--workspace", "--no-deps", "--all-features"]);
            command.env("RUSTDOCFLAGS", "-D warnings");
            run(&mut command)
        },
    },
    Step {
        name: "package",
        about: "each crate packages, and what everybody depends on builds from its package",
        run: package::step,
    },
    Step {
        name: "build",
        about: "binaries, examples, benchmarks and tests build",
        run: |ci| ci.cargo(&["build", "--workspace", "--all-targets", "--all-features"]),
    },
    Step {
        name: "doctests",
        about: "the examples in the documentation work",
        run: |ci| ci.cargo(&["test", "--workspace", "--all-features", "--doc"]),
    },
    Step {
        name: "tests",
        about: "every test passes; among them, the examples against the real programs",
        run: |ci| {
            let nextest = cargo(&ci.root)
                .args(["nextest", "--version"])
                .output()
                .is_ok_and(|output| output.status.success());
            if nextest {
                ci.cargo(&[
                    "nextest",
                    "run",
                    "--workspace",
                    "--all-features",
                    "--no-fail-fast",
                ])
            } else {
                ci.cargo(&[
                    "test",
                    "--workspace",
                    "--all-features",
                    "--lib",
                    "--bins",
                    "--tests",
                    "--no-fail-fast",
                ])
            }
        },
    },
    Step {
        name: "mutants",
        about: "tests notice a sample of the mistakes in xtask/mutants",
        run: |ci| {
            let options = mutants::Options {
                // The others are tested with what they depend on, TLS above all, which takes minutes to build.
                packages: vec!["prexorcloud-compat".into(), "prexorcloud-protocol".into()],
                sample: Some(MUTANTS),
                ..mutants::Options::default()
            };
            let summary = mutants::run(&ci.root, &options, &mut std::io::stdout())?;
            let unnoticed = summary.survived.iter().chain(&summary.errors);
            let names: Vec<_> = unnoticed.map(String::as_str).collect();
            Ok(if summary.is_good() {
                Outcome::Passed
            } else {
                Outcome::Failed(names.join(", "))
            })
        },
    },
    Step {
        name: "interop",
        about: "peers in Python, made from the .proto files alone, get along with ours",
        run: peers::run,
    },
    Step {
        name: "payloads",
        about: "every payload does its job between ours, and between each of ours and peers in Python and Java",
        run: peers::payloads,
    },
    Step {
        name: "demo",
        about: "the first command of the README runs its whole tour",
        run: |ci| {
            // Without Java the demo makes its tour with the built-in stand-in, which proves less.
            let java = Command::new("java").arg("-version").output();
            if ci.server && !java.is_ok_and(|output| output.status.success()) {
                return Ok(ci.without("there is no Java runtime".into()));
            }
            ci.cargo(&["run", "--release", "--", "demo"])
        },
    },
];

/// Passes if there is nothing to complain about.
fn sentences(bad: &[String]) -> Result<Outcome> {
    for sentence in bad {
        println!("{sentence}");
    }
    Ok(match bad.len() {
        0 => Outcome::Passed,
        count => Outcome::Failed(format!("{count} violations")),
    })
}

/// Runs a command with our standard streams.
fn run(command: &mut Command) -> Result<Outcome> {
    println!("$ {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(if status.success() {
        Outcome::Passed
    } else {
        Outcome::Failed(status.to_string())
    })
}

/// A command as one would type it: variables set, name of the program, arguments.
pub(crate) fn shown(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={:?}", name.display(), value?.to_string_lossy())));
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    variables
        .chain([program])
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

impl Context {
    fn new(root: &Path) -> Result<Self> {
        let metadata = cargo_metadata::MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cannot describe the workspace")?;
        let unpublished = metadata
            .workspace_packages()
            .iter()
            .filter(|package| package.publish.as_ref().is_some_and(Vec::is_empty))
            .map(|package| package.name.to_string())
            .collect();
        Ok(Self {
            root: root.to_owned(),
            unpublished,
            target: metadata.target_directory.into_std_path_buf(),
            server: std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false"),
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = cargo(&self.root);
        command.args(arguments);
        command
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Outcome> {
        run(&mut self.command(arguments))
    }

    /// What to do about a tool that is not here: on a laptop go without, on the server fail.
    fn without(&self, reason: String) -> Outcome {
        if self.server {
            Outcome::Failed(reason)
        } else {
            Outcome::Skipped(reason)
        }
    }
}

/// The names of the steps with what each proves, in order.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    STEPS.iter().map(|step| (step.name, step.about))
}

/// Runs the steps named in `only`, or all if it is empty, and prints a table; returns whether all passed.
///
/// # Errors
/// If a name is not that of a step, or the workspace cannot be described.
pub fn check(root: &Path, only: &[String]) -> Result<bool> {
    for name in only {
        if !STEPS.iter().any(|step| step.name == name) {
            let names: Vec<_> = list().map(|(name, _)| name).collect();
            bail!("there is no step {name}; the steps are {}", names.join(", "));
        }
    }
    let context = Context::new(root)?;
    let chosen = STEPS
        .iter()
        .filter(|step| only.is_empty() || only.iter().any(|name| name == step.name));
    let mut results = Vec::new();
    for step in chosen {
        println!("\n=== {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)(&context).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        results.push((step.name, outcome, start.elapsed()));
    }
    print!("\n{}", table(&results));
    Ok(!results
        .iter()
        .any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))))
}

/// One line a step, then the names of those that failed.
fn table(results: &[(&'static str, Outcome, Duration)]) -> String {
    let mut text = String::from("step       outcome   seconds\n");
    let mut failed = Vec::new();
    for (name, outcome, elapsed) in results {
        let (word, detail) = match outcome {
            Outcome::Passed => ("passed", ""),
            Outcome::Skipped(reason) => ("skipped", reason.as_str()),
            Outcome::Failed(reason) => {
                failed.push(*name);
                ("FAILED", reason.as_str())
            }
        };
        let line = format!("{name:<10} {word:<8} {:>8.1}  {detail}", elapsed.as_secs_f64());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&match failed.as_slice() {
        [] => "ci: every step passed\n".to_owned(),
        names => format!("ci: FAILED {}\n", names.join(", ")),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_failed_and_why() {
        let seconds = Duration::from_secs;
        let text = table(&[
            ("fmt", Outcome::Passed, seconds(1)),
            ("clippy", Outcome::Failed("exit status: 101".into()), seconds(61)),
            ("interop", Outcome::Skipped("no python3".into()), seconds(0)),
        ]);
        assert_eq!(
            text,
            "step       outcome   seconds\n\
             fmt        passed        1.0\n\
             clippy     FAILED       61.0  exit status: 101\n\
             interop    skipped       0.0  no python3\n\
             ci: FAILED clippy\n"
        );
        assert!(table(&[("fmt", Outcome::Passed, seconds(1))]).ends_with("ci: every step passed\n"));
    }

    #[test]
    fn a_missing_tool_fails_on_the_server_only() {
        let context = |server| Context {
            root: PathBuf::new(),
            target: PathBuf::new(),
            unpublished: Vec::new(),
            server,
        };
        assert!(matches!(context(true).without("no x".into()), Outcome::Failed(_)));
        assert!(matches!(
            context(false).without("no x".into()),
            Outcome::Skipped(_)
        ));
    }

    #[test]
    fn an_unknown_step_is_an_error_that_lists_the_steps() {
        let error = check(Path::new("/nowhere"), &["frobnicate".into()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("there is no step frobnicate; the steps are fmt, tidy,")
        );
    }

    #[test]
    fn a_failing_command_is_a_failed_step() {
        assert!(matches!(run(&mut Command::new("true")).unwrap(), Outcome::Passed));
        assert!(matches!(
            run(&mut Command::new("false")).unwrap(),
            Outcome::Failed(_)
        ));
        assert!(run(&mut Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/env");
        command.args(["a", "b"]).env("X", "y z");
        assert_eq!(shown(&command), "X=\"y z\" env a b");
    }
}
