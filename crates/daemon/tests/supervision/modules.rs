//! Modules on a whole daemon, over mTLS; their jars are shell scripts, which a stand-in for `java` runs

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use libtest_mimic::Trial;
use prexorcloud_content::Digest;
use prexorcloud_daemon::process::working_below;
use prexorcloud_daemon::{Daemon, Finished};
use prexorcloud_proto::controller_message::Payload;
use prexorcloud_proto::{ModuleEvent, ModuleInstall, ModuleReport, ModuleStateUpdate, ModuleUninstall};

use super::cluster::{Cluster, Seen};
use super::node::{config, own_program, role};
use super::stage::{until, until_gone, written_process};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_module_is_installed_upgraded_and_removed",
            a_module_is_installed_upgraded_and_removed,
        ),
        trial(
            "an_upgrade_that_fails_goes_back_to_the_version_before",
            an_upgrade_that_fails_goes_back_to_the_version_before,
        ),
        trial(
            "what_is_wrong_with_a_module_is_told_and_nothing_is_stored",
            what_is_wrong_with_a_module_is_told_and_nothing_is_stored,
        ),
        trial(
            "a_module_of_the_java_daemon_is_kept_and_cannot_run",
            a_module_of_the_java_daemon_is_kept_and_cannot_run,
        ),
        trial(
            "a_module_gets_the_events_that_it_listens_to",
            a_module_gets_the_events_that_it_listens_to,
        ),
        trial(
            "a_killed_daemon_goes_on_in_the_log_of_events",
            a_killed_daemon_goes_on_in_the_log_of_events,
        ),
        trial(
            "a_killed_daemon_finds_its_modules_again",
            a_killed_daemon_finds_its_modules_again,
        ),
        trial(
            "a_daemon_killed_at_any_moment_of_an_upgrade_agrees_with_its_disk",
            a_daemon_killed_at_any_moment_of_an_upgrade_agrees_with_its_disk,
        ),
    ]
}

const READY: &str = r#"read hello; echo '{"type":"ready","protocol":1}'; read start;"#;
const ACTIVE: &str = r#"echo '{"type":"state","state":"ACTIVE"}';"#;
const LISTEN: &str = r#"echo '{"type":"subscribe","event_types":["a.B"]}';"#;

fn works() -> String {
    format!("{READY} {ACTIVE} echo $$ > pid; read stop\n")
}

fn manifest(version: &str) -> String {
    format!(
        "manifestVersion: 1\nid: sample\nversion: {version}\nhosts: [daemon]\nbackend:\n  daemon: {{entrypoint: com.example.Main, host: process}}\n"
    )
}

fn install(version: &str, script: &str) -> ModuleInstall {
    // Two versions may do the same, and are two jars.
    let jar = format!("# {version}\n{script}");
    ModuleInstall {
        module_id: "sample".into(),
        version: version.into(),
        sha256: Digest::of(jar.as_bytes()).to_string().to_uppercase(),
        jar_bytes: jar.into(),
        manifest_yaml: manifest(version),
        ..ModuleInstall::default()
    }
}

fn java(folder: &Path) {
    let java = folder.join("java");
    let script = "#!/bin/sh\nwhile [ \"$1\" != -cp ]; do shift; done\nexec /bin/sh \"$2\"\n";
    std::fs::write(&java, script).unwrap();
    std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
}

struct Node {
    folder: tempfile::TempDir,
    cluster: Cluster,
    daemon: Option<prexorcloud_daemon::RunningDaemon>,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        java(folder.path());
        let mut cluster = Cluster::start().await;
        let config = config(folder.path(), &cluster.address.to_string(), Some(cluster.token()));
        let daemon = Daemon::start(config, own_program()).await.unwrap();
        cluster.established().await;
        Self {
            folder,
            cluster,
            daemon: Some(daemon),
        }
    }

    fn install(&self, install: ModuleInstall) {
        self.cluster.send(Payload::ModuleInstall(Box::new(install)));
    }

    fn uninstall(&self, id: &str) {
        let module_id = id.to_owned();
        self.cluster
            .send(Payload::ModuleUninstall(ModuleUninstall { module_id }));
    }

    /// The states until this one
    async fn states_until(&mut self, last: &str) -> (Vec<String>, ModuleStateUpdate) {
        let mut states = Vec::new();
        loop {
            if let Seen::Module(update) = self.cluster.next().await {
                states.push(format!("{} {}", update.version, update.state));
                if update.state == last {
                    return (states, update);
                }
            }
        }
    }

    fn modules(&self) -> std::path::PathBuf {
        self.folder.path().join("data/modules")
    }

    fn jars(&self) -> Vec<String> {
        let mut jars: Vec<String> = std::fs::read_dir(self.modules().join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        jars.sort_unstable();
        jars
    }

    async fn stop(mut self) {
        let daemon = self.daemon.take().unwrap();
        assert_eq!(daemon.shutdown().await, Finished::Stopped);
    }
}

async fn snapshot(cluster: &mut Cluster) -> Vec<ModuleReport> {
    loop {
        if let Seen::Modules(snapshot) = cluster.next().await {
            return snapshot.modules;
        }
    }
}

async fn a_module_is_installed_upgraded_and_removed() {
    let mut node = Node::start().await;
    assert_eq!(snapshot(&mut node.cluster).await, []);
    let one = install("1.0.0", &works());
    node.install(one.clone());
    assert_eq!(
        node.states_until("ACTIVE").await.0,
        ["1.0.0 INSTALLED", "1.0.0 ACTIVE"]
    );
    let pid = node.modules().join("hosts/sample/data/pid");
    let first = written_process(&pid).await;
    // Once more: nothing happens, and it is answered.
    node.install(one.clone());
    let (states, update) = node.states_until("ACTIVE").await;
    assert_eq!(states, ["1.0.0 ACTIVE"]);
    assert_eq!(update.sha256, one.sha256.to_lowercase());
    assert!(first.is_running().unwrap());
    std::fs::remove_file(&pid).unwrap();
    node.install(install("2.0.0", &works()));
    assert_eq!(
        node.states_until("ACTIVE").await.0,
        ["1.0.0 STOPPING", "2.0.0 INSTALLED", "2.0.0 ACTIVE"]
    );
    assert!(!first.is_running().unwrap(), "two versions never run at once");
    until("the end of the version before", || {
        (node.jars().len() == 1).then_some(())
    })
    .await;
    let second = written_process(&pid).await;
    node.uninstall("sample");
    assert_eq!(
        node.states_until("UNLOADED").await.0,
        ["2.0.0 STOPPING", "2.0.0 UNLOADED"]
    );
    assert!(!second.is_running().unwrap());
    assert_eq!(node.jars(), [""; 0]);
    assert!(!node.modules().join("hosts/sample").exists());
    node.uninstall("never-heard-of");
    assert_eq!(node.states_until("UNLOADED").await.1.module_id, "never-heard-of");
    node.stop().await;
}

async fn an_upgrade_that_fails_goes_back_to_the_version_before() {
    let mut node = Node::start().await;
    node.install(install("1.0.0", &works()));
    node.states_until("ACTIVE").await;
    let pid = node.modules().join("hosts/sample/data/pid");
    written_process(&pid).await;
    std::fs::remove_file(&pid).unwrap();
    node.install(install("2.0.0", "echo no luck >&2; exit 9\n"));
    let (states, failed) = node.states_until("FAILED").await;
    assert_eq!(states, ["1.0.0 STOPPING", "2.0.0 INSTALLED", "2.0.0 FAILED"]);
    assert!(
        failed
            .last_error
            .contains("exit code 9; it said at last: no luck"),
        "{}",
        failed.last_error
    );
    let (states, _) = node.states_until("ACTIVE").await;
    assert_eq!(states, ["1.0.0 INSTALLED", "1.0.0 ACTIVE"]);
    let (_, back) = node.states_until("ACTIVE").await;
    assert!(
        back.last_error
            .starts_with("version 2.0.0 has failed, and 1.0.0 is back"),
        "{}",
        back.last_error
    );
    let process = written_process(&pid).await;
    assert_eq!(node.jars().len(), 1);
    node.stop().await;
    assert!(!process.is_running().unwrap(), "a module ends with its daemon");
}

async fn what_is_wrong_with_a_module_is_told_and_nothing_is_stored() {
    let mut node = Node::start().await;
    let good = install("1.0.0", &works());
    let changed = |change: &dyn Fn(&mut ModuleInstall)| {
        let mut install = good.clone();
        change(&mut install);
        install
    };
    for (wrong, why) in [
        (
            changed(&|it| it.manifest_yaml.clear()),
            "ModuleInstall is missing manifest_yaml",
        ),
        (
            changed(&|it| it.manifest_yaml.push_str("moon: 1\n")),
            "the manifest: ",
        ),
        (
            changed(&|it| it.version = "1.0.1".into()),
            "of version 1.0.0, and the order about 1.0.1",
        ),
        (
            changed(&|it| it.module_id = "other".into()),
            "of `sample`, and the order about `other`",
        ),
        (
            changed(&|it| it.sha256 = "0".repeat(64)),
            "module sha256 mismatch for 'sample': expected 0",
        ),
        (changed(&|it| it.sha256 = "1234".into()), "no SHA-256"),
        (
            changed(&|it| it.jar_bytes = good.jar_bytes.slice(1..)),
            "module sha256 mismatch",
        ),
        (
            changed(&|it| it.jar_bytes = Bytes::new()),
            "neither the jar nor a reference",
        ),
        (
            changed(&|it| {
                it.manifest_yaml =
                    "manifestVersion: 1\nid: sample\nversion: 1.0.0\nbackend: {entrypoint: a.B}\n".into();
            }),
            "does not name `daemon` among its hosts",
        ),
    ] {
        node.install(wrong);
        let (_, failed) = node.states_until("FAILED").await;
        assert!(failed.last_error.contains(why), "{why}: {}", failed.last_error);
        assert_eq!(node.jars(), [""; 0]);
    }
    // What runs is not touched by what is refused.
    node.install(good.clone());
    node.states_until("ACTIVE").await;
    node.install(changed(&|it| it.sha256 = "0".repeat(64)));
    node.states_until("FAILED").await;
    let (_, update) = node.states_until("ACTIVE").await;
    assert_eq!(update.sha256, good.sha256.to_lowercase());
    assert!(
        update.last_error.starts_with("another version was refused"),
        "{}",
        update.last_error
    );
    node.stop().await;
}

async fn a_module_of_the_java_daemon_is_kept_and_cannot_run() {
    let mut node = Node::start().await;
    let mut order = install("1.0.0", "");
    order.manifest_yaml = order.manifest_yaml.replace(", host: process", "");
    node.install(order);
    let (states, failed) = node.states_until("FAILED").await;
    assert_eq!(states, ["1.0.0 FAILED"]);
    assert!(
        failed.last_error.contains("Java daemon's own process"),
        "{}",
        failed.last_error
    );
    assert_eq!(node.jars().len(), 1);
    node.uninstall("sample");
    assert_eq!(node.states_until("UNLOADED").await.0, ["1.0.0 UNLOADED"]);
    assert_eq!(node.jars(), [""; 0]);
    node.stop().await;
}

async fn a_module_gets_the_events_that_it_listens_to() {
    let mut node = Node::start().await;
    node.install(install(
        "1.0.0",
        &format!("{READY} {LISTEN} {ACTIVE} read event; echo \"$event\" >&2; read stop\n"),
    ));
    let subscribed = async |cluster: &mut Cluster| loop {
        match cluster.next().await {
            Seen::Subscribed(types, 0) => return types,
            Seen::Unsubscribed(types) | Seen::Subscribed(types, _) => panic!("{types:?}"),
            _ => {}
        }
    };
    assert_eq!(subscribed(&mut node.cluster).await, ["a.B"]);
    // A new session is told all of it.
    node.cluster.cut();
    node.cluster.established().await;
    assert_eq!(subscribed(&mut node.cluster).await, ["a.B"]);
    for (event_type, payload) in [("a.C", "{}"), ("a.B", "{"), ("a.B", "{\"n\":\n1}")] {
        node.cluster.send(Payload::ModuleEvent(ModuleEvent {
            event_type: event_type.into(),
            payload_json: payload.into(),
            ..ModuleEvent::default()
        }));
    }
    let console = node.modules().join("hosts/sample/console.log");
    until("the event in the console", || {
        let text = std::fs::read_to_string(&console).ok()?;
        text.contains("{\"type\":\"gap\",\"missed\":1}").then_some(())
    })
    .await;
    node.uninstall("sample");
    loop {
        if let Seen::Unsubscribed(types) = node.cluster.next().await {
            assert_eq!(types, ["a.B"]);
            break;
        }
    }
    node.stop().await;
}

fn numbered(event_type: &str, previous: u64, sequence: u64, missed: u64) -> Payload {
    Payload::ModuleEvent(ModuleEvent {
        event_type: event_type.into(),
        payload_json: "{}".into(),
        sequence,
        previous,
        missed,
        check: sequence,
    })
}

async fn a_killed_daemon_goes_on_in_the_log_of_events() {
    let folder = tempfile::tempdir().unwrap();
    java(folder.path());
    let mut cluster = Cluster::start().await;
    let mut daemon = role(folder.path(), &cluster, Some(cluster.token()));
    cluster.established().await;
    let script = format!("{READY} {LISTEN} {ACTIVE} while read line; do echo \"$line\" >&2; done\n");
    cluster.send(Payload::ModuleInstall(Box::new(install("1.0.0", &script))));
    let subscribed = async |cluster: &mut Cluster| loop {
        if let Seen::Subscribed(types, after) = cluster.next().await {
            return (types, after);
        }
    };
    let only = vec!["a.B".to_owned()];
    assert_eq!(subscribed(&mut cluster).await, (only.clone(), 0));
    let modules = folder.path().join("data/modules");
    let console = modules.join("hosts/sample/console.log");
    let says = async |text: &str| {
        until(text, || {
            let console = std::fs::read_to_string(&console).ok()?;
            console.contains(text).then_some(())
        })
        .await;
    };
    cluster.send(numbered("a.B", 40, 41, 0));
    says(r#"{"type":"event","event_type":"a.B","sequence":41,"payload":{}}"#).await;
    // On the way lost, and gone from the log: the module is told without another event.
    cluster.send(numbered("", 43, 300, 5));
    says(r#"{"type":"gap","missed":7}"#).await;
    // The same process goes on where it was.
    cluster.cut();
    cluster.established().await;
    assert_eq!(subscribed(&mut cluster).await, (only.clone(), 300));
    until("the note", || {
        let noted = std::fs::read_to_string(modules.join("events.json")).ok()?;
        noted.contains("\"sequence\":300").then_some(())
    })
    .await;

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut daemon = role(folder.path(), &cluster, None);
    cluster.established().await;
    // The module listens first, and then what it missed is asked for.
    assert_eq!(subscribed(&mut cluster).await, (only, 300));
    cluster.send(numbered("a.B", 300, 301, 0));
    says(r#""sequence":301"#).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

async fn a_killed_daemon_finds_its_modules_again() {
    let folder = tempfile::tempdir().unwrap();
    java(folder.path());
    let mut cluster = Cluster::start().await;
    let mut daemon = role(folder.path(), &cluster, Some(cluster.token()));
    cluster.established().await;
    cluster.send(Payload::ModuleInstall(Box::new(install("1.0.0", &works()))));
    let pid = folder.path().join("data/modules/hosts/sample/data/pid");
    let first = written_process(&pid).await;
    until("the version that counts", || {
        let index = std::fs::read_to_string(folder.path().join("data/modules/index.json")).ok()?;
        index.contains("\"proven\":true").then_some(())
    })
    .await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    until_gone(&first).await;
    std::fs::remove_file(&pid).unwrap();
    // No controller is there, and it begins all the same.
    cluster.vanish().await;
    let mut daemon = role(folder.path(), &cluster, None);
    let second = written_process(&pid).await;
    cluster.forget();
    cluster.listen().await;
    let mut listed = snapshot(&mut cluster).await;
    assert_eq!(listed.len(), 1);
    let report = listed.remove(0);
    assert_eq!(
        (report.module_id.as_str(), report.version.as_str()),
        ("sample", "1.0.0")
    );
    assert_eq!(report.state, "ACTIVE");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    until_gone(&second).await;
}

async fn a_daemon_killed_at_any_moment_of_an_upgrade_agrees_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    java(folder.path());
    let mut cluster = Cluster::start().await;
    let mut token = Some(cluster.token());
    let pid = folder.path().join("data/modules/hosts/sample/data/pid");
    for (round, delay_ms) in [0, 1, 2, 4, 8, 16, 32, 64, 128].into_iter().enumerate() {
        let mut daemon = role(folder.path(), &cluster, token.take());
        let listed = snapshot(&mut cluster).await;
        // One version, and its jar is whole.
        let jars: Vec<_> = std::fs::read_dir(folder.path().join("data/modules/store"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(
            (listed.len(), jars.len()),
            (round.min(1), round.min(1)),
            "{listed:?}"
        );
        for (report, jar) in listed.iter().zip(&jars) {
            assert_eq!(
                Digest::of(&std::fs::read(jar).unwrap()).to_string(),
                report.sha256
            );
        }
        cluster.send(Payload::ModuleInstall(Box::new(install(
            &format!("1.0.{round}"),
            &works(),
        ))));
        if round == 0 {
            written_process(&pid).await;
        }
        // Different moments are the point of it; none of them is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    // No host has outlived its daemon, whichever it was.
    let data = folder.path().join("data/modules/hosts/sample/data");
    until("the end of all hosts", || {
        working_below(&data).ok()?.is_empty().then_some(())
    })
    .await;
}
