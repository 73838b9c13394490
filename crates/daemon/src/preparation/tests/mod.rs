//! Whole preparations, without a controller
#![allow(clippy::unwrap_used, reason = "tests")]

mod bootstrap;
mod moments;
mod pinned;
mod templates;

use std::{
    path::Path,
    sync::atomic::{AtomicU16, Ordering},
};

use prexorcloud_proto::{
    CompositionPlan, ConfigPatch, ExtensionArtifact, RuntimeArtifact, StartFailureDisposition,
    StartPreparationStage,
};
use sha2::{Digest as _, Sha256};

use super::*;

struct Node {
    folder: tempfile::TempDir,
    preparer: Preparer,
}

fn node() -> Node {
    let folder = tempfile::tempdir().unwrap();
    let preparer = Preparer::new(Settings {
        node_id: "node-1".into(),
        instances_folder: folder.path().join("instances"),
        cache_folder: folder.path().join("cache/artifacts"),
        templates_folder: folder.path().join("cache/templates"),
        max_template_bytes: 1 << 20,
        template_deadline: Duration::from_secs(60),
        bootstraps_folder: folder.path().join("cache/bootstrap"),
        max_bootstrap_bytes: 1 << 30,
        java: Some("/bin/sh".into()),
        standin: None,
        downloads: DownloadLimits::default(),
        default_grace: Duration::from_secs(30),
    })
    .unwrap();
    std::fs::write(folder.path().join("server.jar"), "jar").unwrap();
    Node { folder, preparer }
}

/// A port that stays free: below those that the system gives to whoever connects meanwhile
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 2_000).unwrap();
    (0..2_000)
        .map(|_| 18_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000)
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .unwrap()
}

fn start(node: &Node) -> StartInstance {
    let port = free_port();
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: i32::from(port),
        jar_file: "server.jar".into(),
        download_url: format!("file://{}", node.folder.path().join("server.jar").display()),
        ..StartInstance::default()
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn plan(start: &mut StartInstance) -> &mut CompositionPlan {
    let runtime = RuntimeArtifact {
        jar_file: start.jar_file.clone(),
        download_url: start.download_url.clone(),
        ..RuntimeArtifact::default()
    };
    start.composition_plan.insert(CompositionPlan {
        runtime: Some(runtime),
        ..CompositionPlan::default()
    })
}

/// What is prepared, or was, beside the folders of the instances
fn leftovers(node: &Node) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(node.folder.path().join("instances/lobby")) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_prepared = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ["-staging-", "-scratch-", "-undo"]
            .iter()
            .any(|mark| name.contains(mark))
    };
    paths.filter(is_prepared).collect()
}

/// What is not needed any more is deleted on another thread, for which nobody waits
fn await_clean(node: &Node) {
    let limit = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let left = leftovers(node);
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < limit, "it stays: {left:?}");
        std::thread::yield_now();
    }
}

async fn error(node: &Node, start: &StartInstance) -> PreparationError {
    let error = node
        .preparer
        .prepare(start, Limits::of(start), None)
        .await
        .unwrap_err();
    await_clean(node);
    error
}

#[tokio::test]
async fn a_dynamic_instance_gets_a_fresh_folder_with_its_jar() {
    let node = node();
    let start = start(&node);
    for _ in 0..2 {
        let prepared = node
            .preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap();
        let folder = node.folder.path().join("instances/lobby/lobby-1");
        assert_eq!(prepared.launch.working_folder, folder);
        assert_eq!(std::fs::read(folder.join("server.jar")).unwrap(), b"jar");
        assert!(
            !folder.join("world").exists(),
            "what an earlier start wrote is gone"
        );
        std::fs::write(folder.join("world"), "").unwrap();
        assert!(prepared.facts.ephemeral_folder.is_some());
        assert_eq!(prepared.facts.grace, Duration::from_secs(30));
    }
    await_clean(&node);
    let group = node.folder.path().join("instances/lobby");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(&group).unwrap().count() > 1 {
        assert!(std::time::Instant::now() < deadline, "the former folder stays");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_static_instance_keeps_its_folder_and_gets_a_new_jar() {
    let node = node();
    let mut start = start(&node);
    start.static_instance = true;
    let folder = node.folder.path().join("instances/lobby/lobby-1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("world"), "precious").unwrap();
    std::fs::write(folder.join("server.jar"), "old").unwrap();
    let prepared = node
        .preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
    assert_eq!(std::fs::read(folder.join("world")).unwrap(), b"precious");
    assert_eq!(std::fs::read(folder.join("server.jar")).unwrap(), b"jar");
    assert!(prepared.facts.ephemeral_folder.is_none());
    start.download_url.clear();
    node.preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_static_folder_keeps_its_files_and_its_links() {
    let node = node();
    let plugin = node.folder.path().join("plugin.jar");
    std::fs::write(&plugin, "plugin").unwrap();
    let mut start = start(&node);
    start.static_instance = true;
    plan(&mut start).extensions = vec![ExtensionArtifact {
        file_name: "plugin.jar".into(),
        download_url: plugin.to_str().unwrap().into(),
        sha256: hex(&Sha256::digest(b"plugin")),
        install_path: "plugins".into(),
        ..ExtensionArtifact::default()
    }];
    let folder = node.folder.path().join("instances/lobby/lobby-1");
    std::fs::create_dir_all(folder.join("shared/plugins")).unwrap();
    std::os::unix::fs::symlink("shared/plugins", folder.join("plugins")).unwrap();
    std::fs::write(folder.join("server.properties"), "server-port=%PORT%\n").unwrap();
    // The mount point of a file system, and nobody's group.
    std::fs::create_dir_all(node.folder.path().join("instances/lost+found")).unwrap();
    for _ in 0..2 {
        start.port = self::start(&node).port;
        node.preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(folder.join("server.properties")).unwrap(),
            "server-port=%PORT%\n",
            "no template brought it"
        );
        assert_eq!(
            std::fs::read(folder.join("shared/plugins/plugin.jar")).unwrap(),
            b"plugin"
        );
    }
    std::fs::remove_file(folder.join("plugins")).unwrap();
    std::os::unix::fs::symlink(node.folder.path(), folder.join("plugins")).unwrap();
    let error = node
        .preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("the link plugins leads out"),
        "{error}"
    );
    assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
}

#[tokio::test]
async fn a_missing_jar_is_permanent_and_named() {
    let node = node();
    let mut start = start(&node);
    start.download_url = "/no/such/server.jar".into();
    let error = error(&node, &start).await;
    assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
    assert_eq!(error.stage(), StartPreparationStage::RuntimeProvision);
    assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
    assert_eq!(error.retry_after(), Duration::ZERO);
    assert!(error.to_string().contains("/no/such/server.jar"), "{error}");
}

#[tokio::test]
async fn a_refused_download_may_be_tried_again() {
    let node = node();
    let mut start = start(&node);
    let port = start.port;
    plan(&mut start).runtime.as_mut().unwrap().sha256 = "a".repeat(64);
    plan_runtime(&mut start).download_url = format!("http://127.0.0.1:{port}/server.jar");
    let error = error(&node, &start).await;
    assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
    assert_eq!(error.disposition(), StartFailureDisposition::Transient);
    assert_eq!(error.retry_after(), Duration::from_secs(3));
}

fn plan_runtime(start: &mut StartInstance) -> &mut RuntimeArtifact {
    start.composition_plan.as_mut().unwrap().runtime.as_mut().unwrap()
}

#[tokio::test]
async fn a_port_in_use_is_named_and_tried_again_later() {
    let node = node();
    let mut start = start(&node);
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
        let Ok(occupied) = TcpListener::bind(address) else {
            continue;
        };
        let port = occupied.local_addr().unwrap().port();
        start.port = i32::from(port);
        let error = error(&node, &start).await;
        assert_eq!(
            (error.code(), error.stage()),
            ("PORT_IN_USE", StartPreparationStage::Validation)
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Transient);
        assert_eq!(error.retry_after(), Duration::from_secs(5));
        assert!(error.to_string().contains(&port.to_string()));
    }
}

#[tokio::test]
async fn the_stand_in_needs_permission() {
    let node = node();
    let mut start = start(&node);
    start.jar_file = "demo.standin".into();
    let error = error(&node, &start).await;
    assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
    assert!(error.to_string().contains("allow_standin"));
}

#[tokio::test]
async fn extensions_and_patches_come_together() {
    let node = node();
    let plugin = node.folder.path().join("plugin.jar");
    std::fs::write(&plugin, "plugin").unwrap();
    let properties = node.folder.path().join("server.properties");
    std::fs::write(&properties, "motd=%GROUP%\nport=1\n").unwrap();
    let digest = |path: &Path| {
        let digest = Sha256::digest(std::fs::read(path).unwrap());
        digest
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<String>()
    };
    let extension = |path: &Path, install_path: &str| ExtensionArtifact {
        file_name: path.file_name().unwrap().to_str().unwrap().into(),
        download_url: path.to_str().unwrap().into(),
        sha256: digest(path),
        install_path: install_path.into(),
        ..ExtensionArtifact::default()
    };
    let mut start = start(&node);
    plan(&mut start).extensions = vec![extension(&plugin, "plugins"), extension(&properties, ".")];
    start.composition_plan.as_mut().unwrap().config_patches = vec![ConfigPatch {
        file: "server.properties".into(),
        key: "port".into(),
        value: "2".into(),
        op: 0,
    }];
    let absent = ConfigPatch {
        file: "config/paper-global.yml".into(),
        key: "a".into(),
        value: "b".into(),
        op: 0,
    };
    let patches = &mut start.composition_plan.as_mut().unwrap().config_patches;
    patches.push(absent);
    let prepared = node.preparer.prepare(&start, Limits::of(&start), None).await;
    assert_eq!(
        prepared.unwrap().notes,
        ["config patch of config/paper-global.yml passed over: there is no such file"]
    );
    start.composition_plan.as_mut().unwrap().config_patches.pop();
    let folder = node.folder.path().join("instances/lobby/lobby-1");
    assert_eq!(
        std::fs::read(folder.join("plugins/plugin.jar")).unwrap(),
        b"plugin"
    );
    let text = std::fs::read_to_string(folder.join("server.properties")).unwrap();
    assert_eq!(text, "motd=%GROUP%\nport=2\n");

    let extensions = &mut start.composition_plan.as_mut().unwrap().extensions;
    extensions[0].install_path = "../../elsewhere".into();
    assert!(error(&node, &start).await.to_string().contains("leads out"));
    let extensions = &mut start.composition_plan.as_mut().unwrap().extensions;
    extensions[0].install_path = "plugins".into();
    extensions[0].sha256 = "0".repeat(64);
    let wrong = error(&node, &start).await;
    assert_eq!(wrong.code(), "EXTENSION_PROVISION_FAILED");
    assert_eq!(wrong.disposition(), StartFailureDisposition::Permanent);
    let patches = &mut start.composition_plan.as_mut().unwrap().config_patches;
    patches[0].file = "../outside.properties".into();
    start.composition_plan.as_mut().unwrap().extensions.clear();
    assert_eq!(error(&node, &start).await.code(), "CONFIG_PATCH_FAILED");
    start.composition_plan.as_mut().unwrap().config_patches[0].op = 9;
    assert_eq!(
        error(&node, &start).await.disposition(),
        StartFailureDisposition::Permanent
    );
}

#[tokio::test]
async fn a_cancelled_preparation_leaves_nothing() {
    let node = node();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut start = start(&node);
    plan(&mut start).runtime.as_mut().unwrap().sha256 = "a".repeat(64);
    plan_runtime(&mut start).download_url = format!("http://{}/x.jar", silent.local_addr().unwrap());
    {
        let mut preparing = std::pin::pin!(node.preparer.prepare(&start, Limits::of(&start), None));
        tokio::select! {
            result = &mut preparing => panic!("{result:?}"),
            // The request has arrived: the download is under way.
            _ = silent.accept() => {}
        }
        assert_eq!(
            leftovers(&node).len(),
            2,
            "what is staged, and what is on its way"
        );
    }
    // Whoever comes next waits for its turn.
    let another = self::start(&node);
    node.preparer
        .prepare(&another, Limits::of(&another), None)
        .await
        .unwrap();
    await_clean(&node);
}
