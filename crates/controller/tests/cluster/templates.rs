//! Templates over HTTP: pushing, versions, variables, and what is refused

use prexorcloud_content::{Digest, Folder, Limits, Manifest, unpack};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Cluster, within};

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let room = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = room.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    Folder::open(room.path())
        .unwrap()
        .scan(&Limits::default())
        .unwrap()
}

fn json_of(manifest: &Manifest) -> String {
    String::from_utf8(manifest.to_json().unwrap()).unwrap()
}

/// Sends what is missing and publishes; says how many blobs travelled, and the version
pub async fn push(cluster: &Cluster, name: &str, files: &[(&str, &str)]) -> (usize, Value) {
    let body = json_of(&manifest(files));
    let (status, missing) = cluster
        .call("POST", &format!("/templates/{name}/missing"), Some(&body))
        .await;
    assert_eq!(status, 200, "{missing}");
    let blobs = missing["missing"].as_array().unwrap();
    for blob in blobs {
        let sha256 = blob["sha256"].as_str().unwrap();
        let (_, bytes) = files
            .iter()
            .find(|(_, bytes)| Digest::of(bytes.as_bytes()).to_string() == sha256)
            .unwrap();
        assert_eq!(blob["sizeBytes"], bytes.len());
        let (status, answer) = cluster
            .call("PUT", &format!("/content/{sha256}"), Some(bytes))
            .await;
        assert_eq!(status, 204, "{answer}");
    }
    let base = missing["current"]
        .as_str()
        .map(|base| format!("?base={base}"))
        .unwrap_or_default();
    let path = format!("/templates/{name}/versions{base}");
    let (status, version) = cluster.call("POST", &path, Some(&body)).await;
    assert!(status == 201 || status == 200, "{version}");
    (blobs.len(), version)
}

/// The body of an answer that is no text
async fn bytes(cluster: &Cluster, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(cluster.http).await.unwrap();
    let request = format!(
        "GET /api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        cluster.admin
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    answer.split_off(end + 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_pushed_compared_rolled_back_and_deleted() {
    let mut cluster = Cluster::start().await;
    let create = json!({ "name": "lobby", "description": "where players arrive", "platform": "PAPER" });
    let (status, created) = cluster.post("/templates", &create).await;
    assert_eq!((status, &created["hash"]), (201, &json!("")), "{created}");
    assert_eq!(cluster.post("/templates", &create).await.0, 409);

    let (sent, first) = push(&cluster, "lobby", &[("a/x.yml", "x: 1"), ("b.txt", "same")]).await;
    assert_eq!(sent, 2);
    let after = [("a/x.yml", "x: 22"), ("b.txt", "same"), ("c", "")];
    let (sent, second) = push(&cluster, "lobby", &after).await;
    assert_eq!(sent, 2);
    assert_eq!(push(&cluster, "lobby", &after).await.0, 0);

    let (_, versions) = cluster.get("/templates/lobby/versions").await;
    let listed: Vec<_> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["hash"].clone())
        .collect();
    assert_eq!(listed, [second["hash"].clone(), first["hash"].clone()]);
    assert_eq!(versions[0]["current"], true);
    let (_, list) = cluster.get("/templates").await;
    assert_eq!(
        (&list[0]["name"], &list[0]["hash"], &list[0]["sizeBytes"]),
        (&json!("lobby"), &second["hash"], &json!(9))
    );

    let (_, diff) = cluster.get("/templates/lobby/diff").await;
    let expected = json!([
        { "path": "a/x.yml", "change": "changed", "sizeBefore": 4, "sizeAfter": 5 },
        { "path": "c", "change": "added", "sizeBefore": null, "sizeAfter": 0 },
    ]);
    assert_eq!((&diff["from"], &diff["changes"]), (&first["hash"], &expected));

    // Nothing of it is in memory only.
    cluster.restart().await;
    let path = format!("/templates/lobby/versions/{}", first["hash"].as_str().unwrap());
    let archive = bytes(&cluster, &format!("{path}/archive")).await;
    assert_eq!(first["archive"], Digest::of(&archive).to_string());
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(&archive[..], into.path(), &Limits::default()).unwrap();
    let (_, shown) = cluster.get(&format!("{path}/manifest")).await;
    assert_eq!(shown, serde_json::to_value(&unpacked.manifest).unwrap());
    let blob = Digest::of(b"same");
    assert_eq!(bytes(&cluster, &format!("/content/{blob}?offset=2")).await, b"me");

    let (status, restored) = cluster.act("/templates/lobby/rollback").await;
    assert_eq!(
        (status, &restored["status"], &restored["hash"]),
        (200, &json!("restored"), &first["hash"])
    );
    let (status, error) = cluster.act("/templates/lobby/rollback").await;
    assert_eq!((status, &error["error"]["code"]), (422, &json!("NO_SNAPSHOT")));
    let (status, _) = cluster
        .post("/templates/lobby/rollback", &json!({ "hash": second["hash"] }))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        cluster
            .post("/templates/lobby/rollback", &json!({ "hash": "x" }))
            .await
            .0,
        404
    );

    let (_, changed) = cluster
        .call("PATCH", "/templates/lobby", Some("{\"description\":\"new\"}"))
        .await;
    assert_eq!(
        (&changed["description"], &changed["platform"]),
        (&json!("new"), &json!("PAPER"))
    );
    // Servers of a group that is called as it get its files, and so do those whose group names it.
    for group in [
        json!({ "name": "lobby" }),
        json!({ "name": "mini", "templates": ["lobby"] }),
        json!({ "name": "far" }),
    ] {
        assert_eq!(cluster.post("/groups", &group).await.0, 201, "{group}");
    }
    let unless_used = "/templates/lobby?ifUnused=true";
    let (status, refusal) = cluster.call("DELETE", unless_used, None).await;
    assert_eq!(status, 409, "{refusal}");
    assert!(refusal.to_string().contains(": lobby, mini."), "{refusal}");
    let ghost = "/templates/ghost?ifUnused=true";
    assert_eq!(cluster.call("DELETE", ghost, None).await.0, 404);
    assert_eq!(cluster.call("DELETE", "/templates/lobby", None).await.0, 204);
    assert_eq!(cluster.get("/templates/lobby").await.0, 404);
    assert_eq!(
        cluster.post("/templates", &json!({ "name": "unused" })).await.0,
        201
    );
    let unused = "/templates/unused?ifUnused=true";
    assert_eq!(cluster.call("DELETE", unused, None).await.0, 204);
    let (_, audit) = cluster.get("/admin/audit").await;
    let actions: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].clone())
        .collect();
    for action in [
        "template.create",
        "template.publish",
        "template.rollback",
        "template.update",
        "template.delete",
    ] {
        assert!(actions.contains(&json!(action)), "{action}: {actions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed_is_told_at_once() {
    let cluster = Cluster::start().await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    let huge = format!(
        "{{\"entries\":[{{\"path\":\"a\",\"kind\":\"file\",\"size\":{},\"sha256\":\"{}\"}}]}}",
        3u64 << 30,
        Digest::of(b"")
    );
    let out = "{\"entries\":[{\"path\":\"a\",\"kind\":\"link\",\"target\":\"../../etc\"}]}";
    let one = json_of(&manifest(&[("a", "one")]));
    for (path, body, status, code, sentence) in [
        (
            "/templates/lobby/missing",
            huge.as_str(),
            422,
            "VALIDATION_ERROR",
            "limit for one file",
        ),
        (
            "/templates/lobby/missing",
            out,
            422,
            "VALIDATION_ERROR",
            "leads out",
        ),
        (
            "/templates/lobby/missing",
            "{",
            422,
            "VALIDATION_ERROR",
            "no manifest",
        ),
        (
            "/templates/other/missing",
            &one,
            404,
            "NOT_FOUND",
            "no such template",
        ),
        (
            "/templates/lobby/versions",
            &one,
            409,
            "CONTENT_MISSING",
            "1 files",
        ),
        (
            "/templates/lobby/versions?base=xyz",
            &one,
            422,
            "VALIDATION_ERROR",
            "64 hexadecimal",
        ),
        (
            "/templates",
            "{\"name\":\"../x\"}",
            422,
            "VALIDATION_ERROR",
            "1 to 32",
        ),
    ] {
        let (found, answer) = cluster.call("POST", path, Some(body)).await;
        assert_eq!(
            (found, &answer["error"]["code"]),
            (status, &json!(code)),
            "{path}: {answer}"
        );
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(sentence),
            "{answer}"
        );
    }
    let name = Digest::of(b"one");
    let (status, answer) = cluster
        .call("PUT", &format!("/content/{name}"), Some("two"))
        .await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (422, &json!("CONTENT_MISMATCH"))
    );
    assert_eq!(cluster.call("PUT", "/content/xyz", Some("two")).await.0, 422);
    assert_eq!(cluster.get(&format!("/content/{name}")).await.0, 404);

    // Two pushes that began at the same version: the second to publish is told.
    push(&cluster, "lobby", &[("a", "zero")]).await;
    let (_, asked) = cluster.call("POST", "/templates/lobby/missing", Some(&one)).await;
    push(&cluster, "lobby", &[("a", "faster")]).await;
    cluster
        .call("PUT", &format!("/content/{name}"), Some("one"))
        .await;
    let path = format!(
        "/templates/lobby/versions?base={}",
        asked["current"].as_str().unwrap()
    );
    let (status, answer) = cluster.call("POST", &path, Some(&one)).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("CONFLICT")));
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("somebody else"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_limits_are_told_at_the_push() {
    let text = "[templates]\nmax_entries = 2\nmax_file_bytes = 4\nmax_total_bytes = 6";
    let read = prexorcloud_controller::config::parse(text, "controller.toml", []).unwrap();
    let cluster = Cluster::start_with(|config| config.templates = read.config.templates).await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    push(&cluster, "lobby", &[("a", "1234"), ("b", "12")]).await;
    for (files, sentence) in [
        (
            &[("a", "1"), ("b", "2"), ("c", "3")][..],
            "more than 2 files and folders",
        ),
        (&[("a", "12345")], "4 are the limit for one file"),
        (
            &[("a", "1234"), ("b", "123")],
            "more than 6 bytes in all files together",
        ),
    ] {
        let body = json_of(&manifest(files));
        let (status, answer) = cluster
            .call("POST", "/templates/lobby/missing", Some(&body))
            .await;
        let told = answer["error"]["message"].as_str().unwrap();
        assert!(status == 422 && told.contains(sentence), "{sentence}: {answer}");
    }
    let (status, answer) = cluster
        .call(
            "PUT",
            &format!("/content/{}", Digest::of(b"12345")),
            Some("12345"),
        )
        .await;
    assert_eq!(status, 413, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_shown_without_their_secrets_and_permissions_count() {
    let cluster = Cluster::start().await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    let path = "/templates/lobby/variables";
    let variables = json!([
        { "key": "mode", "type": "ENUM", "defaultValue": "EASY", "required": true, "scope": "GROUP",
          "visibility": "", "description": "", "validation": { "enumValues": ["EASY", "HARD"] } },
        { "key": "password", "type": "SECRET", "defaultValue": "hunter2", "scope": "TEMPLATE" },
    ]);
    let set = variables.to_string();
    assert_eq!(cluster.call("PUT", path, Some(&set)).await.0, 204);
    let (_, shown) = cluster.get(path).await;
    assert_eq!(shown[0], variables[0]);
    assert_eq!(
        (&shown[1]["defaultValue"], &shown[1]["hasDefault"]),
        (&json!(null), &json!(true))
    );
    assert_eq!(cluster.call("PUT", path, Some(&shown.to_string())).await.0, 204);
    assert_eq!(cluster.get(path).await.1, shown);
    for wrong in [
        json!([{ "key": "a", "type": "INT", "defaultValue": "x" }]),
        json!([{ "key": "a b", "type": "INT" }]),
        json!([{ "key": "a", "type": "NUMBER" }]),
        json!([{ "key": "a", "type": "STRING", "validation": { "regex": "(" } }]),
    ] {
        let (status, answer) = cluster.call("PUT", path, Some(&wrong.to_string())).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (422, &json!("VALIDATION_ERROR")),
            "{wrong}"
        );
    }
    let viewer = json!({ "name": "viewer", "permissions": ["templates.view"] });
    let (status, minted) = cluster.post("/admin/access-tokens", &viewer).await;
    assert_eq!(status, 201, "{minted}");
    let token = minted["token"].as_str();
    assert_eq!(cluster.call_as(token, "GET", path, None).await.0, 200);
    for (method, path, body) in [
        ("PUT", path, "[]"),
        ("POST", "/templates", "{\"name\":\"x\"}"),
        ("DELETE", "/templates/lobby", ""),
        ("POST", "/templates/lobby/missing", "{}"),
        ("PUT", "/content/00", "x"),
    ] {
        assert_eq!(
            cluster.call_as(token, method, path, Some(body)).await.0,
            403,
            "{method} {path}"
        );
    }
}
