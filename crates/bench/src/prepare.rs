//! The start of a server whose template is in the cache: from the order to its process
//!
//! Once on a file system in which the measurement has deleted nothing, and once right after as many files were: ext4 without a journal,
//! which some virtual machines have, passes over inodes that were freed within the last seconds, and looks at each of them.
//!
//! Real processes of the release binary. The daemon says in its log when it has the order and when the process is there; what
//! the client and the controller take is not in it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Cluster;
use crate::programs::Spent;
use crate::report::{Aim, Report, Row, median};

/// Files of the template, three fifths of them text in which variables are replaced
const FILES: usize = 2_000;
const TEMPLATE: &str = "bench";

/// Measures `program`, which is the release binary of this workspace.
pub fn run(report: &mut Report, program: &Path, repetitions: usize) -> Result<()> {
    eprintln!("prepare: twice {repetitions} starts of {FILES} files");
    let cluster = Cluster::start(program)?;
    let folder = cluster.folder().join("template");
    let bytes = write_template(&folder)?;
    let path = folder.to_str().context("a folder that is not UTF-8")?;
    cluster.ctl(&["template", "create", TEMPLATE, "-o", "json"])?;
    cluster.ctl(&["template", "push", path, "--name", TEMPLATE, "-o", "json"])?;
    let mib = bytes as f64 / f64::from(1 << 20);
    // The first start fetches the template and does not count.
    start(&cluster, 1)?;
    let quiet = (2..repetitions + 2)
        .map(|number| start(&cluster, number))
        .collect::<Result<Vec<_>>>()?;
    // Only after these: a file system may remember for minutes what was deleted.
    let mut after_deletion = Vec::new();
    for number in repetitions + 2..2 * repetitions + 2 {
        // The daemon deletes the folder of a server some time after its end; here the time is to be known.
        let folder = cluster.folder().join("daemon/instances/lobby/deleted");
        write_template(&folder)?;
        fs::remove_dir_all(&folder)?;
        after_deletion.push(start(&cluster, number)?);
    }
    let times = |starts: &[Start]| starts.iter().map(|start| start.milliseconds).collect::<Vec<_>>();
    let name = format!("cached template of {FILES} files, {mib:.1} MiB: order to process (median)");
    let row = Row::new("prepare", name, median(times(&quiet)), "ms");
    report.add(row.aim(Aim::ValueAtMost(150.0)));
    let least = times(&quiet).into_iter().fold(f64::INFINITY, f64::min);
    report.add(Row::new("prepare", "the same, the fastest", least, "ms"));
    let name = "the same, right after as many files were deleted (median)";
    report.add(Row::new("prepare", name, median(times(&after_deletion)), "ms"));
    let name = "processor time of the daemon until it is RUNNING (median)";
    let spent = quiet.iter().map(|start| start.processor_milliseconds).collect();
    report.add(Row::new("prepare", name, median(spent), "ms"));
    Ok(())
}

struct Start {
    milliseconds: f64,
    processor_milliseconds: f64,
}

fn start(cluster: &Cluster, number: usize) -> Result<Start> {
    let before = Spent::of(cluster.daemon())?;
    cluster.start_server_with(number, &["--template", TEMPLATE])?;
    let processor = Spent::of(cluster.daemon())?.since(before);
    Ok(Start {
        milliseconds: prepared_within(&cluster.daemon_log()?, &id(number))?,
        processor_milliseconds: processor.as_secs_f64() * 1_000.0,
    })
}

fn id(number: usize) -> String {
    format!("lobby-{number}")
}

/// Writes what a server of plugins looks like: many small files, a few of which are large; returns their bytes
fn write_template(folder: &Path) -> Result<usize> {
    let mut bytes = 0;
    let mut seed = 1_u64;
    for number in 0..FILES {
        let (plugin, kind) = (number % 40, number % 5);
        let name = match kind {
            0 => format!("plugins/p{plugin}/{number}.yml"),
            1 => format!("world/region/r.{number}.mca"),
            2 => format!("plugins/p{plugin}/lang/{number}.properties"),
            3 => format!("datapacks/d{plugin}/{number}.json"),
            _ => format!("data/{number}.bin"),
        };
        let mut content = String::new();
        while content.len() < 1_000 + number * 7 % 6_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            writeln!(content, "key{}: value-{:x} %GROUP%", seed >> 60, seed >> 20)?;
        }
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, &content)?;
        bytes += content.len();
    }
    Ok(bytes)
}

/// Milliseconds between two lines of the daemon's log
fn prepared_within(log: &str, instance: &str) -> Result<f64> {
    let of_instance = format!("instance={instance}");
    let at = |words: &str| {
        let is_it =
            |line: &&str| line.contains(words) && line.split_whitespace().any(|word| word == of_instance);
        let line = log.lines().rfind(is_it);
        let line = line.with_context(|| format!("the daemon does not say {words:?} of {instance}"))?;
        time_of_day(line).with_context(|| format!("no time in {line:?}"))
    };
    let (began, ended) = (at("preparing a start")?, at("PREPARING -> STARTING")?);
    ensure!(ended >= began, "midnight came between the lines of {instance}");
    Ok((ended - began) * 1_000.0)
}

/// Seconds since midnight, of a line that begins with a time
fn time_of_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_whitespace().next()?.split_once('T')?;
    let mut parts = time.strip_suffix('Z')?.split(':');
    let (hours, minutes): (f64, f64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(hours * 3_600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::prepared_within;

    #[test]
    fn the_time_is_that_between_two_lines_of_the_instance() {
        let log = "2026-01-01T10:59:59.900000Z  INFO daemon: preparing a start instance=lobby-1 incarnation=1\n\
                   2026-01-01T10:59:59.950000Z  INFO daemon: preparing a start instance=lobby-11 incarnation=1\n\
                   2026-01-01T11:00:00.025000Z  INFO daemon: PREPARING -> STARTING instance=lobby-1\n";
        let time = prepared_within(log, "lobby-1").unwrap_or_default();
        assert!((time - 125.0).abs() < 0.001, "{time}");
        assert!(prepared_within(log, "lobby-2").is_err());
    }
}
