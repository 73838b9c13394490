//! Groups over HTTP: as the stock tools write them, what is refused, and what starts from them

use prexorcloud_proto::{ConfigFormat, InstanceCategory, StartInstance};
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, handshake},
    support::{Cluster, eventually},
    templates::push,
};

const JAR: &str = "/srv/demo/server.jar";

async fn create(cluster: &Cluster, body: Value) -> Value {
    let (status, created) = cluster.post("/groups", &body).await;
    assert_eq!(status, 201, "{created}");
    created
}

async fn patch(cluster: &Cluster, name: &str, body: Value) -> (u16, Value) {
    cluster
        .call("PATCH", &format!("/groups/{name}"), Some(&body.to_string()))
        .await
}

async fn template(cluster: &Cluster, name: &str, files: &[(&str, &str)]) -> Value {
    let (status, created) = cluster.post("/templates", &json!({ "name": name })).await;
    assert_eq!(status, 201, "{created}");
    push(cluster, name, files).await.1
}

async fn variables(cluster: &Cluster, template: &str, variables: Value) {
    let path = format!("/templates/{template}/variables");
    let (status, answer) = cluster.call("PUT", &path, Some(&variables.to_string())).await;
    assert_eq!(status, 204, "{answer}");
}

fn error(answer: &(u16, Value)) -> (u16, &str, &str) {
    let error = &answer.1["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    (answer.0, text("code"), text("message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stock_tools_write_is_taken_and_shown() {
    let mut cluster = Cluster::start().await;
    assert_eq!(
        cluster.get("/groups").await.1,
        json!({ "data": [], "page": 1, "pageSize": 500, "total": 0 })
    );
    // Word for word what the stock prexorctl sends, whose templates may also be null.
    let stock = json!({
        "jarFile": "server.jar", "maxInstances": 3, "memoryMb": 256, "minInstances": 1, "name": "lobby",
        "platform": "DEMO", "platformVersion": "1.0", "portRangeEnd": 33550, "portRangeStart": 33500,
        "routing": "LOWEST_PLAYERS", "scalingMode": "DYNAMIC", "templates": null,
    });
    let created = create(&cluster, stock.clone()).await;
    let expected = r#"{
        "attachedExtensions": [], "attachedModules": [], "bedrockProxyGroup": "", "configPatches": {},
        "cpuReservation": 0.0, "defaultGroup": false, "dependsOn": [], "disabledExtensions": [], "disabledModules": [],
        "diskReservationMb": 0, "enabledExtensions": [], "enabledModules": [], "env": {}, "fallbackGroup": null,
        "jarFile": "server.jar", "jvmArgs": [], "maintenance": false, "maintenanceBypass": [],
        "maintenanceMessage": "", "maxInstances": 3, "maxLifetimeSeconds": 0, "maxPlayers": 100, "memoryMb": 256,
        "minInstances": 1, "motdIntervalSeconds": 30, "motdMode": "STATIC", "motds": [], "name": "lobby",
        "nodeAffinity": [], "nodeAntiAffinity": [], "parent": null, "platform": "DEMO", "platformVersion": "1.0",
        "portRangeEnd": 33550, "portRangeStart": 33500, "priority": 0, "protectedPaths": [], "runningInstances": 0,
        "runtimeTarget": { "family": "SERVER", "platform": "DEMO", "platformVersion": "1.0" },
        "scaleCooldownSeconds": 60, "scaleDownAfterSeconds": 300, "scaleUpThreshold": 0.8, "scalingMode": "DYNAMIC",
        "shutdownGraceSeconds": 30, "spreadConstraint": "", "startupTimeoutSeconds": 120, "startupWeight": 0,
        "static": false, "staticInstanceNames": [], "templates": [], "totalPlayers": 0, "updateStrategy": "ROLLING",
        "variableValues": {}
    }"#;
    let expected: Value = serde_json::from_str(expected).unwrap();
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&created[name], value, "{name}");
    }
    // What is kept and does nothing yet is said.
    assert_eq!(created["notInEffect"], json!(["routing"]));
    assert_eq!(created["routing"], "LOWEST_PLAYERS");
    let answer = cluster.post("/groups", &stock).await;
    assert_eq!(
        error(&answer),
        (422, "VALIDATION_ERROR", "Group already exists: lobby")
    );

    cluster.restart().await;
    let without_scaling = |group: &Value| {
        let mut group = group.clone();
        assert!(
            group.as_object_mut().unwrap().remove("scaling").is_some(),
            "{group}"
        );
        group
    };
    let (status, again) = cluster.get("/groups/lobby").await;
    let created = without_scaling(&created);
    assert_eq!((status, without_scaling(&again)), (200, created.clone()));
    let (_, listed) = cluster.get("/groups").await;
    assert_eq!((&listed["data"][0], &listed["total"]), (&created, &json!(1)));

    let (status, changed) = patch(
        &cluster,
        "lobby",
        json!({ "maxInstances": 4, "env": { "A": "1", "B": "2" } }),
    )
    .await;
    assert_eq!(
        (status, &changed["maxInstances"], &changed["memoryMb"]),
        (200, &json!(4), &json!(256))
    );
    let (_, merged) = patch(
        &cluster,
        "lobby",
        json!({ "env": { "B": null, "C": "3" }, "memoryMb": null }),
    )
    .await;
    assert_eq!(
        (&merged["env"], &merged["memoryMb"]),
        (&json!({ "A": "1", "C": "3" }), &json!(1024))
    );
    let (status, same) = patch(&cluster, "lobby", json!({})).await;
    assert_eq!((status, &same["revision"]), (200, &merged["revision"]));

    let (status, answer) = cluster.call("DELETE", "/groups/lobby", None).await;
    assert_eq!((status, answer), (204, Value::Null));
    for method in ["GET", "DELETE", "PATCH"] {
        let answer = cluster.call(method, "/groups/lobby", None).await;
        assert_eq!(error(&answer), (404, "NOT_FOUND", "Group not found: lobby"));
    }
    let answer = cluster.act("/groups/ghost/start").await;
    assert_eq!(error(&answer), (404, "NOT_FOUND", "Group not found: ghost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_group_is_refused_by_name() {
    let cluster = Cluster::start().await;
    let long = "g".repeat(65);
    for (body, status, sentence) in [
        (json!({}), 422, "Group name is required"),
        (json!([]), 400, "the body must be a JSON object"),
        (json!({ "name": 7 }), 400, "name must be a text"),
        (
            json!({ "name": "../etc" }),
            422,
            "Group name must be 1-64 characters",
        ),
        (
            json!({ "name": "Bad Name!" }),
            422,
            "alphanumeric with dots/hyphens/underscores: Bad Name!",
        ),
        (
            json!({ "name": "Alpha.X_1-y" }),
            422,
            "Invalid group name: Alpha.X_1-y",
        ),
        (json!({ "name": "_abstract" }), 422, "nothing inherits here"),
        (
            json!({ "name": &long[..64] }),
            422,
            "Group name too long (max 32)",
        ),
        (json!({ "name": long }), 422, "Group name must be 1-64 characters"),
        (
            json!({ "name": "a", "somethingElse": true }),
            400,
            "a group has no field \"somethingElse\"",
        ),
        (
            json!({ "name": "a", "minInstances": "many" }),
            400,
            "minInstances must be a whole number",
        ),
        (
            json!({ "name": "a", "minInstances": 5, "maxInstances": 2 }),
            422,
            "minInstances (5) cannot exceed maxInstances (2)",
        ),
        (
            json!({ "name": "a", "memoryMb": -5 }),
            422,
            "memoryMb must be from 1 to",
        ),
        (
            json!({ "name": "a", "portRangeStart": -1, "portRangeEnd": 99_999_999 }),
            422,
            "must be valid TCP ports in the range 1-65535",
        ),
        (
            json!({ "name": "a", "portRangeStart": 2000, "portRangeEnd": 1000 }),
            422,
            "portRangeStart (2000) is above portRangeEnd (1000)",
        ),
        (
            json!({ "name": "a", "templates": ["ghost"] }),
            422,
            "Template not found: ghost",
        ),
        (
            json!({ "name": "a", "parent": "b" }),
            422,
            "parent: groups inherit nothing",
        ),
        (
            json!({ "name": "a", "enabledExtensions": ["x"] }),
            422,
            "enabledExtensions: this controller installs no modules",
        ),
        (
            json!({ "name": "a", "variableValues": { "NOPE": "x" } }),
            422,
            "unknown variable 'NOPE' set at GROUP scope",
        ),
    ] {
        let answer = cluster.post("/groups", &body).await;
        let told = error(&answer);
        let code = if status == 400 {
            "BAD_REQUEST"
        } else {
            "VALIDATION_ERROR"
        };
        assert_eq!((told.0, told.1), (status, code), "{body}: {answer:?}");
        assert!(told.2.contains(sentence), "{body}: {}", told.2);
    }
    let (_, list) = cluster.get("/groups").await;
    assert_eq!(list["total"], 0);
    create(&cluster, json!({ "name": "a" })).await;
    let answer = patch(&cluster, "a", json!({ "name": "b" })).await;
    assert_eq!(answer.0, 422, "{answer:?}");
    for (path, status) in [
        ("page=x", 400),
        ("pageSize=-3", 200),
        ("page=0&pageSize=999999", 200),
        ("sort=x", 400),
    ] {
        assert_eq!(cluster.get(&format!("/groups?{path}")).await.0, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_who_change_a_group_at_once_the_second_is_told() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({ "name": "lobby" })).await;
    let (_, seen, shown) = cluster.call_with("", "GET", "/groups/lobby", "").await;
    let seen = seen.unwrap();
    assert_eq!(seen, format!("\"{}\"", shown["revision"]));
    let on_top = format!("If-Match: {seen}\r\n");
    let change = async |memory: u32| {
        let body = json!({ "memoryMb": memory }).to_string();
        cluster.call_with(&on_top, "PATCH", "/groups/lobby", &body).await
    };
    let (first, second) = tokio::join!(change(300), change(400));
    let mut statuses = [first.0, second.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412], "{first:?} {second:?}");
    let (winner, loser) = if first.0 == 200 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(loser.2["error"]["code"], "PRECONDITION_FAILED");
    let told = loser.2["error"]["message"].as_str().unwrap();
    assert!(told.contains("prexorctl group info lobby"), "{told}");
    let (_, tag, now) = cluster.call_with("", "GET", "/groups/lobby", "").await;
    assert_eq!((tag, &now["memoryMb"]), (winner.1, &winner.2["memoryMb"]));
    let (status, ..) = cluster.call_with(&on_top, "DELETE", "/groups/lobby", "").await;
    assert_eq!(status, 412);
    let (status, ..) = cluster
        .call_with("If-Match: x\r\n", "DELETE", "/groups/lobby", "")
        .await;
    assert_eq!(status, 400);
    let fresh = format!("If-Match: {}\r\n", now["revision"]);
    assert_eq!(
        cluster.call_with(&fresh, "DELETE", "/groups/lobby", "").await.0,
        204
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_started_with_what_its_group_says() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let base = template(&cluster, "base", &[("a.txt", "base")]).await;
    let own = template(&cluster, "lobby", &[("a.txt", "lobby")]).await;
    let extra = template(&cluster, "extra", &[("a.txt", "extra")]).await;
    template(&cluster, "base-paper", &[("a.txt", "paper")]).await;
    create(
        &cluster,
        json!({
            "name": "lobby", "platform": "VELOCITY", "platformVersion": "3.4.0", "jar": JAR, "sha256": "A".repeat(64),
            "jarFile": "proxy.jar", "templates": ["extra", "base"], "memoryMb": 300, "jvmArgs": ["-Xss1m"],
            "env": { "MODE": "demo" }, "portRangeStart": 31000, "portRangeEnd": 31001, "maxInstances": 3, "arguments": ["serve", "%PORT%"], "stopCommand": "shutdown",
            "maxPlayers": 7, "startupTimeoutSeconds": 11, "shutdownGraceSeconds": 12, "maxLifetimeSeconds": 13,
            "configPatches": { "velocity.toml": { "bind": "0.0.0.0:1", "motd": "hi" } },
            "protectedPaths": ["world/**"], "ready": { "line": "Done" }, "cpuReservation": 0.25,
        }),
    )
    .await;
    let (_, resolved) = cluster.get("/groups/lobby/resolved").await;
    assert_eq!(resolved["templates"], json!(["lobby", "extra", "base"]));

    let (status, answer) = cluster.act("/groups/lobby/start").await;
    let expected = json!({ "status": "scheduled", "count": 1, "instances": ["lobby-1"] });
    assert_eq!((status, answer), (200, expected));
    let start = puppet.start().await;
    let StartInstance {
        memory_mb,
        max_players,
        startup_timeout_seconds,
        shutdown_grace_seconds,
        max_lifetime_seconds,
        ..
    } = start;
    assert_eq!((memory_mb, max_players), (300, 7));
    assert_eq!(
        (
            startup_timeout_seconds,
            shutdown_grace_seconds,
            max_lifetime_seconds
        ),
        (11, 12, 13)
    );
    assert_eq!(
        (start.instance_id.as_str(), start.group.as_str(), start.port),
        ("lobby-1", "lobby", 31_000)
    );
    assert_eq!(
        (start.jvm_args.as_slice(), &start.env["MODE"]),
        (&["-Xss1m".to_owned()][..], &"demo".to_owned())
    );
    let arguments = start.program_arguments.clone().unwrap().values;
    assert_eq!(arguments, ["serve", "%PORT%"]);
    assert_eq!(start.stop_command, "shutdown");
    assert!(!start.static_instance);
    assert_eq!(start.readiness.as_ref().unwrap().line, "Done");
    let plan = start.composition_plan.clone().unwrap();
    let hashes: Vec<Value> = plan
        .templates
        .iter()
        .map(|template| json!(template.hash))
        .collect();
    assert_eq!(
        hashes,
        [
            own["archive"].clone(),
            extra["archive"].clone(),
            base["archive"].clone()
        ]
    );
    let runtime = plan.runtime.unwrap();
    assert_eq!(
        (runtime.jar_file.as_str(), runtime.download_url.as_str()),
        ("proxy.jar", "file:///srv/demo/server.jar")
    );
    assert_eq!(
        (runtime.platform.as_str(), runtime.platform_version.as_str()),
        ("VELOCITY", "3.4.0")
    );
    assert_eq!(
        (runtime.category(), runtime.config_format()),
        (InstanceCategory::Proxy, ConfigFormat::Velocity)
    );
    let patches: Vec<_> = plan
        .config_patches
        .iter()
        .map(|patch| (patch.key.as_str(), patch.value.as_str()))
        .collect();
    assert_eq!(patches, [("bind", "0.0.0.0:1"), ("motd", "hi")]);
    assert!((plan.isolation.unwrap().cpu_reservation - 0.25).abs() < f64::EPSILON);
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    let (_, group) = cluster.get("/groups/lobby").await;
    assert_eq!(
        (&group["runningInstances"], &group["liveInstances"]),
        (&json!(1), &json!(1))
    );

    // What is pushed meanwhile is for those that start later.
    let later = push(&cluster, "extra", &[("a.txt", "extra 2")]).await.1;
    assert_eq!(cluster.act("/groups/lobby/start").await.0, 200);
    let second = puppet.start().await;
    assert_eq!((second.instance_id.as_str(), second.port), ("lobby-2", 31_001));
    let plan = second.composition_plan.clone().unwrap();
    assert_eq!(json!(plan.templates[1].hash), later["archive"]);

    // No third port, and nothing is left of the try.
    let answer = cluster.act("/groups/lobby/start").await;
    assert_eq!(
        error(&answer),
        (409, "NO_CAPACITY", "no free port from 31000 to 31001")
    );
    let (_, changed) = patch(&cluster, "lobby", json!({ "maxInstances": 2 })).await;
    assert_eq!(changed["maxInstances"], 2);
    let answer = cluster.act("/groups/lobby/start").await;
    assert_eq!(
        error(&answer),
        (409, "CONFLICT", "Group lobby already at max instances (2)")
    );
    let answer = cluster.call("DELETE", "/groups/lobby", None).await;
    assert_eq!(answer.0, 409, "{answer:?}");
    assert!(
        error(&answer)
            .2
            .starts_with("2 instances of lobby live: stop them first")
    );

    let (_, stopping) = cluster.act("/instances/lobby-1/stop").await;
    assert_eq!(stopping["status"], "stopping");
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    cluster.instance_state("lobby-1", "STOPPED").await;
    // Its number and its port are free again.
    let (_, answer) = cluster.act("/groups/lobby/start").await;
    assert_eq!(answer["instances"], json!(["lobby-1"]));
    assert_eq!(puppet.start().await.port, 31_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_started_at_once_and_never_one_too_many() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    create(
        &cluster,
        json!({ "name": "a", "jar": JAR, "maxInstances": 5, "memoryMb": 1 }),
    )
    .await;
    let both = json!({ "count": 3 });
    let (first, second) = tokio::join!(
        cluster.post("/groups/a/start", &both),
        cluster.post("/groups/a/start", &both)
    );
    let (won, lost) = if first.0 == 200 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!((won.0, &won.1["count"]), (200, &json!(3)), "{won:?}");
    assert_eq!(
        error(&lost),
        (
            409,
            "CONFLICT",
            "Group a has 3 of at most 5 instances: 3 more are too many"
        )
    );
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push(puppet.start().await.port);
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    // Where there is room for some of them, those are started, and the rest is said.
    let ports = json!({ "portRangeStart": 32000, "portRangeEnd": 32000 });
    assert_eq!(patch(&cluster, "a", ports).await.0, 200);
    let (status, some) = cluster.post("/groups/a/start", &json!({ "count": 2 })).await;
    assert_eq!((status, &some["count"]), (200, &json!(1)), "{some}");
    assert_eq!(
        some["refused"],
        "1 of 2 were started: no free port from 32000 to 32000"
    );

    for (body, status) in [
        (json!({ "count": 0 }), 422),
        (json!({ "count": 51 }), 422),
        (json!({ "count": -1 }), 422),
        (json!({ "count": "2" }), 400),
        (json!({ "node": "node-1" }), 400),
        (json!({ "variables": { "A": 1 } }), 400),
        (json!({ "count": 1, "variables": { "NOPE": "x" } }), 422),
    ] {
        patch(&cluster, "a", json!({ "maxInstances": 100 })).await;
        let answer = cluster.post("/groups/a/start", &body).await;
        assert_eq!(answer.0, status, "{body}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_what_to_do() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({ "name": "a", "jar": JAR })).await;
    let answer = cluster.act("/groups/a/start").await;
    let none = "no node is ready: there is none yet. Make a token with prexorctl token create, and start a daemon with it";
    assert_eq!(error(&answer), (409, "NO_CAPACITY", none));
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::open(&cluster, &credential).await.unwrap();
    let mut greeting = handshake("node-1");
    greeting.labels = [("zone".to_owned(), "eu".to_owned())].into();
    puppet
        .say(prexorcloud_proto::daemon_message::Payload::Handshake(Box::new(
            greeting,
        )))
        .await;
    puppet.next().await.unwrap();
    cluster.node_status_is_connected("node-1").await;

    template(&cluster, "gone", &[("x", "y")]).await;
    create(&cluster, json!({ "name": "b" })).await;
    for (change, status, sentence) in [
        (
            json!({ "memoryMb": 99_999 }),
            422,
            "the largest, node-1, has 4096 MiB for instances. Ask for less, or add a node",
        ),
        (
            json!({ "nodeAffinity": ["zone=us"] }),
            422,
            "no node that is ready has the labels",
        ),
        (
            json!({ "nodeAntiAffinity": ["zone"] }),
            422,
            "no node that is ready has the labels",
        ),
        (
            json!({ "templates": ["gone"] }),
            422,
            "there is no template \"gone\"",
        ),
    ] {
        assert_eq!(patch(&cluster, "a", change.clone()).await.0, 200);
        if change["templates"].is_array() {
            assert_eq!(cluster.call("DELETE", "/templates/gone", None).await.0, 204);
        }
        let answer = cluster.act("/groups/a/start").await;
        let told = error(&answer);
        assert_eq!(told.0, status, "{answer:?}");
        assert!(told.2.contains(sentence), "{answer:?}");
        let name = change.as_object().unwrap().keys().next().unwrap().clone();
        assert_eq!(patch(&cluster, "a", json!({ name: null })).await.0, 200);
    }
    let answer = cluster.act("/groups/b/start").await;
    assert_eq!(answer.0, 422, "{answer:?}");
    let told = error(&answer).2;
    assert!(
        told.contains("b names no jar, the catalog has none for it, and it has no template")
            && told.contains("--jar"),
        "{told}"
    );
    // A template that brings the jar is as good as an address.
    template(&cluster, "b", &[("server.jar", "bytes")]).await;
    assert_eq!(
        patch(&cluster, "a", json!({ "nodeAffinity": ["zone=eu"] }))
            .await
            .0,
        200
    );
    for name in ["a", "b"] {
        let (status, answer) = cluster.act(&format!("/groups/{name}/start")).await;
        assert_eq!(status, 200, "{answer}");
        let start = puppet.start().await;
        let runtime = start.composition_plan.unwrap().runtime.unwrap();
        assert_eq!(runtime.download_url.is_empty(), name == "b");
        assert_eq!(runtime.jar_file, "server.jar");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_instance_starts_where_its_files_are() {
    let cluster = Cluster::start().await;
    let first = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &first, "node-1").await;
    let names = json!(["world", "nether"]);
    create(
        &cluster,
        json!({ "name": "s", "jar": JAR, "isStatic": true, "staticInstanceNames": names, "memoryMb": 1 }),
    )
    .await;
    let (_, answer) = cluster.act("/groups/s/start").await;
    assert_eq!(answer["instances"], json!(["world"]));
    let start = puppet.start().await;
    assert!(start.static_instance);
    puppet.bring_up(&start).await;
    cluster.instance_state("world", "RUNNING").await;
    let second = cluster.enrol("node-2").await;
    let mut other = Puppet::join(&cluster, &second, "node-2").await;
    // The other one has nothing to do, and gets the next.
    let (_, answer) = cluster.act("/groups/s/start").await;
    assert_eq!(answer["instances"], json!(["nether"]));
    assert!(other.start().await.static_instance);
    let answer = cluster.act("/groups/s/start").await;
    assert!(
        error(&answer)
            .2
            .contains("all of staticInstanceNames of s are running"),
        "{answer:?}"
    );

    cluster.act("/instances/world/stop").await;
    let stop = puppet.stop().await;
    puppet.bring_down(&stop).await;
    cluster.instance_state("world", "STOPPED").await;
    puppet.vanish(&cluster, "node-1").await;
    let answer = cluster.act("/groups/s/start").await;
    let told = error(&answer);
    assert_eq!(told.0, 409, "{answer:?}");
    assert!(
        told.2
            .contains("world is static and has its files on node-1, which is not connected"),
        "{answer:?}"
    );
    let mut puppet = Puppet::join(&cluster, &first, "node-1").await;
    assert_eq!(cluster.act("/groups/s/start").await.0, 200);
    assert_eq!(puppet.start().await.instance_id, "world");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_in_a_group_is_sealed_and_shown_to_nobody() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    template(&cluster, "t", &[("x", "%PW%")]).await;
    let defined = json!([
        { "key": "PW", "type": "SECRET", "scope": "GROUP" },
        { "key": "SEED", "type": "INT", "scope": "INSTANCE", "defaultValue": "7" },
        { "key": "ID", "type": "STRING", "scope": "TEMPLATE", "defaultValue": "x" },
    ]);
    variables(&cluster, "t", defined).await;
    let created = create(
        &cluster,
        json!({
            "name": "a", "jar": JAR, "templates": ["t"], "env": { "TOKEN": "hunter2-env" },
            "variableValues": { "PW": "hunter2-pw", "SEED": "8", "MOTD": "hi" },
        }),
    )
    .await;
    assert_eq!(created["variableValues"], json!({ "SEED": "8", "MOTD": "hi" }));
    assert_eq!(created["hiddenVariables"], json!(["PW"]));
    assert_eq!(created["env"]["TOKEN"], "hunter2-env");
    // Whoever may only look does not see the environment.
    let body = json!({ "name": "looker", "permissions": ["groups.view"] });
    let (_, minted) = cluster.post("/admin/access-tokens", &body).await;
    let token = minted["token"].as_str().unwrap();
    let (status, seen) = cluster.call_as(Some(token), "GET", "/groups/a", None).await;
    assert_eq!(
        (status, &seen["env"], &seen["hiddenEnv"]),
        (200, &json!({}), &json!(["TOKEN"])),
        "{seen}"
    );
    assert!(!seen.to_string().contains("hunter2"), "{seen}");
    for (method, path) in [
        ("PATCH", "/groups/a"),
        ("DELETE", "/groups/a"),
        ("POST", "/groups"),
        ("POST", "/groups/a/start"),
    ] {
        let (status, answer) = cluster.call_as(Some(token), method, path, Some("{}")).await;
        assert_eq!(status, 403, "{answer}");
    }
    for (values, sentence) in [
        (json!({ "ID": "y" }), "variable ID: a group may not set it"),
        (
            json!({ "SEED": "many" }),
            "variable SEED: \"many\" is no whole number",
        ),
    ] {
        let answer = patch(&cluster, "a", json!({ "variableValues": values })).await;
        assert!(error(&answer).2.contains(sentence), "{answer:?}");
    }
    // The group's value counts before the default, and the instance's before the group's.
    let (status, answer) = cluster
        .post("/groups/a/start", &json!({ "variables": { "SEED": "9" } }))
        .await;
    assert_eq!(status, 200, "{answer}");
    let start = puppet.start().await;
    let mut given: Vec<_> = start
        .resolved_variables
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    given.sort_unstable();
    assert_eq!(
        given,
        [("ID", "x"), ("MOTD", "hi"), ("PW", "hunter2-pw"), ("SEED", "9")]
    );

    // What was secret stays so when its definition changes, and is quoted in no error.
    variables(
        &cluster,
        "t",
        json!([{ "key": "PW", "type": "INT", "scope": "INSTANCE" }, { "key": "SEED", "type": "INT" }]),
    )
    .await;
    let (_, seen) = cluster.get("/groups/a").await;
    assert_eq!(seen["hiddenVariables"], json!(["PW"]), "{seen}");
    let answer = cluster.act("/groups/a/start").await;
    assert_eq!(
        error(&answer),
        (
            422,
            "VALIDATION_ERROR",
            "variable PW: the value is no whole number"
        )
    );
    let answer = cluster
        .post(
            "/groups/a/start",
            &json!({ "variables": { "PW": "hunter2-start" } }),
        )
        .await;
    assert!(
        answer.0 == 422 && !answer.1.to_string().contains("hunter2"),
        "{answer:?}"
    );
    let answer = patch(
        &cluster,
        "a",
        json!({ "variableValues": { "PW": "hunter2-patch" } }),
    )
    .await;
    assert!(
        answer.0 == 422 && !answer.1.to_string().contains("hunter2"),
        "{answer:?}"
    );
    // Nor when the template that defined it is gone.
    assert_eq!(cluster.call("DELETE", "/templates/t", None).await.0, 204);
    let (_, seen) = cluster.get("/groups/a").await;
    assert!(!seen["variableValues"].to_string().contains("hunter2"), "{seen}");
    let audit = cluster.get("/admin/audit").await.1.to_string();
    assert!(
        audit.contains("group.create") && !audit.contains("hunter2"),
        "{audit}"
    );
    for entry in std::fs::read_dir(&cluster.config.data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(7).any(|part| part == b"hunter2"),
                "{}",
                path.display()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_groups_come_in_pages() {
    let mut cluster = Cluster::start().await;
    create(&cluster, json!({ "name": "model", "memoryMb": 1 })).await;
    cluster.stop().await;
    copies(&cluster, "model", 10_000).await;
    cluster.restart().await;
    let (_, first) = cluster.get("/groups").await;
    assert_eq!(
        (&first["total"], first["data"].as_array().unwrap().len()),
        (&json!(10_001), 500)
    );
    let mut names = Vec::new();
    for page in 1.. {
        let (_, found) = cluster.get(&format!("/groups?page={page}&pageSize=5000")).await;
        let data = found["data"].as_array().unwrap();
        assert_eq!(found["pageSize"], 500);
        if data.is_empty() {
            break;
        }
        names.extend(
            data.iter()
                .map(|group| group["name"].as_str().unwrap().to_owned()),
        );
    }
    assert!(names.is_sorted() && names.len() == 10_001, "{}", names.len());
    let (status, far) = cluster.get("/groups?page=18446744073709551615").await;
    assert_eq!(status, 400, "{far}");
    // The last that there may be.
    cluster.stop().await;
    copies(&cluster, "model", 16_383).await;
    cluster.restart().await;
    let answer = cluster.post("/groups", &json!({ "name": "more" })).await;
    assert_eq!(error(&answer).0, 409, "{answer:?}");
    assert!(
        error(&answer)
            .2
            .contains("there are 16384 groups, which is the limit"),
        "{answer:?}"
    );
    eventually("it still answers", async || {
        (cluster.get("/groups/g00007").await.0 == 200).then_some(())
    })
    .await;
}

/// Writes so many groups like this one into the store of a controller that is stopped
async fn copies(cluster: &Cluster, model: &str, count: usize) {
    use prexorcloud_controller::store::{SqliteOptions, SqliteStore, Store as _, Txn};

    let path = cluster.config.data_dir.join("controller.db");
    let store = SqliteStore::open(path, &SqliteOptions::default()).unwrap();
    let entry = store.get(&format!("groups/{model}")).await.unwrap().unwrap();
    let names: Vec<String> = (0..count).map(|number| format!("g{number:05}")).collect();
    for names in names.chunks(1000) {
        let txn = names.iter().fold(Txn::new(), |txn, name| {
            // The first field of the record is its name, which is 5 bytes long.
            let mut value = entry.value.to_vec();
            assert_eq!(&value[..7], b"\x0a\x05model");
            value.splice(1..7, [6].into_iter().chain(name.bytes()));
            txn.put(format!("groups/{name}"), value)
        });
        assert!(store.txn(txn).await.unwrap().committed().is_some());
    }
    store.close().await.unwrap();
}
