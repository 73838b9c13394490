//! Instances from start to end, with a daemon that obeys

use std::{collections::HashSet, sync::Arc};

use prexorcloud_controller::{
    records::{IncarnationRecord, InstanceRecord},
    store::{self, SqliteOptions, SqliteStore, Store},
};
use prexorcloud_proto::{
    ConsoleOutput, CrashReport, ErrorReport, InstanceState, InstanceStatusUpdate, StartFailureDisposition,
    StartInstance, StartInstanceAck, StartPreparationStage, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use serde_json::json;

use crate::{
    puppet::{Puppet, running},
    support::{Cluster, eventually},
};

const JAR: &str = "/srv/demo/server.jar";

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_runs_talks_and_stops() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let sha256 = "A".repeat(64);
    let body =
        json!({ "group": "lobby", "jar": JAR, "sha256": sha256, "memoryMb": 256, "env": { "MODE": "demo" } });
    let (status, created) = cluster.post("/instances", &body).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(
        (&created["id"], &created["state"]),
        (&json!("lobby-1"), &json!("SCHEDULED"))
    );

    let start = puppet.start().await;
    assert_eq!(
        (start.instance_id.as_str(), start.incarnation, start.memory_mb),
        ("lobby-1", 1, 256)
    );
    assert_eq!(
        (start.jar_file.as_str(), start.download_url.as_str()),
        ("server.jar", "file:///srv/demo/server.jar")
    );
    assert_eq!(start.env["MODE"], "demo");
    assert_eq!(json!(start.port), created["port"]);
    let plan = start.composition_plan.clone().unwrap();
    assert_eq!(plan.runtime.unwrap().sha256, sha256.to_lowercase());
    puppet.bring_up(&start).await;
    let seen = cluster.instance_state("lobby-1", "RUNNING").await;
    assert!(seen["startedAt"].is_string());

    let line = |sequence: u64, text: &str| ConsoleOutput {
        instance_id: "lobby-1".to_owned(),
        line: text.to_owned(),
        timestamp_ms: 1_764_000_000_000,
        incarnation: 1,
        sequence,
    };
    puppet.say(Payload::ConsoleOutput(line(1, "history"))).await;
    let mut console = cluster.console("lobby-1", "").await;
    console.until("history").await;
    puppet.say(Payload::ConsoleOutput(line(2, "live"))).await;
    puppet.say(Payload::ConsoleOutput(line(2, "repeated"))).await;
    puppet.say(Payload::ConsoleOutput(line(9, "after a gap"))).await;
    let text = console.until("after a gap").await;
    assert!(text.contains("event: connected\n"), "{text}");
    assert!(text.contains("\"missed\":6"), "{text}");
    assert!(!text.contains("repeated") && !text.contains("\r\ndata"), "{text}");
    let resumed = cluster
        .console("lobby-1", "?from=2&follow=false")
        .await
        .rest()
        .await;
    assert!(
        resumed.contains("live") && !resumed.contains("history"),
        "{resumed}"
    );

    let (status, body) = cluster
        .post("/instances/lobby-1/command", &json!({ "command": "say hi" }))
        .await;
    // This daemon does not say what becomes of a command.
    assert_eq!((status, &body["status"]), (202, &json!("sent, unconfirmed")));
    let ToDaemon::SendCommand(command) = puppet.next().await.unwrap() else {
        panic!("a command")
    };
    assert_eq!((command.command.as_str(), command.incarnation), ("say hi", 1));

    let (_, stopping) = cluster.act("/instances/lobby-1/stop").await;
    assert_eq!(stopping["status"], "stopping");
    let stop = puppet.stop().await;
    assert!(!stop.force);
    puppet.bring_down(&stop).await;
    cluster.instance_state("lobby-1", "STOPPED").await;
    assert_eq!(
        cluster.act("/instances/lobby-1/stop").await.1["status"],
        "already-stopped"
    );
    let (status, _) = cluster
        .post("/instances/lobby-1/command", &json!({ "command": "say hi" }))
        .await;
    assert_eq!(status, 409);

    // The same id again is another incarnation.
    let (_, again) = cluster
        .post(
            "/instances",
            &json!({ "group": "lobby", "id": "lobby-1", "jar": JAR }),
        )
        .await;
    assert_eq!(again["incarnation"], 2);
    assert_eq!(puppet.start().await.incarnation, 2);
    // The first one is history: what comes late about it changes nothing.
    puppet.report("lobby-1", 1, InstanceState::Crashed).await;
    let ToDaemon::ErrorReport(stale) = puppet.next().await.unwrap() else {
        panic!("an error report")
    };
    assert_eq!(stale.error_code, "STALE_INCARNATION");
    puppet.report("lobby-1", 2, InstanceState::Preparing).await;
    cluster.instance_state("lobby-1", "PREPARING").await;
    assert_eq!(cluster.call("DELETE", "/instances/lobby-1", None).await.0, 409);
    assert_eq!(
        cluster.act("/instances/lobby-1/stop?force=true").await.1["status"],
        "force-stopping"
    );
    let stop = puppet.stop().await;
    assert!(stop.force && stop.incarnation == 2);
    puppet.bring_down(&stop).await;
    cluster.instance_state("lobby-1", "STOPPED").await;
    assert_eq!(cluster.call("DELETE", "/instances/lobby-1", None).await.0, 204);
    assert_eq!(cluster.get("/instances/lobby-1").await.0, 404);
    // The number of a deleted instance does not return.
    let (_, again) = cluster
        .post(
            "/instances",
            &json!({ "group": "lobby", "id": "lobby-1", "jar": JAR }),
        )
        .await;
    assert_eq!(again["incarnation"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_stored_once_and_then_acknowledged() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "game", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("game-1", "RUNNING").await;
    let report = CrashReport {
        instance_id: "game-1".to_owned(),
        group: "game".to_owned(),
        exit_code: 1,
        log_tail: vec![
            "loading".to_owned(),
            "java.lang.OutOfMemoryError: Java heap space".to_owned(),
        ],
        uptime_ms: 1234,
        incarnation: 1,
        report_id: "../../any id a daemon likes".to_owned(),
    };
    puppet.report("game-1", 1, InstanceState::Crashed).await;
    for _ in 0..3 {
        puppet.say(Payload::CrashReport(Box::new(report.clone()))).await;
        let ToDaemon::CrashReportAck(ack) = puppet.next().await.unwrap() else {
            panic!("an acknowledgement")
        };
        assert_eq!(ack.report_id, report.report_id);
    }
    cluster.instance_state("game-1", "CRASHED").await;
    let seen = cluster.instance("game-1").await;
    assert_eq!(seen["lastError"], "The JVM ran out of memory", "{seen}");
    let (_, crashes) = cluster.get("/crashes").await;
    assert_eq!(crashes.as_array().unwrap().len(), 1, "{crashes}");
    assert_eq!(
        (&crashes[0]["classification"], &crashes[0]["exitCode"]),
        (&json!("OOM"), &json!(1))
    );
    assert!(crashes[0].get("logTail").is_none());

    // The acknowledgement was no empty promise.
    cluster.restart().await;
    let id = crashes[0]["id"].as_str().unwrap();
    let (_, crash) = cluster.get(&format!("/crashes/{id}")).await;
    assert_eq!(crash["logTail"], json!(report.log_tail));
    for (query, expected) in [
        ("?group=game", 1),
        ("?group=other", 0),
        ("?node=node-1&instance=game-1", 1),
    ] {
        assert_eq!(
            cluster
                .get(&format!("/crashes{query}"))
                .await
                .1
                .as_array()
                .unwrap()
                .len(),
            expected
        );
    }
    assert_eq!(cluster.get("/crashes/crash-none").await.0, 404);
    assert_eq!(cluster.get("/crashes/..%2Fnodes").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_one_node_do_not_push_out_those_of_another() {
    let cluster = Cluster::start_with(|config| config.crashes.keep = 20).await;
    for (node, crashes) in [("node-2", 3), ("node-1", 100)] {
        let credential = cluster.enrol(node).await;
        let mut puppet = Puppet::join(&cluster, &credential, node).await;
        for number in 0..crashes {
            let report = CrashReport {
                instance_id: format!("ghost-{number}"),
                group: "lobby".into(),
                report_id: format!("report-{number}"),
                incarnation: 1,
                ..CrashReport::default()
            };
            puppet.say(Payload::CrashReport(Box::new(report))).await;
            assert!(matches!(puppet.next().await, Ok(ToDaemon::CrashReportAck(_))));
        }
    }
    let (_, crashes) = cluster.get("/crashes?limit=500").await;
    let of = |node: &str| {
        let all = crashes.as_array().unwrap().iter();
        all.filter(|crash| crash["node"] == node).count()
    };
    assert_eq!(of("node-2"), 3);
    assert!((17..=17 + 16).contains(&of("node-1")), "{}", of("node-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_crashes_are_kept() {
    let cluster = Cluster::start_with(|config| config.crashes.keep = 5).await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    for number in 0..40 {
        let report = CrashReport {
            instance_id: "game-1".to_owned(),
            group: "game".to_owned(),
            exit_code: number,
            report_id: format!("report-{number}"),
            incarnation: 1,
            ..CrashReport::default()
        };
        puppet.say(Payload::CrashReport(Box::new(report))).await;
        let ToDaemon::CrashReportAck(_) = puppet.next().await.unwrap() else {
            panic!("an acknowledgement")
        };
    }
    let (_, crashes) = cluster.get("/crashes?limit=500").await;
    let crashes = crashes.as_array().unwrap();
    assert!((5..=5 + 16).contains(&crashes.len()), "{}", crashes.len());
    assert_eq!(crashes[0]["exitCode"], 39, "newest first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_restarts_goes_on_with_what_runs() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let mut starts = Vec::new();
    for _ in 0..3 {
        cluster
            .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
            .await;
        let start = puppet.start().await;
        puppet.bring_up(&start).await;
        cluster.instance_state(&start.instance_id, "RUNNING").await;
        starts.push(start);
    }
    cluster.restart().await;
    assert_eq!(cluster.node("node-1").await["status"], "OFFLINE");
    assert_eq!(cluster.instance("lobby-1").await["state"], "RUNNING");

    // While nobody looked, the second one was stopped by its operator, the third one is gone without a word.
    let alive = vec![
        running(&starts[0], InstanceState::Running),
        running(&starts[1], InstanceState::Stopping),
    ];
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", alive).await;
    cluster.instance_state("lobby-2", "STOPPING").await;
    cluster.instance_state("lobby-3", "CRASHED").await;
    assert_eq!(cluster.instance("lobby-1").await["state"], "RUNNING");
    assert_eq!(cluster.act("/instances/lobby-1/stop").await.0, 200);
    let stop = puppet.stop().await;
    assert_eq!((stop.instance_id.as_str(), stop.incarnation), ("lobby-1", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_asked_for_while_the_node_was_away_is_carried_out() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    puppet.vanish(&cluster, "node-1").await;
    assert_eq!(
        cluster.act("/instances/lobby-1/stop").await.1["status"],
        "stopping"
    );
    assert_eq!(cluster.instance("lobby-1").await["desired"], "STOP");
    cluster.restart().await;
    let alive = vec![running(&start, InstanceState::Running)];
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", alive).await;
    assert_eq!(puppet.stop().await.instance_id, "lobby-1");
}

/// Nobody knows a token any more but the server that was given it
fn without_token(start: &StartInstance) -> StartInstance {
    StartInstance {
        plugin_token: String::new(),
        ..start.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_the_daemon_never_saw_is_sent_again() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    puppet.vanish(&cluster, "node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let start = puppet.start().await;
    assert_eq!((start.instance_id.as_str(), start.incarnation), ("lobby-1", 1));
    puppet.vanish(&cluster, "node-1").await;
    cluster.stop().await;
    {
        // The number was given out with the record, before anything left for the daemon.
        let file = cluster.config.data_dir.join("controller.db");
        let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
        let counter = store::load::<IncarnationRecord>(&store, "lobby-1")
            .await
            .unwrap()
            .unwrap();
        let instance = store::load::<InstanceRecord>(&store, "lobby-1")
            .await
            .unwrap()
            .unwrap();
        assert_eq!((counter.record.last, counter.revision), (1, instance.revision));
        assert_eq!(instance.record.start.unwrap(), without_token(&start));
        store.close().await.unwrap();
    }
    cluster.restart().await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let again = puppet.start().await;
    assert!(!again.plugin_token.is_empty() && again.plugin_token != start.plugin_token);
    assert_eq!(
        without_token(&again),
        without_token(&start),
        "it is the same start, not another one"
    );
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_node_stays_away_can_be_given_up() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    assert_eq!(
        cluster.act("/instances/lobby-1/lost").await.0,
        409,
        "its daemon is here to be asked"
    );
    puppet.vanish(&cluster, "node-1").await;
    assert_eq!(cluster.act("/instances/lobby-1/lost").await.0, 200);
    cluster.instance_state("lobby-1", "CRASHED").await;
    cluster.restart().await;
    assert_eq!(cluster.instance("lobby-1").await["state"], "CRASHED");
    let given_up = cluster.instance("lobby-1").await;
    assert!(
        given_up["lastError"].as_str().unwrap().starts_with("lost: "),
        "{given_up}"
    );
    assert_eq!(cluster.get("/crashes").await.1, json!([]), "nobody saw it crash");
    // It runs after all, and nobody has seen it end.
    let alive = vec![running(&start, InstanceState::Running)];
    let (_puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", alive).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    assert_eq!(cluster.act("/instances/none/lost").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_for_good_says_why() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet
        .say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: start.instance_id.clone(),
            accepted: false,
            error_message: "sha256 differs".to_owned(),
            error_code: "RUNTIME_PROVISION_FAILED".to_owned(),
            stage: StartPreparationStage::RuntimeProvision.into(),
            failure_disposition: StartFailureDisposition::Permanent.into(),
            incarnation: start.incarnation,
            ..StartInstanceAck::default()
        })))
        .await;
    cluster.instance_state("lobby-1", "CRASHED").await;
    eventually("the error is noted", async || {
        let seen = cluster.instance("lobby-1").await;
        (seen["lastError"] == "RUNTIME_PROVISION_FAILED: sha256 differs").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_daemon_reports_is_shown_beside_the_state() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    assert!(cluster.instance("lobby-1").await["lastError"].is_null());
    for (code, context, message) in [
        ("RECORDS_DAMAGED", "nobody-1", "of nobody"),
        ("RECORDS_DAMAGED", "../lobby-1", "of no name"),
        ("COMMAND_FAILED", "lobby-1", "of a command"),
        ("RECORDS_DAMAGED", "lobby-1", "stop.json is torn"),
    ] {
        puppet
            .say(Payload::ErrorReport(ErrorReport {
                error_code: code.to_owned(),
                error_message: message.to_owned(),
                context: context.to_owned(),
                retry_after_seconds: 0,
            }))
            .await;
    }
    let seen = eventually("the damage is noted", async || {
        let seen = cluster.instance("lobby-1").await;
        seen["lastError"].is_string().then_some(seen)
    })
    .await;
    assert_eq!(
        (&seen["lastError"], &seen["state"]),
        (&json!("stop.json is torn"), &json!("RUNNING"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_never_booked_twice_and_nodes_share_the_load() {
    let cluster = Arc::new(Cluster::start_with(|config| config.instances.port_range = 40_000..=40_009).await);
    let mut puppets = Vec::new();
    for node in ["node-1", "node-2"] {
        let credential = cluster.enrol(node).await;
        puppets.push(Puppet::join(&cluster, &credential, node).await);
    }
    let starts: Vec<_> = (0..20)
        .map(|_| {
            let cluster = Arc::clone(&cluster);
            tokio::spawn(async move {
                let start = json!({ "group": "lobby", "jar": JAR, "memoryMb": 64 });
                cluster.post("/instances", &start).await
            })
        })
        .collect();
    let mut booked = HashSet::new();
    let mut ids = HashSet::new();
    for start in starts {
        let (status, body) = start.await.unwrap();
        assert_eq!(status, 201, "{body}");
        assert!(
            booked.insert((body["node"].to_string(), body["port"].to_string())),
            "{body}"
        );
        assert!(ids.insert(body["id"].to_string()), "{body}");
    }
    let (status, body) = cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (409, &json!("NO_CAPACITY")),
        "{body}"
    );
    for node in ["node-1", "node-2"] {
        let (_, on_node) = cluster.get(&format!("/instances?node={node}")).await;
        assert_eq!(on_node.as_array().unwrap().len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_and_start_nothing() {
    let cluster = Cluster::start().await;
    let (status, body) = cluster
        .post("/instances", &json!({ "group": "lobby", "jar": JAR }))
        .await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (
            409,
            &json!(
                "no node is ready: there is none yet. Make a token with prexorctl token create, and start a daemon with it"
            )
        )
    );
    let credential = cluster.enrol("node-1").await;
    let _puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let long = "a".repeat(65);
    let cases = [
        (json!({ "group": "../x", "jar": JAR }), 422),
        (json!({ "group": "", "jar": JAR }), 422),
        (json!({ "group": long, "jar": JAR }), 422),
        (json!({ "group": "lobby", "id": "a,b", "jar": JAR }), 422),
        (json!({ "group": "lobby", "jar": "relative.jar" }), 422),
        (json!({ "group": "lobby", "jar": "ftp://host/server.jar" }), 422),
        (json!({ "group": "lobby", "jar": "/srv/" }), 422),
        (json!({ "group": "lobby", "jar": "/srv/.." }), 422),
        (json!({ "group": "lobby", "jar": "https://host" }), 422),
        (
            json!({ "group": "lobby", "jar": "https://host/?file=/server.jar" }),
            422,
        ),
        (json!({ "group": "lobby", "jar": JAR, "sha256": "abc" }), 422),
        (json!({ "group": "lobby", "jar": JAR, "memoryMb": 0 }), 422),
        (json!({ "group": "lobby", "jar": JAR, "port": 0 }), 422),
        (json!({ "group": "lobby", "jar": JAR, "port": 70_000 }), 422),
        (
            json!({ "group": "lobby", "jar": JAR, "env": { "A=B": "c" } }),
            422,
        ),
        (
            json!({ "group": "lobby", "jar": JAR, "jvmArgs": ["x".repeat(300_000)] }),
            422,
        ),
        (json!({ "group": "lobby", "jar": JAR, "typo": 1 }), 422),
        (
            json!({ "group": "lobby", "jar": JAR, "stopCommand": "a\nb" }),
            422,
        ),
        (json!({ "jar": JAR }), 422),
        (json!({ "group": "lobby", "jar": JAR, "node": "node-9" }), 404),
        (json!({ "group": "lobby", "jar": JAR, "node": "../x" }), 404),
    ];
    for (body, expected) in cases {
        let (status, answer) = cluster.post("/instances", &body).await;
        assert_eq!(status, expected, "{answer}");
        assert_eq!(answer["error"]["status"], expected);
    }
    assert_eq!(cluster.get("/instances").await.1, json!([]));
    for command in ["", "  ", "two\nlines", "\u{1b}[2J"] {
        let (status, _) = cluster
            .post("/instances/lobby-1/command", &json!({ "command": command }))
            .await;
        assert_eq!(status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn players_are_counted_while_the_state_stays_the_same() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let order = json!({ "group": "lobby", "jar": "/srv/server.jar" });
    assert_eq!(cluster.post("/instances", &order).await.0, 201);
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state(&start.instance_id, "RUNNING").await;
    for players in [5, 7, 0] {
        puppet
            .say(Payload::InstanceStatus(InstanceStatusUpdate {
                instance_id: start.instance_id.clone(),
                state: InstanceState::Running.into(),
                incarnation: start.incarnation,
                player_count: players,
                uptime_ms: 60_000,
                ..InstanceStatusUpdate::default()
            }))
            .await;
        let seen = eventually("the players are seen", async || {
            let seen = cluster.instance(&start.instance_id).await;
            (seen["playerCount"] == players && seen["uptimeMs"].as_i64() >= Some(60_000)).then_some(seen)
        })
        .await;
        assert_eq!(seen["state"], "RUNNING");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_error_quotes_no_credentials() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let order = json!({ "group": "lobby", "jar": "https://bob:hunter2@repo.example/x.jar" });
    assert_eq!(cluster.post("/instances", &order).await.0, 201);
    let start = puppet.start().await;
    puppet
        .say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: start.instance_id.clone(),
            incarnation: start.incarnation,
            error_code: "DOWNLOAD_FAILED".to_owned(),
            error_message: format!("{}?token=hunter2: HTTP 404", start.download_url),
            failure_disposition: StartFailureDisposition::Permanent.into(),
            ..StartInstanceAck::default()
        })))
        .await;
    let seen = cluster.instance_state(&start.instance_id, "CRASHED").await;
    let told = seen["lastError"].as_str().unwrap();
    assert_eq!(
        told,
        "DOWNLOAD_FAILED: https://***@repo.example/x.jar?token=***: HTTP 404"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_nobody_can_read_any_more_has_ended_and_can_be_deleted() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let body = json!({ "group": "lobby", "jar": JAR, "env": { "PASSWORD": "hunter2" } });
    assert_eq!(cluster.post("/instances", &body).await.0, 201);
    let begun = puppet.start().await;
    puppet.bring_up(&begun).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    assert_eq!(cluster.post("/instances", &body).await.1["id"], "lobby-2");
    cluster.instance_state("lobby-2", "SCHEDULED").await;

    cluster.stop().await;
    std::fs::remove_file(cluster.config.data_dir.join("ca/records.key")).unwrap();
    cluster.restart().await;
    cluster.instance_state("lobby-2", "CRASHED").await;
    // What its daemon has taken goes on.
    assert_eq!(cluster.instance("lobby-1").await["state"], "RUNNING");
    let (status, answer) = cluster.call("DELETE", "/instances/lobby-2", None).await;
    assert_eq!(status, 204, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_arguments_of_a_program_reach_its_daemon() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    for arguments in [Some(vec!["serve", "--listen=%PORT%"]), Some(Vec::new()), None] {
        let order = json!({ "group": "lobby", "jar": JAR, "arguments": arguments, "stopCommand": "end" });
        let (status, body) = cluster.post("/instances", &order).await;
        assert_eq!(status, 201, "{body}");
        let start = puppet.start().await;
        let told = start.program_arguments.map(|told| told.values);
        assert_eq!(
            (json!(told), start.stop_command.as_str()),
            (json!(arguments), "end")
        );
    }
}
