//! The trace that a request names, in the logs of whoever worked on it

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::rig::{Rig, eventually, post_with};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The records of a log that belong to the trace
fn traced(rig: &Rig, log: &[&str]) -> Vec<Value> {
    let arguments = [
        &["logs"],
        log,
        &["--tail", "1000", "--level", "DEBUG", "-o", "json"],
    ]
    .concat();
    let shown = rig.ctl(&arguments).stdout;
    let records = shown.lines().filter_map(|line| serde_json::from_str(line).ok());
    records
        .filter(|record: &Value| record["mdc"]["traceId"] == TRACE)
        .collect()
}

#[test]
fn what_controller_and_daemon_log_about_an_order_names_its_trace() {
    let mut rig = Rig::new();
    rig.environment = vec![
        ("PREXORCLOUD_CONTROLLER_LOG_FILTER", "debug"),
        ("PREXORCLOUD_CONTROLLER_LOG_MIRROR_LEVEL", "debug"),
    ];
    rig.start_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    let admin = fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    let header = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    let start = json!({
        "group": "lobby", "id": "lobby-1", "memoryMb": 64, "jar": rig.path("demo-server.standin"),
    });
    let answer = post_with(&rig, "/api/v1/instances", admin.trim(), &header, &start);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let of_daemon = eventually("the daemon's records", || {
        let records = traced(&rig, &["daemon", "node-1"]);
        let has = |what: &str| {
            records
                .iter()
                .any(|record| record["message"].as_str().unwrap_or_default().contains(what))
        };
        (has("preparing a start") && has("PREPARING -> STARTING")).then(|| records.clone())
    });
    let spans: BTreeSet<&str> = of_daemon
        .iter()
        .filter_map(|record| record["mdc"]["spanId"].as_str())
        .collect();
    assert_eq!(spans.len(), 1, "one order is one span: {of_daemon:?}");
    assert!(!spans.contains(PARENT), "and a span of the daemon's own");

    let answer = post_with(
        &rig,
        "/api/v1/instances/lobby-1/command",
        admin.trim(),
        &header,
        &json!({ "command": "list" }),
    );
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    // Without the header nothing is made up.
    let stop = rig.ctl(&["instance", "stop", "lobby-1", "--wait"]);
    assert_eq!(stop.code, 0);
    let after = traced(&rig, &["daemon", "node-1"]);
    let stops = |record: &&Value| {
        record["message"]
            .as_str()
            .unwrap_or_default()
            .contains("stopping the instance")
    };
    assert_eq!(after.iter().filter(stops).count(), 0, "{after:?}");
    let of_controller = traced(&rig, &["controller"]);
    let answered = |record: &Value| record["mdc"]["path"] == "/api/v1/instances";
    assert!(of_controller.iter().any(answered), "{of_controller:?}");
}
