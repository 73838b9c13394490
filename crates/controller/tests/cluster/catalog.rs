//! The catalog over HTTP, as the stock tools write it, and what groups are started with by it

use serde_json::{Value, json};

use crate::{
    puppet::Puppet,
    support::{Cluster, eventually},
};

const URL: &str = "http://127.0.0.1:8000/demo.jar";

async fn add(cluster: &Cluster, version: &str, url: &str) -> (u16, Value) {
    // Word for word what the stock prexorctl sends.
    let body = json!({ "category": "SERVER", "configFormat": "", "downloadUrl": url, "sha256": "", "version": version });
    cluster.post("/catalog/DEMO/versions", &body).await
}

async fn recommend(cluster: &Cluster, version: &str) -> (u16, Value) {
    let path = format!("/catalog/DEMO/versions/{version}/recommended");
    cluster.call("PUT", &path, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_tools_fill_and_read_it() {
    let mut cluster = Cluster::start().await;
    let empty = json!({ "data": [], "page": 1, "pageSize": 100, "total": 0 });
    assert_eq!(
        cluster.get("/catalog").await,
        (200, empty),
        "it is seeded with nothing"
    );
    let added = |version: &str| json!({ "platform": "DEMO", "version": version });
    assert_eq!(add(&cluster, "1.0", URL).await, (201, added("1.0")));
    let recommended = json!({ "platform": "DEMO", "recommended": true, "version": "1.0" });
    assert_eq!(recommend(&cluster, "1.0").await, (200, recommended));
    assert_eq!(add(&cluster, "2.0", URL).await.0, 201);
    assert_eq!(add(&cluster, "2.0", URL).await.0, 201, "it is replaced");
    let change = json!({ "downloadUrl": "", "sha256": "", "version": "2.1" }).to_string();
    let path = "/catalog/DEMO/versions/2.0";
    assert_eq!(
        cluster.call("PATCH", path, Some(&change)).await,
        (200, added("2.1"))
    );
    assert_eq!(recommend(&cluster, "2.1").await.0, 200);
    assert_eq!(recommend(&cluster, "1.0").await.0, 200);
    for method in ["PATCH", "PUT"] {
        let path = match method {
            "PUT" => "/catalog/DEMO/versions/9.9/recommended",
            _ => "/catalog/DEMO/versions/9.9",
        };
        let (status, answer) = cluster
            .call(method, path, Some(r#"{"downloadUrl":"http://a/x.jar"}"#))
            .await;
        assert_eq!(status, 404, "{answer}");
        assert!(
            answer
                .to_string()
                .contains("the catalog has no version 9.9 of DEMO"),
            "{answer}"
        );
    }
    cluster.restart().await;
    for _ in 0..2 {
        let path = "/catalog/demo/versions/2.1";
        assert_eq!(cluster.call("DELETE", path, None).await, (204, Value::Null));
    }
    let expected = json!({ "data": [{
        "platform": "DEMO", "category": "SERVER", "configFormat": "", "version": "1.0", "downloadUrl": URL,
        "sha256": "", "recommended": true, "proxy": false,
    }], "page": 1, "pageSize": 100, "total": 1 });
    assert_eq!(cluster.get("/catalog").await, (200, expected));
    for (body, sentence) in [
        (
            json!({ "version": "../x", "downloadUrl": URL }),
            "version has 1 to 64",
        ),
        (
            json!({ "version": "1", "downloadUrl": "ftp://a/b.jar" }),
            "downloadUrl: ",
        ),
        (
            json!({ "version": "1", "downloadUrl": URL, "sha256": "abc" }),
            "64 hexadecimal",
        ),
        (
            json!({ "version": "1", "downloadUrl": URL, "category": "BOX" }),
            "SERVER or PROXY",
        ),
        (
            json!({ "version": "1", "downloadUrl": URL, "configFormat": "X" }),
            "configFormat must be",
        ),
    ] {
        let (status, answer) = cluster.post("/catalog/DEMO/versions", &body).await;
        assert_eq!(status, 422, "{body}: {answer}");
        assert!(answer.to_string().contains(sentence), "{body}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_jar_gets_that_of_its_platform() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let group = json!({ "name": "a", "platform": "demo", "minInstances": 1, "memoryMb": 1 });
    assert_eq!(cluster.post("/groups", &group).await.0, 201);
    eventually("it says why it cannot be started", async || {
        let (_, group) = cluster.get("/groups/a").await;
        let told = group["scaling"]["refused"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        told.contains("a names no jar, the catalog has none for it")
            .then_some(())
    })
    .await;
    add(&cluster, "1.0", URL).await;
    let body = json!({ "version": "2.0", "downloadUrl": "http://127.0.0.1/two.jar", "category": "PROXY", "configFormat": "VELOCITY" });
    assert_eq!(cluster.post("/catalog/DEMO/versions", &body).await.0, 201);
    assert_eq!(recommend(&cluster, "2.0").await.0, 200);
    // Nobody has to ask again: it was waiting for that.
    let start = puppet.start().await;
    let runtime = start.composition_plan.clone().unwrap().runtime.unwrap();
    assert_eq!(runtime.download_url, "http://127.0.0.1/two.jar");
    assert_eq!(runtime.platform_version, "2.0");
    assert_eq!(start.category(), prexorcloud_proto::InstanceCategory::Proxy);
    assert_eq!(start.config_format(), prexorcloud_proto::ConfigFormat::Velocity);
    puppet.bring_up(&start).await;
    // One that names a version gets that one.
    let group = json!({ "name": "b", "platform": "DEMO", "platformVersion": "1.0", "minInstances": 1, "memoryMb": 1 });
    assert_eq!(cluster.post("/groups", &group).await.0, 201);
    let start = puppet.start().await;
    let runtime = start.composition_plan.unwrap().runtime.unwrap();
    assert_eq!(
        (runtime.download_url.as_str(), runtime.platform_version.as_str()),
        (URL, "1.0")
    );
}
