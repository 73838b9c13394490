//! Logs of daemons and of the controller, as operators see them

use std::time::{Duration, Instant};

use prexorcloud_proto::{
    DaemonLogRecord, DaemonMessage, controller_message::Payload as ToDaemon, daemon_message::Payload,
};
use serde_json::Value;

use crate::puppet::Puppet;
use crate::support::{Cluster, eventually};

fn record(sequence: u64, message: &str) -> Payload {
    Payload::DaemonLogRecord(Box::new(DaemonLogRecord {
        timestamp_ms: 1_790_000_000_000,
        level: "INFO".to_owned(),
        logger: "prexorcloud_daemon::node".to_owned(),
        thread: "main".to_owned(),
        message: message.to_owned(),
        sequence,
        ..DaemonLogRecord::default()
    }))
}

fn messages(page: &Value) -> Vec<&str> {
    let records = page["records"].as_array();
    records
        .into_iter()
        .flatten()
        .filter_map(|record| record["message"].as_str())
        .collect()
}

#[tokio::test]
async fn what_a_daemon_logs_is_kept_without_what_harms_and_outlasts_its_stream() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let puppet = Puppet::join(&cluster, &credential, "node-1").await;
    puppet.say(record(1, "first")).await;
    puppet.say(record(5, "forged\nline\u{1b}[2J")).await;
    let mut long = DaemonLogRecord {
        level: "ERROR".to_owned(),
        message: "x".repeat(100_000),
        sequence: 6,
        ..DaemonLogRecord::default()
    };
    long.mdc.insert("db.password".to_owned(), "hunter2".to_owned());
    puppet.say(Payload::DaemonLogRecord(Box::new(long))).await;
    let page = eventually("the records", async || {
        let (_, page) = cluster.get("/nodes/node-1/logs").await;
        (page["received"] == 3).then_some(page)
    })
    .await;
    assert_eq!(messages(&page)[..2], ["first", "forged\\nline\\u{1b}[2J"]);
    assert_eq!(
        (&page["lost"], &page["records"][1]["lost"]),
        (&3.into(), &3.into())
    );
    assert_eq!(page["records"][2]["mdc"]["db.password"], "***");
    assert_eq!(page["records"][2]["message"].as_str().map(str::len), Some(8_192));
    let (_, errors) = cluster.get("/nodes/node-1/logs?level=ERROR&limit=1000").await;
    assert_eq!(messages(&errors).len(), 1);
    let (_, none) = cluster.get("/nodes/node-1/logs?logger=org").await;
    assert!(messages(&none).is_empty());
    assert_eq!(cluster.node("node-1").await["logs"]["lost"], 3);
    assert!(
        cluster
            .metrics()
            .await
            .contains("prexorcloud_daemon_log_records_lost_total 3")
    );

    drop(puppet);
    cluster.node_status("node-1", "OFFLINE").await;
    let (_, after) = cluster.get("/nodes/node-1/logs").await;
    assert_eq!(messages(&after).len(), 3, "they outlast the stream");
    let (status, unknown) = cluster.get("/nodes/nobody/logs").await;
    assert_eq!((status, messages(&unknown).len()), (200, 0));
    assert_eq!(cluster.get("/nodes/node-1/logs?level=LOUD").await.0, 422);
}

#[tokio::test]
async fn a_flood_of_records_harms_no_ping_and_what_is_not_taken_is_counted() {
    let cluster = Cluster::start_with(|config| config.heartbeat.interval = Duration::from_millis(50)).await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let outgoing = puppet.sender();
    let flood = tokio::spawn(async move {
        for number in 1..=60_000 {
            let payload = Some(record(
                number,
                "one of very many lines of a daemon that tells everything",
            ));
            outgoing.send(DaemonMessage { payload }).await.unwrap();
        }
    });
    let mut slowest = Duration::ZERO;
    let mut last = Instant::now();
    let mut answered = 0;
    while !flood.is_finished() || answered < 20 {
        if let ToDaemon::Ping(_) = puppet.next_of_any().await.unwrap() {
            slowest = slowest.max(last.elapsed());
            last = Instant::now();
            answered += 1;
        }
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    puppet.say(record(60_001, "after it")).await;
    let page = eventually("the end of the flood", async || {
        let (_, page) = cluster.get("/nodes/node-1/logs?limit=1000").await;
        (messages(&page).last() == Some(&"after it")).then_some(page)
    })
    .await;
    assert_eq!(page["size"], 2_000);
    let count = |name: &str| page[name].as_u64().unwrap_or_default();
    assert_eq!(count("received") + count("lost"), 60_001, "{}", page["lost"]);
    assert_eq!(cluster.node("node-1").await["status"], "ONLINE");
}

#[tokio::test]
async fn a_ticket_opens_the_stream_of_one_log_for_whoever_may_see_logs() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let puppet = Puppet::join(&cluster, &credential, "node-1").await;
    puppet.say(record(1, "first")).await;
    for (issuer, stream, hello) in [
        (
            "/nodes/node-1/logs/ticket",
            "/nodes/node-1/logs/stream",
            "\"nodeId\":\"node-1\"",
        ),
        ("/system/logs/ticket", "/system/logs/stream", "\"username\":"),
    ] {
        let (status, ticket) = cluster.act(issuer).await;
        assert_eq!(status, 200, "{ticket}");
        let path = format!("{stream}?tail=5&ticket={}", ticket["ticket"].as_str().unwrap());
        let mut first = cluster.stream_without_token(&path).await;
        first.until(hello).await;
        let again = cluster.stream_without_token(&path).await.rest().await;
        assert!(
            again.contains("event: error\ndata: {\"message\":\"Unauthorized\"}"),
            "{again}"
        );
    }
    // One of another log, and one of somebody who may see no logs.
    let (_, ticket) = cluster.act("/system/logs/ticket").await;
    let path = format!(
        "/nodes/node-1/logs/stream?ticket={}",
        ticket["ticket"].as_str().unwrap()
    );
    let other = cluster.stream_without_token(&path).await.rest().await;
    assert!(
        other.contains("Unauthorized") && !other.contains("first"),
        "{other}"
    );
    assert_eq!(cluster.act("/nodes/nobody/logs/ticket").await.0, 404);
    let viewer = serde_json::json!({ "name": "viewer", "permissions": ["nodes.view"] });
    let (_, minted) = cluster.post("/admin/access-tokens", &viewer).await;
    let token = minted["token"].as_str();
    for path in ["/nodes/node-1/logs/ticket", "/system/logs/ticket"] {
        assert_eq!(cluster.call_as(token, "POST", path, None).await.0, 403, "{path}");
    }
}
