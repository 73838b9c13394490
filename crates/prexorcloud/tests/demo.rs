//! The demo, as somebody meets it who has just cloned the repository
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prexorcloud_daemon::process::signals::{Signals, shrug_off};
use rustix::process::{Pid, Signal};

/// Generous: a busy machine is no failure
const LIMIT: Duration = Duration::from_secs(180);

/// A folder for temporary files, in which and about which nothing may be left
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("prexorcloud-demo-test-")
                .tempdir()
                .unwrap(),
        )
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        // Under `nohup` these tests are, and must not hand on, what it ignores.
        shrug_off(Signals::now().unwrap().ignored()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_prexorcloud"));
        command
            .arg("demo")
            .args(arguments)
            .env_clear()
            .env("TMPDIR", self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn with_java(&self, arguments: &[&str]) -> Command {
        let mut command = self.demo(arguments);
        for name in ["PATH", "JAVA_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Processes that work here or were told about it
    fn processes(&self) -> Vec<String> {
        let folder = self.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            let works_in = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if arguments.contains(folder) || works_in.starts_with(folder) {
                found.push(arguments);
            }
        }
        found
    }

    fn assert_empty(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        let left: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn finish(mut child: Child) -> Ran {
    // Both pipes are read at once, so that neither fills up.
    let mut errors = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let watched = Pid::from_child(&child);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(LIMIT).is_err() {
            let _ = rustix::process::kill_process(watched, Signal::KILL);
        }
    });
    let mut stdout = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut stdout).unwrap();
    }
    let stderr = reader.join().unwrap().unwrap();
    let code = child.wait().unwrap().code();
    done.send(()).unwrap();
    watchdog.join().unwrap();
    Ran { code, stdout, stderr }
}

fn assert_complete(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr, "");
    let (_, summary) = ran.stdout.split_once(" #  step").expect("a summary");
    let steps: Vec<&str> = summary
        .lines()
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with("all "))
        .collect();
    let expected = [
        ("Controller starts", "serving"),
        ("Join token", "ACTIVE"),
        ("Daemon enrols", "CONSUMED"),
        ("Handshake", "ONLINE"),
        ("Server starts, console live", "RUNNING"),
        ("Command and answer", "answered"),
        ("Graceful stop", "STOPPED"),
        ("Crash and its report", "CRASHED"),
        ("Template pushed", "4 files"),
        ("Servers from it", "2 RUNNING"),
        ("One file changes", "1 file, 12 bytes sent"),
        ("Same name again", "RUNNING"),
        ("Replayed token", "FAILED_PRECONDITION"),
        ("Stranger's certificate", "refused in the TLS handshake"),
        ("No certificate", "UNAUTHENTICATED"),
        ("Drain and shutdown", "OFFLINE"),
        ("Controller ends", "exit code 0"),
    ];
    assert_eq!(steps.len(), expected.len(), "{summary}");
    for (line, (title, seen)) in steps.iter().zip(expected) {
        assert!(
            line.contains(title) && line.contains(seen),
            "{title}, {seen}: {line}"
        );
        let milliseconds = line.split_whitespace().last().unwrap();
        assert!(milliseconds.parse::<u64>().is_ok(), "{line}");
    }
    assert!(!ran.stdout.contains('\u{1b}'), "colours without a terminal");
    assert!(
        ran.stdout.contains("lobby-1 | ") && ran.stdout.contains("[Server] hello from the demo"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("IllegalStateException"), "{}", ran.stdout);
    let secret = ran.stdout.lines().find(|line| line.contains("pxr_")).unwrap();
    assert!(secret.contains("pxr_********."), "the token was shown: {secret}");
}

#[test]
fn the_tour_with_java_shows_everything_and_leaves_nothing() {
    let place = Place::new();
    let ran = finish(place.with_java(&[]).spawn().unwrap());
    assert_complete(&ran);
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("Java:  ")),
        "these tests need a Java runtime: {}",
        ran.stdout
    );
    place.assert_empty();
}

#[test]
fn the_tour_without_java_names_the_package_and_shows_the_same() {
    let place = Place::new();
    let ran = finish(place.demo(&[]).env("PATH", place.path()).spawn().unwrap());
    assert_complete(&ran);
    let about: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.contains("No Java found"))
        .collect();
    assert_eq!(about.len(), 1, "{}", ran.stdout);
    assert!(
        about[0].contains("install") || about[0].contains("apk add"),
        "{about:?}"
    );
    place.assert_empty();
}

#[test]
fn the_data_folder_is_kept_on_request() {
    let place = Place::new();
    let ran = finish(place.demo(&["--keep"]).spawn().unwrap());
    assert_complete(&ran);
    let kept = ran
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("The data folder is kept: "))
        .unwrap();
    assert!(Path::new(kept).join("controller.log").is_file());
    assert_eq!(place.processes(), Vec::<String>::new());
}

/// A demo that has a server running
fn until_running(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("lobby-1 > RUNNING") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the demo ended early");
    }
    (child, stdout)
}

#[test]
fn an_interrupt_ends_everything() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (child, stdout) = until_running(place.demo(&[]));
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        drop(stdout);
        let ran = finish(child);
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        place.assert_empty();
    }
}

#[test]
fn nothing_runs_on_after_kill_9() {
    let place = Place::new();
    let (mut child, _stdout) = until_running(place.demo(&[]));
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !place.processes().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", place.processes());
        std::thread::sleep(Duration::from_millis(25));
    }
}

#[test]
fn a_step_that_fails_is_named_with_the_logs() {
    let place = Place::new();
    // A Java that knows its version and nothing else.
    let java = place.path().join("bin/java");
    fs::create_dir(java.parent().unwrap()).unwrap();
    fs::write(
        &java,
        "#!/bin/sh\n[ \"$1\" = -version ] && echo 'openjdk version \"99\"' >&2 && exit 0\nexit 3\n",
    )
    .unwrap();
    fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = finish(place.demo(&[]).env("JAVA_HOME", place.path()).spawn().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(
        ran.stderr.starts_with(
            "error: step 5 (Server starts, console live) failed: lobby-1 should have become RUNNING"
        ),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("-- the end of the log of the daemon --"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stdout.contains(" #  step"), "{}", ran.stdout);
    fs::remove_dir_all(place.path().join("bin")).unwrap();
    place.assert_empty();
}
