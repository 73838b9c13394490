//! The examples of the libraries against the real programs

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal};

use crate::rig::{LIMIT, Rig, eventually, finish, free_ports, program};

/// The program of an example; it is built, which costs nothing where everything is built already
fn example(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_prexorcloud"))
        .parent()
        .unwrap()
        .to_owned();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "--workspace",
        "--all-features",
        "--example",
        name,
    ]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "{name} does not build");
    folder.join("examples").join(name)
}

/// An example that runs, and its lines as they come
struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The next line that begins so
    fn line(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line begins with {beginning:?}: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// Ctrl-C; the example ends in order
    fn interrupt(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = eventually("the end after Ctrl-C", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{:#?}", self.seen);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_daemon_of_the_examples_serves_the_real_controller() {
    let rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    let start = |token: &[&str]| {
        let mut command = Command::new(example("daemon"));
        command.args([&rig.grpc().to_string(), "node-1"]);
        Running::start(command.arg(rig.path("example")).args(token))
    };
    let mut daemon = start(&[&token]);
    daemon.line("connected");
    rig.await_node("ONLINE");
    assert_eq!(rig.start_standin("lobby-1")["state"], "RUNNING");
    daemon.line("lobby-1 is RUNNING");
    let stopped = rig.ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"]);
    assert_eq!(stopped.json()["state"], "STOPPED");
    daemon.line("lobby-1 is STOPPED");
    daemon.interrupt();
    daemon.line("ended: ByShutdown");
    eventually("the node being missed", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });

    // Enrolled for good: the token is not needed any more.
    let mut again = start(&[]);
    again.line("connected");
    again.interrupt();
}

#[test]
fn the_controller_of_the_examples_commands_the_real_daemon() {
    let rig = Rig::new();
    let jar = format!("file://{}", rig.path("demo-server.standin").display());
    let port = free_ports().to_string();
    let mut command = Command::new(example("controller"));
    let mut controller = Running::start(command.args(["127.0.0.1:0", "node-1", &jar, &port]));
    let listening = controller.line("listening on ");
    let address = listening.strip_prefix("listening on ").unwrap();
    let token = controller.line("pxr_");
    let settings = serde_json::json!({
        "node_id": "node-1",
        "data_dir": rig.path("daemon"),
        "controller": { "endpoints": [address] },
        "enrolment": { "join_token": token },
        "health": { "enabled": false },
        "runtime": { "allow_standin": true },
    });
    let config = rig.write("daemon.toml", &toml::to_string(&settings).unwrap());
    let mut daemon = Running::start(&mut program(&["daemon", "--config", config.to_str().unwrap()]));
    controller.line("node-1 says hello");
    controller.line("lobby-1 is RUNNING");
    controller.line("lobby-1 is STOPPED");
    daemon.interrupt();
    controller.line("node-1 left");
    controller.interrupt();
    eventually("the end of every process", || {
        rig.processes().is_empty().then_some(())
    });
}

#[test]
fn the_session_without_a_runtime_goes_from_handshake_to_running() {
    let ran = finish(&mut Command::new(example("without_runtime")));
    assert_eq!(ran.code, 0, "{ran:?}");
    for line in [
        "daemon: connected",
        "controller: lobby-1 is RUNNING",
        "daemon: the stream ended",
    ] {
        assert!(ran.stdout.lines().any(|seen| seen == line), "{line}: {ran:?}");
    }
}

/// An example that cannot be read in one go has something of the library in it
#[test]
fn the_examples_are_short() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for example in [
        "transport/examples/daemon",
        "transport/examples/controller",
        "protocol/examples/without_runtime",
    ] {
        let text = std::fs::read_to_string(crates.join(example).with_extension("rs")).unwrap();
        let lines = text.lines().count();
        assert!((60..=130).contains(&lines), "{example} has {lines} lines");
    }
}
