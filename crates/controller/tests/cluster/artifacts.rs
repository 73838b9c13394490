//! Artifacts over `ArtifactService`: what a node was told to fetch, from any byte on, and nothing else

use prexorcloud_content::Digest;
use prexorcloud_proto::{
    ArtifactChunk, ArtifactKind, ArtifactRef, FetchArtifactRequest, TemplateRequest,
    artifact_service_client::ArtifactServiceClient, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use prexorcloud_protocol::{Capabilities, content::transfer::MAX_CHUNK_BYTES};
use prexorcloud_transport::Connection;
use serde_json::json;
use tonic::{Code, Status};

use crate::puppet::{Puppet, handshake};
use crate::support::{Cluster, within};
use crate::templates::push;

/// Bytes that do not shrink, so that an archive has several pieces
fn noise(seed: u8, length: usize) -> String {
    let mut digest = Digest::of(&[seed]).to_string();
    let mut text = String::with_capacity(length + 64);
    while text.len() < length {
        digest = Digest::of(digest.as_bytes()).to_string();
        text.push_str(&digest);
    }
    text.truncate(length);
    text
}

async fn join(cluster: &Cluster, node: &str) -> Puppet {
    let credential = cluster.enrol(node).await;
    let mut puppet = Puppet::open(cluster, &credential).await.unwrap();
    let both = Capabilities::SESSION.union(Capabilities::ARTIFACTS);
    puppet
        .say(Payload::Handshake(Box::new(prexorcloud_proto::Handshake {
            capabilities: both.to_wire(),
            ..handshake(node)
        })))
        .await;
    let ToDaemon::HandshakeAck(ack) = puppet.next().await.unwrap() else {
        panic!("the acknowledgement comes first");
    };
    assert!(ack.capabilities.iter().any(|name| name == "artifacts/1"));
    cluster.node_status_is_connected(node).await;
    puppet
}

/// Orders a start with a template, so that the node may ask for it, and gives the hash that it names
async fn order(cluster: &Cluster, puppet: &mut Puppet, node: &str, template: &str) -> String {
    let order = json!({ "group": "lobby", "node": node, "jar": "/srv/server.jar", "templates": [template] });
    let (status, created) = cluster.post("/instances", &order).await;
    assert_eq!(status, 201, "{created}");
    let start = puppet.start().await;
    start.composition_plan.unwrap().templates[0].hash.clone()
}

async fn refusal(puppet: &mut Puppet, name: &str, wanted_hash: &str) -> String {
    match ask(puppet, name, wanted_hash).await {
        ToDaemon::ErrorReport(report) => report.error_code,
        other => panic!("expected an error report, got {other:?}"),
    }
}

async fn ask(puppet: &mut Puppet, name: &str, wanted_hash: &str) -> ToDaemon {
    puppet
        .say(Payload::TemplateRequest(TemplateRequest {
            template_name: name.to_owned(),
            wanted_hash: wanted_hash.to_owned(),
            ..TemplateRequest::default()
        }))
        .await;
    puppet.next().await.unwrap()
}

async fn reference(puppet: &mut Puppet, name: &str, wanted_hash: &str) -> ArtifactRef {
    match ask(puppet, name, wanted_hash).await {
        ToDaemon::TemplateData(data) => {
            assert!(data.tar_gz.is_empty(), "the bytes come on another connection");
            let reference = data.artifact.unwrap();
            assert_eq!(reference.sha256, data.hash);
            reference
        }
        other => panic!("expected a reference, got {other:?}"),
    }
}

fn request(name: &str, hash: &str, offset: i64) -> FetchArtifactRequest {
    FetchArtifactRequest {
        kind: ArtifactKind::Template.into(),
        name: name.to_owned(),
        hash: hash.to_owned(),
        offset,
    }
}

/// The bytes from the offset on, which have to come as the contract says
async fn fetch(connection: &Connection, request: FetchArtifactRequest) -> Result<Vec<u8>, Status> {
    let mut next = request.offset;
    let mut client = ArtifactServiceClient::new(connection.clone());
    let mut chunks = within(client.fetch(request)).await?.into_inner();
    let (mut bytes, mut is_whole) = (Vec::new(), false);
    while let Some(ArtifactChunk { offset, data, last }) = within(chunks.message()).await? {
        assert!(!is_whole, "nothing comes after the last piece");
        assert_eq!(offset, next);
        assert!(
            last || (64 * 1024..=MAX_CHUNK_BYTES).contains(&data.len()),
            "{}",
            data.len()
        );
        next += i64::try_from(data.len()).unwrap();
        bytes.extend_from_slice(&data);
        is_whole = last;
    }
    assert!(is_whole);
    Ok(bytes)
}

async fn code(connection: &Connection, request: FetchArtifactRequest) -> Code {
    fetch(connection, request).await.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_fetches_what_it_was_told_to_from_any_byte_on() {
    let mut cluster = Cluster::start().await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    let (one, other) = (noise(1, 700_000), noise(2, 700_000));
    push(&cluster, "lobby", &[("one", &one), ("other", &other)]).await;
    let mut puppet = join(&cluster, "node-1").await;
    order(&cluster, &mut puppet, "node-1", "lobby").await;
    let ArtifactRef { sha256, size_bytes } = reference(&mut puppet, "lobby", "").await;

    let whole = fetch(&puppet.connection, request("lobby", &sha256, 0))
        .await
        .unwrap();
    assert_eq!(Digest::of(&whole).to_string(), sha256);
    assert_eq!(i64::try_from(whole.len()).unwrap(), size_bytes);
    for offset in [1, 300_000, size_bytes - 1, size_bytes] {
        let rest = fetch(&puppet.connection, request("lobby", &sha256, offset))
            .await
            .unwrap();
        assert!(whole.ends_with(&rest), "{offset}");
        assert_eq!(i64::try_from(rest.len()).unwrap(), size_bytes - offset);
    }

    let no_kind = FetchArtifactRequest {
        kind: 0,
        ..request("lobby", &sha256, 0)
    };
    let module = FetchArtifactRequest {
        kind: ArtifactKind::Module.into(),
        ..request("lobby", &sha256, 0)
    };
    for (request, expected) in [
        (request("lobby", &sha256, size_bytes + 1), Code::OutOfRange),
        (request("lobby", &sha256, -1), Code::InvalidArgument),
        (request("../lobby", &sha256, 0), Code::InvalidArgument),
        (request("lobby", "abc", 0), Code::InvalidArgument),
        (no_kind, Code::InvalidArgument),
        (module, Code::NotFound),
        (request("other", &sha256, 0), Code::NotFound),
        // A blob that is there, and no artifact of anybody.
        (
            request("lobby", &Digest::of(one.as_bytes()).to_string(), 0),
            Code::NotFound,
        ),
    ] {
        assert_eq!(
            code(&puppet.connection, request.clone()).await,
            expected,
            "{request:?}"
        );
    }
    let another = join(&cluster, "node-2").await;
    assert_eq!(
        code(&another.connection, request("lobby", &sha256, 0)).await,
        Code::NotFound
    );
    let nobody = cluster.dial(None).await.unwrap();
    assert_eq!(
        code(&nobody, request("lobby", &sha256, 0)).await,
        Code::PermissionDenied
    );

    // What was told before a restart is asked for again.
    cluster.restart().await;
    let mut puppet = join(&cluster, "node-3").await;
    order(&cluster, &mut puppet, "node-3", "lobby").await;
    assert_eq!(
        code(&puppet.connection, request("lobby", &sha256, 0)).await,
        Code::NotFound
    );
    reference(&mut puppet, "lobby", &sha256).await;
    assert!(
        fetch(&puppet.connection, request("lobby", &sha256, 0))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_archive_is_made_anew_or_sent_again() {
    let cluster = Cluster::start().await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    let text = noise(3, 600_000);
    let files = [("one", text.as_str())];
    let (_, version) = push(&cluster, "lobby", &files).await;
    let blob = |name: &str| {
        cluster
            .config
            .data_dir
            .join("content/blobs")
            .join(&name[..2])
            .join(name)
    };
    let archive = version["archive"].as_str().unwrap().to_owned();
    let mut puppet = join(&cluster, "node-1").await;
    order(&cluster, &mut puppet, "node-1", "lobby").await;
    reference(&mut puppet, "lobby", "").await;
    let whole = std::fs::read(blob(&archive)).unwrap();

    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    for bytes in [damaged.clone(), whole[..200_000].to_vec()] {
        std::fs::write(blob(&archive), &bytes).unwrap();
        // Short of its end it is a whole of another digest.
        assert_eq!(
            code(&puppet.connection, request("lobby", &archive, 0)).await,
            Code::DataLoss
        );
        assert_eq!(std::fs::read(blob(&archive)).unwrap(), whole);
        let again = fetch(&puppet.connection, request("lobby", &archive, 0))
            .await
            .unwrap();
        assert_eq!(again, whole);
    }

    // What a disk may leave of it after a power failure.
    for gone in [true, false] {
        match gone {
            true => std::fs::remove_file(blob(&archive)).unwrap(),
            false => std::fs::write(blob(&archive), "").unwrap(),
        }
        let made = fetch(&puppet.connection, request("lobby", &archive, 0)).await;
        assert_eq!(made.unwrap(), whole);
    }

    // A peer that gets it inside of a message is not given the damaged one, either.
    let credential = cluster.enrol("node-2").await;
    let mut plain = Puppet::join(&cluster, &credential, "node-2").await;
    order(&cluster, &mut plain, "node-2", "lobby").await;
    std::fs::write(blob(&archive), &damaged).unwrap();
    let ToDaemon::TemplateData(data) = ask(&mut plain, "lobby", "").await else {
        panic!("the archive");
    };
    assert_eq!(data.tar_gz, whole);

    // Where the file is damaged, too, only its pusher can help.
    let file = Digest::of(text.as_bytes()).to_string();
    std::fs::write(blob(&file), "x").unwrap();
    std::fs::write(blob(&archive), &damaged).unwrap();
    assert_eq!(
        code(&puppet.connection, request("lobby", &archive, 0)).await,
        Code::DataLoss
    );
    assert_eq!(
        code(&puppet.connection, request("lobby", &archive, 0)).await,
        Code::NotFound
    );
    let ToDaemon::ErrorReport(report) = ask(&mut plain, "lobby", "").await else {
        panic!("an error");
    };
    assert_eq!(report.error_code, "TEMPLATE_UNAVAILABLE");
    let (sent, again) = push(&cluster, "lobby", &files).await;
    assert_eq!((sent, again["archive"].as_str().unwrap()), (1, archive.as_str()));
    reference(&mut puppet, "lobby", "").await;
    assert_eq!(
        fetch(&puppet.connection, request("lobby", &archive, 0))
            .await
            .unwrap(),
        whole
    );

    // Pushing what is there already looks at what is there.
    let manifest = version["hash"].as_str().unwrap();
    for name in [manifest, &archive] {
        std::fs::write(blob(name), "x").unwrap();
        let (sent, same) = push(&cluster, "lobby", &files).await;
        assert_eq!((sent, &same["number"]), (0, &json!(1)), "{same}");
        assert_eq!(Digest::of(&std::fs::read(blob(name)).unwrap()).to_string(), name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_start_gets_its_version_whatever_becomes_of_the_template() {
    let cluster = Cluster::start().await;
    cluster.post("/templates", &json!({ "name": "lobby" })).await;
    let (_, version) = push(&cluster, "lobby", &[("one", "first")]).await;
    let mut puppet = join(&cluster, "node-1").await;
    let hash = order(&cluster, &mut puppet, "node-1", "lobby").await;
    assert_eq!(hash, version["archive"].as_str().unwrap());
    assert_eq!(cluster.call("DELETE", "/templates/lobby", None).await.0, 204);

    let told = reference(&mut puppet, "lobby", &hash).await;
    assert!(
        fetch(&puppet.connection, request("lobby", &told.sha256, 0))
            .await
            .is_ok()
    );
    let mut another = join(&cluster, "node-2").await;
    assert_eq!(refusal(&mut another, "lobby", &hash).await, "TEMPLATE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_get_a_template_that_no_order_of_it_names() {
    let cluster = Cluster::start().await;
    for name in ["lobby", "secret", "warm"] {
        cluster.post("/templates", &json!({ "name": name })).await;
        push(&cluster, name, &[("one", name)]).await;
    }
    let mut puppet = join(&cluster, "node-1").await;
    let first = order(&cluster, &mut puppet, "node-1", "lobby").await;
    let (_, second) = push(&cluster, "lobby", &[("one", "second")]).await;
    let second = second["archive"].as_str().unwrap().to_owned();
    assert_eq!(reference(&mut puppet, "lobby", &first).await.sha256, first);
    // Without a hash it is what the node was told, though another version counts for the next start.
    assert_eq!(reference(&mut puppet, "lobby", "").await.sha256, first);
    for (name, wanted) in [
        ("secret", ""),
        ("lobby", second.as_str()),
        ("none", ""),
        ("warm", ""),
    ] {
        assert_eq!(
            refusal(&mut puppet, name, wanted).await,
            "TEMPLATE_NOT_FOUND",
            "{name} {wanted}"
        );
    }

    let (status, answer) = cluster
        .post("/nodes/node-1/cache/warm", &json!({ "templates": ["warm"] }))
        .await;
    assert_eq!(status, 202, "{answer}");
    let ToDaemon::PreWarmCache(told) = puppet.next().await.unwrap() else {
        panic!("the order comes first");
    };
    let hash = &told.templates[0].hash;
    assert_eq!(reference(&mut puppet, "warm", hash).await.sha256, *hash);

    // What counts is among what was told.
    let next = order(&cluster, &mut puppet, "node-1", "lobby").await;
    assert_eq!(next, second);
    assert_eq!(reference(&mut puppet, "lobby", "").await.sha256, second);
}
