//! A server that has its port long before its worlds, as real ones do

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::rig::{Rig, eventually};

/// In the place of a Java virtual machine: prints what a Paper server prints, in the order in which words come
const SERVER: &str = r#"#!/bin/sh
echo '[12:00:00] [ServerMain/INFO]: Starting minecraft server version 1.21.4'
while read word; do
    case "$word" in
        join) echo '[12:00:01] [Async Chat Thread - #0/INFO]: <Steve> Done (1s)! For help' ;;
        world) echo '[12:00:06] [Server thread/INFO]: Done (6.217s)! For help, type "help"' ;;
        stop) exit 0 ;;
    esac
done
"#;

const READY_LINE: &str = "waiting for the ready line (Done (1.2s)! For help) or the plugin's call";

/// How long a server with an open port has to stay STARTING; the port is tried four times a second
const HELD: Duration = Duration::from_secs(2);

fn rig() -> Rig {
    Rig::with_java(SERVER)
}

#[test]
fn a_server_is_running_when_its_worlds_are_loaded_and_not_when_its_port_is_open() {
    let rig = rig();
    for (id, name) in [("named-1", "paper-1.21.4.jar"), ("unnamed-1", "server.jar")] {
        let jar = rig.write(name, "a jar");
        let started = rig.ctl(&[
            "instance",
            "start",
            "lobby",
            "--id",
            id,
            "--jar",
            jar.to_str().unwrap(),
        ]);
        assert_eq!(started.code, 0, "{started:?}");
        rig.await_line(id, "Starting minecraft server");
        let port = u16::try_from(rig.instance(id)["port"].as_u64().unwrap()).unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let open_since = Instant::now();
        rig.command(id, "join", "<Steve>");
        eventually("what is missing", || {
            (rig.instance(id)["detail"] == READY_LINE).then_some(())
        });
        while open_since.elapsed() < HELD {
            let seen = rig.instance(id);
            assert_eq!(
                seen["state"], "STARTING",
                "its port is open, and no world is loaded: {seen}"
            );
        }
        rig.command(id, "world", "Done (6.217s)!");
        let seen = rig.await_instance(id, "RUNNING");
        assert!(seen["detail"].is_null(), "{seen}");
    }
}

#[test]
fn what_a_start_waits_for_is_said_when_the_time_is_over() {
    let rig = rig();
    let jar = rig.write("paper.jar", "a jar");
    let jar = jar.to_str().unwrap();
    let late = rig.ctl(&[
        "instance",
        "start",
        "lobby",
        "--id",
        "a-1",
        "--jar",
        jar,
        "--wait",
        "--timeout",
        "2",
    ]);
    assert_eq!(late.code, 124, "{late:?}");
    assert!(
        late.stderr.contains(&format!("a-1 is STARTING: {READY_LINE}\n")),
        "{late:?}"
    );
    assert!(
        late.stderr
            .contains(&format!("last thing seen was STARTING: {READY_LINE}")),
        "{late:?}"
    );
    let info = rig.ctl(&["instance", "info", "a-1"]);
    assert!(info.stdout.contains(READY_LINE), "{info:?}");

    let started = rig.ctl(&[
        "instance",
        "start",
        "lobby",
        "--id",
        "b-1",
        "--jar",
        jar,
        "--ready",
        "line:Lobby is open",
        "--startup-timeout",
        "1",
    ]);
    assert_eq!(started.code, 0, "{started:?}");
    rig.await_instance("b-1", "CRASHED");
    let cause = eventually("the report", || {
        let crashes = rig
            .ctl(&["crash", "list", "--instance", "b-1", "-o", "json"])
            .json();
        crashes[0]["causeSummary"].as_str().map(str::to_owned)
    });
    assert_eq!(
        cause,
        "not ready within 1 s: waiting for the ready line (Lobby is open) or the plugin's call"
    );
}
