//! Modules from an operator's upload to what nodes say of them

use prexorcloud_content::Digest;
use prexorcloud_proto::{
    ArtifactKind, FetchArtifactRequest, Handshake, ModuleInstall, ModuleReport, ModuleSnapshot,
    ModuleStateUpdate, artifact_service_client::ArtifactServiceClient,
    controller_message::Payload as ToDaemon, daemon_message::Payload,
};
use prexorcloud_protocol::Capabilities;
use prexorcloud_security::credential::Credential;
use serde_json::Value;

use crate::module_jar::{jar, module};
use crate::puppet::{Puppet, handshake};
use crate::support::{Cluster, eventually, within};

fn linked(id: &str, provides: &str, requires: &str) -> String {
    jar(&format!(
        "id: {id}\nversion: 1.0.0\nhosts: [daemon]\nbackend: {{daemon: {{entrypoint: a.Main}}}}\ncapabilities:\n  \
         provides: [{{id: {provides}, version: 1.0.0}}]\n  requires: [{{id: {requires}, versionRange: ^1.0}}]\n"
    ))
}

pub async fn form(cluster: &Cluster, parts: &[(&str, &str, &str)]) -> (u16, Value) {
    form_with(cluster, "", parts).await
}

async fn form_with(cluster: &Cluster, headers: &str, parts: &[(&str, &str, &str)]) -> (u16, Value) {
    let mut body = String::new();
    for (name, file, content) in parts {
        body += &format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\r\n{content}\r\n"
        );
    }
    body += "--b0undary--\r\n";
    let headers = format!("{headers}Content-Type: multipart/form-data; boundary=b0undary\r\n");
    let (status, _, answer) = cluster
        .call_with(&headers, "POST", "/modules/platform/upload", &body)
        .await;
    (status, answer)
}

async fn upload(cluster: &Cluster, jar: &str) -> (u16, Value) {
    form(cluster, &[("file", "module.jar", jar)]).await
}

async fn installed(cluster: &Cluster, jar: &str) -> String {
    let (status, answer) = upload(cluster, jar).await;
    assert_eq!(status, 201, "{answer}");
    let sha256 = Digest::of(jar.as_bytes()).to_string();
    assert_eq!(answer["sha256"], *sha256);
    sha256
}

async fn cluster() -> Cluster {
    Cluster::start_with(|config| config.module_signing.is_optional = true).await
}

/// A daemon of ours, which lists what it has
async fn join(cluster: &Cluster, credential: &Credential, node: &str, has: &[(&str, &str, &str)]) -> Puppet {
    let puppet = connect(
        cluster,
        credential,
        node,
        Capabilities::MODULES.union(Capabilities::ARTIFACTS),
    )
    .await;
    let report = |(module, sha256, state): &(&str, &str, &str)| ModuleReport {
        module_id: (*module).to_owned(),
        version: "1.0.0".to_owned(),
        sha256: (*sha256).to_owned(),
        state: (*state).to_owned(),
        last_error: String::new(),
    };
    let modules = has.iter().map(report).collect();
    puppet
        .say(Payload::ModuleSnapshot(ModuleSnapshot { modules }))
        .await;
    puppet
}

async fn connect(cluster: &Cluster, credential: &Credential, node: &str, more: Capabilities) -> Puppet {
    let mut puppet = Puppet::open(cluster, credential).await.unwrap();
    let handshake = Handshake {
        capabilities: Capabilities::SESSION.union(more).to_wire(),
        ..handshake(node)
    };
    puppet.say(Payload::Handshake(Box::new(handshake))).await;
    let ack = puppet.next().await.unwrap();
    assert!(matches!(ack, ToDaemon::HandshakeAck(_)), "{ack:?}");
    cluster.node_status_is_connected(node).await;
    puppet
}

async fn install(puppet: &mut Puppet) -> ModuleInstall {
    match puppet.next().await.unwrap() {
        ToDaemon::ModuleInstall(install) => *install,
        other => panic!("expected a module, got {other:?}"),
    }
}

async fn uninstall(puppet: &mut Puppet) -> String {
    match puppet.next().await.unwrap() {
        ToDaemon::ModuleUninstall(uninstall) => uninstall.module_id,
        other => panic!("expected a removal, got {other:?}"),
    }
}

async fn say(puppet: &Puppet, module: &str, sha256: &str, state: &str, error: &str) {
    let update = ModuleStateUpdate {
        module_id: module.to_owned(),
        state: state.to_owned(),
        last_error: error.to_owned(),
        updated_at_ms: 1,
        sha256: sha256.to_owned(),
        ..ModuleStateUpdate::default()
    };
    puppet.say(Payload::ModuleStateUpdate(Box::new(update))).await;
}

/// Waits until a node's module is in this state, as operators see it
async fn shown(cluster: &Cluster, module: &str, node: &str, state: &str) -> Value {
    eventually(&format!("{module} on {node} is {state}"), async || {
        let (_, states) = cluster.get("/modules/states").await;
        let is_it = |row: &&Value| row["module"] == module && row["node"] == node && row["state"] == state;
        states.as_array().unwrap().iter().find(is_it).cloned()
    })
    .await
}

#[tokio::test]
async fn three_nodes_get_a_module_lose_it_and_catch_up_across_a_restart_of_the_controller() {
    let mut cluster = cluster().await;
    let mut credentials = Vec::new();
    for node in ["node-1", "node-2", "node-3"] {
        credentials.push(cluster.enrol(node).await);
    }
    let mut first = join(&cluster, &credentials[0], "node-1", &[]).await;
    let mut java = connect(&cluster, &credentials[1], "node-2", Capabilities::NONE).await;
    let jar = module("stats", "1.0.0");
    let sha256 = installed(&cluster, &jar).await;

    // Ours is told where the jar is, and fetches it; the Java daemon gets it.
    let order = install(&mut first).await;
    assert_eq!(
        (order.sha256.as_str(), order.jar_bytes.len(), order.is_upgrade),
        (sha256.as_str(), 0, false)
    );
    assert!(order.manifest_yaml.contains("id: stats"));
    let mut artifacts = ArtifactServiceClient::new(first.connection.clone());
    let request = FetchArtifactRequest {
        kind: ArtifactKind::Module.into(),
        name: "stats".to_owned(),
        hash: sha256.clone(),
        offset: 0,
    };
    let mut chunks = within(artifacts.fetch(request.clone()))
        .await
        .unwrap()
        .into_inner();
    let chunk = within(chunks.message()).await.unwrap().unwrap();
    assert!(chunk.last && chunk.data == jar.as_bytes());
    let order = install(&mut java).await;
    assert_eq!(order.jar_bytes, jar.as_bytes());
    // Nobody else may have it.
    let other = Puppet::open(&cluster, &credentials[2]).await.unwrap();
    let mut artifacts = ArtifactServiceClient::new(other.connection.clone());
    assert_eq!(
        within(artifacts.fetch(request)).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    drop(other);

    say(&first, "stats", &sha256, "ACTIVE", "").await;
    say(&java, "stats", "", "FAILED", "no room").await;
    shown(&cluster, "stats", "node-1", "ACTIVE").await;
    assert_eq!(
        shown(&cluster, "stats", "node-2", "FAILED").await["lastError"],
        "no room"
    );
    let away = shown(&cluster, "stats", "node-3", "PENDING").await;
    assert_eq!(
        (&away["connected"], &away["installed"]),
        (&Value::Bool(false), &Value::Bool(true))
    );

    // Another version, while the controller is replaced.
    cluster.restart().await;
    let newer = installed(&cluster, &module("stats", "1.1.0")).await;
    shown(&cluster, "stats", "node-1", "ACTIVE").await;
    let mut first = join(
        &cluster,
        &credentials[0],
        "node-1",
        &[("stats", &sha256, "ACTIVE")],
    )
    .await;
    let order = install(&mut first).await;
    assert_eq!((order.sha256.as_str(), order.is_upgrade), (newer.as_str(), true));
    assert_eq!(order.previous_version, "1.0.0");
    say(&first, "stats", &newer, "ACTIVE", "").await;
    shown(&cluster, "stats", "node-1", "ACTIVE").await;

    // Uninstalled while two are away: they hear of it when they are back, and nothing is sent that is there.
    let (status, _) = cluster.call("DELETE", "/modules/platform/stats", None).await;
    assert_eq!(status, 204);
    let (_, told) = cluster
        .get("/events?since=0&type=MODULE_LOADED,MODULE_UNLOADED")
        .await;
    let told: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (&event["type"], &event["moduleName"], &event["hasFrontend"]))
        .collect();
    let (loaded, unloaded) = (Value::from("MODULE_LOADED"), Value::from("MODULE_UNLOADED"));
    let (stats, no) = (Value::from("stats"), Value::Bool(false));
    assert_eq!(
        told,
        [
            (&loaded, &stats, &no),
            (&loaded, &stats, &no),
            (&unloaded, &stats, &Value::Null)
        ]
    );
    assert_eq!(uninstall(&mut first).await, "stats");
    say(&first, "stats", "", "UNLOADED", "").await;
    shown(&cluster, "stats", "node-1", "UNLOADED").await;
    cluster.restart().await;
    let mut java = connect(&cluster, &credentials[1], "node-2", Capabilities::NONE).await;
    assert_eq!(uninstall(&mut java).await, "stats");
    let mut third = join(&cluster, &credentials[2], "node-3", &[("stray", "ab", "ACTIVE")]).await;
    assert_eq!(uninstall(&mut third).await, "stray");
    assert_eq!(
        shown(&cluster, "stray", "node-3", "ACTIVE").await["installed"],
        Value::Bool(false)
    );
    let (status, answer) = cluster.call("DELETE", "/modules/platform/stats", None).await;
    assert_eq!(
        (status, answer["error"]["message"].as_str()),
        (404, Some("Platform module not found: stats"))
    );
}

/// A name, the parts of a form, and the answer to it: status, code, words
type Refused<'a> = (&'a str, Vec<(&'a str, &'a str, &'a str)>, u16, &'a str, &'a str);

#[tokio::test]
async fn what_nobody_should_install_is_refused_with_its_reason() {
    let cluster = cluster().await;
    let good = module("good", "1.0.0");
    let no_manifest = good.replace("META-INF/prexor/module.yaml", "META-INF/prexor/nodule.yaml");
    let cases: &[Refused<'_>] = &[
        (
            "no file",
            vec![("other", "x.jar", &good)],
            400,
            "MISSING_FILE",
            "No file uploaded",
        ),
        (
            "no jar",
            vec![("file", "x.zip", &good)],
            400,
            "INVALID_FILE",
            "has to be a .jar",
        ),
        (
            "a path",
            vec![("file", "a/x.jar", &good)],
            400,
            "INVALID_FILE",
            "without folders",
        ),
        (
            "an unknown signature",
            vec![("file", "x.jar", &good), ("signature", "x.asc", "")],
            400,
            "INVALID_SIGNATURE",
            ".sig or .cosign.bundle",
        ),
        (
            "junk",
            vec![("file", "x.jar", "junk")],
            422,
            "VALIDATION_ERROR",
            "not a jar",
        ),
        (
            "truncated",
            vec![("file", "x.jar", &good[..good.len() - 9])],
            422,
            "VALIDATION_ERROR",
            "truncated",
        ),
        (
            "no manifest",
            vec![("file", "x.jar", &no_manifest)],
            422,
            "VALIDATION_ERROR",
            "not a module",
        ),
    ];
    for (name, parts, expected, code, words) in cases {
        let (status, answer) = form(&cluster, parts).await;
        let error = &answer["error"];
        assert_eq!(
            (status, error["code"].as_str()),
            (*expected, Some(*code)),
            "{name}: {answer}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{name}: {answer}"
        );
    }
    let manifest = "id: a\nversion: 1.0.0\nbackend: {entrypoint: a.B}\nsurprise: 1\n";
    let (status, answer) = upload(&cluster, &jar(manifest)).await;
    assert_eq!(status, 422);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("surprise: there is no such field")
    );
    let (status, answer) = upload(
        &cluster,
        &jar(&manifest.replace("id: a", "id: a/b").replace("surprise: 1", "")),
    )
    .await;
    assert_eq!(status, 422);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("id: it is not"),
        "{answer}"
    );
    let (_, list) = cluster.get("/modules").await;
    assert_eq!(list, Value::Array(Vec::new()));

    // Unsigned ones are refused where nothing else is configured.
    let strict = Cluster::start().await;
    let (status, answer) = upload(&strict, &good).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (422, Some("SIGNATURE_VERIFICATION_FAILED"))
    );
    let parts = [
        ("file", "x.jar", good.as_str()),
        ("signature", "x.jar.sig", "AAAA"),
    ];
    let (status, answer) = form(&strict, &parts).await;
    assert_eq!(status, 422);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no trust root"),
        "{answer}"
    );
}

#[tokio::test]
async fn modules_fit_together_or_are_told() {
    let cluster = cluster().await;
    let (status, answer) = upload(&cluster, &linked("a", "one", "two")).await;
    assert_eq!(
        (status, answer["unresolvedRequirements"][0].as_str()),
        (201, Some("two ^1.0"))
    );
    let (status, answer) = upload(&cluster, &linked("b", "two", "one")).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (409, Some("PLATFORM_INSTALL_FAILED"))
    );
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("circle"),
        "{answer}"
    );
    installed(&cluster, &linked("b", "two", "three")).await;
    let (_, list) = cluster.get("/modules/platform").await;
    assert_eq!(
        list["modules"][0]["unresolvedRequirements"],
        Value::Array(Vec::new())
    );

    // The same jar again changes nothing; another one of the same version is another matter.
    let jar = module("c", "1.0.0");
    installed(&cluster, &jar).await;
    let (status, answer) = upload(&cluster, &jar).await;
    assert_eq!((status, answer["unchanged"].as_bool()), (200, Some(true)));
    let (status, answer) = upload(&cluster, &module("c", "1.0.0").replace("a.Main", "a.Mian")).await;
    assert!(status == 409 || status == 422, "{answer}");

    // Of two at once one wins, and the other is told or comes later.
    let (one, other) = (module("d", "1.0.0"), module("d", "1.0.1"));
    let (one, other) = tokio::join!(upload(&cluster, &one), upload(&cluster, &other));
    assert!([one.0, other.0].contains(&201) && [one.0, other.0].iter().all(|s| [201, 409].contains(s)));
}

#[tokio::test]
async fn an_earlier_version_counts_again_and_further_back_each_time() {
    let cluster = cluster().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = join(&cluster, &credential, "node-1", &[]).await;
    let mut digests = Vec::new();
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        let sha256 = installed(&cluster, &module("stats", version)).await;
        let order = install(&mut puppet).await;
        assert_eq!(
            (order.version.as_str(), order.sha256.as_str()),
            (version, sha256.as_str())
        );
        say(&puppet, "stats", &sha256, "ACTIVE", "").await;
        shown(&cluster, "stats", "node-1", "ACTIVE").await;
        digests.push(sha256);
    }
    let rollback = async |body: &str| {
        cluster
            .call("POST", "/modules/platform/stats/rollback", Some(body))
            .await
    };
    for (body, version, sha256) in [
        ("", "1.1.0", &digests[1]),
        ("{}", "1.0.0", &digests[0]),
        (r#"{"version":"1.2.0"}"#, "1.2.0", &digests[2]),
    ] {
        let (status, answer) = rollback(body).await;
        assert_eq!((status, &answer["version"]), (200, &version.into()), "{answer}");
        let order = install(&mut puppet).await;
        assert_eq!((order.version.as_str(), &order.sha256), (version, sha256));
        assert!(order.is_upgrade, "it goes back if this one fails");
        say(&puppet, "stats", sha256, "ACTIVE", "").await;
    }
    let (_, listed) = cluster.get("/modules/platform").await;
    assert_eq!(
        listed["modules"][0]["formerVersions"],
        serde_json::json!(["1.1.0", "1.0.0"])
    );
    for (body, status, says) in [
        (r#"{"version":"1.2.0"}"#, 409, "counts already"),
        (r#"{"version":"9.9.9"}"#, 409, "these are: 1.1.0, 1.0.0"),
        (r#"{"sha256":""}"#, 422, "unknown field"),
    ] {
        let (answered, answer) = rollback(body).await;
        assert_eq!(answered, status, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(says),
            "{answer}"
        );
    }
    rollback(r#"{"version":"1.0.0"}"#).await;
    let (status, answer) = rollback("{}").await;
    assert_eq!(status, 409, "nothing is before the first: {answer}");
    let (status, _) = cluster.act("/modules/platform/other/rollback").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_version_whose_jar_is_gone_is_not_gone_back_to() {
    let cluster = cluster().await;
    let first = installed(&cluster, &module("stats", "1.0.0")).await;
    installed(&cluster, &module("stats", "1.1.0")).await;
    let blobs = cluster.folder.path().join("data/content/blobs");
    std::fs::remove_file(blobs.join(&first[..2]).join(&first)).unwrap();
    let (status, answer) = cluster.act("/modules/platform/stats/rollback").await;
    assert_eq!(status, 409, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("install it again"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_failure_is_tried_again_when_an_operator_asks_for_it() {
    let cluster = cluster().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = join(&cluster, &credential, "node-1", &[]).await;
    let sha256 = installed(&cluster, &module("stats", "1.0.0")).await;
    install(&mut puppet).await;
    let retry = async |id: &str| cluster.act(&format!("/modules/platform/{id}/retry")).await;
    assert_eq!(retry("stats").await.1["nodes"], 0, "it is on its way");
    say(&puppet, "stats", &sha256, "FAILED", "no room").await;
    shown(&cluster, "stats", "node-1", "FAILED").await;
    assert_eq!(retry("stats").await.1["nodes"], 1);
    assert_eq!(install(&mut puppet).await.sha256, sha256);
    assert_eq!(retry("other").await.0, 404);
}

#[tokio::test]
async fn orders_about_a_module_belong_to_the_trace_of_the_request() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-";
    const PARENT: &str = "b7ad6b7169203331";
    let header = format!("traceparent: {TRACE}{PARENT}-01\r\n");
    let is_traced =
        |puppet: &Puppet| puppet.traceparent.starts_with(TRACE) && !puppet.traceparent.contains(PARENT);
    let cluster = cluster().await;
    let (here, away) = (cluster.enrol("node-1").await, cluster.enrol("node-2").await);
    let mut first = join(&cluster, &here, "node-1", &[]).await;
    let (status, answer) = form_with(
        &cluster,
        &header,
        &[("file", "module.jar", &module("stats", "1.0.0"))],
    )
    .await;
    assert_eq!(status, 201, "{answer}");
    install(&mut first).await;
    assert!(is_traced(&first), "{:?}", first.traceparent);
    // One that was away is given its jar in a message, of the same trace.
    let mut second = connect(&cluster, &away, "node-2", Capabilities::NONE).await;
    install(&mut second).await;
    assert!(is_traced(&second), "{:?}", second.traceparent);

    installed(&cluster, &module("stats", "1.1.0")).await;
    install(&mut first).await;
    assert_eq!(first.traceparent, "", "this request named none");
    let (status, _, answer) = cluster
        .call_with(&header, "DELETE", "/modules/platform/stats", "")
        .await;
    assert_eq!(status, 204, "{answer}");
    uninstall(&mut first).await;
    assert!(is_traced(&first), "{:?}", first.traceparent);
}
