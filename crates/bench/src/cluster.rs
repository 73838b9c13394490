//! The programs of this workspace as a cluster on this machine, and what they use of it

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::line::Line;

/// Ports that servers may have
const PORTS: u16 = 1_000;

/// The first of as many ports as servers may have; somebody else may use others
fn free_ports() -> Result<u16> {
    // Below those that connections get.
    let mut ranges = (20_000..32_000).step_by(usize::from(PORTS));
    let is_free = |first: &u16| {
        (*first..first + PORTS).all(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
    };
    ranges.find(is_free).context("no thousand ports are free")
}

/// A controller and a daemon in a folder of their own; everything ends with it
pub struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
    controller: Child,
    daemon: Child,
    http: String,
    line: Option<Line>,
}

impl Cluster {
    /// Both on this machine, with nothing between them
    pub fn start(program: &Path) -> Result<Self> {
        Self::start_over(program, None)
    }

    /// The daemon reaches the controller over a line of so many bytes a second
    pub fn start_over(program: &Path, bytes_per_second: Option<u32>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("prexorcloud-bench-").tempdir()?;
        let first_port = free_ports()?;
        let settings = json!({
            "data_dir": folder.path().join("controller"),
            "grpc": { "listen": "127.0.0.1:0" },
            "http": { "listen": "127.0.0.1:0" },
            "instances": { "port_range_start": first_port, "port_range_end": first_port + PORTS - 1 },
        });
        let (mut controller, ready) = spawn(program, folder.path(), "controller", &settings)?;
        let text = |name: &str| ready[name].as_str().map(str::to_owned).context("no address");
        let (grpc, http) = (text("grpc")?, text("http")?);
        let line = bytes_per_second.map(|rate| Line::to(&grpc, rate)).transpose()?;
        let endpoint = line.as_ref().map_or(grpc, |line| line.address().to_string());
        let started =
            ctl(program, folder.path(), &http, &["token", "create", "-o", "json"]).and_then(|token| {
                let settings = json!({
                    "node_id": "node-1",
                    "data_dir": folder.path().join("daemon"),
                    "advertise_address": "127.0.0.1",
                    "controller": { "endpoints": [endpoint] },
                    "enrolment": { "join_token": token["token"] },
                    "health": { "listen": "127.0.0.1:0" },
                    "runtime": { "allow_standin": true },
                });
                spawn(program, folder.path(), "daemon", &settings)
            });
        match started {
            Ok((daemon, _)) => {
                let cluster = Self {
                    program: program.to_owned(),
                    folder,
                    controller,
                    daemon,
                    http,
                    line,
                };
                cluster.await_node()?;
                Ok(cluster)
            }
            Err(error) => {
                let _ = controller.kill();
                let _ = controller.wait();
                Err(error)
            }
        }
    }

    /// Waits until the controller has the daemon, which is enrolled before it is connected
    fn await_node(&self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(60);
        let arguments = ["node", "list", "-o", "json"];
        loop {
            let nodes = ctl(&self.program, self.folder.path(), &self.http, &arguments)?;
            let nodes = nodes.as_array().context("no list of nodes")?;
            if nodes.iter().any(|node| node["status"] == "ONLINE") {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "the daemon does not connect: {nodes:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn start_server(&self, number: usize) -> Result<()> {
        self.start_server_with(number, &[])
    }

    /// Starts a server and waits until it is ready
    pub fn start_server_with(&self, number: usize, more: &[&str]) -> Result<()> {
        self.order(number, &[&["--wait"], more].concat())
    }

    /// Orders a start with these options
    pub fn order(&self, number: usize, options: &[&str]) -> Result<()> {
        let (id, jar) = (format!("lobby-{number}"), self.folder.path().join("demo.standin"));
        let jar = jar.to_str().context("a folder that is not UTF-8")?;
        let start = ["instance", "start", "lobby", "--id", &id, "--jar", jar];
        let options = [options, &["--memory-mb", "16", "-o", "json"]].concat();
        self.ctl(&[&start[..], &options].concat())?;
        Ok(())
    }

    /// Runs `prexorctl`, and reads its JSON
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        ctl(&self.program, self.folder.path(), &self.http, arguments)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the HTTP interface is
    pub fn http(&self) -> &str {
        &self.http
    }

    /// The process of the controller
    pub fn controller(&self) -> u32 {
        self.controller.id()
    }

    /// The process of the daemon
    pub fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    /// What the daemon has logged
    pub fn daemon_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("daemon.log"))?)
    }

    /// The processes between the daemon and its servers
    pub fn shims(&self) -> Result<Vec<u32>> {
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
        let servers = self.ctl(&["instance", "list", "-o", "json"]);
        for server in servers.iter().filter_map(Value::as_array).flatten() {
            let id = server["id"].as_str().unwrap_or_default();
            let _ = self.ctl(&["instance", "stop", id, "--force", "-o", "json"]);
        }
        let limit = Instant::now() + Duration::from_secs(30);
        while self.shims().is_ok_and(|shims| !shims.is_empty()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(50));
        }
        for child in [&mut self.daemon, &mut self.controller] {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(self.line.take());
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
pub struct Memory {
    pub private: f64,
    pub resident: f64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
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

/// Forgets how much memory a process has had at most.
pub fn forget_peak(pid: u32) -> Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
}

/// How much memory a process has had at most since then, in MiB.
pub fn peak(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmHWM")? / 1024.0)
}

/// Waits until the resident memory stops changing.
pub fn settle(pid: u32) -> Result<()> {
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
