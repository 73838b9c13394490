//! What outlives the daemon, and what a new one finds

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::control::{ExitCause, RunningRecord};
use prexorcloud_daemon::process::Identity;
use prexorcloud_daemon::supervisor::{Found, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{PATIENCE, Stage, facts, free_port, only_control, settings, spec, until, until_gone};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_killed_daemon_costs_no_instance_and_no_line",
            a_killed_daemon_costs_no_instance_and_no_line,
        ),
        trial(
            "an_end_while_no_daemon_ran_is_told",
            an_end_while_no_daemon_ran_is_told,
        ),
        trial("a_stop_goes_on_after_a_restart", a_stop_goes_on_after_a_restart),
        trial(
            "a_late_daemon_reads_the_console_before_it_judges",
            a_late_daemon_reads_the_console_before_it_judges,
        ),
        trial("a_stranger_is_left_alone", a_stranger_is_left_alone),
        trial(
            "an_interrupted_start_is_withdrawn",
            an_interrupted_start_is_withdrawn,
        ),
        trial(
            "an_unreadable_folder_is_set_aside",
            an_unreadable_folder_is_set_aside,
        ),
    ]
}

/// The small daemon, with its output on a channel
struct Daemon {
    process: Child,
    commands: ChildStdin,
    output: mpsc::Receiver<String>,
}

impl Daemon {
    fn start(folder: &Path, port: u16) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("role-daemon")
            .arg(folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            commands: process.stdin.take().unwrap(),
            process,
            output,
        }
    }

    /// Reads until a line satisfies `last`; all lines on the way are handed to `lines`
    fn read_until(&self, lines: &mut Vec<String>, last: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.output.recv_timeout(PATIENCE).expect("output of the daemon");
            lines.push(line.clone());
            if last(&line) {
                return line;
            }
        }
    }

    /// SIGKILL; what it had printed by then is still read
    fn kill(mut self, lines: &mut Vec<String>) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        lines.extend(self.output.iter());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn a_killed_daemon_costs_no_instance_and_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut lines = Vec::new();
    let mut daemon = Daemon::start(folder.path(), port);
    daemon.read_until(&mut lines, |line| line == "ready");
    let main = only_control(folder.path()).read_state().unwrap().unwrap().main;
    // Killed again and again while a flood is on its way.
    for round in 0..4 {
        // Each flood has a length of its own: lines of the one before come again after a restart.
        let flood = 30_000 + round;
        daemon
            .commands
            .write_all(format!("spam {flood}\n").as_bytes())
            .unwrap();
        let seen = format!("spam line {} of {flood}", 1 + round * 7000);
        daemon.read_until(&mut lines, |line| line.ends_with(&seen));
        daemon.kill(&mut lines);
        assert!(main.is_running().unwrap());
        daemon = Daemon::start(folder.path(), port);
        let found = daemon.read_until(&mut lines, |line| line.starts_with("adopted"));
        assert_eq!(found, format!("adopted Running true {}", main.pid));
        let end = format!("spam line {flood} of {flood}");
        daemon.read_until(&mut lines, |line| line.ends_with(&end));
    }
    daemon.commands.write_all(b"stop\n").unwrap();
    daemon.read_until(&mut lines, |line| line.ends_with("All dimensions are saved"));

    let mut console: BTreeMap<u64, String> = BTreeMap::new();
    for line in lines.iter().filter_map(|line| line.strip_prefix("line ")) {
        // A daemon that was killed while printing left half a line.
        let Some((sequence, text)) = line.split_once(' ') else {
            continue;
        };
        let Ok(sequence) = sequence.parse() else { continue };
        let known = console.entry(sequence).or_insert_with(|| text.to_owned());
        if known.len() < text.len() {
            *known = text.to_owned();
        }
        assert!(
            known.starts_with(text),
            "one number, two lines: {known:?} and {text:?}"
        );
    }
    let count = console.len() as u64;
    assert_eq!(
        console.keys().copied().collect::<Vec<_>>(),
        (1..=count).collect::<Vec<_>>()
    );
    let spam: Vec<&String> = console
        .values()
        .filter(|line| line.starts_with("spam line"))
        .collect();
    let floods = (0..4).flat_map(|round| {
        let flood = 30_000 + round;
        (1..=flood).map(move |number| format!("spam line {number} of {flood}"))
    });
    assert!(spam.into_iter().eq(floods.collect::<Vec<_>>().iter()));
}

async fn an_end_while_no_daemon_ran_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut lines = Vec::new();
    let daemon = Daemon::start(folder.path(), port);
    daemon.read_until(&mut lines, |line| line == "ready");
    let running = only_control(folder.path()).read_state().unwrap().unwrap();
    daemon.kill(&mut lines);
    kill_process(Pid::from_raw(running.main.pid).unwrap(), Signal::ABORT).unwrap();
    until_gone(&running.shim).await;
    let daemon = Daemon::start(folder.path(), port);
    let found = daemon.read_until(&mut lines, |line| line.starts_with("adopted"));
    assert!(found.starts_with("adopted Running false"), "{found}");
    daemon.read_until(&mut lines, |line| line == "exited 134");
}

async fn a_stop_goes_on_after_a_restart() {
    let mut stage = Stage::new();
    let mut slow = facts("lobby-1", free_port());
    slow.grace = Duration::from_secs(1);
    stage
        .start_script(
            slow,
            "trap '' TERM; echo 'Done (1s)!'; while true; do sleep 0.05; done",
        )
        .await;
    stage.ready().await;
    stage.supervisor.stop("lobby-1".parse().unwrap(), false);
    stage.event().await;
    stage.supervisor.detach();
    let (supervisor, reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    stage.supervisor = supervisor;
    stage.reports = reports;
    let adopted = stage.supervisor.adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].found, Found::Stopping);
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Signalled(9));
    assert!(!exit.is_crash());
}

async fn a_late_daemon_reads_the_console_before_it_judges() {
    let mut stage = Stage::new();
    let mut slow = facts("lobby-1", free_port());
    slow.startup_timeout = Duration::from_secs(1);
    let boot = "echo $$ > pid; read go; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); \
        echo \"Loading region $i of 4000 with all that belongs to it\"; done; echo 'Done (1s)!'; exec sleep 3600";
    stage.start_script(slow, boot).await;
    stage.supervisor.detach();
    let control = stage.control();
    let started_at = control.read_state().unwrap().unwrap().started_at_ms;
    std::fs::write(control.stdin(), "go\n").unwrap();
    until("the ready line", || {
        let log = std::fs::read_to_string(control.console_log()).unwrap();
        log.contains("Done (").then_some(())
    })
    .await;
    until("the end of the time to start", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        (now.unwrap().as_millis() > u128::from(started_at.unsigned_abs()) + 1000).then_some(())
    })
    .await;
    let (supervisor, reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    stage.supervisor = supervisor;
    stage.reports = reports;
    assert_eq!(stage.supervisor.adopt().await.unwrap()[0].found, Found::Starting);
    stage.ready().await;
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    assert!(!stage.exit().await.is_crash());
}

async fn a_stranger_is_left_alone() {
    let mut stage = Stage::new();
    stage
        .start_script(facts("lobby-1", free_port()), "exec sleep 3600")
        .await;
    let control = stage.control();
    let running = control.read_state().unwrap().unwrap();
    stage.supervisor.detach();
    // The id of the main process came to mean another one, as after a restart of the machine.
    let mut stranger = Command::new("sleep").arg("3600").spawn().unwrap();
    let identity = Identity::of(Pid::from_child(&stranger)).unwrap();
    control
        .write_state(&RunningRecord {
            main: Identity {
                start_time: identity.start_time - 1,
                ..identity.clone()
            },
            shim: Identity {
                boot: "an earlier boot".into(),
                ..running.shim.clone()
            },
            ..running.clone()
        })
        .unwrap();
    kill_process(Pid::from_raw(running.shim.pid).unwrap(), Signal::KILL).unwrap();
    kill_process(Pid::from_raw(running.main.pid).unwrap(), Signal::KILL).unwrap();
    until_gone(&running.main).await;
    let (supervisor, reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    stage.supervisor = supervisor;
    stage.reports = reports;
    let adopted = stage.supervisor.adopt().await.unwrap();
    assert!(!adopted[0].is_running);
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    assert_eq!(stage.exit().await.cause, ExitCause::Unobserved);
    assert!(identity.is_running().unwrap());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

async fn an_interrupted_start_is_withdrawn() {
    // The daemon of before is gone with everything that it had begun to do.
    let before = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stage = runtime.block_on(async {
            let stage = Stage::new();
            stage
                .start_script(facts("lobby-1", free_port()), "exec sleep 3600")
                .await;
            stage
        });
        runtime.shutdown_timeout(Duration::from_secs(30));
        stage
    });
    let stage = before.await.unwrap();
    let control = stage.control();
    let running = control.read_state().unwrap().unwrap();
    kill_process(Pid::from_raw(running.shim.pid).unwrap(), Signal::KILL).unwrap();
    kill_process(Pid::from_raw(running.main.pid).unwrap(), Signal::KILL).unwrap();
    until_gone(&running.shim).await;
    until_gone(&running.main).await;
    // As if the daemon had been killed after writing the order.
    std::fs::remove_file(control.path().join("state.json")).unwrap();
    control
        .write_launch(&spec("/bin/true", &[], stage.folder.path()).into())
        .unwrap();
    let (supervisor, _reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    let adopted = supervisor.adopt().await.unwrap();
    assert!(adopted.is_empty(), "{adopted:?}");
    assert!(!control.path().exists());
}

async fn an_unreadable_folder_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("run/lobby-1@5-0");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("instance.json"), "{\"instance\":\"../x\"").unwrap();
    let (supervisor, _reports) = Supervisor::new(settings(folder.path())).unwrap();
    assert!(supervisor.adopt().await.unwrap().is_empty());
    assert!(!broken.exists());
    until("the folder set aside", || {
        folder
            .path()
            .join("run/.unreadable-lobby-1@5-0")
            .exists()
            .then_some(())
    })
    .await;
}
