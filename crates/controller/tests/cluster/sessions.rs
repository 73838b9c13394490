//! Node sessions: who gets in, who is thrown out, and one session per node

use std::time::SystemTime;

use prexorcloud_proto::{
    ConsoleOutput, Handshake, InstanceState, NodeStatus, RunningInstance,
    controller_message::Payload as ToDaemon, daemon_message::Payload,
};
use prexorcloud_proto::{DaemonMessage, Pong, daemon_service_client::DaemonServiceClient};
use prexorcloud_protocol::compat::contract;
use tonic::Code;

use crate::{
    puppet::{Puppet, handshake},
    support::{Cluster, eventually, stranger, within},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_connects_and_is_seen() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    assert_eq!(
        cluster.node("node-1").await["status"],
        "OFFLINE",
        "enrolled, not connected"
    );
    let (puppet, ack) = Puppet::join_with(&cluster, &credential, "node-1", Vec::new()).await;
    assert_eq!(ack.heartbeat_interval_ms, 30_000);
    assert_eq!(
        ack.controller_api_port,
        i32::from(cluster.running().http_addr().port())
    );
    assert_eq!((ack.protocol_version, ack.epoch), (1, 1));
    puppet
        .say(Payload::NodeStatus(NodeStatus {
            cpu_usage: 0.25,
            total_memory_mb: 4096,
            used_memory_mb: 1024,
            used_ports: vec![30_000],
            ..NodeStatus::default()
        }))
        .await;
    let node = eventually("the load is seen", async || {
        let node = cluster.node("node-1").await;
        (node["cpuUsage"] == 25.0).then_some(node)
    })
    .await;
    assert_eq!(
        (&node["status"], &node["usedMemoryMb"]),
        (&"ONLINE".into(), &1024.into())
    );
    assert_eq!(node["version"], "1.2.3");
    assert_eq!(node["sessionId"], ack.session_id);
    puppet.vanish(&cluster, "node-1").await;
    assert!(cluster.node("node-1").await["connectedSince"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_the_contracts_are_the_same_is_seen_and_counted() {
    let cluster = Cluster::start().await;
    let digest = |digit: &str| vec![contract::capability().replace(contract::WIRE_DIGEST, &digit.repeat(64))];
    let daemons = [
        ("node-1", vec![contract::capability()], "SAME"),
        ("node-2", digest("0"), "DIFFERENT"),
        ("node-3", digest("1"), "DIFFERENT"),
        ("node-4", Vec::new(), "UNKNOWN"),
    ];
    let mut puppets = Vec::new();
    for (node, capabilities, wanted) in daemons {
        let credential = cluster.enrol(node).await;
        let mut puppet = Puppet::open(&cluster, &credential).await.unwrap();
        let hello = Handshake {
            capabilities,
            ..handshake(node)
        };
        puppet.say(Payload::Handshake(Box::new(hello))).await;
        assert!(
            matches!(puppet.next().await, Ok(ToDaemon::HandshakeAck(_))),
            "{node}"
        );
        cluster.node_status(node, "ONLINE").await;
        assert_eq!(cluster.node(node).await["contract"], wanted, "{node}");
        puppets.push(puppet);
    }
    cluster.enrol("node-5").await;
    let metrics = cluster.metrics().await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK"), "{metrics}");
    let lines = [
        r#"prexorcloud_daemon_sessions_by_contract{contract="SAME"} 1"#,
        r#"prexorcloud_daemon_sessions_by_contract{contract="DIFFERENT"} 2"#,
        r#"prexorcloud_daemon_sessions_by_contract{contract="UNKNOWN"} 1"#,
        "prexorcloud_grpc_daemon_sessions_active 4",
        "prexorcloud_nodes_total 5",
        r#"prexorcloud_nodes{status="OFFLINE"} 1"#,
        r#"prexorcloud_nodes{status="ONLINE"} 4"#,
        "prexorcloud_instances_total 0",
        "prexorcloud_players_total 0",
    ];
    for line in lines {
        assert!(metrics.lines().any(|said| said == line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_refused_leave_nothing() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let long = "x".repeat(65);
    let with = |change: fn(&mut Handshake)| {
        let mut changed = handshake("node-1");
        change(&mut changed);
        Payload::Handshake(Box::new(changed))
    };
    let cases = [
        (
            "a first message that is no handshake",
            Payload::Pong(Pong { sequence: 1 }),
            Code::FailedPrecondition,
        ),
        (
            "another node's id",
            Payload::Handshake(Box::new(handshake("node-2"))),
            Code::PermissionDenied,
        ),
        (
            "an unsafe id",
            Payload::Handshake(Box::new(handshake("../x"))),
            Code::InvalidArgument,
        ),
        (
            "no id",
            Payload::Handshake(Box::new(handshake(""))),
            Code::InvalidArgument,
        ),
        (
            "a long id",
            Payload::Handshake(Box::new(handshake(&long))),
            Code::InvalidArgument,
        ),
        (
            "a comma",
            Payload::Handshake(Box::new(handshake("a,b"))),
            Code::InvalidArgument,
        ),
        (
            "a long version",
            with(|handshake| handshake.version = "v".repeat(65)),
            Code::InvalidArgument,
        ),
        (
            "protocol 0",
            with(|handshake| handshake.protocol_version = 0),
            Code::FailedPrecondition,
        ),
        (
            "protocol -1",
            with(|handshake| handshake.protocol_version = -1),
            Code::FailedPrecondition,
        ),
        (
            "protocol 7",
            with(|handshake| handshake.protocol_version = 7),
            Code::FailedPrecondition,
        ),
    ];
    for (what, first, code) in cases {
        let incompatible = what.starts_with("protocol");
        let mut puppet = Puppet::open(&cluster, &credential).await.unwrap();
        puppet.say(first).await;
        if incompatible {
            let ToDaemon::HandshakeAck(ack) = puppet.next().await.unwrap() else {
                panic!("{what}")
            };
            assert!(!ack.protocol_compatible, "{what}");
        }
        let status = puppet.end().await;
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert_eq!(cluster.node("node-1").await["status"], "OFFLINE", "{what}");
    }
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    puppet
        .say(Payload::Handshake(Box::new(handshake("node-1"))))
        .await;
    puppet.ends_with(Code::FailedPrecondition).await;
    cluster.node_status("node-1", "OFFLINE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_this_cluster_get_a_session() {
    let cluster = Cluster::start().await;
    let anonymous = cluster.dial(None).await.unwrap();
    let messages = tokio_stream::iter(Vec::<DaemonMessage>::new());
    let status = within(DaemonServiceClient::new(anonymous).connect(messages))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let operator = cluster
        .authority()
        .issue_admin("alice", SystemTime::now())
        .unwrap();
    let status = Puppet::open(&cluster, &operator).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);

    let foreign = stranger().issue_node("node-1", SystemTime::now()).unwrap();
    let refused = match Puppet::open(&cluster, &foreign).await {
        Err(_) => true,
        Ok(mut puppet) => puppet.end().await.code() != Code::Ok,
    };
    assert!(refused);
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(2 * 366 * 24 * 3600);
    let expired = cluster.authority().issue_node("node-1", long_ago);
    if let Ok(expired) = expired {
        let refused = match Puppet::open(&cluster, &expired).await {
            Err(_) => true,
            Ok(mut puppet) => puppet.end().await.code() != Code::Ok,
        };
        assert!(refused);
    }
    assert_eq!(cluster.get("/nodes").await.1, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_replaces_the_older_one() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut old = Puppet::join(&cluster, &credential, "node-1").await;
    let first = cluster.node("node-1").await["sessionId"].clone();
    let new = Puppet::join(&cluster, &credential, "node-1").await;
    old.ends_with(Code::Aborted).await;
    // What the old one still says changes nothing.
    old.say(Payload::NodeStatus(NodeStatus {
        cpu_usage: 0.9,
        ..NodeStatus::default()
    }))
    .await;
    new.say(Payload::NodeStatus(NodeStatus {
        cpu_usage: 0.1,
        ..NodeStatus::default()
    }))
    .await;
    eventually("the new session is heard", async || {
        let node = cluster.node("node-1").await;
        assert_ne!(node["cpuUsage"], 90.0);
        (node["cpuUsage"] == 10.0 && node["sessionId"] != first).then_some(())
    })
    .await;
    assert_eq!(cluster.node("node-1").await["status"], "ONLINE");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_closes_the_live_stream_and_a_new_token_lets_the_node_back() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let bystander = cluster.enrol("node-2").await;
    let _bystander = Puppet::join(&cluster, &bystander, "node-2").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;

    let (status, body) = cluster.act("/nodes/node-1/revoke-cert").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body["revokedSerials"],
        serde_json::json!([credential.leaf().serial().to_string()])
    );
    let message = puppet.ends_with(Code::PermissionDenied).await;
    assert!(message.contains("revoked"), "{message}");
    cluster.node_status("node-1", "OFFLINE").await;
    assert_eq!(cluster.node("node-2").await["status"], "ONLINE");
    let refused = match Puppet::open(&cluster, &credential).await {
        Err(_) => true,
        Ok(mut puppet) => puppet.end().await.code() != Code::Ok,
    };
    assert!(
        refused,
        "a revoked certificate does not even finish the TLS handshake"
    );

    let fresh = cluster.enrol("node-1").await;
    let _back = Puppet::join(&cluster, &fresh, "node-1").await;
    assert_eq!(cluster.act("/nodes/nobody/revoke-cert").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_survive_a_restart() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    assert_eq!(cluster.act("/nodes/node-1/revoke-cert").await.0, 200);
    cluster.restart().await;
    let refused = match Puppet::open(&cluster, &credential).await {
        Err(_) => true,
        Ok(mut puppet) => puppet.end().await.code() != Code::Ok,
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_controller_says_goodbye() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let controller = cluster.controller.take().unwrap();
    let (message, ()) = tokio::join!(puppet.ends_with(Code::Unavailable), within(controller.shutdown()));
    assert!(message.contains("shutting down"), "{message}");
    cluster.restart().await;
    let (_, ack) = Puppet::join_with(&cluster, &credential, "node-1", Vec::new()).await;
    assert_eq!(ack.epoch, 2, "each start has a higher epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_is_unreachable_until_it_does() {
    let cluster = Cluster::start_with(|config| {
        config.heartbeat.interval = std::time::Duration::from_secs(1);
        config.heartbeat.missed_limit = 1;
    })
    .await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    assert_eq!(cluster.act("/nodes/node-1/cordon").await.1["status"], "CORDONED");
    cluster.node_status("node-1", "UNREACHABLE").await;
    let body = serde_json::json!({ "group": "lobby", "node": "node-1", "jar": "/srv/server.jar" });
    assert_eq!(cluster.post("/instances", &body).await.0, 409);
    // Reading answers the pings that wait.
    let recovered = async {
        cluster.node_status("node-1", "CORDONED").await;
        assert_eq!(cluster.act("/nodes/node-1/uncordon").await.1["status"], "ONLINE");
    };
    tokio::select! {
        status = puppet.end() => panic!("{status}"),
        () = recovered => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_instances_that_nobody_knows_are_adopted() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let found = RunningInstance {
        instance_id: "old-1".to_owned(),
        group: "old".to_owned(),
        port: 30_007,
        state: InstanceState::Running.into(),
        incarnation: 9,
    };
    let (mut puppet, _) = Puppet::join_with(&cluster, &credential, "node-1", vec![found]).await;
    let seen = cluster.instance_state_when_known("old-1", "RUNNING").await;
    assert_eq!((&seen["port"], &seen["incarnation"]), (&30_007.into(), &9.into()));
    // Its port is booked from the first moment on.
    let body = serde_json::json!({ "group": "new", "jar": "/srv/server.jar", "port": 30_007 });
    assert_eq!(cluster.post("/instances", &body).await.0, 409);
    assert_eq!(cluster.act("/instances/old-1/stop").await.0, 200);
    let stop = puppet.stop().await;
    assert_eq!(stop.incarnation, 9);
    puppet.bring_down(&stop).await;
    cluster.instance_state("old-1", "STOPPED").await;
    // A start of that id gets a number that the daemon has not seen.
    let body = serde_json::json!({ "group": "old", "id": "old-1", "jar": "/srv/server.jar" });
    assert_eq!(cluster.post("/instances", &body).await.1["incarnation"], 10);
}

fn of_process(boot_id: &str) -> Payload {
    Payload::Handshake(Box::new(Handshake {
        boot_id: boot_id.to_owned(),
        ..handshake("node-1")
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_node_is_turned_away_while_the_node_answers_and_the_operator_is_told() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut first = Puppet::open(&cluster, &credential).await.unwrap();
    first.say(of_process("first")).await;
    assert!(matches!(first.next().await, Ok(ToDaemon::HandshakeAck(_))));
    cluster.node_status("node-1", "ONLINE").await;
    let session = cluster.node("node-1").await["sessionId"].clone();
    assert!(cluster.node("node-1").await["rival"].is_null());

    for boot_id in ["copy", ""] {
        let copy = async {
            let mut copy = Puppet::open(&cluster, &credential).await.unwrap();
            copy.say(of_process(boot_id)).await;
            copy.ends_with(Code::Aborted).await
        };
        let message = tokio::select! {
            status = first.end() => panic!("{boot_id}: {status}"),
            message = copy => message,
        };
        assert!(message.contains("another daemon"), "{message}");
    }
    let node = cluster.node("node-1").await;
    assert_eq!(
        (&node["status"], &node["sessionId"]),
        (&"ONLINE".into(), &session)
    );
    assert_eq!(node["rival"]["attempts"], 2, "{node}");
    assert!(
        node["rival"]["address"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:"),
        "{node}"
    );

    // It reads no more, and so answers nobody; its last answer counts for a second.
    let _copy = eventually("the copy takes its place", async || {
        let mut copy = Puppet::open(&cluster, &credential).await.unwrap();
        copy.say(of_process("copy")).await;
        matches!(copy.next().await, Ok(ToDaemon::HandshakeAck(_))).then_some(copy)
    })
    .await;
    first.ends_with(Code::Aborted).await;
    assert_ne!(cluster.node("node-1").await["sessionId"], session);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_die_right_after_their_handshake_evict_nobody() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut alive = Puppet::join(&cluster, &credential, "node-1").await;
    let session = cluster.node("node-1").await["sessionId"].clone();
    let deaths = async {
        for _ in 0..10 {
            let dying = Puppet::open(&cluster, &credential).await.unwrap();
            dying.say(Payload::Handshake(Box::new(handshake("node-1")))).await;
            dying.connection.close();
        }
        // It is asked for what it takes a handshake to be judged, and still there.
        let mut last = Puppet::open(&cluster, &credential).await.unwrap();
        last.say(Payload::Handshake(Box::new(handshake("node-1")))).await;
        last.ends_with(Code::Aborted).await
    };
    let message = tokio::select! {
        status = alive.end() => panic!("{status}"),
        message = deaths => message,
    };
    assert!(message.contains("another daemon"), "{message}");
    let node = cluster.node("node-1").await;
    assert_eq!(
        (&node["status"], &node["sessionId"]),
        (&"ONLINE".into(), &session)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_does_not_wait_for_the_storage() {
    const LINES: u64 = 10_000;
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::open(&cluster, &credential).await.unwrap();
    puppet.say(of_process("first")).await;
    assert!(matches!(puppet.next().await, Ok(ToDaemon::HandshakeAck(_))));
    cluster.node_status("node-1", "ONLINE").await;
    let body = serde_json::json!({ "group": "lobby", "jar": "/srv/server.jar" });
    assert_eq!(cluster.post("/instances", &body).await.0, 201);
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;

    // Whoever wants to write has to wait: the daemon comes in anew, and what its admission needs cannot be recorded.
    let database = rusqlite::Connection::open(cluster.config.data_dir.join("controller.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut later = Puppet::open(&cluster, &credential).await.unwrap();
    later.say(of_process("first")).await;
    let say = async |sequence: u64| {
        let line = ConsoleOutput {
            instance_id: "lobby-1".to_owned(),
            line: format!("line {sequence}"),
            incarnation: 1,
            sequence,
            ..ConsoleOutput::default()
        };
        within(puppet.say(Payload::ConsoleOutput(line))).await;
        // So that lines leave in frames of their own, as they do when they come one by one.
        tokio::task::yield_now().await;
    };
    let printed = async {
        say(1).await;
        let mut console = cluster.console("lobby-1", "").await;
        console.until("line 1\"").await;
        for sequence in 2..=LINES {
            say(sequence).await;
        }
        let mut console = cluster.console("lobby-1", "").await;
        console.until(&format!("line {LINES}\"")).await;
    };
    tokio::select! {
        () = printed => database.execute_batch("COMMIT").unwrap(),
        answer = later.next() => panic!("{answer:?} before it could be recorded"),
    }
    assert!(matches!(later.next().await, Ok(ToDaemon::HandshakeAck(_))));
    puppet.ends_with(Code::Aborted).await;
}
