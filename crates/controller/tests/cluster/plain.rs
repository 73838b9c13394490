//! A daemon that announces nothing, as the Java daemon does

use std::time::Duration;

use prexorcloud_proto::{
    InstanceState, NodeStatus, StartFailureDisposition, StartInstance, StartInstanceAck,
    controller_message::Payload as ToDaemon, daemon_message::Payload,
};
use serde_json::{Value, json};

use crate::{
    puppet::Puppet,
    readiness::{bring_up_to_starting, java},
    support::{Cluster, eventually},
};

const JAR: &str = "https://me:secret@jars.example/paper-1.21.4.jar?key=secret";

async fn started(cluster: &Cluster, puppet: &mut Puppet) -> StartInstance {
    let (status, body) = cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    assert_eq!(status, 201, "{body}");
    puppet.start().await
}

async fn figures(puppet: &Puppet, used_ports: Vec<i32>) {
    let status = NodeStatus {
        total_memory_mb: 24_105,
        used_memory_mb: 100,
        instance_count: i32::try_from(used_ports.len()).unwrap(),
        used_ports,
        ..NodeStatus::default()
    };
    puppet.say(Payload::NodeStatus(status)).await;
}

fn error_of(body: &Value) -> String {
    body["error"]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_did_not_list_when_it_came_back_is_lost_and_the_record_says_that_it_may_still_run() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    let start = started(&cluster, &mut puppet).await;
    bring_up_to_starting(&puppet, &start).await;
    cluster.instance_state("lobby-1", "STARTING").await;
    // kill -9: its servers run on, and its next list is empty.
    puppet.vanish(&cluster, "node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    let lost = cluster.instance_state("lobby-1", "CRASHED").await;
    let error = lost["lastError"].as_str().unwrap();
    assert!(
        error.starts_with("lost: ") && error.contains("may still run"),
        "{error}"
    );
    assert_eq!(cluster.get("/crashes").await.1, json!([]));
    // Its plugin may call on: nothing is known to have ended.
    let (status, answer) = cluster
        .plugin("/api/plugin/ready", Some(&start.plugin_token), Some("1"))
        .await;
    assert_eq!(status, 200, "{answer}");
    // Its port is the last to be given away.
    let (_, next) = cluster
        .post("/instances", &json!({ "group": "game", "jar": JAR }))
        .await;
    assert_ne!(next["port"], lost["port"]);
    let order = puppet.next().await.unwrap();
    assert!(
        matches!(&order, ToDaemon::StartInstance(start) if start.instance_id == "game-1"),
        "the lost one is not ordered again: {order:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_its_figures_name_is_given_to_nobody() {
    let first = 40_100;
    let cluster = Cluster::start_with(|config| config.instances.port_range = 40_100..=40_109).await;
    let credential = cluster.enrol("node-1").await;
    let puppet = java(&cluster, &credential, Vec::new()).await;
    figures(&puppet, vec![first]).await;
    eventually("the figures are known", async || {
        let node = cluster.node("node-1").await;
        (node["usedPorts"] == json!([first])).then_some(())
    })
    .await;
    let asked = json!({ "group": "lobby", "jar": JAR, "port": first });
    let (status, body) = cluster.post("/instances", &asked).await;
    assert_eq!(status, 409, "{body}");
    assert!(error_of(&body).contains("is in use"), "{body}");
    let (status, body) = cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    assert_eq!((status, &body["port"]), (201, &json!(first + 1)));
    // Of what it offered and what it reports, the smaller counts.
    assert_eq!(cluster.node("node-1").await["totalMemoryMb"], 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_it_would_refuse_is_refused_with_the_reason() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    for (order, reason) in [
        (
            json!({ "group": "lobby", "jar": "/srv/server.jar" }),
            "http(s) addresses only",
        ),
        (
            json!({ "group": "lobby", "jar": JAR, "arguments": [] }),
            "pass over arguments",
        ),
        (
            json!({ "group": "lobby", "jar": JAR, "stopCommand": "end" }),
            "pass over arguments",
        ),
        (
            json!({ "group": "lobby", "jar": JAR, "env": { "JAVA_TOOL_OPTIONS": "-Xmx9g" } }),
            "jvmArgs",
        ),
        (
            json!({ "group": "lobby", "jar": JAR, "env": { "ld_preload": "x.so" } }),
            "ld_preload",
        ),
    ] {
        let (status, body) = cluster.post("/instances", &order).await;
        assert_eq!(status, 422, "{body}");
        assert!(error_of(&body).contains(reason), "{body}");
    }
    // What it takes selects the path on which it looks at the status of an answer, and says where the controllers are.
    let start = started(&cluster, &mut puppet).await;
    let runtime = start.composition_plan.unwrap().runtime.unwrap();
    assert_eq!(runtime.platform, "minecraft");
    assert!(!runtime.platform_version.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_it_could_not_make_says_what_was_asked() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    let start = started(&cluster, &mut puppet).await;
    puppet
        .say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: start.instance_id.clone(),
            accepted: false,
            error_message: "Failed to provision runtime artifact for lobby-1".to_owned(),
            error_code: "RUNTIME_PROVISION_FAILED".to_owned(),
            failure_disposition: StartFailureDisposition::Permanent.into(),
            ..StartInstanceAck::default()
        })))
        .await;
    let crashed = cluster.instance_state("lobby-1", "CRASHED").await;
    let error = crashed["lastError"].as_str().unwrap();
    assert!(
        error.ends_with("(asked for https://jars.example/paper-1.21.4.jar)"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn its_late_reports_are_not_answered_with_errors() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    let start = started(&cluster, &mut puppet).await;
    bring_up_to_starting(&puppet, &start).await;
    for state in [
        InstanceState::Stopped,
        InstanceState::Stopping,
        InstanceState::Crashed,
    ] {
        puppet.report(&start.instance_id, 0, state).await;
    }
    cluster.instance_state("lobby-1", "STOPPED").await;
    puppet.report("never-ordered", 0, InstanceState::Stopped).await;
    // A shutdown is sent after whatever those have caused.
    let shutdown = tokio::time::timeout(Duration::from_secs(20), cluster.act("/nodes/node-1/shutdown"));
    let (_, order) = tokio::join!(shutdown, puppet.next());
    assert!(matches!(order, Ok(ToDaemon::ShutdownNode(_))), "{order:?}");
}
