//! Deployments over HTTP: brought to servers a few at a time, halted, paused, taken back, and gone on with after a restart

use prexorcloud_proto::{InstanceState, StartInstance};
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, running},
    support::{Cluster, eventually},
    templates::push,
};

async fn create(cluster: &Cluster, mut body: Value) {
    let fields = body.as_object_mut().unwrap();
    fields.insert("jar".to_owned(), "/srv/demo/server.jar".into());
    fields.entry("memoryMb").or_insert(json!(1));
    let (status, created) = cluster.post("/groups", &body).await;
    assert_eq!(status, 201, "{created}");
}

async fn patch(cluster: &Cluster, body: Value) {
    let (status, answer) = cluster
        .call("PATCH", "/groups/lobby", Some(&body.to_string()))
        .await;
    assert_eq!(status, 200, "{answer}");
}

async fn deploy(cluster: &Cluster, body: Value) -> Value {
    let (status, answer) = cluster.post("/groups/lobby/deploy", &body).await;
    assert_eq!(status, 202, "{answer}");
    answer
}

async fn is(cluster: &Cluster, revision: u32, state: &str) -> Value {
    let path = format!("/groups/lobby/deployments/{revision}");
    eventually(&format!("deployment {revision} is {state}"), async || {
        let (_, seen) = cluster.get(&path).await;
        (seen["state"] == state).then_some(seen)
    })
    .await
}

/// One server is stopped and comes back; what it is started with
async fn replaced(puppet: &mut Puppet) -> StartInstance {
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    let start = puppet.start().await;
    assert_eq!(start.instance_id, stop.instance_id);
    start
}

fn hash(start: &StartInstance) -> &str {
    &start.composition_plan.as_ref().unwrap().templates[0].hash
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_brought_to_servers_one_after_the_other_and_pinned() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    create(&cluster, json!({ "name": "lobby", "minInstances": 2 })).await;
    let old = puppet.bring_up_next(2).await;
    assert_eq!((old[0].deployment_revision, old[0].memory_mb), (0, 1));
    patch(&cluster, json!({ "memoryMb": 2 })).await;

    let rehearsal = cluster.post("/groups/lobby/deploy?dryRun=true", &json!({})).await;
    assert_eq!(
        (rehearsal.0, &rehearsal.1["waves"]),
        (200, &json!([["lobby-1"], ["lobby-2"]]))
    );
    assert_eq!(cluster.get("/groups/lobby/deployments").await.1["total"], 0);

    let begun = deploy(&cluster, json!({})).await;
    for (field, value) in [
        ("groupName", json!("lobby")),
        ("revision", json!(1)),
        ("trigger", json!("manual")),
        ("strategy", json!("ROLLING")),
        ("state", json!("IN_PROGRESS")),
        ("templateSnapshot", json!("{}")),
        ("totalInstances", json!(2)),
        ("updatedInstances", json!(0)),
        ("completedAt", Value::Null),
        ("rollbackOf", Value::Null),
    ] {
        assert_eq!(begun[field], value, "{field}");
    }
    let first = replaced(&mut puppet).await;
    assert_eq!((first.deployment_revision, first.memory_mb), (1, 2));
    // The other one serves on until this one is ready; meanwhile the controller is away.
    cluster.restart().await;
    let reports = vec![
        running(&first, InstanceState::Starting),
        running(&old[1], InstanceState::Running),
    ];
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", reports).await;
    puppet
        .report(&first.instance_id, first.incarnation, InstanceState::Running)
        .await;
    let second = replaced(&mut puppet).await;
    assert_eq!(
        (second.instance_id.as_str(), second.deployment_revision),
        ("lobby-2", 1)
    );
    assert_eq!(is(&cluster, 1, "IN_PROGRESS").await["updatedInstances"], 1);
    puppet.bring_up(&second).await;
    let done = is(&cluster, 1, "COMPLETED").await;
    assert_eq!(
        (&done["updatedInstances"], &done["totalInstances"]),
        (&json!(2), &json!(2))
    );

    // What is in force is what comes back, until something else is deployed.
    patch(&cluster, json!({ "memoryMb": 3 })).await;
    puppet
        .report("lobby-1", first.incarnation, InstanceState::Crashed)
        .await;
    let healed = puppet.start().await;
    assert_eq!((healed.memory_mb, healed.deployment_revision), (2, 1));
    puppet.bring_up(&healed).await;
    let (_, shown) = cluster.get("/instances/lobby-1").await;
    assert_eq!(shown["deploymentRevision"], 1, "{shown}");

    // One command brings back what there was.
    let (status, back) = cluster
        .post("/groups/lobby/deployments/1/rollback", &json!({}))
        .await;
    assert_eq!(
        (status, &back["status"], &back["rollbackOf"]),
        (200, &json!("rolled_back"), &json!(1))
    );
    is(&cluster, 1, "ROLLED_BACK").await;
    for _ in 0..2 {
        let start = replaced(&mut puppet).await;
        assert_eq!(start.deployment_revision, 0);
        puppet.bring_up(&start).await;
    }
    is(&cluster, 2, "COMPLETED").await;
    let again = cluster
        .post("/groups/lobby/deployments/1/rollback", &json!({}))
        .await;
    assert_eq!((again.0, &again.1["error"]["code"]), (409, &json!("CONFLICT")));
    let (_, events) = cluster.get("/events?since=0").await;
    let told = events.as_array().unwrap().iter().filter_map(|event| {
        let kind = event["type"].as_str()?.strip_prefix("DEPLOYMENT_")?;
        let how = event["strategy"].as_str().or(event["outcome"].as_str())?;
        Some(format!(
            "{} {} {kind} {how}",
            event["groupName"], event["revision"]
        ))
    });
    assert_eq!(
        told.collect::<Vec<String>>(),
        [
            "\"lobby\" 1 CREATED ROLLING",
            "\"lobby\" 1 COMPLETED COMPLETED",
            "\"lobby\" 2 CREATED ROLLING",
            "\"lobby\" 2 COMPLETED COMPLETED",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_halts_it_and_the_versions_of_before_come_back() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster.post("/templates", &json!({ "name": "maps" })).await;
    push(&cluster, "maps", &[("map", "good")]).await;
    create(
        &cluster,
        json!({ "name": "lobby", "minInstances": 2, "templates": ["maps"] }),
    )
    .await;
    let old = puppet.bring_up_next(2).await;
    push(&cluster, "maps", &[("map", "broken")]).await;
    deploy(&cluster, json!({ "rollout": { "batchSize": 1 } })).await;
    let start = replaced(&mut puppet).await;
    assert_ne!(hash(&start), hash(&old[0]));
    puppet
        .report(&start.instance_id, start.incarnation, InstanceState::Crashed)
        .await;
    let halted = is(&cluster, 1, "FAILED").await;
    let reason = halted["reason"].as_str().unwrap();
    assert!(reason.contains("lobby-1 has ended badly"), "{reason}");
    // It is back with what ran before, and the other one was never touched.
    let healed = puppet.start().await;
    assert_eq!((hash(&healed), healed.deployment_revision), (hash(&old[0]), 0));
    puppet.bring_up(&healed).await;

    // Tried again by hand, it is paused before it comes far.
    let (status, resumed) = cluster
        .post("/groups/lobby/deployments/1/resume", &json!({}))
        .await;
    assert_eq!((status, &resumed["status"]), (200, &json!("resumed")));
    let start = replaced(&mut puppet).await;
    let (_, paused) = cluster
        .post("/groups/lobby/deployments/1/pause", &json!({}))
        .await;
    assert_eq!(
        (&paused["status"], &paused["state"]),
        (&json!("paused"), &json!("PAUSED"))
    );
    puppet.bring_up(&start).await;
    let (_, back) = cluster
        .post("/groups/lobby/deployments/1/rollback", &json!({}))
        .await;
    assert_eq!(back["revision"], 2, "{back}");
    let restored = replaced(&mut puppet).await;
    assert_eq!(
        (restored.instance_id.as_str(), hash(&restored)),
        (start.instance_id.as_str(), hash(&old[0]))
    );
    puppet.bring_up(&restored).await;
    let done = is(&cluster, 2, "COMPLETED").await;
    assert_eq!(done["totalInstances"], 2, "the other one had it all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_deployment_is_said() {
    let cluster = Cluster::start().await;
    let told = |answer: &(u16, Value)| {
        let message = answer.1["error"]["message"].as_str();
        (answer.0, message.unwrap_or_default().to_owned())
    };
    let answer = cluster.post("/groups/ghost/deploy", &json!({})).await;
    assert_eq!(told(&answer), (404, "Group not found: ghost".to_owned()));
    create(&cluster, json!({ "name": "lobby" })).await;
    let answer = cluster.get("/groups/lobby/deployments/99").await;
    assert_eq!(told(&answer), (404, "Deployment not found: lobby/99".to_owned()));
    assert_eq!(cluster.get("/groups/lobby/deployments/x").await.0, 400);
    for (body, part) in [
        (
            json!({ "batchSize": 0 }),
            "batchSize must be a whole number from 1 to 1000",
        ),
        (
            json!({ "rollout": { "canaryInstances": 1 } }),
            "canaryInstances: nothing acts on it here",
        ),
        (json!({ "strategy": "BLUE_GREEN" }), "only ROLLING is known"),
    ] {
        let (status, message) = told(&cluster.post("/groups/lobby/deploy", &body).await);
        assert!(status == 422 && message.contains(part), "{status} {message}");
    }
    let unknown = cluster.post("/groups/lobby/deploy", &json!({ "batch": 1 })).await;
    assert_eq!(unknown.0, 400);

    // Where nothing runs it is done at once, and the history has bounds.
    for revision in 1..=25 {
        deploy(&cluster, json!({})).await;
        is(&cluster, revision, "COMPLETED").await;
    }
    let (_, listed) = cluster.get("/groups/lobby/deployments?page=1&pageSize=50").await;
    let revisions: Vec<u64> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["revision"].as_u64().unwrap())
        .collect();
    assert_eq!(revisions, (6..=25).rev().collect::<Vec<u64>>());
    let over = cluster
        .post("/groups/lobby/deployments/25/pause", &json!({}))
        .await;
    assert_eq!(over.0, 409);
    // What was before the oldest is forgotten.
    let answer = cluster
        .post("/groups/lobby/deployments/6/rollback", &json!({}))
        .await;
    assert!(
        answer.0 == 409 && told(&answer).1.contains("is not known any more"),
        "{answer:?}"
    );
    assert_eq!(cluster.call("DELETE", "/groups/lobby", None).await.0, 204);
    create(&cluster, json!({ "name": "lobby" })).await;
    assert_eq!(cluster.get("/groups/lobby/deployments").await.1["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_late_for_what_nobody_was_allowed_to_start() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    create(&cluster, json!({ "name": "lobby", "minInstances": 1 })).await;
    puppet.bring_up_next(1).await;
    deploy(&cluster, json!({ "rollout": { "replacementTimeoutSeconds": 1 } })).await;
    let stop = puppet.stop().await;
    assert_eq!(cluster.act("/groups/lobby/pause").await.0, 200);
    puppet.bring_down(&stop).await;
    // Longer than a replacement may take.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(cluster.act("/groups/lobby/resume").await.0, 200);
    let start = puppet.start().await;
    assert_eq!(start.deployment_revision, 1);
    puppet.bring_up(&start).await;
    is(&cluster, 1, "COMPLETED").await;
}
