//! A cluster of real processes in a folder of its own

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use prexorcloud_daemon::process::signals::{Signals, shrug_off};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::link::Link;

/// Generous: a busy machine is no failure
pub const LIMIT: Duration = Duration::from_secs(90);

/// Asks again and again until there is an answer
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {LIMIT:?}"
        );
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// What a program left behind
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error that the operator sees: the last line of standard error, which is no log line
    pub fn error(&self) -> &str {
        self.stderr
            .lines()
            .rev()
            .find(|line| line.starts_with("error: "))
            .unwrap_or_else(|| panic!("no error line: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// This package's program, away from the environment of whoever runs the tests
pub fn program(arguments: &[&str]) -> Command {
    let mut command = away_from_home(Command::new(env!("CARGO_BIN_EXE_prexorcloud")));
    command.args(arguments);
    command
}

fn away_from_home(mut command: Command) -> Command {
    // Under `nohup` these tests are, and must not hand on, what it ignores.
    shrug_off(Signals::now().unwrap().ignored()).unwrap();
    command.env_clear().stdin(Stdio::null());
    for kept in ["PATH", "JAVA_HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// `command`, started by another one
fn wrapped(first: &str, rest: &[String], command: &Command) -> Command {
    let mut wrapped = away_from_home(Command::new(first));
    wrapped
        .args(rest)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null());
    wrapped
}

/// Runs the program to its end
pub fn run(arguments: &[&str]) -> Ran {
    finish(&mut program(arguments))
}

/// Runs a command to its end, which must come by itself
pub fn finish(command: &mut Command) -> Ran {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let ran = child.wait_with_output().unwrap();
            panic!("{command:?} did not end: {ran:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap().into()
}

pub struct Rig {
    folder: tempfile::TempDir,
    /// Variables for the programs that are started from now on
    pub environment: Vec<(&'static str, &'static str)>,
    controller: Option<Child>,
    daemon: Option<Child>,
    /// Daemons beside that one, by the names of their folders
    others: BTreeMap<String, Child>,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    heartbeat_ms: u64,
    /// Where daemons dial, if not to the controller itself
    dialled: Option<SocketAddr>,
    /// What stands in front of the program's command line, by role
    wraps: BTreeMap<&'static str, Vec<String>>,
}

impl Rig {
    /// A folder; nothing runs yet
    pub fn new() -> Self {
        Self {
            folder: tempfile::Builder::new()
                .prefix("prexorcloud-test-")
                .tempdir()
                .unwrap(),
            environment: Vec::new(),
            controller: None,
            daemon: None,
            others: BTreeMap::new(),
            grpc: None,
            http: None,
            heartbeat_ms: 1000,
            dialled: None,
            wraps: BTreeMap::new(),
        }
    }

    /// As [`with_node`](Self::with_node), over a link that can fail, with heartbeats so rare that nobody notices it soon
    pub fn with_link() -> (Self, Link) {
        let mut rig = Self::new();
        rig.heartbeat_ms = 30_000;
        rig.start_controller();
        let link = Link::to(rig.grpc());
        rig.dialled = Some(link.address);
        rig.join_node();
        (rig, link)
    }

    /// From now on a program is started by this command, which gets the program's command line as arguments
    pub fn wrap(&mut self, role: &'static str, command: &[&str]) {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        self.wraps.insert(role, command);
    }

    /// From now on both programs are started by a script of a shell, which has the program and its arguments as `$0` and `$@`
    pub fn wrap_in_shell(&mut self, script: &str) {
        for role in ["controller", "daemon"] {
            self.wrap(role, &["/bin/sh", "-c", script]);
        }
    }

    /// From now on the daemon is told that the controller is here
    pub fn route(&mut self, address: SocketAddr) {
        self.dialled = Some(address);
    }

    /// The process of a program, or of what it was wrapped in
    pub fn pid(&self, role: &str) -> Pid {
        let child = match role {
            "controller" => &self.controller,
            _ => &self.daemon,
        };
        Pid::from_child(child.as_ref().unwrap())
    }

    /// With a controller
    pub fn with_controller() -> Self {
        let mut rig = Self::new();
        rig.start_controller();
        rig
    }

    /// With a controller and an enrolled daemon that is connected
    pub fn with_node() -> Self {
        let mut rig = Self::with_controller();
        rig.join_node();
        rig
    }

    /// As [`with_node`](Self::with_node), with this script in the place of the Java virtual machine
    pub fn with_java(script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let mut rig = Self::with_controller();
        let java = rig.write("java", script);
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
        let token = rig.token(&["--node", "node-1"]);
        let config = rig.configure_daemon(&token);
        let text = fs::read_to_string(&config).unwrap();
        let wanted = format!("allow_standin = true\njava = {java:?}");
        assert!(text.contains("allow_standin = true"));
        rig.write("daemon.toml", &text.replace("allow_standin = true", &wanted));
        rig.start_daemon();
        rig.await_node("ONLINE");
        rig
    }

    fn join_node(&mut self) {
        let token = self.token(&["--node", "node-1"]);
        self.configure_daemon(&token);
        assert_eq!(self.start_daemon(), 0);
        self.await_node("ONLINE");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.path(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    pub fn log(&self, name: &str) -> fs::File {
        fs::File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap()
    }

    pub fn log_text(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts the controller; after the first time on the same ports and data
    pub fn start_controller(&mut self) {
        self.start_controller_saying_to(self.log("controller"));
    }

    /// The same, with something else as its standard error
    pub fn start_controller_saying_to(&mut self, errors: impl Into<Stdio>) {
        let any = || SocketAddr::from(([127, 0, 0, 1], 0));
        let ports = free_ports();
        let settings = json!({
            "data_dir": self.path("controller"),
            "grpc": { "listen": self.grpc.unwrap_or_else(any) },
            "http": { "listen": self.http.unwrap_or_else(any) },
            "heartbeat": { "interval_ms": self.heartbeat_ms },
            "modules": { "signing": { "mode": "optional" } },
            "instances": { "console_lines": 5000, "port_range_start": ports, "port_range_end": ports + 19 },
        });
        let config = self.write("controller.toml", &toml::to_string(&settings).unwrap());
        let mut child = self.spawn("controller", &config, errors);
        let ready = announcement(&mut child).unwrap_or_else(|| panic!("{}", self.log_text("controller")));
        self.grpc = Some(ready["grpc"].as_str().unwrap().parse().unwrap());
        self.http = Some(ready["http"].as_str().unwrap().parse().unwrap());
        self.controller = Some(child);
    }

    /// Where the controller takes nodes, from its first start on
    pub fn listen_on(&mut self, address: IpAddr) {
        self.grpc = Some(SocketAddr::new(address, 0));
    }

    pub fn grpc(&self) -> SocketAddr {
        self.grpc.unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        self.http.unwrap()
    }

    /// Writes a daemon's configuration; it reads the token from there
    pub fn configure_daemon(&self, token: &str) -> PathBuf {
        self.configure("daemon", "node-1", token)
    }

    pub fn configure(&self, name: &str, node: &str, token: &str) -> PathBuf {
        let settings = json!({
            "node_id": node,
            "data_dir": self.path(name),
            "advertise_address": "127.0.0.1",
            "controller": { "endpoints": [self.dialled.unwrap_or_else(|| self.grpc())] },
            "enrolment": { "join_token": token },
            "health": { "listen": "127.0.0.1:0" },
            "runtime": { "allow_standin": true },
            "reconnect": { "initial_delay_ms": 100, "max_delay_ms": 500 },
        });
        self.write(&format!("{name}.toml"), &toml::to_string(&settings).unwrap())
    }

    /// Puts another certificate, of this node, into the daemon's folder, which another daemon enrolled for
    pub fn exchange_certificate(&self, node: &str) {
        let token = self.token(&["--node", node]);
        let config = self.configure("renewal", node, &token);
        let mut child = program(&[
            "daemon",
            "--config",
            config.to_str().unwrap(),
            "--announce",
            "--tether",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(self.log("renewal"))
        .spawn()
        .unwrap();
        assert!(announcement(&mut child).is_some(), "{}", self.log_text("renewal"));
        // The end of its standard input ends it.
        assert!(child.wait_with_output().unwrap().status.success());
        for file in [".node-password", "ca.pem", "node.p12"] {
            let from = self.path("renewal/security").join(file);
            fs::copy(from, self.path("daemon/security").join(file)).unwrap();
        }
    }

    /// Starts the daemon as configured and gives the number of instances that it adopted
    pub fn start_daemon(&mut self) -> u64 {
        self.start_daemon_saying_to(self.log("daemon"))
    }

    /// The same, with something else as its standard error
    pub fn start_daemon_saying_to(&mut self, errors: impl Into<Stdio>) -> u64 {
        let started = self.try_start_daemon_saying_to(errors);
        started.unwrap_or_else(|status| panic!("{status}: {}", self.log_text("daemon")))
    }

    /// As [`start_daemon`](Self::start_daemon), by a shell that gets the command line as arguments
    fn start_daemon_by(&mut self, script: &str) -> u64 {
        self.wrap("daemon", &["sh", "-c", script]);
        let adopted = self.start_daemon();
        self.wrap("daemon", &[]);
        adopted
    }

    /// As [`start_daemon`](Self::start_daemon), with a hard limit of open files
    pub fn start_daemon_with_open_files(&mut self, limit: u32) -> u64 {
        self.start_daemon_by(&format!("ulimit -n {limit} && exec \"$0\" \"$@\""))
    }

    /// As [`start_daemon`](Self::start_daemon); how it ended if it would not serve
    pub fn try_start_daemon(&mut self) -> Result<u64, ExitStatus> {
        self.try_start_daemon_saying_to(self.log("daemon"))
    }

    fn try_start_daemon_saying_to(&mut self, errors: impl Into<Stdio>) -> Result<u64, ExitStatus> {
        let mut child = self.spawn("daemon", &self.path("daemon.toml"), errors);
        let Some(ready) = announcement(&mut child) else {
            return Err(eventually("the end of the daemon", || child.try_wait().unwrap()));
        };
        self.daemon = Some(child);
        Ok(ready["adopted"].as_u64().unwrap())
    }

    /// Starts a daemon beside the others that is [configured](Self::configure) under this name
    pub fn start_other(&mut self, name: &str) {
        let config = self.path(&format!("{name}.toml"));
        let mut child = self.spawn("daemon", &config, self.log(name));
        assert!(announcement(&mut child).is_some(), "{}", self.log_text(name));
        self.others.insert(name.to_owned(), child);
    }

    /// kill -9
    pub fn kill_other(&mut self, name: &str) {
        let mut child = self.others.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts the daemon with another file and with variables
    pub fn start_daemon_with(&mut self, config: &Path, environment: &[(&str, &str)]) {
        let mut child = self
            .prepared("daemon", config)
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        assert!(announcement(&mut child).is_some(), "{}", self.log_text("daemon"));
        self.daemon = Some(child);
    }

    /// Starts the daemon as configured, inside a control group
    pub fn start_daemon_within(&mut self, group: &Path) {
        let group = group.display();
        self.start_daemon_by(&format!("echo $$ > '{group}/cgroup.procs' && exec \"$0\" \"$@\""));
    }

    fn spawn(&self, role: &str, config: &Path, errors: impl Into<Stdio>) -> Child {
        self.prepared(role, config).stderr(errors).spawn().unwrap()
    }

    fn prepared(&self, role: &str, config: &Path) -> Command {
        let own = program(&[role, "--config", config.to_str().unwrap(), "--announce"]);
        let mut command = match self.wraps.get(role).map(Vec::as_slice) {
            Some([first, rest @ ..]) => wrapped(first, rest, &own),
            _ => own,
        };
        command
            .current_dir(self.folder())
            .envs(self.environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(self.log(role));
        command
    }

    /// kill -9
    pub fn kill_controller(&mut self) {
        let mut child = self.controller.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// kill -9
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A backup of the controller's folder, taken while it runs
    pub fn backup(&self) -> PathBuf {
        let (folder, backup) = (self.path("controller"), self.path("backup"));
        let taken = run(&[
            "controller",
            "backup",
            backup.to_str().unwrap(),
            "--data-dir",
            folder.to_str().unwrap(),
        ]);
        assert_eq!(taken.code, 0, "{taken:?}");
        backup
    }

    /// SIGTERM, and the exit status
    pub fn stop_controller(&mut self) -> ExitStatus {
        stop(self.controller.take().unwrap())
    }

    /// SIGTERM, and the exit status
    pub fn stop_daemon(&mut self) -> ExitStatus {
        stop(self.daemon.take().unwrap())
    }

    /// Waits until the daemon has ended by itself
    pub fn daemon_ended(&mut self) -> ExitStatus {
        let mut child = self.daemon.take().unwrap();
        eventually("the end of the daemon", || child.try_wait().unwrap())
    }

    /// Runs `prexorctl` as the administrator
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        let copied = self.path("admin.token");
        let token = if copied.exists() {
            copied
        } else {
            self.path("controller/admin.token")
        };
        finish(
            &mut self
                .ctl_command(arguments)
                .args(["--token-file", token.to_str().unwrap()])
                .into_command(),
        )
    }

    /// `prexorctl` for this controller, not signed in
    pub fn ctl_command(&self, arguments: &[&str]) -> Line {
        let mut command = program(&["ctl"]);
        command
            .env("HOME", self.folder())
            .env("PREXORCTL_CONTROLLER", format!("http://{}", self.http()));
        // Options come before the words of `exec`, which takes everything.
        Line {
            command,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        }
    }

    /// A fresh join token
    pub fn token(&self, arguments: &[&str]) -> String {
        let created = self.ctl(&[&["token", "create", "-o", "json"], arguments].concat());
        created.json()["token"].as_str().unwrap().to_owned()
    }

    pub fn node(&self, id: &str) -> Value {
        self.ctl(&["node", "show", id, "-o", "json"]).json()
    }

    pub fn await_node(&self, status: &str) {
        eventually(&format!("node-1 becoming {status}"), || {
            let nodes = self.ctl(&["node", "list", "-o", "json"]).json();
            let nodes = nodes.as_array().unwrap();
            nodes
                .iter()
                .any(|node| node["id"] == "node-1" && node["status"] == status)
                .then_some(())
        });
    }

    pub fn instance(&self, id: &str) -> Value {
        self.ctl(&["instance", "show", id, "-o", "json"]).json()
    }

    pub fn await_instance(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} becoming {state}"), || {
            let shown = self.ctl(&["instance", "show", id, "-o", "json"]);
            // Whoever starts it may not have done so yet.
            let instance = (shown.code != 4).then(|| shown.json())?;
            (instance["state"] == state).then_some(instance)
        })
    }

    /// Starts the built-in server and waits until it is RUNNING
    pub fn start_standin(&self, id: &str) -> Value {
        self.start_standin_with(id, &[])
    }

    /// As [`start_standin`](Self::start_standin), with more options
    pub fn start_standin_with(&self, id: &str, options: &[&str]) -> Value {
        let jar = self.path("demo-server.standin");
        let jar = jar.to_str().unwrap();
        let start = ["instance", "start", "lobby", "--id", id, "--jar", jar];
        let usual = ["--memory-mb", "64", "--wait", "-o", "json"];
        self.ctl(&[&start[..], &usual, options].concat()).json()
    }

    /// Waits until the daemon has the controller's receipt of the end of `id`: no later daemon adopts it
    pub fn await_settled(&self, id: &str) {
        let of_id = format!("{id}@");
        // Its place is kept with blanks.
        let is_marked = |mark: &Path| fs::read(mark).is_ok_and(|mark| !mark.trim_ascii().is_empty());
        eventually("the end being settled", || {
            let folders = fs::read_dir(self.path("daemon/run")).unwrap();
            let open = folders
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&of_id))
                .any(|path| path.exists() && !is_marked(&path.join("settled")));
            (!open).then_some(())
        });
    }

    /// The servers themselves, not their shims
    pub fn servers(&self) -> Vec<(Pid, String)> {
        let arguments = |pid: Pid| fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok();
        self.processes()
            .into_iter()
            .filter_map(|pid| Some((pid, String::from_utf8_lossy(&arguments(pid)?).into_owned())))
            .filter(|(_, arguments)| arguments.contains("standin-server"))
            .collect()
    }

    /// Types a line and waits until the console shows `answer`
    pub fn command(&self, id: &str, line: &str, answer: &str) {
        let sent = self.ctl(&["instance", "exec", id, line]);
        assert_eq!(sent.code, 0, "{sent:?}");
        self.await_line(id, answer);
    }

    pub fn await_line(&self, id: &str, text: &str) {
        eventually(&format!("{text:?} on the console of {id}"), || {
            self.console(id).contains(text).then_some(())
        });
    }

    pub fn console(&self, id: &str) -> String {
        let console = self.ctl(&["instance", "console", id, "--no-follow"]);
        assert_eq!(console.code, 0, "{console:?}");
        console.stdout
    }

    /// The processes that have to do with this folder
    pub fn processes(&self) -> Vec<Pid> {
        processes_of(self.folder())
    }
}

/// A command whose options may still be put in front
pub struct Line {
    command: Command,
    arguments: Vec<String>,
}

impl Line {
    pub fn args(mut self, options: [&str; 2]) -> Self {
        self.command.args(options);
        self
    }

    pub fn into_command(mut self) -> Command {
        self.command.args(&self.arguments);
        self.command
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let others = std::mem::take(&mut self.others).into_values();
        let own = [self.controller.take(), self.daemon.take()].into_iter().flatten();
        for mut child in own.chain(others) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Servers and their shims are not ours by birth: they are found by the folder that they work in.
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            for name in ["controller", "daemon"] {
                eprintln!("-- {name}.log --\n{}", self.log_text(name));
            }
        }
    }
}

/// Processes whose arguments or working folder name the folder
pub fn processes_of(folder: &Path) -> Vec<Pid> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let works_in = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let named = String::from_utf8_lossy(&arguments).contains(folder);
        if (named || works_in.starts_with(folder))
            && let Some(pid) = Pid::from_raw(pid)
            && pid != rustix::process::getpid()
        {
            found.push(pid);
        }
    }
    found
}

/// The whole answer to a request without a token
pub fn get(rig: &Rig, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut connection = std::net::TcpStream::connect(rig.http()).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// The whole answer to JSON that is posted with a bearer token
pub fn post(rig: &Rig, path: &str, token: &str, body: &Value) -> String {
    post_with(rig, path, token, "", body)
}

/// The same with further headers, each with its line end
pub fn post_with(rig: &Rig, path: &str, token: &str, headers: &str, body: &Value) -> String {
    use std::io::{Read as _, Write as _};
    let mut connection = std::net::TcpStream::connect(rig.http()).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{headers}content-type: \
         application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// What a program says when it serves; `None` if it ends instead
fn announcement(child: &mut Child) -> Option<Value> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (!line.is_empty())
        .then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

fn stop(mut child: Child) -> ExitStatus {
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    eventually("the end after SIGTERM", || child.try_wait().unwrap())
}

/// The first of 20 free ports, below those that the system gives away
pub fn free_ports() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Tests of one process begin at different places; so do processes.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 400).unwrap();
    (0..400)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|next| 10_000 + (start + next) % 400 * 20)
        .find(|first| (*first..first + 20).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()))
        .unwrap()
}
