//! Processes that are killed, and what goes on

use std::net::TcpStream;

use crate::rig::{Rig, eventually};

fn port(instance: &serde_json::Value) -> u16 {
    u16::try_from(instance["port"].as_u64().unwrap()).unwrap()
}

#[test]
fn a_killed_daemon_leaves_its_servers_running_and_finds_them_again() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    rig.command("lobby-1", "say before", "[Server] before");

    rig.kill_daemon();
    TcpStream::connect(("127.0.0.1", port(&before))).expect("the server is reachable without its daemon");
    eventually("the node being missed", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    let refused = rig.ctl(&["instance", "exec", "lobby-1", "say", "nobody"]);
    assert_eq!(refused.code, 1, "{refused:?}");

    assert_eq!(rig.start_daemon(), 1, "the running server was adopted");
    rig.await_node("ONLINE");
    let after = rig.await_instance("lobby-1", "RUNNING");
    assert_eq!(after["incarnation"], before["incarnation"]);
    rig.command("lobby-1", "say after", "[Server] after");

    let console = rig.console("lobby-1");
    for line in ["[Server] before", "[Server] after", "Done ("] {
        assert_eq!(console.matches(line).count(), 1, "{line} in {console}");
    }
    let stopped = rig
        .ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"])
        .json();
    assert_eq!(stopped["state"], "STOPPED");
}

#[test]
fn a_server_that_ends_while_its_daemon_is_away_is_reported() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    rig.kill_daemon();
    kill_server(&rig);
    eventually("the port being closed", || {
        TcpStream::connect(("127.0.0.1", port(&before))).err()
    });
    rig.start_daemon();
    rig.await_instance("lobby-1", "CRASHED");
    let crash = one_crash(&rig);
    assert_eq!(crash["exitCode"], 137, "{crash}");
}

#[test]
fn a_killed_controller_goes_on_where_it_was() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    rig.start_standin("lobby-2");
    rig.kill_controller();
    // What happens meanwhile is not lost.
    kill_servers(&rig, port(&before));
    rig.start_controller();
    rig.await_node("ONLINE");
    rig.await_instance("lobby-1", "CRASHED");
    assert_eq!(one_crash(&rig)["instanceId"], "lobby-1");
    let other = rig.await_instance("lobby-2", "RUNNING");
    assert_eq!(other["incarnation"], 1);
    rig.command("lobby-2", "say still here", "[Server] still here");
}

#[test]
fn restarts_in_good_order_disturb_no_server() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    assert_eq!(rig.stop_daemon().code(), Some(0));
    assert_eq!(rig.stop_controller().code(), Some(0));
    TcpStream::connect(("127.0.0.1", port(&before))).expect("the server is reachable without a cluster");
    rig.start_controller();
    assert_eq!(rig.start_daemon(), 1);
    rig.await_node("ONLINE");
    rig.await_instance("lobby-1", "RUNNING");
    rig.command("lobby-1", "say hi", "[Server] hi");
}

#[test]
fn a_node_that_is_shut_down_stops_its_servers_and_its_daemon() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    rig.start_standin("lobby-2");
    let drained = rig.ctl(&["node", "drain", "node-1", "--shutdown", "--wait", "-o", "json"]);
    assert_eq!(drained.json()["status"], "DRAINING");
    assert_eq!(rig.daemon_ended().code(), Some(0));
    for id in ["lobby-1", "lobby-2"] {
        assert_eq!(rig.instance(id)["state"], "STOPPED");
        assert!(rig.console(id).contains("All dimensions are saved"));
    }
    eventually("the node being gone", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    assert_eq!(rig.stop_controller().code(), Some(0));
    assert_eq!(rig.processes(), []);
}

/// Kills the only server, not its shim
pub fn kill_server(rig: &Rig) {
    let servers = rig.servers();
    assert_eq!(servers.len(), 1);
    for (pid, _) in servers {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// Kills the server that was given this port
fn kill_servers(rig: &Rig, port: u16) {
    let chosen: Vec<_> = rig
        .servers()
        .into_iter()
        .filter(|(_, arguments)| arguments.contains(&format!("--port\0{port}\0")))
        .collect();
    assert_eq!(chosen.len(), 1);
    for (pid, _) in chosen {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

fn one_crash(rig: &Rig) -> serde_json::Value {
    let crashes = eventually("a stored crash report", || {
        let crashes = rig.ctl(&["crash", "list", "-o", "json"]).json();
        let crashes = crashes.as_array().unwrap().clone();
        (!crashes.is_empty()).then_some(crashes)
    });
    assert_eq!(crashes.len(), 1, "{crashes:?}");
    crashes.into_iter().next().unwrap()
}
