//! Values that were given at the start of a server: they come back with it, and go when nobody wants it any more

use std::collections::BTreeMap;

use prexorcloud_proto::{InstanceState, StartInstance};
use serde_json::{Value, json};

use crate::{
    puppet::Puppet,
    support::{Cluster, eventually},
    templates::push,
};

/// A group whose servers people start, with a template that has a secret of the instance and a number
async fn prepare(cluster: &Cluster, fields: Value) {
    let (status, created) = cluster.post("/templates", &json!({ "name": "t" })).await;
    assert_eq!(status, 201, "{created}");
    push(cluster, "t", &[("x", "%PW% %SEED%")]).await;
    define(cluster, json!({})).await;
    let mut group = json!({ "name": "m", "jar": "/srv/demo/server.jar", "memoryMb": 1, "templates": ["t"] });
    let all = group.as_object_mut().unwrap();
    all.extend(fields.as_object().unwrap().clone());
    let (status, created) = cluster.post("/groups", &group).await;
    assert_eq!(status, 201, "{created}");
}

/// Defines the variables, the number with this validation
async fn define(cluster: &Cluster, validation: Value) {
    set(
        cluster,
        json!([
            { "key": "PW", "type": "SECRET", "scope": "INSTANCE" },
            { "key": "SEED", "type": "INT", "scope": "INSTANCE", "defaultValue": "1", "validation": validation },
        ]),
    )
    .await;
}

async fn set(cluster: &Cluster, variables: Value) {
    let path = "/templates/t/variables";
    let (status, answer) = cluster.call("PUT", path, Some(&variables.to_string())).await;
    assert_eq!(status, 204, "{answer}");
}

async fn start_with(cluster: &Cluster, puppet: &mut Puppet, values: Value) -> StartInstance {
    let body = json!({ "variables": values });
    let (status, answer) = cluster.post("/groups/m/start", &body).await;
    assert_eq!(status, 200, "{answer}");
    next(puppet).await
}

/// Takes the next start, and brings it up
async fn next(puppet: &mut Puppet) -> StartInstance {
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    start
}

async fn crash(cluster: &Cluster, puppet: &Puppet, start: &StartInstance) {
    // So that no number of them pauses the group.
    assert_eq!(cluster.act("/groups/m/resume").await.0, 200);
    puppet
        .report(&start.instance_id, start.incarnation, InstanceState::Crashed)
        .await;
}

fn values(start: &StartInstance) -> BTreeMap<&str, &str> {
    let values = start.resolved_variables.iter();
    values
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

async fn because(cluster: &Cluster, instance: &str) -> String {
    let seen = cluster.instance(instance).await;
    seen["startedBecause"].as_str().unwrap_or_default().to_owned()
}

async fn keeps(cluster: &Cluster, instance: &str, expected: bool) {
    eventually(&format!("{instance} keeps its values: {expected}"), async || {
        (cluster.instance(instance).await["keepsValues"] == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_has_the_values_of_its_start() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    prepare(
        &cluster,
        json!({ "scalingMode": "MANUAL", "nodeLossGraceSeconds": 1 }),
    )
    .await;
    let given = json!({ "PW": "hunter2-start", "SEED": "9" });
    let expected = BTreeMap::from([("PW", "hunter2-start"), ("SEED", "9")]);
    let first = start_with(&cluster, &mut puppet, given).await;
    assert_eq!(values(&first), expected);
    assert_eq!(cluster.instance("m-1").await["startedBecause"], Value::Null);
    let other = start_with(&cluster, &mut puppet, json!({})).await;

    crash(&cluster, &puppet, &first).await;
    let second = next(&mut puppet).await;
    assert_eq!((second.instance_id.as_str(), second.incarnation), ("m-1", 2));
    assert_eq!(values(&second), expected);
    let why = because(&cluster, "m-1").await;
    assert_eq!(
        why,
        "it was started by hand and ended by itself; its start 1 on node-1 was CRASHED"
    );
    // What had none has none.
    crash(&cluster, &puppet, &other).await;
    let other = next(&mut puppet).await;
    assert_eq!(values(&other), BTreeMap::from([("SEED", "1")]));

    // Another controller, and then another node.
    cluster.restart().await;
    let listed = [&second, &other].map(|start| crate::puppet::running(start, InstanceState::Running));
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", listed.to_vec()).await;
    crash(&cluster, &puppet, &second).await;
    let third = next(&mut puppet).await;
    assert_eq!(values(&third), expected);
    cluster.instance_state("m-1", "RUNNING").await;
    let credential = cluster.enrol("node-2").await;
    let mut elsewhere = Puppet::join(&cluster, &credential, "node-2").await;
    puppet.vanish(&cluster, "node-1").await;
    let mut fourth = next(&mut elsewhere).await;
    let fifth = next(&mut elsewhere).await;
    if fourth.instance_id != "m-1" {
        fourth = fifth;
    }
    assert_eq!((fourth.instance_id.as_str(), fourth.incarnation), ("m-1", 4));
    assert_eq!(values(&fourth), expected);
    cluster.instance_state("m-1", "RUNNING").await;

    for path in [
        "/instances/m-1",
        "/groups/m",
        "/groups/m/plan",
        "/events",
        "/admin/audit",
    ] {
        let seen = cluster.get(path).await.1.to_string();
        assert!(!seen.contains("hunter2"), "{path}: {seen}");
    }
    for entry in std::fs::read_dir(&cluster.config.data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let is_open = bytes.windows(7).any(|part| part == b"hunter2");
            assert!(!is_open, "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_value_that_is_wrong_by_now_is_told_and_one_without_a_variable_is_left_out() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    prepare(&cluster, json!({ "scalingMode": "MANUAL" })).await;
    let given = json!({ "PW": "hunter2-start", "SEED": "98765" });
    let first = start_with(&cluster, &mut puppet, given).await;

    define(&cluster, json!({ "max": 9 })).await;
    crash(&cluster, &puppet, &first).await;
    let refused = eventually("it is refused", async || {
        let (_, group) = cluster.get("/groups/m").await;
        group["scaling"]["refused"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(
        refused,
        "m-1 cannot come back with the values that it was started with: variable SEED: the value is more than 9; mend the \
         variables of its templates, or give the values up: prexorctl instance delete m-1"
    );
    define(&cluster, json!({})).await;
    let second = next(&mut puppet).await;
    assert_eq!(
        values(&second),
        BTreeMap::from([("PW", "hunter2-start"), ("SEED", "98765")])
    );

    set(
        &cluster,
        json!([{ "key": "PW", "type": "SECRET", "scope": "INSTANCE" }]),
    )
    .await;
    crash(&cluster, &puppet, &second).await;
    let third = next(&mut puppet).await;
    assert_eq!(values(&third), BTreeMap::from([("PW", "hunter2-start")]));
    let why = because(&cluster, "m-1").await;
    assert!(
        why.ends_with("; without its values of SEED, which no template of m defines any more"),
        "{why}"
    );
    define(&cluster, json!({})).await;
    crash(&cluster, &puppet, &third).await;
    let fourth = next(&mut puppet).await;
    assert_eq!(values(&fourth)["SEED"], "98765");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_go_with_the_wish_for_their_server() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    prepare(&cluster, json!({ "scalingMode": "MANUAL", "maxInstances": 4 })).await;
    let given = json!({ "SEED": "9" });
    let first = start_with(&cluster, &mut puppet, given.clone()).await;
    keeps(&cluster, "m-1", true).await;
    // Somebody stops it; the next start of the id has its own.
    assert_eq!(cluster.act("/instances/m-1/stop").await.0, 200);
    let stop = puppet.stop().await;
    keeps(&cluster, "m-1", false).await;
    puppet.bring_down(&stop).await;
    cluster.instance_state("m-1", "STOPPED").await;
    let again = start_with(&cluster, &mut puppet, json!({})).await;
    assert_eq!(again.instance_id, first.instance_id);
    crash(&cluster, &puppet, &again).await;
    let again = next(&mut puppet).await;
    assert_eq!(values(&again), BTreeMap::from([("SEED", "1")]));
    assert_eq!(cluster.act("/instances/m-1/stop").await.0, 200);
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    cluster.instance_state("m-1", "STOPPED").await;

    // It ends while its group is held: it may come back, until the group needs it no more.
    let second = start_with(&cluster, &mut puppet, given.clone()).await;
    cluster.instance_state("m-1", "RUNNING").await;
    assert_eq!(cluster.act("/groups/m/pause").await.0, 200);
    puppet
        .report("m-1", second.incarnation, InstanceState::Crashed)
        .await;
    cluster.instance_state("m-1", "CRASHED").await;
    keeps(&cluster, "m-1", true).await;
    let fields = json!({ "scalingMode": "DYNAMIC" }).to_string();
    assert_eq!(cluster.call("PATCH", "/groups/m", Some(&fields)).await.0, 200);
    keeps(&cluster, "m-1", true).await;
    assert_eq!(cluster.act("/groups/m/resume").await.0, 200);
    keeps(&cluster, "m-1", false).await;
    let fields = json!({ "minInstances": 1 }).to_string();
    assert_eq!(cluster.call("PATCH", "/groups/m", Some(&fields)).await.0, 200);
    let third = next(&mut puppet).await;
    assert_eq!(
        (third.instance_id.as_str(), values(&third)),
        ("m-1", BTreeMap::from([("SEED", "1")]))
    );

    // And with its group.
    let last = start_with(&cluster, &mut puppet, given).await;
    cluster.instance_state(&last.instance_id, "RUNNING").await;
    assert_eq!(cluster.act("/groups/m/pause").await.0, 200);
    for start in [&third, &last] {
        puppet
            .report(&start.instance_id, start.incarnation, InstanceState::Crashed)
            .await;
        cluster.instance_state(&start.instance_id, "CRASHED").await;
    }
    keeps(&cluster, &last.instance_id, true).await;
    assert_eq!(cluster.call("DELETE", "/groups/m", None).await.0, 204);
    keeps(&cluster, &last.instance_id, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_a_deployment_replaces_has_the_values_of_its_start() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    prepare(&cluster, json!({ "scalingMode": "MANUAL" })).await;
    let expected = BTreeMap::from([("PW", "hunter2-start"), ("SEED", "9")]);
    let given = json!({ "PW": "hunter2-start", "SEED": "9" });
    let first = start_with(&cluster, &mut puppet, given).await;
    assert_eq!(values(&first), expected);

    push(&cluster, "t", &[("x", "%PW% %SEED% again")]).await;
    let (status, begun) = cluster.post("/groups/m/deploy", &json!({})).await;
    assert_eq!(status, 202, "{begun}");
    let stop = puppet.stop().await;
    assert_eq!(stop.instance_id, "m-1");
    // The record of the instance has lost them, and the controller its memory.
    cluster.restart().await;
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", Vec::new()).await;
    let second = puppet.start().await;
    assert_eq!(
        (second.instance_id.as_str(), second.deployment_revision),
        ("m-1", 1)
    );
    assert_eq!(values(&second), expected);
    puppet.bring_up(&second).await;
    eventually("the deployment is over", async || {
        let (_, seen) = cluster.get("/groups/m/deployments/1").await;
        (seen["state"] == "COMPLETED").then_some(())
    })
    .await;
    keeps(&cluster, "m-1", true).await;

    // Who stops it does not want it back, nor its values.
    let (status, _) = cluster.act("/instances/m-1/stop").await;
    assert!((200..300).contains(&status), "{status}");
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    keeps(&cluster, "m-1", false).await;
    let third = start_with(&cluster, &mut puppet, json!({ "PW": "other" })).await;
    assert_eq!(values(&third), BTreeMap::from([("PW", "other"), ("SEED", "1")]));
}
