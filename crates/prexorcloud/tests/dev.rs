//! `prexorcloud dev`: what it prints works when it is pasted into a shell
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

const LIMIT: Duration = Duration::from_secs(120);

struct Dev {
    child: Child,
    stdout: BufReader<ChildStdout>,
    commands: Vec<String>,
}

impl Dev {
    /// Starts it without Java and reads up to the end of its greeting
    fn start(place: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_prexorcloud"))
            .arg("dev")
            .args(arguments)
            .env_clear()
            .env("TMPDIR", place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut commands = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended early");
            if line.contains("--token-file") {
                commands.push(line.trim().to_owned());
            }
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        Self {
            child,
            stdout,
            commands,
        }
    }

    /// Pastes the command into a shell
    fn paste(&self, command: usize, typed: &str) -> (Option<i32>, String) {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &self.commands[command]])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let ran = shell.wait_with_output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    }

    fn interrupt(self) -> Option<i32> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.ended().0
    }

    /// Waits for its end: the exit code and what it said on standard error
    fn ended(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.stdout);
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(folder) {
            found.push(arguments);
        }
    }
    found
}

#[test]
fn the_three_commands_work_as_printed() {
    let place = tempfile::Builder::new()
        .prefix("prexorcloud dev's ")
        .tempdir()
        .unwrap();
    let dev = Dev::start(place.path(), &[]);
    assert_eq!(dev.commands.len(), 3, "{:?}", dev.commands);
    let (code, nodes) = dev.paste(0, "");
    assert_eq!(code, Some(0));
    assert!(nodes.contains("node-1") && nodes.contains("ONLINE"), "{nodes}");
    let (code, started) = dev.paste(1, "");
    assert_eq!(code, Some(0));
    assert!(started.contains("RUNNING"), "{started}");

    // Attaching goes on until somebody ends it: the server's answer is the sign.
    let mut attached = Command::new("/bin/sh")
        .args(["-c", &format!("exec {}", dev.commands[2])])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = attached.stdin.take().unwrap();
    typed.write_all(b"say from a shell\n").unwrap();
    let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("[Server] from a shell")));
    rustix::process::kill_process(Pid::from_child(&attached), Signal::INT).unwrap();
    assert_eq!(attached.wait().unwrap().code(), Some(0));

    // An operator ends the node, and with it the cluster.
    let shutdown = dev.commands[0].replace("node list", "node shutdown node-1");
    let status = Command::new("/bin/sh")
        .args(["-c", &shutdown])
        .env_clear()
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let ran = dev.ended();
    assert_eq!(ran.0, Some(0), "{}", ran.1);
    assert!(
        ran.1.contains("shut down by the controller") && !ran.1.contains("warning"),
        "{}",
        ran.1
    );
    assert_eq!(processes_of(place.path()), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_kept_cluster_is_found_again() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("cluster");
    let folder = folder.to_str().unwrap();
    for round in 1..=2 {
        let dev = Dev::start(place.path(), &["--data-dir", folder]);
        let (code, tokens) = {
            let list = dev.commands[0].replace("node list", "token list -o json");
            let ran = Command::new("/bin/sh")
                .args(["-c", &list])
                .env_clear()
                .output()
                .unwrap();
            (
                ran.status.code(),
                serde_json::from_slice::<serde_json::Value>(&ran.stdout).unwrap(),
            )
        };
        assert_eq!(code, Some(0));
        // The second round needs no token, because the daemon has its certificate.
        assert_eq!(tokens.as_array().unwrap().len(), 1, "round {round}: {tokens}");
        let (code, started) = dev.paste(1, "");
        assert_eq!(code, Some(0), "round {round}");
        assert!(started.contains("RUNNING"), "round {round}: {started}");

        let second = Command::new(env!("CARGO_BIN_EXE_prexorcloud"))
            .args(["dev", "--data-dir", folder])
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(1));
        let text = String::from_utf8(second.stderr).unwrap();
        assert!(
            text.lines()
                .any(|line| line.starts_with("error: ") && line.contains(folder)),
            "{text}"
        );

        assert_eq!(dev.interrupt(), Some(0));
        assert_eq!(processes_of(place.path()), Vec::<String>::new());
    }
}
