//! When a server counts as ready, with a daemon that says so and with a Java daemon, which does not

use prexorcloud_proto::{
    ConsoleOutput, Handshake, InstanceReady, InstanceState, InstanceStatusUpdate, ReadinessSignal,
    RunningInstance, StartInstance, StartInstanceAck, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use prexorcloud_security::credential::Credential;
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, handshake},
    support::{Cluster, eventually},
};

const DONE: &str = "[12:00:07] [Server thread/INFO]: Done (6.217s)! For help, type \"help\"";
const READY_LINE: &str = "waiting for the ready line (Done (1.2s)! For help) or the plugin's call";

/// A daemon that speaks as the Java daemon does: no capabilities, no incarnations, never RUNNING
pub async fn java(
    cluster: &Cluster,
    credential: &Credential,
    running_instances: Vec<RunningInstance>,
) -> Puppet {
    let mut puppet = Puppet::open(cluster, credential).await.unwrap();
    let hello = Handshake {
        running_instances,
        capabilities: Vec::new(),
        ..handshake("node-1")
    };
    puppet.say(Payload::Handshake(Box::new(hello))).await;
    let ack = puppet.next().await.unwrap();
    assert!(matches!(ack, ToDaemon::HandshakeAck(_)), "{ack:?}");
    cluster.node_status_is_connected("node-1").await;
    puppet
}

/// What a Java daemon says about a start, and it is the last that it says until the end
pub async fn bring_up_to_starting(puppet: &Puppet, start: &StartInstance) {
    puppet
        .report(&start.instance_id, 0, InstanceState::Preparing)
        .await;
    puppet
        .report(&start.instance_id, 0, InstanceState::Starting)
        .await;
    let ack = StartInstanceAck {
        instance_id: start.instance_id.clone(),
        accepted: true,
        ..StartInstanceAck::default()
    };
    puppet.say(Payload::StartInstanceAck(Box::new(ack))).await;
}

async fn print(puppet: &Puppet, line: &str) {
    puppet
        .say(Payload::ConsoleOutput(ConsoleOutput {
            instance_id: "lobby-1".to_owned(),
            line: line.to_owned(),
            ..ConsoleOutput::default()
        }))
        .await;
}

async fn start(cluster: &Cluster, extra: Value) -> (u16, Value) {
    let mut body = json!({ "group": "lobby", "jar": "https://jars.example/paper-1.21.4.jar" });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    cluster.post("/instances", &body).await
}

async fn detail(cluster: &Cluster, wanted: &str) -> Value {
    eventually(wanted, async || {
        let seen = cluster.instance("lobby-1").await;
        let detail = seen["detail"].as_str().unwrap_or_default();
        detail.contains(wanted).then(|| seen.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_java_node_is_running_when_its_console_says_so() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    let (status, created) = start(&cluster, json!({})).await;
    assert_eq!(status, 201, "{created}");
    let order = puppet.start().await;
    bring_up_to_starting(&puppet, &order).await;
    let seen = detail(&cluster, READY_LINE).await;
    assert_eq!(seen["state"], "STARTING");
    print(
        &puppet,
        "[12:00:01] [Async Chat Thread - #0/INFO]: <Steve> Done (1s)! For help",
    )
    .await;
    print(&puppet, DONE).await;
    let seen = cluster.instance_state("lobby-1", "RUNNING").await;
    assert_eq!(seen["detail"], Value::Null);
    assert!(seen["startedAt"].is_string());
    assert_eq!(
        cluster
            .console("lobby-1", "?follow=false")
            .await
            .rest()
            .await
            .matches("event: line")
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_java_node_cannot_show_is_said_and_an_operator_can_end_the_wait() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    start(&cluster, json!({ "ready": "port" })).await;
    let order = puppet.start().await;
    bring_up_to_starting(&puppet, &order).await;
    detail(&cluster, "can only be seen on the node").await;
    puppet.vanish(&cluster, "node-1").await;
    detail(&cluster, "the node, which is not connected").await;
    let listed = RunningInstance {
        incarnation: 0,
        ..crate::puppet::running(&order, InstanceState::Starting)
    };
    let _puppet = java(&cluster, &credential, vec![listed]).await;
    detail(&cluster, "before this controller listened").await;
    let (status, answer) = cluster.act("/instances/lobby-1/ready").await;
    assert_eq!((status, &answer["status"]), (200, &json!("ready")));
    cluster.instance_state("lobby-1", "RUNNING").await;
    assert_eq!(cluster.act("/instances/nobody-1/ready").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_says_that_its_server_is_ready_as_to_a_java_controller() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = java(&cluster, &credential, Vec::new()).await;
    start(&cluster, json!({ "ready": "plugin" })).await;
    let order = puppet.start().await;
    let mut token = order.plugin_token.clone();
    assert!(
        token.starts_with("ptk_") && token.len() == 68,
        "as long as the Java controller's"
    );
    bring_up_to_starting(&puppet, &order).await;
    detail(&cluster, "waiting for the plugin's call").await;

    let call = async |cluster: &Cluster, path: &str, token: Option<&str>, sequence: Option<&str>| {
        let (status, body) = cluster.plugin(path, token, sequence).await;
        let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
        (status, message, body)
    };
    let admin = cluster.admin.clone();
    for (token, sequence, wanted) in [
        (None, Some("1"), (401, "Missing plugin token")),
        (Some(admin.as_str()), Some("1"), (401, "Invalid plugin token")),
        (Some("ptk_x"), Some("1"), (401, "Invalid plugin token")),
        (
            Some(token.as_str()),
            None,
            (400, "Missing X-Prexor-Sequence header"),
        ),
        (
            Some(token.as_str()),
            Some("0"),
            (400, "Invalid X-Prexor-Sequence header"),
        ),
        (
            Some(token.as_str()),
            Some("abc"),
            (400, "Invalid X-Prexor-Sequence header"),
        ),
    ] {
        let (status, message, _) = call(&cluster, "/api/plugin/ready", token, sequence).await;
        assert_eq!((status, message.as_str()), wanted);
    }
    assert_eq!(cluster.instance("lobby-1").await["state"], "STARTING");
    let (status, _, body) = call(&cluster, "/api/plugin/ready", Some(&token), Some("1")).await;
    assert_eq!((status, body), (200, json!({ "status": "ok" })));
    cluster.instance_state("lobby-1", "RUNNING").await;
    let (status, message, _) = call(&cluster, "/api/plugin/ready", Some(&token), Some("1")).await;
    assert_eq!(
        (status, message.as_str()),
        (401, "Invalid, expired, or replayed plugin token")
    );
    let (status, _, body) = call(&cluster, "/api/plugin/auth/refresh", Some(&token), Some("2")).await;
    assert_eq!(status, 200, "{body}");
    let former = std::mem::replace(&mut token, body["token"].as_str().unwrap().to_owned());
    assert_ne!(token, former);
    for file in std::fs::read_dir(cluster.running().data_dir()).unwrap() {
        let path = file.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for secret in [&token, &former] {
            let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_there, "{} has a token in it", path.display());
        }
    }
    let (status, message, _) = call(&cluster, "/api/plugin/ready", Some(&former), Some("3")).await;
    assert_eq!((status, message.as_str()), (401, "Invalid plugin token"));
    assert_eq!(
        call(&cluster, "/api/proxy/ready", Some(&token), Some("3"))
            .await
            .0,
        200
    );
    // A plugin is no operator.
    assert_eq!(
        cluster.call_as(Some(&token), "GET", "/instances", None).await.0,
        401
    );

    cluster.restart().await;
    assert_eq!(
        call(&cluster, "/api/plugin/ready", Some(&token), Some("4"))
            .await
            .0,
        200
    );
    let listed = RunningInstance {
        incarnation: 0,
        ..crate::puppet::running(&order, InstanceState::Starting)
    };
    let puppet = java(&cluster, &credential, vec![listed]).await;
    assert_eq!(cluster.instance("lobby-1").await["state"], "RUNNING");
    puppet.report("lobby-1", 0, InstanceState::Stopped).await;
    cluster.instance_state("lobby-1", "STOPPED").await;
    let (status, message, _) = call(&cluster, "/api/plugin/ready", Some(&token), Some("5")).await;
    assert_eq!(
        (status, message.as_str()),
        (401, "Invalid plugin token"),
        "its server has ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_judges_shows_what_is_missing_and_hears_of_the_plugin() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    start(&cluster, json!({ "ready": { "line": "Lobby is open" } })).await;
    let order = puppet.start().await;
    let rule = order.readiness.clone().unwrap();
    assert_eq!(
        (rule.signal(), rule.line.as_str()),
        (ReadinessSignal::ReadyLine, "Lobby is open")
    );
    puppet.report("lobby-1", 1, InstanceState::Preparing).await;
    let starting = InstanceStatusUpdate {
        instance_id: "lobby-1".to_owned(),
        state: InstanceState::Starting.into(),
        incarnation: 1,
        waiting_for: "waiting for the ready line (Lobby is open) or the plugin's call".to_owned(),
        ..InstanceStatusUpdate::default()
    };
    puppet.say(Payload::InstanceStatus(starting)).await;
    let seen = detail(&cluster, "waiting for the ready line (Lobby is open)").await;
    assert_eq!(seen["state"], "STARTING");
    let listed = cluster.get("/instances").await.1;
    assert_eq!(listed[0]["detail"], seen["detail"]);
    // Its lines are not judged here.
    print(&puppet, "Lobby is open").await;
    let (status, _) = cluster
        .plugin("/api/plugin/ready", Some(&order.plugin_token), Some("1"))
        .await;
    assert_eq!(status, 200);
    let told = puppet.next().await.unwrap();
    let ready = InstanceReady {
        instance_id: "lobby-1".to_owned(),
        incarnation: 1,
    };
    assert_eq!(told, ToDaemon::InstanceReady(ready));
    assert_eq!(
        cluster.instance("lobby-1").await["state"],
        "STARTING",
        "the daemon says when"
    );
    puppet.report("lobby-1", 1, InstanceState::Running).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_is_refused() {
    let cluster = Cluster::start().await;
    for (ready, wanted) in [
        (json!("console"), "unknown variant"),
        (
            json!({ "line": " " }),
            "ready.line: the text of a ready line must not be blank",
        ),
        (json!({ "line": "a\nb" }), "no control characters"),
        (json!({ "line": "x".repeat(129) }), "at most 128 characters"),
    ] {
        let (status, body) = start(&cluster, json!({ "ready": ready })).await;
        assert_eq!(status, 422, "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}");
    }
}
