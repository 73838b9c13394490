//! What is bounded, and what no bound may stand in the way of

use prexorcloud_controller::{
    records::{InstanceRecord, NodeRecord},
    store::{SqliteOptions, SqliteStore, Store as _, Txn},
};
use prexorcloud_proto::{
    CrashReport, InstanceState, RunningInstance, StartInstance, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use serde_json::json;

use crate::{
    puppet::Puppet,
    support::{Cluster, eventually, within},
};

/// As many as a node may have alive
const INSTANCES_PER_NODE: usize = 4_096;

/// As many as are remembered of those that have ended
const ENDED_REMEMBERED: usize = 1_024;

fn instance(id: &str, state: InstanceState, port: i32, updated_at_ms: i64) -> InstanceRecord {
    InstanceRecord {
        instance_id: id.to_owned(),
        node_id: "node-1".to_owned(),
        start: Some(StartInstance {
            instance_id: id.to_owned(),
            group: "lobby".to_owned(),
            port,
            incarnation: 1,
            ..StartInstance::default()
        }),
        state: state.into(),
        updated_at_ms,
        ..InstanceRecord::default()
    }
}

/// Writes records while no controller runs
async fn write(cluster: &Cluster, records: &[InstanceRecord]) {
    let file = cluster.config.data_dir.join("controller.db");
    let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
    let node = NodeRecord {
        node_id: "node-1".to_owned(),
        ..NodeRecord::default()
    };
    let _ = store.txn(Txn::new().put_record(&node)).await.unwrap();
    for some in records.chunks(512) {
        let txn = some.iter().fold(Txn::new(), Txn::put_record);
        let _ = store.txn(txn).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_blocks_nothing_and_what_lives_is_restored() {
    let mut cluster = Cluster::start_with(|config| config.instances.port_range = 30_000..=30_001).await;
    let credential = cluster.enrol("node-1").await;
    cluster.stop().await;
    let mut records: Vec<_> = (0..INSTANCES_PER_NODE)
        .map(|number| instance(&format!("a-{number}"), InstanceState::Stopped, 0, number as i64))
        .collect();
    // By its name the last one, and the oldest.
    records.push(instance("z-live", InstanceState::Running, 30_000, -1));
    write(&cluster, &records).await;
    cluster.restart().await;

    let live = RunningInstance {
        instance_id: "z-live".to_owned(),
        group: "lobby".to_owned(),
        port: 30_000,
        state: InstanceState::Running.into(),
        incarnation: 1,
    };
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", vec![live]).await;
    let order = json!({ "group": "lobby", "jar": "/srv/server.jar", "node": "node-1" });
    let (status, started) = cluster.post("/instances", &order).await;
    assert_eq!((status, &started["port"]), (201, &30_001.into()), "{started}");
    let start = puppet.start().await;
    puppet.bring_up(&start).await;

    let (status, body) = cluster.act("/instances/z-live/stop").await;
    assert_eq!((status, &body["status"]), (200, &"stopping".into()), "{body}");
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    cluster.instance_state("z-live", "STOPPED").await;

    eventually("the first to end are forgotten", async || {
        let (_, listed) = cluster.get("/instances?state=stopped").await;
        (listed.as_array()?.len() <= ENDED_REMEMBERED).then_some(())
    })
    .await;
    assert_eq!(cluster.get("/instances/a-0").await.0, 404);
    assert_eq!(cluster.instance("a-4095").await["state"], "STOPPED");
    within(cluster.stop()).await;
}

const ORDER: &str = "/srv/server.jar";

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_report_about_an_instance_of_another_node_is_refused() {
    let cluster = Cluster::start().await;
    let (one, two) = (cluster.enrol("node-1").await, cluster.enrol("node-2").await);
    let mut owner = Puppet::join(&cluster, &one, "node-1").await;
    let mut liar = Puppet::join(&cluster, &two, "node-2").await;
    let order = json!({ "group": "lobby", "jar": ORDER, "node": "node-1" });
    assert_eq!(cluster.post("/instances", &order).await.0, 201);
    let start = owner.start().await;
    owner.bring_up(&start).await;
    cluster.instance_state(&start.instance_id, "RUNNING").await;
    for incarnation in [0, start.incarnation] {
        let report_id = format!("lie-{incarnation}");
        let report = CrashReport {
            instance_id: start.instance_id.clone(),
            group: "lobby".to_owned(),
            exit_code: 1,
            incarnation,
            report_id: report_id.clone(),
            ..CrashReport::default()
        };
        liar.say(Payload::CrashReport(Box::new(report))).await;
        // It is done with: it need not be told again.
        match liar.next().await.unwrap() {
            ToDaemon::CrashReportAck(ack) => assert_eq!(ack.report_id, report_id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cluster.get("/crashes").await.1, json!([]));
    assert_eq!(cluster.instance(&start.instance_id).await["state"], "RUNNING");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_or_forgotten_node_has_claimed_is_free() {
    let mut cluster = Cluster::start().await;
    let (one, two) = (cluster.enrol("node-1").await, cluster.enrol("node-2").await);
    let claimed = |id: &str| RunningInstance {
        instance_id: id.to_owned(),
        group: "lobby".to_owned(),
        port: 30_000,
        state: InstanceState::Running.into(),
        incarnation: 7,
    };
    let claims = vec![claimed("lobby-1"), claimed("lobby-2")];
    let (_liar, _) = Puppet::join_with(&cluster, &one, "node-1", claims).await;
    let mut honest = Puppet::join(&cluster, &two, "node-2").await;
    cluster.instance_state_when_known("lobby-1", "RUNNING").await;
    let order = json!({ "group": "lobby", "id": "lobby-1", "jar": ORDER, "node": "node-2" });
    assert_eq!(
        cluster.post("/instances", &order).await.0,
        409,
        "it lives on node-1"
    );
    assert_eq!(cluster.act("/nodes/node-1/revoke-cert").await.0, 200);
    cluster.instance_state("lobby-1", "CRASHED").await;
    assert_eq!(cluster.post("/instances", &order).await.0, 201);
    let start = honest.start().await;
    honest.bring_up(&start).await;

    let (status, removed) = cluster.act("/nodes/node-1/remove").await;
    assert_eq!(status, 200, "{removed}");
    assert_eq!(cluster.get("/nodes/node-1").await.0, 404);
    assert_eq!(cluster.get("/instances/lobby-2").await.0, 404);
    cluster.instance_state("lobby-1", "RUNNING").await;
    cluster.restart().await;
    assert_eq!(cluster.get("/nodes/node-1").await.0, 404);
    let (_, nodes) = cluster.get("/nodes").await;
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_stay_arrays() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await;
    let records: Vec<_> = (0..5)
        .map(|number| instance(&format!("i-{number}"), InstanceState::Running, 0, 0))
        .collect();
    write(&cluster, &records).await;
    cluster.restart().await;
    let ids = |body: &serde_json::Value| -> Vec<String> {
        let ids = body.as_array().unwrap().iter().map(|entry| &entry["id"]);
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let whole = cluster.get("/instances").await.1;
    assert_eq!(ids(&whole), ["i-0", "i-1", "i-2", "i-3", "i-4"]);
    assert_eq!(
        cluster.get("/instances").await.1.as_array().unwrap().len(),
        5,
        "shared"
    );
    let (next, page) = cluster.page("/instances?limit=2&node=node-1").await;
    assert_eq!(
        (next.as_deref(), ids(&page)),
        (Some("i-1"), vec!["i-0".into(), "i-1".into()])
    );
    let (next, page) = cluster.page("/instances?limit=3&cursor=i-1").await;
    assert_eq!(
        (next, ids(&page)),
        (None, vec!["i-2".into(), "i-3".into(), "i-4".into()])
    );
    for wrong in ["limit=0", "limit=1001", "cursor=..%2F", "limit=x"] {
        let (status, _) = cluster.get(&format!("/instances?{wrong}")).await;
        assert!(matches!(status, 400 | 422), "{wrong}: {status}");
    }

    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    for number in 0..3 {
        let report = CrashReport {
            instance_id: format!("i-{number}"),
            group: "lobby".to_owned(),
            log_tail: vec!["the last line".to_owned()],
            report_id: format!("r-{number}"),
            ..CrashReport::default()
        };
        puppet.say(Payload::CrashReport(Box::new(report))).await;
        while !matches!(puppet.next().await.unwrap(), ToDaemon::CrashReportAck(_)) {}
    }
    let (next, page) = cluster.page("/crashes?limit=2").await;
    let listed = ids(&page);
    assert_eq!(
        (page[0]["instanceId"].as_str(), next.as_ref()),
        (Some("i-2"), listed.last())
    );
    assert!(page[0].get("logTail").is_none());
    let (next, rest) = cluster
        .page(&format!("/crashes?limit=2&cursor={}", next.unwrap()))
        .await;
    assert_eq!((rest[0]["instanceId"].as_str(), next), (Some("i-0"), None));
    let shown = cluster.get(&format!("/crashes/{}", listed[0])).await.1;
    assert_eq!(shown["logTail"], json!(["the last line"]));
    assert_eq!(cluster.get("/crashes?cursor=..%2Fx").await.0, 404);
}
