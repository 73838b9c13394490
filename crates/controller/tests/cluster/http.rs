//! The HTTP interface itself: who gets in, what errors look like, bounds

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    puppet::Puppet,
    support::{Cluster, eventually, within},
};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_system_routes_are_public() {
    let cluster = Cluster::start().await;
    for path in ["/system/health", "/system/ready", "/system/version"] {
        assert_eq!(cluster.call_as(None, "GET", path, None).await.0, 200, "{path}");
    }
    let routes = [
        ("GET", "/admin/tokens"),
        ("POST", "/admin/tokens"),
        ("DELETE", "/admin/tokens/tok_x"),
        ("GET", "/admin/access-tokens"),
        ("POST", "/admin/access-tokens"),
        ("DELETE", "/admin/access-tokens/atk_x"),
        ("GET", "/admin/audit"),
        ("GET", "/nodes"),
        ("GET", "/nodes/node-1"),
        ("POST", "/nodes/node-1/drain"),
        ("POST", "/nodes/node-1/undrain"),
        ("POST", "/nodes/node-1/cordon"),
        ("POST", "/nodes/node-1/uncordon"),
        ("POST", "/nodes/node-1/shutdown"),
        ("POST", "/nodes/node-1/revoke-cert"),
        ("GET", "/instances"),
        ("POST", "/instances"),
        ("GET", "/instances/a-1"),
        ("DELETE", "/instances/a-1"),
        ("POST", "/instances/a-1/stop"),
        ("POST", "/instances/a-1/lost"),
        ("POST", "/instances/a-1/command"),
        ("GET", "/instances/a-1/console"),
        ("GET", "/events"),
        ("GET", "/events/stream"),
        ("POST", "/events/ticket"),
        ("GET", "/system/logs"),
        ("GET", "/system/logs/stream"),
        ("POST", "/system/logs/ticket"),
        ("GET", "/nodes/node-1/logs"),
        ("GET", "/nodes/node-1/logs/stream"),
        ("POST", "/nodes/node-1/logs/ticket"),
        ("GET", "/crashes"),
        ("GET", "/crashes/crash-1"),
        ("GET", "/templates"),
        ("POST", "/templates"),
        ("GET", "/templates/lobby"),
        ("PATCH", "/templates/lobby"),
        ("DELETE", "/templates/lobby"),
        ("GET", "/templates/lobby/versions"),
        ("POST", "/templates/lobby/versions"),
        ("POST", "/templates/lobby/missing"),
        ("POST", "/templates/lobby/rollback"),
        ("GET", "/templates/lobby/diff"),
        ("GET", "/templates/lobby/variables"),
        ("PUT", "/templates/lobby/variables"),
        ("GET", "/templates/lobby/versions/current/archive"),
        ("GET", "/templates/lobby/versions/current/manifest"),
        ("GET", "/content/00"),
        ("PUT", "/content/00"),
    ];
    for (method, path) in routes {
        for token in [None, Some("prx_wrong")] {
            let (status, body) = cluster.call_as(token, method, path, Some("{}")).await;
            assert_eq!(
                (status, &body["error"]["code"]),
                (401, &json!("UNAUTHORIZED")),
                "{method} {path}"
            );
        }
    }
    let (_, version) = cluster.get("/system/version").await;
    assert_eq!(
        (&version["version"], &version["protocolVersion"]),
        (&json!("0.1.0"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_one_form() {
    let cluster = Cluster::start_with(|config| config.http.max_body_bytes = 2048).await;
    let large = format!("{{\"nodeId\":\"{}\"}}", "x".repeat(4096));
    let cases = [
        ("GET", "/nowhere", None, 404, "NOT_FOUND"),
        ("PUT", "/nodes", None, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/admin/tokens", Some("{"), 400, "BAD_REQUEST"),
        ("POST", "/admin/tokens", Some("[]"), 422, "VALIDATION_ERROR"),
        (
            "POST",
            "/admin/tokens",
            Some("{\"nodeid\":\"x\"}"),
            422,
            "VALIDATION_ERROR",
        ),
        (
            "POST",
            "/admin/tokens",
            Some("{\"nodeId\":\"../x\"}"),
            422,
            "VALIDATION_ERROR",
        ),
        (
            "POST",
            "/admin/tokens",
            Some("{\"ttlSeconds\":-1}"),
            422,
            "VALIDATION_ERROR",
        ),
        (
            "POST",
            "/admin/tokens",
            Some("{\"ttl\":\"1y\"}"),
            422,
            "VALIDATION_ERROR",
        ),
        (
            "POST",
            "/admin/tokens",
            Some("{\"ttl\":\"31d\"}"),
            422,
            "VALIDATION_ERROR",
        ),
        (
            "POST",
            "/admin/tokens",
            Some(large.as_str()),
            413,
            "PAYLOAD_TOO_LARGE",
        ),
        ("DELETE", "/admin/tokens/tok_x", None, 404, "NOT_FOUND"),
        ("GET", "/crashes?limit=many", None, 400, "BAD_REQUEST"),
        ("GET", "/instances?typo=1", None, 400, "BAD_REQUEST"),
        ("GET", "/instances/%ff/console", None, 400, "BAD_REQUEST"),
        ("GET", "/instances/a-1/console", None, 404, "NOT_FOUND"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = cluster.call(method, path, body).await;
        assert_eq!(
            (answer.0, &answer.1["error"]["code"]),
            (status, &json!(code)),
            "{method} {path}: {}",
            answer.1
        );
        assert_eq!(answer.1["error"]["status"], status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_a_life_over_http() {
    let cluster = Cluster::start().await;
    let (status, created) = cluster
        .post("/admin/tokens", &json!({ "nodeId": "node-1", "ttl": "2h" }))
        .await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["token"], created["joinToken"]);
    let token = created["token"].as_str().unwrap();
    let (_, listed) = cluster.get("/admin/tokens").await;
    assert_eq!(listed[0]["status"], "ACTIVE");
    assert!(!listed.to_string().contains(token), "the raw token is shown once");
    cluster.exchange(token, "node-1").await.unwrap();
    let (_, listed) = cluster.get("/admin/tokens").await;
    assert_eq!(
        (&listed[0]["status"], &listed[0]["consumedBy"]),
        (&json!("CONSUMED"), &json!("node-1"))
    );
    let path = format!("/admin/tokens/{}", created["tokenId"].as_str().unwrap());
    assert_eq!(cluster.call("DELETE", &path, None).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_request_delays_nobody() {
    let cluster = Cluster::start().await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(cluster.running().http_addr()).await.unwrap();
        stream.write_all(b"GET /api/v1/nodes HTT").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(cluster.get("/nodes").await.0, 200);
    let mut garbage = TcpStream::connect(cluster.running().http_addr()).await.unwrap();
    garbage
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    within(garbage.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(cluster.get("/nodes").await.0, 200);
}

/// Resolves to how long a connection stayed open.
async fn is_cut_after(mut socket: TcpStream) -> Duration {
    let begun = Instant::now();
    let _ = within(socket.read(&mut [0; 64])).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_and_half_sent_heads_keep_nobody_out() {
    let cluster = Cluster::start().await;
    for begin in ["", "GET /api/v1/system/ready HTTP/1.1\r\nHost: te"] {
        let mut sockets = Vec::new();
        for _ in 0..1100 {
            let mut socket = TcpStream::connect(cluster.http).await.unwrap();
            socket.write_all(begin.as_bytes()).await.unwrap();
            sockets.push(socket);
        }
        let begun = Instant::now();
        let (status, _) = cluster.get("/system/ready").await;
        assert_eq!(status, 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        // A daemon, too, still finds its controller.
        cluster.enrol("node-1").await;
        let oldest = is_cut_after(sockets.swap_remove(0)).await;
        assert!(oldest < Duration::from_secs(1), "it gave way: {oldest:?}");
        if !begin.is_empty() {
            let newest = is_cut_after(sockets.pop().unwrap()).await;
            assert!(
                newest < Duration::from_secs(7),
                "a head has five seconds: {newest:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_consoles_leave_room_for_everybody_else() {
    let cluster = Cluster::start().await;
    let _node = Puppet::join(&cluster, &cluster.enrol("node-1").await, "node-1").await;
    let body = json!({ "group": "lobby", "jar": "https://example.com/server.jar" });
    let (status, started) = cluster.post("/instances", &body).await;
    assert_eq!(status, 201, "{started}");
    let mut followers = Vec::new();
    for _ in 0..256 {
        let mut follower = cluster.console("lobby-1", "").await;
        follower.until("connected").await;
        followers.push(follower);
    }
    let (status, body) = cluster.get("/instances/lobby-1/console").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("UNAVAILABLE")),
        "{body}"
    );
    assert_eq!(cluster.get("/system/ready").await.0, 200);
    drop(followers.pop());
    eventually("a place is free", async || {
        let mut follower = cluster.console("lobby-1", "").await;
        follower.until("\r\n\r\n").await.contains(" 200 ").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_holds_little() {
    let cluster = Cluster::start().await;
    let (status, _) = cluster.get(&format!("/nodes/{}", "x".repeat(8 * 1024))).await;
    assert_eq!(status, 404, "a long path is one all the same");
    let mut stream = TcpStream::connect(cluster.http).await.unwrap();
    let head = format!("GET /api/v1/nodes HTTP/1.1\r\nX-Long: {}", "x".repeat(32 * 1024));
    // It may be refused before it is written.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let read = within(stream.read_to_end(&mut answer)).await;
    assert!(
        read.is_err() || answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_away_a_token_that_may_do_more_than_theirs() {
    let cluster = Cluster::start().await;
    let mint = async |name: &str, permissions: &[&str]| {
        let body = json!({ "name": name, "permissions": permissions });
        let (status, minted) = cluster.post("/admin/access-tokens", &body).await;
        assert_eq!(status, 201, "{minted}");
        minted
    };
    let manager = mint("manager", &["access.manage", "nodes.view"]).await;
    let robot = mint("robot", &["nodes.view"]).await;
    let (_, listed) = cluster.get("/admin/access-tokens").await;
    let may_all = |token: &&serde_json::Value| token["permissions"] == json!(["*"]);
    let admin = listed.as_array().unwrap().iter().find(may_all).unwrap();
    for (token, status) in [(admin, 403), (&robot, 204), (&manager, 204)] {
        let path = format!("/admin/access-tokens/{}", token["tokenId"].as_str().unwrap());
        let (answered, body) = cluster
            .call_as(manager["token"].as_str(), "DELETE", &path, None)
            .await;
        assert_eq!(answered, status, "{token}: {body}");
    }
    assert_eq!(cluster.get("/nodes").await.0, 200);
}
