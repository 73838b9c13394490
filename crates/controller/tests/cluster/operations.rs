//! Cordon, drain, shutdown: facts that survive

use prexorcloud_proto::{
    ErrorReport, InstanceState, ShutdownNodeAck, TemplateRequest, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use serde_json::json;

use crate::{
    puppet::{Puppet, running},
    support::Cluster,
};

const JAR: &str = "/srv/demo/server.jar";

#[tokio::test(flavor = "multi_thread")]
async fn a_cordon_survives_reconnects_and_restarts() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let puppet = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.act("/nodes/node-1/cordon").await.1["status"], "CORDONED");
    puppet.vanish(&cluster, "node-1").await;
    let _again = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.node("node-1").await["status"], "CORDONED");
    cluster.restart().await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.node("node-1").await["status"], "CORDONED");
    let (status, body) = cluster
        .post(
            "/instances",
            &json!({ "group": "a", "node": "node-1", "jar": JAR }),
        )
        .await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (409, &json!("the node is cordoned"))
    );
    assert_eq!(cluster.act("/nodes/node-1/uncordon").await.1["status"], "ONLINE");
    assert_eq!(
        cluster
            .post("/instances", &json!({ "group": "a", "jar": JAR }))
            .await
            .0,
        201
    );
    assert_eq!(puppet.start().await.instance_id, "a-1");
    assert_eq!(cluster.act("/nodes/nobody/cordon").await.0, 404);
    assert_eq!(cluster.act("/nodes/..%2Fx/cordon").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_stops_everything_then_shuts_the_node_down() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    for _ in 0..2 {
        cluster
            .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
            .await;
        let start = puppet.start().await;
        puppet.bring_up(&start).await;
        cluster.instance_state(&start.instance_id, "RUNNING").await;
    }
    let (status, body) = cluster.act("/nodes/node-1/drain?shutdown=true&timeout=600").await;
    assert_eq!((status, &body["stopping"]), (200, &json!(2)), "{body}");
    assert_eq!(cluster.node("node-1").await["status"], "DRAINING");
    assert_eq!(
        cluster
            .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
            .await
            .0,
        409
    );
    for _ in 0..2 {
        let stop = puppet.stop().await;
        assert!(!stop.force);
        puppet.bring_down(&stop).await;
    }
    let ToDaemon::ShutdownNode(shutdown) = puppet.next().await.unwrap() else {
        panic!("a shutdown")
    };
    assert_eq!(shutdown.reason, "Node drain completed");
    puppet.vanish(&cluster, "node-1").await;
    let node = cluster.node("node-1").await;
    assert_eq!(
        (&node["draining"], &node["cordoned"]),
        (&json!(false), &json!(true))
    );
    let _back = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.act("/nodes/node-1/undrain").await.1["status"], "ONLINE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_survives_a_restart_and_kills_what_is_late() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    cluster.act("/nodes/node-1/drain?timeout=1").await;
    assert!(!puppet.stop().await.force);
    cluster.restart().await;
    let alive = vec![running(&start, InstanceState::Running)];
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", alive).await;
    assert_eq!(cluster.node("node-1").await["status"], "DRAINING");
    let mut stop = puppet.stop().await;
    if !stop.force {
        stop = puppet.stop().await;
    }
    assert!(stop.force, "the deadline is over");
    puppet.bring_down(&stop).await;
    cluster.node_status("node-1", "CORDONED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_drain_back_keeps_the_node() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    cluster.act("/nodes/node-1/drain?shutdown=true&timeout=600").await;
    let stop = puppet.stop().await;
    assert_eq!(cluster.act("/nodes/node-1/undrain").await.1["status"], "ONLINE");
    puppet.bring_down(&stop).await;
    cluster.instance_state("lobby-1", "STOPPED").await;
    // No shutdown follows: the next message is the start.
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    assert_eq!(puppet.start().await.incarnation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_its_acknowledgement() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let daemon = async {
        let ToDaemon::ShutdownNode(shutdown) = puppet.next().await.unwrap() else {
            panic!("a shutdown")
        };
        assert_eq!(shutdown.reason, "maintenance");
        puppet
            .say(Payload::ShutdownNodeAck(ShutdownNodeAck {
                running_instances: 0,
                estimated_drain_seconds: 7,
            }))
            .await;
    };
    let ((status, body), ()) = tokio::join!(cluster.act("/nodes/node-1/shutdown?reason=maintenance"), daemon);
    assert_eq!(
        (status, &body["acknowledged"], &body["estimatedDrainSeconds"]),
        (202, &json!(true), &json!(7))
    );
    puppet.vanish(&cluster, "node-1").await;
    let (status, body) = cluster.act("/nodes/node-1/shutdown").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (409, &json!("NODE_NOT_CONNECTED"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_cannot_be_answered_get_an_error() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let request = TemplateRequest {
        template_name: "base".to_owned(),
        ..TemplateRequest::default()
    };
    puppet.say(Payload::TemplateRequest(request)).await;
    let ToDaemon::ErrorReport(report) = puppet.next().await.unwrap() else {
        panic!("an error report")
    };
    assert_eq!(
        (report.error_code.as_str(), report.context.as_str()),
        ("TEMPLATE_NOT_FOUND", "base")
    );
    // A report from the daemon ends nothing.
    puppet
        .say(Payload::ErrorReport(ErrorReport {
            error_code: "TEST".to_owned(),
            ..ErrorReport::default()
        }))
        .await;
    let request = TemplateRequest {
        template_name: "other".to_owned(),
        ..TemplateRequest::default()
    };
    puppet.say(Payload::TemplateRequest(request)).await;
    assert!(matches!(puppet.next().await.unwrap(), ToDaemon::ErrorReport(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_can_be_removed_and_frees_what_it_claimed() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let order = json!({ "group": "lobby", "jar": JAR });
    cluster.post("/instances", &order).await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    let (status, body) = cluster.act("/nodes/node-1/remove").await;
    assert_eq!(status, 409, "it is here: {body}");
    puppet.vanish(&cluster, "node-1").await;
    let (status, body) = cluster.act("/nodes/node-1/remove").await;
    assert_eq!(status, 409, "{body}");
    assert!(
        body["error"]["message"].as_str().unwrap().contains("force"),
        "{body}"
    );

    let (status, body) = cluster.act("/nodes/node-1/remove?force=true").await;
    assert_eq!((status, &body["status"]), (200, &json!("REMOVED")), "{body}");
    assert_eq!(cluster.get("/nodes/node-1").await.0, 404);
    assert_eq!(cluster.get("/instances/lobby-1").await.0, 404);
    assert_eq!(cluster.act("/nodes/node-1/remove").await.0, 404);
    // Its certificate opens nothing any more, and a fresh token does.
    let refused = match Puppet::open(&cluster, &credential).await {
        Ok(mut puppet) => puppet.next().await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let credential = cluster.enrol("node-1").await;
    let _puppet = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.node("node-1").await["instanceCount"], 0);
}
