//! How many servers of a group there are: kept, healed, paused, scaled by players, and said why not

use prexorcloud_proto::{InstanceState, InstanceStatusUpdate, StartInstance, daemon_message::Payload};
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, running},
    support::{Cluster, eventually},
};

const JAR: &str = "/srv/demo/server.jar";

async fn create(cluster: &Cluster, mut body: Value) {
    let fields = body.as_object_mut().unwrap();
    fields.insert("jar".to_owned(), JAR.into());
    fields.entry("memoryMb").or_insert(json!(1));
    let (status, created) = cluster.post("/groups", &body).await;
    assert_eq!(status, 201, "{created}");
}

async fn patch(cluster: &Cluster, name: &str, body: Value) {
    let path = format!("/groups/{name}");
    let (status, answer) = cluster.call("PATCH", &path, Some(&body.to_string())).await;
    assert_eq!(status, 200, "{answer}");
}

async fn scaling(cluster: &Cluster, name: &str) -> Value {
    let (status, group) = cluster.get(&format!("/groups/{name}")).await;
    assert_eq!(status, 200, "{group}");
    group["scaling"].clone()
}

/// Waits until a group is in a state
async fn stands(cluster: &Cluster, name: &str, state: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("{name} is {state}"), async || {
        last = scaling(cluster, name).await;
        (last["state"] == state).then(|| last.clone())
    })
    .await
}

/// Waits until a start of a group is refused with a sentence
async fn refused(cluster: &Cluster, name: &str, sentence: &str) -> Value {
    eventually(&format!("{name} is refused: {sentence}"), async || {
        let seen = scaling(cluster, name).await;
        let told = seen["refused"].as_str().unwrap_or_default().contains(sentence);
        told.then_some(seen)
    })
    .await
}

async fn node(cluster: &Cluster, name: &str) -> Puppet {
    let credential = cluster.enrol(name).await;
    Puppet::join(cluster, &credential, name).await
}

fn names(starts: &[StartInstance]) -> Vec<&str> {
    starts.iter().map(|start| start.instance_id.as_str()).collect()
}

async fn crash(puppet: &Puppet, start: &StartInstance) {
    puppet
        .report(&start.instance_id, start.incarnation, InstanceState::Crashed)
        .await;
}

async fn count(puppet: &Puppet, start: &StartInstance, player_count: i32) {
    puppet
        .say(Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: start.instance_id.clone(),
            state: InstanceState::Running.into(),
            incarnation: start.incarnation,
            player_count,
            ..InstanceStatusUpdate::default()
        }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_minimum_is_kept_after_crashes_and_restarts_and_settings() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    create(&cluster, json!({ "name": "lobby", "minInstances": 2 })).await;
    let starts = puppet.bring_up_next(2).await;
    assert_eq!(names(&starts), ["lobby-1", "lobby-2"]);
    let seen = stands(&cluster, "lobby", "SETTLED").await;
    assert_eq!((&seen["desired"], &seen["serving"]), (&json!(2), &json!(2)));

    crash(&puppet, &starts[1]).await;
    let again = puppet.bring_up_next(1).await;
    assert_eq!((names(&again), again[0].incarnation), (vec!["lobby-2"], 2));
    stands(&cluster, "lobby", "SETTLED").await;

    // After a restart nothing is started before its node has had time to come back.
    cluster.restart().await;
    let waiting = scaling(&cluster, "lobby").await;
    assert_eq!(
        (&waiting["state"], &waiting["serving"]),
        (&json!("WAITING"), &json!(2))
    );
    let listed = [&starts[0], &again[0]].map(|start| running(start, InstanceState::Running));
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", listed.to_vec()).await;
    stands(&cluster, "lobby", "SETTLED").await;
    patch(&cluster, "lobby", json!({ "minInstances": 3 })).await;
    // The very next order is the third server: nothing was started twice.
    let third = puppet.bring_up_next(1).await;
    assert_eq!(names(&third), ["lobby-3"]);
    for (instance, incarnation) in [("lobby-1", 1), ("lobby-2", 2)] {
        let seen = cluster.instance(instance).await;
        assert_eq!(
            (&seen["state"], &seen["incarnation"]),
            (&json!("RUNNING"), &json!(incarnation))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_pauses_is_told_survives_a_restart_and_ends_by_hand() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    create(
        &cluster,
        json!({ "name": "lobby", "minInstances": 1, "scalingMode": "STATIC" }),
    )
    .await;
    for incarnation in 1..=3 {
        let start = puppet.bring_up_next(1).await.remove(0);
        assert_eq!(start.incarnation, incarnation);
        crash(&puppet, &start).await;
    }
    let paused = stands(&cluster, "lobby", "PAUSED").await;
    let reason = paused["reasons"][0].as_str().unwrap();
    assert!(
        reason.starts_with("its servers crash: 3 ends within "),
        "{paused}"
    );
    assert!(paused["pausedUntil"].is_string(), "{paused}");
    // What is planned is shown at once, and recorded then.
    eventually("the loop is told", async || {
        let (_, events) = cluster.get("/events?type=GROUP_CRASH_LOOP").await;
        let loops = events.to_string();
        (loops.contains("GROUP_CRASH_LOOP") && loops.contains("\"crashCount\":3")).then_some(())
    })
    .await;
    // Recorded together with the event.
    let paused = stands(&cluster, "lobby", "PAUSED").await;

    cluster.restart().await;
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", Vec::new()).await;
    let after = stands(&cluster, "lobby", "PAUSED").await;
    assert_eq!(after["pausedUntil"], paused["pausedUntil"]);
    let (status, resumed) = cluster.act("/groups/lobby/resume").await;
    assert_eq!((status, &resumed["scaling"]["pausedUntil"]), (200, &Value::Null));
    // The next start of it: none was ordered meanwhile, by either controller.
    let start = puppet.bring_up_next(1).await.remove(0);
    assert_eq!((start.instance_id.as_str(), start.incarnation), ("lobby-1", 4));
    stands(&cluster, "lobby", "SETTLED").await;
    let (_, audit) = cluster.get("/admin/audit").await;
    assert!(audit.to_string().contains("group.resume"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn players_bring_servers_and_take_them_along() {
    let cluster = Cluster::start().await;
    let mut puppet = node(&cluster, "node-1").await;
    create(
        &cluster,
        json!({
            "name": "game", "minInstances": 1, "maxInstances": 2, "maxPlayers": 10,
            "scaleDownAfterSeconds": 0, "scaleCooldownSeconds": 0,
        }),
    )
    .await;
    let first = puppet.bring_up_next(1).await.remove(0);
    count(&puppet, &first, 9).await;
    let second = puppet.bring_up_next(1).await.remove(0);
    assert_eq!(second.instance_id, "game-2");
    count(&puppet, &first, 10).await;
    count(&puppet, &second, 10).await;
    // Both are full, and there may be no third one.
    let (_, full) = eventually("both are full", async || {
        let (status, group) = cluster.get("/groups/game").await;
        (group["totalPlayers"] == 20).then_some((status, group))
    })
    .await;
    assert_eq!(full["scaling"]["desired"], 2);
    count(&puppet, &first, 0).await;
    count(&puppet, &second, 3).await;
    // The empty one goes, not the last one.
    let stop = puppet.stop().await;
    assert_eq!((stop.instance_id.as_str(), stop.force), ("game-1", false));
    puppet.bring_down(&stop).await;
    count(&puppet, &second, 0).await;
    let seen = stands(&cluster, "game", "SETTLED").await;
    assert_eq!((&seen["desired"], &seen["serving"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_and_is_tried_again_when_something_changes() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({ "name": "a", "minInstances": 1 })).await;
    refused(&cluster, "a", "no node is ready").await;
    let mut puppet = node(&cluster, "node-1").await;
    assert_eq!(names(&puppet.bring_up_next(1).await), ["a-1"]);
    eventually("nothing is refused any more", async || {
        scaling(&cluster, "a").await["refused"].is_null().then_some(())
    })
    .await;

    // One port is enough for one server.
    create(
        &cluster,
        json!({ "name": "b", "minInstances": 2, "portRangeStart": 31000, "portRangeEnd": 31000 }),
    )
    .await;
    assert_eq!(names(&puppet.bring_up_next(1).await), ["b-1"]);
    let seen = refused(&cluster, "b", "no free port from 31000 to 31000").await;
    assert_eq!((&seen["desired"], &seen["serving"]), (&json!(2), &json!(1)));
    patch(&cluster, "b", json!({ "portRangeEnd": 31001 })).await;
    let second = puppet.bring_up_next(1).await;
    assert_eq!((names(&second), second[0].port), (vec!["b-2"], 31001));

    create(
        &cluster,
        json!({ "name": "c", "minInstances": 1, "memoryMb": 99_999 }),
    )
    .await;
    refused(
        &cluster,
        "c",
        "99999 MiB of memory are more than any node that is ready has",
    )
    .await;
    patch(&cluster, "c", json!({ "memoryMb": 1 })).await;
    assert_eq!(names(&puppet.bring_up_next(1).await), ["c-1"]);

    let (status, _) = cluster.post("/templates", &json!({ "name": "gone" })).await;
    assert_eq!(status, 201);
    create(&cluster, json!({ "name": "d", "templates": ["gone"] })).await;
    assert_eq!(cluster.call("DELETE", "/templates/gone", None).await.0, 204);
    let (status, _) = cluster.post("/groups/d/scale", &json!({ "instances": 1 })).await;
    assert_eq!(status, 200);
    refused(&cluster, "d", "there is no template \"gone\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_can_be_seen_without_being_carried_out() {
    let cluster = Cluster::start().await;
    let mut puppet = node(&cluster, "node-1").await;
    create(
        &cluster,
        json!({ "name": "a", "minInstances": 1, "maxInstances": 3, "scalingMode": "STATIC" }),
    )
    .await;
    puppet.bring_up_next(1).await;
    stands(&cluster, "a", "SETTLED").await;
    let (status, would) = cluster
        .post("/groups/a/plan", &json!({ "minInstances": 3 }))
        .await;
    assert_eq!(status, 200, "{would}");
    assert_eq!(
        would["steps"],
        json!([
            { "action": "START", "instance": "a-2", "reason": "1 of at least 3 are there" },
            { "action": "START", "instance": "a-3", "reason": "2 of at least 3 are there" },
        ])
    );
    let (_, would) = cluster
        .post("/groups/a/plan", &json!({ "minInstances": 0 }))
        .await;
    assert_eq!(would["steps"][0]["action"], "STOP");
    let (_, is) = cluster.get("/groups/a/plan").await;
    assert_eq!((&is["steps"], &is["desired"]), (&json!([]), &json!(1)));
    for (body, status) in [(json!({ "minInstances": 9 }), 422), (json!({ "nope": 1 }), 400)] {
        assert_eq!(cluster.post("/groups/a/plan", &body).await.0, status);
    }
    assert_eq!(cluster.get("/groups/ghost/plan").await.0, 404);
    // More by hand would be stopped at once, so that is refused with what to do instead.
    let (status, answer) = cluster.act("/groups/a/start").await;
    assert_eq!(status, 409, "{answer}");
    assert!(
        answer.to_string().contains("prexorctl group scale a 2"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn people_scale_pause_and_stop_and_two_of_them_are_told() {
    let cluster = Cluster::start().await;
    let mut puppet = node(&cluster, "node-1").await;
    create(
        &cluster,
        json!({ "name": "m", "scalingMode": "MANUAL", "maxInstances": 2 }),
    )
    .await;
    let (_, group) = cluster.get("/groups/m").await;
    let seen = format!("If-Match: \"{}\"\r\n", group["revision"]);
    let (status, _, scaled) = cluster
        .call_with(&seen, "POST", "/groups/m/scale", r#"{"instances":3}"#)
        .await;
    assert_eq!(
        (status, &scaled["minInstances"], &scaled["maxInstances"]),
        (200, &json!(3), &json!(3))
    );
    let (status, _, late) = cluster
        .call_with(&seen, "POST", "/groups/m/scale", r#"{"instances":1}"#)
        .await;
    assert_eq!(status, 412, "{late}");
    let starts = puppet.bring_up_next(3).await;
    stands(&cluster, "m", "SETTLED").await;
    let (status, scaled) = cluster.post("/groups/m/scale", &json!({ "instances": 2 })).await;
    assert_eq!((status, &scaled["minInstances"]), (200, &json!(2)));
    let stop = puppet.stop().await;
    assert_eq!(stop.instance_id, "m-3");
    puppet.bring_down(&stop).await;
    cluster.instance_state("m-3", "STOPPED").await;

    // What somebody starts beyond it comes back when it crashes, under its name.
    assert_eq!(cluster.act("/groups/m/start").await.0, 200);
    let third = puppet.bring_up_next(1).await.remove(0);
    assert_eq!(third.instance_id, "m-3");
    crash(&puppet, &third).await;
    let third = puppet.bring_up_next(1).await.remove(0);
    assert_eq!((third.instance_id.as_str(), third.incarnation), ("m-3", 3));

    let (status, held) = cluster.act("/groups/m/pause").await;
    assert_eq!((status, &held["scaling"]["state"]), (200, &json!("HELD")));
    assert!(held["scaling"]["pausedBy"].is_string(), "{held}");
    crash(&puppet, &starts[0]).await;
    cluster.instance_state("m-1", "CRASHED").await;
    let (_, plan) = cluster.get("/groups/m/plan").await;
    assert_eq!(plan["steps"], json!([]));
    assert_eq!(cluster.act("/groups/m/resume").await.0, 200);
    let first = puppet.bring_up_next(1).await.remove(0);
    assert_eq!((first.instance_id.as_str(), first.incarnation), ("m-1", 2));

    let (status, stopped) = cluster.act("/groups/m/stop").await;
    assert_eq!((status, &stopped["count"]), (200, &json!(3)), "{stopped}");
    for _ in 0..3 {
        let stop = puppet.stop().await;
        puppet.bring_down(&stop).await;
    }
    eventually("all have ended", async || {
        let (_, group) = cluster.get("/groups/m").await;
        (group["liveInstances"] == 0).then_some(())
    })
    .await;
    let held = scaling(&cluster, "m").await;
    assert_eq!((&held["state"], &held["serving"]), (&json!("HELD"), &json!(0)));
    let (status, _) = cluster.call("DELETE", "/groups/m", None).await;
    assert_eq!(status, 204);
    // Another one of that name is another group.
    create(&cluster, json!({ "name": "m" })).await;
    assert_eq!(scaling(&cluster, "m").await["state"], "SETTLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_with_its_node_is_started_elsewhere_and_its_other_copy_is_stopped() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut first = Puppet::join(&cluster, &credential, "node-1").await;
    create(
        &cluster,
        json!({ "name": "a", "minInstances": 1, "nodeLossGraceSeconds": 1 }),
    )
    .await;
    create(
        &cluster,
        json!({ "name": "w", "minInstances": 1, "nodeLossGraceSeconds": 1, "onNodeLoss": "WAIT" }),
    )
    .await;
    let starts = first.bring_up_next(2).await;
    assert_eq!(names(&starts), ["a-1", "w-1"]);
    for group in ["a", "w"] {
        stands(&cluster, group, "SETTLED").await;
    }
    let mut second = node(&cluster, "node-2").await;
    first.vanish(&cluster, "node-1").await;
    let replaced = second.bring_up_next(1).await.remove(0);
    assert_eq!((replaced.instance_id.as_str(), replaced.incarnation), ("a-1", 2));
    cluster.instance_state("a-1", "RUNNING").await;
    let waiting = scaling(&cluster, "w").await;
    assert!(
        waiting["reasons"].to_string().contains("node-1 is away"),
        "{waiting}"
    );
    let listed = [&starts[0], &starts[1]].map(|start| running(start, InstanceState::Running));
    let (mut first, _) = Puppet::join_with(&cluster, &credential, "node-1", listed.to_vec()).await;
    let stop = first.stop().await;
    assert_eq!((stop.instance_id.as_str(), stop.incarnation), ("a-1", 1));
    first.bring_down(&stop).await;
    let lives = cluster.instance("a-1").await;
    assert_eq!(
        (&lives["node"], &lives["state"]),
        (&json!("node-2"), &json!("RUNNING"))
    );
    assert_eq!(cluster.instance("w-1").await["state"], "RUNNING");
    // A lost node says nothing about the servers of the group.
    assert!(scaling(&cluster, "a").await["pausedUntil"].is_null());
}
