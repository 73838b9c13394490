//! Benchmarks: what a message costs, and how close the streams come to bare tonic
//!
//! `cargo xtask bench` runs this in release mode. Everything that crosses a network does so over mTLS on loopback, and is
//! measured beside the same traffic over tonic's own server and channel, in the same run, in turns; the ratio of the
//! medians is what counts, because it survives a slow or busy machine.

mod allocations;
mod cluster;
mod console;
mod content;
mod envelope;
mod events;
mod fleet;
mod idle;
mod line;
mod logs;
mod pki;
mod prepare;
mod processor;
mod programs;
mod report;
mod rig;
mod step;
mod template;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::report::Report;

const HELP: &str = "\
Measures PrexorCloud beside bare tonic

  --json FILE       write the figures to this file, too
  --program FILE    the release binary, for `prepare`, `programs` and `content`; without it, these groups are left out
  GROUP, --only GROUP
                    only this group: step, envelope, console, template, events, logs, idle, fleet, prepare, programs,
                    content; may be repeated
  --repetitions N   repetitions of each side (7); odd, so that the median is one of them
  --daemons N       daemons that idle at once (500)
  --nodes N         nodes of the fleet (300)
  --instances N     instances of each of them (200)
  --template-mib N  size of the template of the group `content` (512)";

struct Arguments {
    json: Option<PathBuf>,
    program: Option<PathBuf>,
    only: Vec<String>,
    repetitions: usize,
    daemons: usize,
    fleet: fleet::Size,
    template_mib: usize,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut arguments = Self {
            json: None,
            program: None,
            only: Vec::new(),
            repetitions: 7,
            daemons: 500,
            fleet: fleet::Size {
                nodes: 300,
                instances: 200,
            },
            template_mib: 512,
        };
        while let Some(name) = given.next() {
            let mut value = || given.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--json" => arguments.json = Some(value()?.into()),
                "--program" => arguments.program = Some(value()?.into()),
                "--only" => arguments.only.push(value()?),
                "--repetitions" => arguments.repetitions = value()?.parse().context("--repetitions")?,
                "--daemons" => arguments.daemons = value()?.parse().context("--daemons")?,
                "--nodes" => arguments.fleet.nodes = value()?.parse().context("--nodes")?,
                "--instances" => arguments.fleet.instances = value()?.parse().context("--instances")?,
                "--template-mib" => arguments.template_mib = value()?.parse().context("--template-mib")?,
                "--help" | "-h" => return Ok(None),
                group if !group.starts_with('-') => arguments.only.push(name),
                other => bail!("unknown argument {other:?}\n\n{HELP}"),
            }
        }
        for group in &arguments.only {
            let groups = [
                "step", "envelope", "console", "template", "events", "logs", "idle", "fleet", "prepare",
                "programs", "content",
            ];
            if !groups.contains(&group.as_str()) {
                bail!("unknown group {group:?}\n\n{HELP}");
            }
        }
        Ok(Some(arguments))
    }
}

fn main() -> Result<()> {
    pki::install_provider();
    let given: Vec<String> = std::env::args().skip(1).collect();
    // The server whose memory is measured is this program in another process.
    match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [idle::ROLE] => return idle::serve(false),
        [idle::ROLE, idle::BARE] => return idle::serve(true),
        [fleet::ROLE, data_dir, grpc, http] => return fleet::serve(data_dir, grpc, http),
        [logs::ROLE] => return logs::serve(),
        _ => {}
    }
    let Some(arguments) = Arguments::parse(given.into_iter())? else {
        println!("{HELP}");
        return Ok(());
    };
    let wanted = |group: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == group);
    let repetitions = arguments.repetitions.max(1);
    let mut report = Report::default();
    if wanted("step") {
        step::run(&mut report);
    }
    if wanted("envelope") {
        envelope::run(&mut report);
    }
    if wanted("console") {
        console::run(&mut report, repetitions).context("console")?;
    }
    if wanted("template") {
        template::run(&mut report, repetitions).context("template")?;
    }
    if wanted("events") {
        events::run(&mut report, repetitions).context("events")?;
    }
    if wanted("logs") {
        logs::run(&mut report, repetitions).context("logs")?;
    }
    if wanted("idle") {
        idle::run(&mut report, arguments.daemons).context("idle")?;
    }
    if wanted("fleet") {
        fleet::run(&mut report, arguments.fleet).context("fleet")?;
    }
    if let Some(program) = arguments.program.as_deref().filter(|_| wanted("prepare")) {
        prepare::run(&mut report, program, repetitions).context("prepare")?;
    }
    if let Some(program) = arguments.program.as_deref().filter(|_| wanted("programs")) {
        programs::run(&mut report, program).context("programs")?;
    }
    if let Some(program) = arguments.program.as_deref().filter(|_| wanted("content")) {
        content::run(&mut report, program, arguments.template_mib, repetitions).context("content")?;
    }
    report.print();
    if let Some(path) = &arguments.json {
        report
            .write(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}
