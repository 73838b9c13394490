//! What the programs themselves cost: memory, threads and idle processor time of controller, daemon and shim
//!
//! Real processes of the release binary, with twenty servers on one daemon. Figures come from `/proc`: *private* is what a
//! process alone makes the machine hold (`Private_Clean + Private_Dirty` of `smaps_rollup`), *resident* also counts pages of
//! the binary that all of them share.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Cluster, Memory, settle};
use crate::report::{Aim, Report, Row, median};

const SERVERS: usize = 20;
/// How long the processor time of an idle program is counted: a tick of 10 ms in it is a sixth of the aim.
const IDLE: Duration = Duration::from_secs(60);
/// In what Linux counts the time of a process for others to read (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Measures `program`, which is the release binary of this workspace.
pub fn run(report: &mut Report, program: &Path) -> Result<()> {
    eprintln!("programs: {}", program.display());
    let cluster = Cluster::start(program)?;
    for number in 1..=SERVERS {
        cluster.start_server(number)?;
    }
    let shims = cluster.shims()?;
    ensure!(
        shims.len() == SERVERS,
        "{} shims for {SERVERS} servers",
        shims.len()
    );
    let (controller, daemon) = (cluster.controller(), cluster.daemon());
    for pid in [controller, daemon] {
        settle(pid)?;
    }

    let before = [Spent::of(controller)?, Spent::of(daemon)?];
    std::thread::sleep(IDLE);
    let idle = |pid, before: Spent| -> Result<f64> {
        Ok(Spent::of(pid)?.since(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0)
    };
    let idle = [idle(controller, before[0])?, idle(daemon, before[1])?];

    let name = format!("daemon with {SERVERS} servers");
    for (name, pid, idle, aim) in [
        ("controller", controller, idle[0], None),
        (name.as_str(), daemon, idle[1], Some(10.0)),
    ] {
        let memory = Memory::of(pid)?;
        let at_most = |row: Row| aim.map_or(row.clone(), |mib| row.aim(Aim::ValueAtMost(mib)));
        report.add(at_most(Row::new(
            "programs",
            format!("{name}, private"),
            memory.private,
            "MiB",
        )));
        report.add(at_most(Row::new(
            "programs",
            format!("{name}, resident"),
            memory.resident,
            "MiB",
        )));
        report.add(Row::new(
            "programs",
            format!("{name}, threads"),
            threads(pid)?,
            "",
        ));
        let row = Row::new("programs", format!("{name}, idle"), idle, "% of a core");
        report.add(row.aim(Aim::ValueAtMost(0.1)));
    }
    let memories = shims
        .iter()
        .map(|&pid| Memory::of(pid))
        .collect::<Result<Vec<_>>>()?;
    for (what, values) in [
        (
            "private",
            memories.iter().map(|memory| memory.private).collect::<Vec<_>>(),
        ),
        (
            "resident",
            memories.iter().map(|memory| memory.resident).collect(),
        ),
    ] {
        let row = Row::new(
            "programs",
            format!("shim, {what} (median)"),
            median(values),
            "MiB",
        );
        report.add(row.aim(Aim::ValueAtMost(0.5)));
    }
    let counts = shims
        .iter()
        .map(|&pid| threads(pid))
        .collect::<Result<Vec<_>>>()?;
    report.add(Row::new("programs", "shim, threads (median)", median(counts), ""));
    Ok(())
}

fn threads(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.context("no Threads")?.trim().parse().context("Threads")
}

/// The processor time that a process has used, by two counts
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// By the counters of its threads: nanoseconds, which those of threads that end take with them, and which stay at zero
    /// in a kernel that does not keep them
    scheduled: Duration,
    /// By the process's own count: whoever runs when the clock ticks has used the tick
    ticked: Duration,
}

impl Spent {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let file = task.path().join("schedstat");
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let spent = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
            nanoseconds += spent.with_context(|| format!("{} says {text:?}", file.display()))?;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let ticks = ticks(&stat).with_context(|| format!("/proc/{pid}/stat says {stat:?}"))?;
        Ok(Self {
            scheduled: Duration::from_nanos(nanoseconds),
            ticked: TICK * ticks,
        })
    }

    /// What was used in between: the larger of what the two counts have seen of it
    pub(crate) fn since(self, before: Self) -> Duration {
        let scheduled = self.scheduled.saturating_sub(before.scheduled);
        scheduled.max(self.ticked.saturating_sub(before.ticked))
    }
}

/// `utime` and `stime`, fields 14 and 15, counted after the name, which may hold anything
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u32>().ok();
    Some(field()? + field()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Spent;

    #[test]
    fn a_thread_that_ended_hides_nothing() {
        let spent = |scheduled, ticked| Spent {
            scheduled: Duration::from_millis(scheduled),
            ticked: Duration::from_millis(ticked),
        };
        assert_eq!(spent(40, 90).since(spent(60, 70)), Duration::from_millis(20));
        assert_eq!(spent(64, 70).since(spent(60, 70)), Duration::from_millis(4));
    }

    #[test]
    fn ticks_of_user_and_system_are_added() {
        let stat = "42 (a) 9 (b) S 1 42 42 0 -1 4194560 10 11 12 13 300 45 7 8 20 0 5 0 987654 100 1";
        assert_eq!(super::ticks(stat), Some(345));
        assert_eq!(super::ticks("42 (cut) S 1"), None);
    }
}
