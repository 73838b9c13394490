//! What nodes keep for later starts, and orders to fill that

use prexorcloud_proto::{
    BootstrapCacheEntry, CacheStatus, ConfigFormat, ErrorReport, JarCacheEntry, PreWarmCache,
    TemplateCacheEntry, controller_message::Payload as ToDaemon, daemon_message::Payload,
};
use prexorcloud_protocol::Capabilities;
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, handshake},
    support::{Cluster, eventually},
    templates::push,
};

fn kept() -> CacheStatus {
    CacheStatus {
        templates: vec![TemplateCacheEntry {
            name: "base".to_owned(),
            hash: "h".to_owned(),
            size_bytes: 29,
            last_used_ms: 1_764_000_000_042,
        }],
        jars: vec![JarCacheEntry {
            platform: "PAPER".to_owned(),
            version: "1.21".to_owned(),
            jar_file: "paper.jar".to_owned(),
            size_bytes: 5,
            sha256: "ab".to_owned(),
            cached_at_ms: 0,
        }],
        bootstraps: vec![BootstrapCacheEntry {
            config_format: ConfigFormat::Paper.into(),
            version: "1.21".to_owned(),
            has_cds: true,
            size_bytes: 7,
        }],
        total_size_bytes: 41,
    }
}

async fn tell(puppet: &Puppet, status: CacheStatus) {
    puppet.say(Payload::CacheStatus(Box::new(status))).await;
}

async fn warming(cluster: &Cluster, wanted: &str) -> Value {
    eventually(&format!("the order is {wanted}"), async || {
        let cache = cluster.get("/nodes/node-1/cache").await.1;
        (cache["warming"]["state"] == wanted).then(|| cache["warming"].clone())
    })
    .await
}

async fn ordered(puppet: &mut Puppet) -> PreWarmCache {
    match puppet.next().await.unwrap() {
        ToDaemon::PreWarmCache(order) => order,
        other => panic!("expected an order to fill the cache, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_keeps_is_shown_as_it_said_last() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get("/nodes/ghost/cache").await.0, 404);
    assert_eq!(cluster.act("/nodes/ghost/cache/refresh").await.0, 404);
    let credential = cluster.enrol("node-1").await;
    let (status, answer) = cluster.act("/nodes/node-1/cache/refresh").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (409, &json!("NODE_NOT_CONNECTED"))
    );
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let (status, cache) = cluster.get("/nodes/node-1/cache").await;
    let nothing = json!({
        "templates": [], "jars": [], "bootstraps": [], "totalSizeBytes": 0, "receivedAt": null, "number": 0,
        "warming": null,
    });
    assert_eq!((status, cache), (200, nothing));

    let (status, answer) = cluster.act("/nodes/node-1/cache/refresh").await;
    assert_eq!(
        (status, answer),
        (202, json!({ "status": "REQUESTED", "number": 0 }))
    );
    assert!(matches!(
        puppet.next().await.unwrap(),
        ToDaemon::RequestCacheStatus(_)
    ));
    tell(&puppet, kept()).await;
    let cache = eventually("the answer", async || {
        let cache = cluster.get("/nodes/node-1/cache").await.1;
        (cache["number"] == 1).then_some(cache)
    })
    .await;
    assert_eq!(
        cache["templates"],
        json!([{ "name": "base", "hash": "h", "sizeBytes": 29, "lastUsed": "2025-11-24T16:00:00.042Z",
            "version": null, "versionHash": null }])
    );
    assert_eq!(
        cache["jars"],
        json!([{
            "platform": "PAPER", "version": "1.21", "jarFile": "paper.jar", "sizeBytes": 5, "sha256": "ab",
            "cachedAt": null,
        }])
    );
    assert_eq!(
        cache["bootstraps"],
        json!([{ "configFormat": "PAPER", "version": "1.21", "hasCds": true, "sizeBytes": 7 }])
    );
    assert_eq!(cache["totalSizeBytes"], 41);
    // It is known of a node that is away, too.
    puppet.vanish(&cluster, "node-1").await;
    assert_eq!(cluster.get("/nodes/node-1/cache").await.1, cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_an_order_to_fill_a_cache_is_seen() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    // As every daemon of ours does.
    tell(&puppet, CacheStatus::default()).await;
    let (status, answer) = cluster.act("/nodes/node-1/cache/warm").await;
    assert_eq!(status, 422, "{answer}");
    for body in [
        json!({ "name": "base" }),
        json!({ "name": "a", "jar": "https://example.org/paper.jar", "sha256": "a".repeat(64), "platform": "PAPER",
            "platformVersion": "1.21" }),
        json!({ "name": "b", "jar": "https://example.org/paper.jar", "sha256": "a".repeat(64), "platform": "PAPER",
            "platformVersion": "1.21", "jarFile": "server.jar" }),
        json!({ "name": "c", "jar": "/srv/here.jar" }),
    ] {
        let kind = if body["name"] == "base" {
            "templates"
        } else {
            "groups"
        };
        assert_eq!(cluster.post(&format!("/{kind}"), &body).await.0, 201);
    }
    let version = push(&cluster, "base", &[("x", "y")]).await.1;
    let (status, answer) = cluster.act("/nodes/node-1/cache/warm").await;
    assert_eq!(
        (status, answer),
        (202, json!({ "status": "WARMING", "runtimes": 1, "templates": 1 }))
    );
    let order = ordered(&mut puppet).await;
    let [jar] = &order.entries[..] else {
        panic!("{order:?}")
    };
    assert_eq!(
        (jar.platform.as_str(), jar.jar_file.as_str()),
        ("PAPER", "server.jar")
    );
    assert_eq!(jar.platform_version, format!("1.21-{}", &"a".repeat(16)));
    assert_eq!(
        (order.templates[0].name.as_str(), json!(order.templates[0].hash)),
        ("base", version["archive"].clone())
    );
    // The same again needs nothing more, and something else waits until that is done.
    let (status, answer) = cluster.act("/nodes/node-1/cache/warm").await;
    assert_eq!(status, 202, "{answer}");
    let other = json!({ "name": "d", "jar": "https://example.org/d.jar" });
    assert_eq!(cluster.post("/groups", &other).await.0, 201);
    let one = json!({ "groups": ["d"] });
    let (status, answer) = cluster.post("/nodes/node-1/cache/warm", &one).await;
    assert_eq!(status, 202, "{answer}");

    // What is asked meanwhile is answered, and is not the end of it.
    cluster.act("/nodes/node-1/cache/refresh").await;
    puppet.next().await.unwrap();
    tell(&puppet, CacheStatus::default()).await;
    let failure = ErrorReport {
        error_code: "PRE_WARM_FAILED".to_owned(),
        error_message: "it answered 404".to_owned(),
        context: "server.jar".to_owned(),
        retry_after_seconds: 60,
    };
    puppet.say(Payload::ErrorReport(failure)).await;
    eventually("the failure", async || {
        let cache = cluster.get("/nodes/node-1/cache").await.1;
        (cache["warming"]["failures"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    warming(&cluster, "WARMING").await;
    tell(&puppet, kept()).await;
    let [rest] = &ordered(&mut puppet).await.entries[..] else {
        panic!("not the rest alone")
    };
    assert_eq!(rest.download_url, "https://example.org/d.jar");
    warming(&cluster, "WARMING").await;
    tell(&puppet, kept()).await;
    let told = warming(&cluster, "FAILED").await;
    assert_eq!((&told["runtimes"], &told["templates"]), (&json!(2), &json!(1)));
    assert_eq!(
        told["failures"],
        json!([{ "what": "server.jar", "code": "PRE_WARM_FAILED", "message": "it answered 404", "retryAfterSeconds": 60 }])
    );
    assert!(told["endedAt"].is_string());

    // What the daemon calls by its archive is shown by the version as well.
    let mut joined = kept();
    version["archive"]
        .as_str()
        .unwrap()
        .clone_into(&mut joined.templates[0].hash);
    tell(&puppet, joined).await;
    let shown = eventually("the version", async || {
        let template = cluster.get("/nodes/node-1/cache").await.1["templates"][0].clone();
        (template["version"] == 1).then_some(template)
    })
    .await;
    assert_eq!(shown["versionHash"], version["hash"]);

    for (body, status) in [
        (json!({ "groups": ["ghost"] }), 404),
        (json!({ "templates": ["ghost"] }), 422),
        (json!({ "groups": ["c"], "more": 1 }), 422),
    ] {
        let answer = cluster.post("/nodes/node-1/cache/warm", &body).await;
        assert_eq!(answer.0, status, "{body}: {answer:?}");
    }
    let some = json!({ "templates": ["base"] });
    assert_eq!(
        cluster.post("/nodes/node-1/cache/warm", &some).await.1["runtimes"],
        0
    );
    assert_eq!(ordered(&mut puppet).await.templates.len(), 1);
    puppet.vanish(&cluster, "node-1").await;
    warming(&cluster, "LOST").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_daemon_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::open(&cluster, &credential).await.unwrap();
    let mut greeting = handshake("node-1");
    greeting.capabilities = Capabilities::NONE.to_wire();
    puppet.say(Payload::Handshake(Box::new(greeting))).await;
    assert!(matches!(puppet.next().await.unwrap(), ToDaemon::HandshakeAck(_)));
    cluster.node_status_is_connected("node-1").await;
    let group = json!({ "name": "a", "jar": "https://example.org/a.jar" });
    assert_eq!(cluster.post("/groups", &group).await.0, 201);
    assert_eq!(cluster.act("/nodes/node-1/cache/warm").await.0, 202);
    let order = ordered(&mut puppet).await;
    assert_eq!(
        (
            order.entries[0].platform.as_str(),
            order.entries[0].platform_version.as_str()
        ),
        ("server", "unpinned")
    );
    warming(&cluster, "SENT").await;
    // Nothing stands in the way of another one.
    assert_eq!(cluster.act("/nodes/node-1/cache/warm").await.0, 202);
}
