//! What the programs themselves cost: memory, threads and idle processor time of controller, daemon and shim
//!
//! Real processes of the release binary, with twenty servers on one daemon. Figures come from `/proc`: *private* is what a
//! process alone makes the machine hold (`Private_Clean + Private_Dirty` of `smaps_rollup`), *resident* also counts pages of
//! the binary that all of them share.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

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
    cluster.await_node()?;
    for number in 1..=SERVERS {
        cluster.start_server(number)?;
    }
    let shims = cluster.shims()?;
    ensure!(
        shims.len() == SERVERS,
        "{} shims for {SERVERS} servers",
        shims.len()
    );
    let (controller, daemon) = (cluster.controller.id(), cluster.daemon.id());
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

/// A controller and a daemon in a folder of their own; everything ends with it
pub(crate) struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
    controller: Child,
    daemon: Child,
    http: String,
}

impl Cluster {
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("prexorcloud-bench-").tempdir()?;
        let settings = json!({
            "data_dir": folder.path().join("controller"),
            "grpc": { "listen": "127.0.0.1:0" },
            "http": { "listen": "127.0.0.1:0" },
            "instances": { "port_range_start": 20_000, "port_range_end": 20_999 },
        });
        let (mut controller, ready) = spawn(program, folder.path(), "controller", &settings)?;
        let text = |name: &str| ready[name].as_str().map(str::to_owned).context("no address");
        let (grpc, http) = (text("grpc")?, text("http")?);
        let started =
            ctl(program, folder.path(), &http, &["token", "create", "-o", "json"]).and_then(|token| {
                let settings = json!({
                    "node_id": "node-1",
                    "data_dir": folder.path().join("daemon"),
                    "advertise_address": "127.0.0.1",
                    "controller": { "endpoints": [grpc] },
                    "enrolment": { "join_token": token["token"] },
                    "health": { "listen": "127.0.0.1:0" },
                    "runtime": { "allow_standin": true },
                });
                spawn(program, folder.path(), "daemon", &settings)
            });
        match started {
            Ok((daemon, _)) => Ok(Self {
                program: program.to_owned(),
                folder,
                controller,
                daemon,
                http,
            }),
            Err(error) => {
                let _ = controller.kill();
                let _ = controller.wait();
                Err(error)
            }
        }
    }

    /// Waits until the controller has the daemon, which is enrolled before it is connected
    pub(crate) fn await_node(&self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let nodes = self.ctl(&["node", "list", "-o", "json"])?;
            let nodes = nodes.as_array().context("no list of nodes")?;
            if nodes.iter().any(|node| node["status"] == "ONLINE") {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "the daemon does not connect: {nodes:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process
    pub(crate) fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    pub(crate) fn daemon_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("daemon.log"))?)
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        ctl(&self.program, self.folder.path(), &self.http, arguments)
    }

    fn start_server(&self, number: usize) -> Result<()> {
        self.start_server_with(number, &[])
    }

    /// Starts a server and waits until it is ready
    pub(crate) fn start_server_with(&self, number: usize, more: &[&str]) -> Result<()> {
        let (id, jar) = (format!("lobby-{number}"), self.folder.path().join("demo.standin"));
        let jar = jar.to_str().context("a folder that is not UTF-8")?;
        let start = ["instance", "start", "lobby", "--id", &id, "--jar", jar];
        let options = ["--memory-mb", "16", "--wait", "-o", "json"];
        self.ctl(&[&start[..], &options, more].concat())?;
        Ok(())
    }

    /// The processes between the daemon and its servers
    fn shims(&self) -> Result<Vec<u32>> {
        let folder = self
            .folder
            .path()
            .to_str()
            .context("a folder that is not UTF-8")?;
        let processes = processes()?
            .into_iter()
            .filter(|(_, arguments)| arguments.contains(folder));
        let shims =
            processes.filter(|(_, arguments)| arguments.split('\0').any(|argument| argument == "shim"));
        Ok(shims.map(|(pid, _)| pid).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 1..=SERVERS {
            let id = format!("lobby-{number}");
            let _ = self.ctl(&["instance", "stop", &id, "--force", "-o", "json"]);
        }
        let limit = Instant::now() + Duration::from_secs(30);
        while self.shims().is_ok_and(|shims| !shims.is_empty()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(50));
        }
        for child in [&mut self.daemon, &mut self.controller] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a program and waits until it says that it serves
fn spawn(program: &Path, folder: &Path, role: &str, settings: &Value) -> Result<(Child, Value)> {
    let config = folder.join(format!("{role}.toml"));
    fs::write(&config, toml::to_string(settings)?)?;
    let mut child = Command::new(program)
        .args([role, "--announce", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.join(format!("{role}.log")))?)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(ready) => Ok((child, ready)),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(folder.join(format!("{role}.log"))).unwrap_or_default();
            bail!("the {role} does not serve: {log}")
        }
    }
}

fn ctl(program: &Path, folder: &Path, http: &str, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(program)
        .arg("ctl")
        .arg("--token-file")
        .arg(folder.join("controller/admin.token"))
        .args(arguments)
        .env("HOME", folder)
        .env("PREXORCTL_CONTROLLER", format!("http://{http}"))
        .stdin(Stdio::null())
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {error}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn processes() -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        found.push((pid, String::from_utf8_lossy(&arguments).into_owned()));
    }
    Ok(found)
}

/// In MiB
#[derive(Clone, Copy, Debug)]
struct Memory {
    private: f64,
    resident: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let kib = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or_default()
        };
        Ok(Self {
            private: (kib("Private_Clean:") + kib("Private_Dirty:")) / 1024.0,
            resident: kib("Rss:") / 1024.0,
        })
    }
}

/// Waits until the resident memory stops changing.
fn settle(pid: u32) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(60);
    let (mut last, mut same) = (Memory::of(pid)?.resident, 0);
    while same < 10 {
        ensure!(Instant::now() < limit, "the memory of {pid} does not settle");
        std::thread::sleep(Duration::from_millis(200));
        let now = Memory::of(pid)?.resident;
        same = if (now - last).abs() <= 0.1 { same + 1 } else { 0 };
        last = now;
    }
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
