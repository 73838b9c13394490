//! Build, contract and release tasks: `cargo xtask --help` lists them

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::contract::classify;
use xtask::contract::tree::Unreadable;
use xtask::{bench, ci, codegen, conformance, contract, demo_jar, dist, kills, mutants, tidy, worst_week};

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
    /// Compile the demo server and the jars of tests (needs a JDK)
    DemoJar {
        /// Change nothing; fail if a committed jar is stale
        #[arg(long)]
        check: bool,
    },
    /// Run everything that must be green
    Ci {
        /// Run this step only; may be given several times
        #[arg(long, value_name = "STEP")]
        only: Vec<String>,
        /// Print the steps instead
        #[arg(long, conflicts_with = "only")]
        list: bool,
    },
    /// Check layers, dependencies, packages and what may not stand in the sources
    Tidy {
        /// Another tree than this repository
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Build the programs for users: stripped, their debug information beside them, in target/dist
    Dist,
    /// Measure in release mode, beside bare tonic; print one table and write target/bench.json
    Bench {
        /// Handed on to the benchmark, for instance `--only console`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Set real programs on full disks, behind stalled links, stopped and bare; print a line for each case
    WorstWeek {
        /// Handed on to the cases, for instance `stalled_link` or `--list`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill a controller and a daemon at random moments of pushes, transfers and preparations, and look at what is left
    Kills(kills::Options),
    /// Plant the mistakes of xtask/mutants one by one and see that a test notices each
    Mutants {
        #[command(flatten)]
        options: mutants::Options,
        /// Print the chosen mutants instead
        #[arg(long)]
        list: bool,
        /// Only see whether the list fits the sources: texts to be found once, names, tests
        #[arg(long, conflicts_with = "list")]
        check: bool,
        /// Another tree than this repository
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Guard the wire contract
    #[command(subcommand)]
    Contract(Contract),
    /// Drive the real programs against each other and against foreign peers
    #[command(subcommand)]
    Conformance(Conformance),
}

#[derive(Subcommand)]
enum Conformance {
    /// Every payload of the contract in five pairings, with peers in Python and Java: what went in, what came out
    Payloads(conformance::Payloads),
}

#[derive(Subcommand)]
enum Contract {
    /// Fail unless proto/, its digests, the generated code and the protocol version fit together
    Verify {
        /// Another tree than this repository
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Record proto/ as it is: digests, contracts/accepted and generated code
    Accept {
        /// Allow breaking changes of what was added since the released contract and no peer has seen
        #[arg(long)]
        unreleased: bool,
        /// Another tree than this repository
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Classify the change between two folders of .proto files
    ///
    /// Exit code: 0 identical, 10 additive, 20 breaking, 2 unreadable input.
    Classify {
        /// The folder before the change; imports in it are paths from there
        old: PathBuf,
        /// The folder after the change
        new: PathBuf,
        /// Where to look for imports that a folder lacks; they are not compared. May be given several times
        #[arg(long = "include", value_name = "DIR")]
        includes: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            match error.downcast_ref::<Unreadable>() {
                Some(_) => ExitCode::from(classify::UNREADABLE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let here = repository_root();
    match task {
        Task::Codegen { check: true } => codegen::check(&here)?,
        Task::Codegen { check: false } => {
            for path in codegen::write(&here)? {
                println!("wrote {path}");
            }
        }
        Task::DemoJar { check: true } => demo_jar::check(&here)?,
        Task::DemoJar { check: false } => demo_jar::write(&here)?,
        Task::Ci { list: true, .. } => {
            for (name, about) in ci::list() {
                println!("{name:<10} {about}");
            }
        }
        Task::Ci { only, list: false } => {
            if !ci::check(&here, &only)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Tidy { root } => {
            let bad = tidy::check(&root.unwrap_or(here))?;
            for sentence in &bad {
                eprintln!("{sentence}");
            }
            if !bad.is_empty() {
                eprintln!("tidy: {} violations", bad.len());
                return Ok(ExitCode::FAILURE);
            }
            println!("tidy: in order");
        }
        Task::WorstWeek { arguments } => worst_week::run(&here, &arguments)?,
        Task::Kills(options) => kills::run(&here, &options)?,
        Task::Dist => println!("{}", dist::run(&here)?.display()),
        Task::Bench { arguments } => bench::run(&here, &arguments)?,
        Task::Mutants {
            options,
            list,
            check,
            root,
        } => {
            let root = root.unwrap_or(here);
            if list {
                print!("{}", mutants::listing(&root, &options)?);
            } else if check {
                let (bad, count) = mutants::check(&root)?;
                for sentence in &bad {
                    eprintln!("{sentence}");
                }
                println!("mutants: {count} in the list, {} faults", bad.len());
                if !bad.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            } else {
                let mut out = std::io::stdout();
                let summary = mutants::run(&root, &options, &mut out)?;
                if !summary.is_good() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Task::Conformance(Conformance::Payloads(options)) => {
            if !conformance::payloads(&here, &options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Contract(Contract::Verify { root }) => {
            let (good, bad) = contract::verify(&root.unwrap_or(here))?;
            for line in &good {
                println!("ok: {line}");
            }
            for paragraph in &bad {
                eprintln!("FAILED: {paragraph}");
            }
            if !bad.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Contract(Contract::Accept { unreleased, root }) => {
            let written = contract::accept(&root.unwrap_or(here), unreleased)?;
            if written.is_empty() {
                println!("nothing to write: everything is current");
            }
            for path in written {
                println!("wrote {path}");
            }
        }
        Task::Contract(Contract::Classify {
            old,
            new,
            includes,
            json,
        }) => return Ok(classify(&old, &new, &includes, json)),
    }
    Ok(ExitCode::SUCCESS)
}

fn classify(old: &Path, new: &Path, includes: &[PathBuf], json: bool) -> ExitCode {
    let (text, code) = match classify::compare(old, new, includes) {
        Ok(report) => {
            let text = if json {
                format!("{:#}\n", classify::as_json(&report))
            } else {
                classify::as_text(&report)
            };
            (text, classify::exit_code(report.verdict()))
        }
        Err(unreadable) => {
            eprintln!("{unreadable}");
            let text = if json {
                format!("{:#}\n", classify::unreadable_as_json(&unreadable))
            } else {
                String::new()
            };
            (text, ExitCode::from(classify::UNREADABLE))
        }
    };
    // A reader that has seen enough (`| head`) changes nothing about the verdict.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    code
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}
