//! Starts with templates, over mTLS, from a controller that plays along or does not

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use prexorcloud_daemon::{Daemon, Finished};
use prexorcloud_proto::controller_message::Payload;
use prexorcloud_proto::{
    CacheStatus, ConfigPatch, ErrorReport, PreWarmCache, PreWarmEntry, RequestCacheStatus, StartInstance,
    TemplateData, TemplateRef,
};
use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::roster::InstanceEvent;

use super::cluster::{Cluster, Seen};
use super::node::{config, node, own_program, role, standin};
use super::stage::{free_port, until};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_template_comes_inline_once_and_then_from_the_cache",
            a_template_comes_inline_once_and_then_from_the_cache,
        ),
        trial(
            "a_template_that_is_not_there_fails_the_start_at_once",
            a_template_that_is_not_there_fails_the_start_at_once,
        ),
        trial(
            "a_template_that_does_not_come_fails_the_start_in_time",
            a_template_that_does_not_come_fails_the_start_in_time,
        ),
        trial(
            "the_cache_is_told_after_each_handshake_and_when_it_was_filled",
            the_cache_is_told_after_each_handshake_and_when_it_was_filled,
        ),
        trial(
            "templates_are_in_the_cache_before_a_start_needs_them",
            templates_are_in_the_cache_before_a_start_needs_them,
        ),
        trial(
            "a_daemon_killed_at_any_moment_leaves_a_static_folder_as_it_was",
            a_daemon_killed_at_any_moment_leaves_a_static_folder_as_it_was,
        ),
        trial(
            "a_template_is_asked_for_again_on_the_next_stream",
            a_template_is_asked_for_again_on_the_next_stream,
        ),
    ]
}

fn archive(files: &[(String, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// An order as a Java controller gives it: templates that exist, and templates that do not, with an empty hash
fn with_template(port: u16) -> StartInstance {
    let mut start = standin(port);
    let template = |name: &str, hash: &str| TemplateRef {
        name: name.into(),
        hash: hash.into(),
    };
    start.composition_plan.as_mut().unwrap().templates = vec![
        template("base", "h"),
        template("base-paper", ""),
        template("lobby", ""),
    ];
    start
}

async fn asked(cluster: &mut Cluster) -> String {
    loop {
        if let Seen::Template(request) = cluster.next().await {
            return request.template_name;
        }
    }
}

async fn failure(cluster: &mut Cluster) -> (String, String) {
    loop {
        if let Seen::Instance(
            InstanceEvent::StartFailed { failure, .. } | InstanceEvent::StartRetrying { failure, .. },
        ) = cluster.next().await
        {
            return (failure.error_code, failure.message);
        }
    }
}

fn answer(cluster: &Cluster) {
    answer_with(
        cluster,
        archive(&[("server.properties".to_owned(), "port=%PORT%\n")]),
    );
}

fn answer_with(cluster: &Cluster, archive: Vec<u8>) {
    cluster.send(Payload::TemplateData(Box::new(TemplateData {
        template_name: "base".into(),
        hash: "h".into(),
        tar_gz: archive.into(),
        ..TemplateData::default()
    })));
}

fn properties(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("data/instances/lobby/lobby-1/server.properties")).unwrap()
}

async fn a_template_comes_inline_once_and_then_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let port = free_port();
    cluster.start_instance(with_template(port));
    assert_eq!(asked(&mut cluster).await, "base");
    answer(&cluster);
    cluster.states_until(State::Running).await;
    assert_eq!(properties(folder.path()), format!("port={port}\n"));
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
    // Another daemon, another start, and nobody who would answer.
    let again = config(folder.path(), &cluster.address.to_string(), None);
    let daemon = Daemon::start(again, own_program()).await.unwrap();
    cluster.established().await;
    let port = free_port();
    let mut start = with_template(port);
    start.incarnation += 1;
    let plan = start.composition_plan.as_mut().unwrap();
    plan.config_patches = vec![ConfigPatch {
        file: "config/paper-global.yml".into(),
        key: "a".into(),
        value: "b".into(),
        op: 0,
    }];
    cluster.start_instance(start);
    cluster.states_until(State::Running).await;
    assert_eq!(properties(folder.path()), format!("port={port}\n"));
    // What was passed over is on the console, where the operator sees it.
    let line = cluster.line("passed over").await;
    assert_eq!(
        line,
        "[prexorcloud] config patch of config/paper-global.yml passed over: there is no such file"
    );
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_template_that_is_not_there_fails_the_start_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(with_template(free_port()));
    let name = asked(&mut cluster).await;
    cluster.send(Payload::ErrorReport(Box::new(ErrorReport {
        error_code: "TEMPLATE_NOT_FOUND".into(),
        error_message: "there is no template base".into(),
        context: name,
        retry_after_seconds: 0,
    })));
    let (code, message) = failure(&mut cluster).await;
    assert_eq!(code, "TEMPLATE_APPLY_FAILED");
    assert!(message.contains("there is no template base"), "{message}");
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_template_that_does_not_come_fails_the_start_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let mut config = config(folder.path(), &cluster.address.to_string(), Some(cluster.token()));
    config.runtime.template_timeout = std::time::Duration::from_millis(200);
    let daemon = Daemon::start(config, own_program()).await.unwrap();
    cluster.established().await;
    cluster.start_instance(with_template(free_port()));
    let (code, message) = failure(&mut cluster).await;
    assert_eq!(code, "TEMPLATE_APPLY_FAILED");
    assert!(message.contains("did not answer within 0.2 s"), "{message}");
    let group = folder.path().join("data/instances/lobby");
    until("nothing half-prepared is left", || {
        let is_empty = std::fs::read_dir(&group).map_or(true, |mut entries| entries.next().is_none());
        is_empty.then_some(())
    })
    .await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn cache(cluster: &mut Cluster) -> CacheStatus {
    loop {
        if let Seen::Cache(status) = cluster.next().await {
            return *status;
        }
    }
}

async fn the_cache_is_told_after_each_handshake_and_when_it_was_filled() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    assert_eq!(cache(&mut cluster).await, CacheStatus::default());
    cluster.start_instance(with_template(free_port()));
    asked(&mut cluster).await;
    answer(&cluster);
    cluster.states_until(State::Running).await;
    cluster.send(Payload::RequestCacheStatus(RequestCacheStatus {}));
    let status = cache(&mut cluster).await;
    let [entry] = &status.templates[..] else {
        panic!("{status:?}")
    };
    assert_eq!((entry.name.as_str(), entry.hash.as_str()), ("base", "h"));
    assert!(entry.last_used_ms > 0 && status.total_size_bytes >= entry.size_bytes);
    let refusing = free_port();
    // It takes connections, and says nothing.
    let stalling = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let entry = |jar: &str, port: u16, digit: &str| PreWarmEntry {
        platform: "PAPER".into(),
        platform_version: "1.21".into(),
        jar_file: jar.into(),
        download_url: format!("http://127.0.0.1:{port}/{jar}"),
        sha256: digit.repeat(64),
        ..PreWarmEntry::default()
    };
    cluster.send(Payload::PreWarmCache(PreWarmCache {
        entries: vec![
            PreWarmEntry::default(),
            entry("stalls.jar", stalling.local_addr().unwrap().port(), "b"),
            entry("paper.jar", refusing, "a"),
        ],
        ..PreWarmCache::default()
    }));
    let mut report = async || loop {
        if let Seen::Error(report) = cluster.next().await {
            break (report.error_code, report.context);
        }
    };
    let failed = |jar: &str| ("PRE_WARM_FAILED".to_owned(), jar.to_owned());
    assert_eq!(report().await, failed("paper.jar"), "while the other one stalls");
    drop(stalling);
    assert_eq!(report().await, failed("stalls.jar"));
    assert!(cache(&mut cluster).await.jars.is_empty());
    cluster.cut();
    assert_eq!(cache(&mut cluster).await.templates.len(), 1);
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn templates_are_in_the_cache_before_a_start_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    assert_eq!(cache(&mut cluster).await, CacheStatus::default());
    let template = |name: &str, hash: &str| TemplateRef {
        name: name.into(),
        hash: hash.into(),
    };
    cluster.send(Payload::PreWarmCache(PreWarmCache {
        templates: vec![
            template("base", "h"),
            template("empty", ""),
            template("gone", "x"),
        ],
        ..PreWarmCache::default()
    }));
    // One does not wait for the other, so they come in either order.
    let mut names = [asked(&mut cluster).await, asked(&mut cluster).await];
    names.sort_unstable();
    let [base, name] = names;
    assert_eq!((base.as_str(), name.as_str()), ("base", "gone"));
    answer(&cluster);
    cluster.send(Payload::ErrorReport(Box::new(ErrorReport {
        error_code: "TEMPLATE_NOT_FOUND".into(),
        error_message: "there is no template gone".into(),
        context: name,
        retry_after_seconds: 0,
    })));
    let report = loop {
        if let Seen::Error(report) = cluster.next().await {
            break report;
        }
    };
    assert_eq!(
        (report.error_code.as_str(), report.context.as_str()),
        ("PRE_WARM_FAILED", "gone")
    );
    assert!(report.error_message.contains("there is no template gone"));
    let kept = cache(&mut cluster).await.templates;
    assert_eq!((kept.len(), kept[0].name.as_str()), (1, "base"));
    // The start does without the controller, which would not answer.
    cluster.start_instance(with_template(free_port()));
    cluster.states_until(State::Running).await;
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_template_is_asked_for_again_on_the_next_stream() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(with_template(free_port()));
    assert_eq!(asked(&mut cluster).await, "base");
    cluster.cut();
    assert_eq!(asked(&mut cluster).await, "base");
    answer(&cluster);
    cluster.states_until(State::Running).await;
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

/// Everything in a folder, with its content
fn contents(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut contents = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read_to_string(&path).unwrap();
                contents.insert(path, content);
            }
        }
    }
    contents
}

/// The start fails at its last step, so whenever the daemon is killed, what it has changed has to be put back
async fn a_daemon_killed_at_any_moment_leaves_a_static_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let group = folder.path().join("data/instances/lobby");
    let live = group.join("lobby-1");
    std::fs::create_dir_all(live.join("world")).unwrap();
    std::fs::write(live.join("server.properties"), "# mine\nport=1\n").unwrap();
    std::fs::write(live.join("spigot.yml"), "a: [\n").unwrap();
    std::fs::write(live.join("world/level.dat"), "precious").unwrap();
    let own = contents(&live);
    let mut files: Vec<(String, &str)> = (0..200)
        .map(|number| (format!("plugins/{number}.yml"), "port: %PORT%\n"))
        .collect();
    files.push(("server.properties".to_owned(), "port=%PORT%\n"));
    let archive = archive(&files);
    let mut cluster = Cluster::start().await;
    let mut token = Some(cluster.token());
    for (round, delay) in [0, 2, 5, 10, 20, 35, 60, 100, 400].into_iter().enumerate() {
        let mut daemon = role(folder.path(), &cluster, token.take());
        cluster.established().await;
        let mut start = with_template(free_port());
        start.static_instance = true;
        start.incarnation += round as u64;
        let plan = start.composition_plan.as_mut().unwrap();
        // Each round has a content of its own to fetch.
        plan.templates[0].hash = format!("h{round}");
        plan.config_patches = vec![ConfigPatch {
            file: "spigot.yml".into(),
            key: "a".into(),
            value: "1".into(),
            op: 0,
        }];
        cluster.start_instance(start);
        asked(&mut cluster).await;
        answer_with(&cluster, archive.clone());
        // Not to wait for anything: the moment is the test.
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let next = config(folder.path(), "127.0.0.1:1", None);
        let next = Daemon::start(next, own_program()).await.unwrap();
        assert_eq!(contents(&live), own, "after {delay} ms");
        let names: Vec<_> = std::fs::read_dir(&group)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["lobby-1"], "after {delay} ms");
        assert_eq!(next.shutdown().await, Finished::Stopped);
        cluster.forget();
    }
}
