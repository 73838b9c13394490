//! Processes that are stopped, starved of descriptors, signalled, and robbed of their files

use std::fs;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};

use crate::case;
use crate::rig::{Rig, eventually};

pub fn cases() -> Vec<Trial> {
    vec![
        case("forty_descriptors", || {
            descriptors("ulimit -Sn 40; exec \"$0\" \"$@\"")
        }),
        case("forty_descriptors_and_no_more_to_be_had", || {
            descriptors("ulimit -n 40; exec \"$0\" \"$@\"");
        }),
        case("stopped_daemon", stopped_daemon),
        case("stopped_server", stopped_server),
        case("odd_signals", odd_signals),
        case("removed_release_folder", removed_release_folder),
        case("bare_environment", bare_environment),
    ]
}

/// A daemon that starts with too few descriptors loses none of its servers
fn descriptors(script: &str) {
    const SERVERS: u32 = 12;
    let mut rig = Rig::with_node();
    for number in 1..=SERVERS {
        rig.start_standin(&format!("lobby-{number}"));
    }
    rig.kill_daemon();
    rig.wrap("daemon", &["sh", "-c", script]);
    // It may refuse to start, with a sentence, or start; either way, nothing is given up.
    if let Ok(adopted) = rig.try_start_daemon() {
        assert_eq!(adopted, u64::from(SERVERS));
        rig.await_node("ONLINE");
        let stopped = rig.ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"]);
        assert_eq!(stopped.json()["state"], "STOPPED");
        rig.await_line("lobby-1", "All dimensions are saved");
        rig.start_standin("lobby-1");
        rig.kill_daemon();
    }
    rig.wrap("daemon", &[]);
    assert_eq!(rig.start_daemon(), u64::from(SERVERS));
    rig.await_node("ONLINE");
    for number in 1..=SERVERS {
        let id = format!("lobby-{number}");
        rig.await_instance(&id, "RUNNING");
        let stopped = rig.ctl(&["instance", "stop", &id, "--wait", "-o", "json"]);
        assert_eq!(stopped.json()["state"], "STOPPED");
        rig.await_line(&id, "All dimensions are saved");
    }
    let crashes = rig.ctl(&["crash", "list", "-o", "json"]).json();
    assert_eq!(crashes.as_array().unwrap().len(), 0, "{crashes}");
}

fn wait(time: Duration) {
    let until = Instant::now() + time;
    eventually("the time passing", || (Instant::now() > until).then_some(()));
}

/// A daemon that stands still is missed, and nothing is held against its servers
fn stopped_daemon() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    kill_process(rig.pid("daemon"), Signal::STOP).unwrap();
    eventually("the node being missed", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    kill_process(rig.pid("daemon"), Signal::CONT).unwrap();
    rig.await_node("ONLINE");
    let after = rig.await_instance("lobby-1", "RUNNING");
    assert_eq!(after["incarnation"], before["incarnation"]);
    rig.command("lobby-1", "say awake", "[Server] awake");
    rig.stop_daemon();
}

/// A server that stands still is killed at the end of its grace, and says so
fn stopped_server() {
    let mut rig = Rig::with_node();
    rig.start_standin_with("lobby-1", &["--grace", "2"]);
    for (pid, _) in rig.servers() {
        kill_process(pid, Signal::STOP).unwrap();
    }
    let stopped = rig.ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"]);
    assert!(["STOPPED", "CRASHED"].contains(&stopped.json()["state"].as_str().unwrap()));
    eventually("the server being gone", || rig.servers().is_empty().then_some(()));
    rig.stop_daemon();
}

/// Signals that mean something to others do no harm
fn odd_signals() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    for role in ["controller", "daemon"] {
        for signal in [
            Signal::HUP,
            Signal::USR1,
            Signal::USR2,
            Signal::PIPE,
            Signal::WINCH,
        ] {
            kill_process(rig.pid(role), signal).unwrap();
        }
    }
    wait(Duration::from_millis(500));
    rig.await_node("ONLINE");
    rig.command("lobby-1", "say unharmed", "[Server] unharmed");
    assert_eq!(rig.stop_daemon().code(), Some(0));
    assert_eq!(rig.stop_controller().code(), Some(0));
}

/// A release is replaced while its daemon runs: servers that it starts afterwards are supervised as before
fn removed_release_folder() {
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    let release = rig.path("release-1");
    fs::create_dir(&release).unwrap();
    let own = release.join("prexorcloud");
    fs::copy(env!("CARGO_BIN_EXE_prexorcloud"), &own).unwrap();
    let script = format!("exec {} \"$@\"", own.display());
    rig.wrap("daemon", &["sh", "-c", &script]);
    rig.start_daemon();
    rig.await_node("ONLINE");
    rig.start_standin("lobby-1");
    fs::remove_dir_all(&release).unwrap();
    rig.start_standin("lobby-2");
    rig.command("lobby-2", "say supervised", "[Server] supervised");
    assert_eq!(rig.ctl(&["instance", "exec", "lobby-2", "crash"]).code, 0);
    rig.await_instance("lobby-2", "CRASHED");
    rig.await_settled("lobby-2");

    // The next release finds what the last one left.
    rig.kill_daemon();
    rig.wrap("daemon", &[]);
    assert_eq!(rig.start_daemon(), 1);
    rig.await_node("ONLINE");
    rig.command("lobby-1", "say adopted", "[Server] adopted");
    rig.stop_daemon();
}

/// Without a locale a server gets one in which letters beyond ASCII are what they are
fn bare_environment() {
    let mut rig = Rig::new();
    for role in ["controller", "daemon"] {
        rig.wrap(role, &["env", "-i", "PATH=/usr/bin:/bin"]);
    }
    rig.start_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    rig.start_standin("lobby-1");
    rig.command("lobby-1", "say größer als möglich", "[Server] größer als möglich");
    let environments: Vec<_> = rig
        .servers()
        .into_iter()
        .map(|(pid, _)| fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap())
        .collect();
    assert_eq!(environments.len(), 1);
    let environment = String::from_utf8_lossy(&environments[0]).into_owned();
    let locale = environment
        .split('\0')
        .find(|variable| variable.starts_with("LC_ALL="));
    assert_eq!(locale, Some("LC_ALL=C.UTF-8"), "{environment:?}");
    rig.stop_daemon();
}
