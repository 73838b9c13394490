//! The whole daemon against a controller over mTLS

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use prexorcloud_daemon::config::{self, TokenSource};
use prexorcloud_daemon::enrolment::EnrolmentFailure;
use prexorcloud_daemon::node::StartError;
use prexorcloud_daemon::{Daemon, DaemonConfig, Finished, OwnProgram, RunningDaemon};
use prexorcloud_proto::{CompositionPlan, RuntimeArtifact, StartInstance, StartPreparationStage};
use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_security::token::{CaPin, JoinToken};
use prexorcloud_transport::EnrolError;
use tokio::net::TcpStream;

use super::cluster::{Cluster, Seen};
use super::stage::{demo_jar, free_port, only_control, until, until_gone};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_node_runs_an_instance_from_start_to_stop",
            a_node_runs_an_instance_from_start_to_stop,
        ),
        trial(
            "a_jvm_that_crashes_is_reported_once",
            a_jvm_that_crashes_is_reported_once,
        ),
        trial(
            "a_stuck_console_is_reported_and_blocks_nothing",
            a_stuck_console_is_reported_and_blocks_nothing,
        ),
        trial(
            "a_crash_without_a_controller_is_told_later",
            a_crash_without_a_controller_is_told_later,
        ),
        trial(
            "a_missing_jar_fails_the_start_with_its_path",
            a_missing_jar_fails_the_start_with_its_path,
        ),
        trial(
            "two_instances_do_not_share_a_port",
            two_instances_do_not_share_a_port,
        ),
        trial("a_stop_cancels_a_preparation", a_stop_cancels_a_preparation),
        trial(
            "nothing_is_started_under_an_epoch_that_is_not_on_disk",
            nothing_is_started_under_an_epoch_that_is_not_on_disk,
        ),
        trial(
            "a_killed_daemon_comes_back_to_its_instances",
            a_killed_daemon_comes_back_to_its_instances,
        ),
        trial(
            "a_node_shut_down_by_its_controller_stops_everything",
            a_node_shut_down_by_its_controller_stops_everything,
        ),
        trial(
            "a_stopped_daemon_leaves_instances_running",
            a_stopped_daemon_leaves_instances_running,
        ),
        trial(
            "what_ended_while_no_daemon_ran_is_not_listed_as_alive",
            what_ended_while_no_daemon_ran_is_not_listed_as_alive,
        ),
        trial(
            "a_token_is_used_once_and_removed",
            a_token_is_used_once_and_removed,
        ),
        trial("enrolment_fails_with_a_reason", enrolment_fails_with_a_reason),
        trial(
            "one_data_folder_serves_one_daemon",
            one_data_folder_serves_one_daemon,
        ),
    ]
}

pub fn own_program() -> OwnProgram {
    OwnProgram {
        program: std::env::current_exe().unwrap(),
        shim_program: std::env::current_exe().unwrap(),
        shim: vec!["role-shim".into()],
        standin: vec!["role-standin".into()],
    }
}

pub fn config(folder: &Path, controller: &str, token: Option<JoinToken>) -> DaemonConfig {
    let mut config = DaemonConfig {
        data_dir: folder.join("data"),
        ..DaemonConfig::default()
    };
    config.controller.endpoints = vec![controller.parse().unwrap()];
    config.enrolment.token = token.map(|token| (token, TokenSource::Elsewhere));
    config.health.listen = "127.0.0.1:0".parse().unwrap();
    config.runtime.allow_standin = true;
    // What a test put there runs instead.
    config.runtime.java = Some(folder.join("java")).filter(|java| java.exists());
    config.reconnect.initial_delay = std::time::Duration::from_millis(50);
    config.reconnect.max_delay = std::time::Duration::from_millis(200);
    config.instances.keep_crashed = std::time::Duration::ZERO;
    config
}

pub async fn node(cluster: &mut Cluster, folder: &Path) -> RunningDaemon {
    let config = config(folder, &cluster.address.to_string(), Some(cluster.token()));
    let daemon = Daemon::start(config, own_program()).await.unwrap();
    cluster.established().await;
    daemon
}

fn start(port: u16, jar_file: &str, download_url: &str) -> StartInstance {
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: i32::from(port),
        memory_mb: 64,
        incarnation: 3,
        startup_timeout_seconds: 60,
        shutdown_grace_seconds: 60,
        composition_plan: Some(CompositionPlan {
            plan_hash: "plan".into(),
            runtime: Some(RuntimeArtifact {
                jar_file: jar_file.into(),
                download_url: download_url.into(),
                ..RuntimeArtifact::default()
            }),
            ..CompositionPlan::default()
        }),
        ..StartInstance::default()
    }
}

pub fn standin(port: u16) -> StartInstance {
    start(port, "demo.standin", "")
}

async fn a_node_runs_an_instance_from_start_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(standin(free_port()));
    let states = cluster.states_until(State::Running).await;
    assert_eq!(states, [State::Preparing, State::Starting, State::Running]);
    cluster.command("lobby-1", "say hello");
    let answer = cluster.line("[Server] hello").await;
    assert!(answer.contains("INFO"), "{answer}");
    cluster.stop_instance("lobby-1", StopMode::Graceful);
    assert_eq!(
        cluster.states_until(State::Stopped).await,
        [State::Stopping, State::Stopped]
    );
    cluster.line("All dimensions are saved").await;
    let numbers: Vec<u64> = cluster.console.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let health = daemon.health_addr().unwrap();
    let ready = reqwest::get(format!("http://{health}/ready")).await.unwrap();
    assert_eq!(ready.status(), 200);
    let workspace = folder.path().join("data/instances/lobby/lobby-1");
    until("its folder is deleted", || (!workspace.exists()).then_some(())).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_jvm_that_crashes_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let jar = demo_jar().canonicalize().unwrap();
    cluster.start_instance(start(
        free_port(),
        "server.jar",
        &format!("file://{}", jar.display()),
    ));
    cluster.states_until(State::Running).await;
    cluster.command("lobby-1", "crash");
    let report = loop {
        match cluster.next().await {
            Seen::Crash(report) => break report,
            Seen::Instance(InstanceEvent::Changed { to, .. }) => assert_eq!(to, State::Crashed),
            _ => {}
        }
    };
    assert_eq!((report.exit_code, report.incarnation), (1, 3));
    assert!(
        report
            .log_tail
            .iter()
            .any(|line| line.contains("IllegalStateException"))
    );
    assert!(report.uptime_ms > 0);
    let spool = folder.path().join("data/crash-reports");
    until("the report is confirmed and deleted", || {
        std::fs::read_dir(&spool).unwrap().next().is_none().then_some(())
    })
    .await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_stuck_console_is_reported_and_blocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let port = free_port();
    cluster.start_instance(standin(port));
    cluster.states_until(State::Running).await;
    cluster.command("lobby-1", "hang");
    cluster.line("not read any more").await;
    let long = format!("say {}", "x".repeat(900));
    for _ in 0..100 {
        cluster.command("lobby-1", &long);
    }
    let report = loop {
        if let Seen::Error(report) = cluster.next().await {
            break report;
        }
    };
    assert_eq!(
        (report.error_code.as_str(), report.context.as_str()),
        ("COMMAND_NOT_READ", "lobby-1")
    );
    let status = loop {
        if let Seen::Status(status) = cluster.next().await {
            break status;
        }
    };
    assert_eq!(
        (status.instance_count, status.used_ports),
        (1, vec![i32::from(port)])
    );
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn two_instances_do_not_share_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    // A download that never comes: the first instance does not listen yet.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/server.jar", silent.local_addr().unwrap());
    let port = free_port();
    let mut first = start(port, "server.jar", &url);
    let runtime = first.composition_plan.as_mut().unwrap().runtime.as_mut().unwrap();
    runtime.sha256 = "a".repeat(64);
    cluster.start_instance(first);
    let (_download, _) = silent.accept().await.unwrap();
    let mut second = standin(port);
    second.instance_id = "lobby-2".into();
    cluster.start_instance(second);
    let failure = loop {
        if let Seen::Instance(InstanceEvent::StartRetrying { failure, .. }) = cluster.next().await {
            break failure;
        }
    };
    assert_eq!(failure.error_code, "PORT_IN_USE");
    assert!(failure.message.contains(&port.to_string()), "{}", failure.message);
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_crash_without_a_controller_is_told_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(standin(free_port()));
    cluster.states_until(State::Running).await;
    let main = only_control(&folder.path().join("data"))
        .read_state()
        .unwrap()
        .unwrap()
        .main;
    cluster.vanish().await;
    let killed = Command::new("kill")
        .args(["-ABRT", &main.pid.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let spool = folder.path().join("data/crash-reports");
    until("the report on disk", || {
        std::fs::read_dir(&spool).unwrap().next().map(|_| ())
    })
    .await;
    // The daemon is gone too before the controller comes back: the report must not be.
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
    let again = config(folder.path(), &cluster.address.to_string(), None);
    let daemon = Daemon::start(again, own_program()).await.unwrap();
    cluster.listen().await;
    let report = loop {
        if let Seen::Crash(report) = cluster.next().await {
            break report;
        }
    };
    assert_eq!(report.exit_code, 134);
    until("the report is confirmed and deleted", || {
        std::fs::read_dir(&spool).unwrap().next().is_none().then_some(())
    })
    .await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_missing_jar_fails_the_start_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(start(free_port(), "server.jar", "/no/such/server.jar"));
    let failure = loop {
        if let Seen::Instance(InstanceEvent::StartFailed { failure, .. }) = cluster.next().await {
            break failure;
        }
    };
    assert_eq!(failure.stage, StartPreparationStage::RuntimeProvision);
    assert_eq!(failure.error_code, "RUNTIME_PROVISION_FAILED");
    assert!(
        failure.message.contains("/no/such/server.jar"),
        "{}",
        failure.message
    );
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn nothing_is_started_under_an_epoch_that_is_not_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let file = folder.path().join("data/controllers.json");
    until("the epoch is written", || file.exists().then_some(())).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
    std::fs::remove_file(&file).unwrap();
    let in_the_way = folder.path().join("data/controllers.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let config = config(folder.path(), &cluster.address.to_string(), None);
    let daemon = Daemon::start(config, own_program()).await.unwrap();
    cluster.established().await;
    cluster.start_instance(standin(free_port()));
    let failure = loop {
        if let Seen::Instance(InstanceEvent::StartRetrying { failure, .. }) = cluster.next().await {
            break failure;
        }
    };
    assert_eq!(failure.error_code, "EPOCH_NOT_WRITTEN");
    assert!(
        failure.message.starts_with("epoch 1 cannot be written down"),
        "{}",
        failure.message
    );
    assert!(!file.exists());
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_stop_cancels_a_preparation() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/server.jar", silent.local_addr().unwrap());
    let mut order = start(free_port(), "server.jar", &url);
    let runtime = order.composition_plan.as_mut().unwrap().runtime.as_mut().unwrap();
    runtime.sha256 = "a".repeat(64);
    cluster.start_instance(order);
    let (_download, _) = silent.accept().await.unwrap();
    cluster.stop_instance("lobby-1", StopMode::Graceful);
    cluster.states_until(State::Stopped).await;
    let group = folder.path().join("data/instances/lobby");
    until("nothing half-prepared is left", || {
        std::fs::read_dir(&group).unwrap().next().is_none().then_some(())
    })
    .await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn a_killed_daemon_comes_back_to_its_instances() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let mut first = role(folder.path(), &cluster, Some(cluster.token()));
    cluster.established().await;
    cluster.start_instance(standin(free_port()));
    cluster.states_until(State::Running).await;
    let main = only_control(&folder.path().join("data"))
        .read_state()
        .unwrap()
        .unwrap()
        .main;
    cluster.command("lobby-1", "spam 20000");
    cluster.line("spam line 5000 of 20000").await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(main.is_running().unwrap());
    let mut second = role(folder.path(), &cluster, None);
    // The former one may have sent all lines.
    cluster.established().await;
    cluster.line("spam line 20000 of 20000").await;
    cluster.command("lobby-1", "say still here");
    cluster.line("[Server] still here").await;
    let numbers: Vec<u64> = cluster.console.keys().copied().collect();
    assert_eq!(
        numbers,
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "no line is missing"
    );
    let spam = cluster
        .console
        .values()
        .filter(|line| line.starts_with("spam line"));
    for (index, line) in spam.enumerate() {
        assert_eq!(*line, format!("spam line {} of 20000", index + 1));
    }
    cluster.stop_instance("lobby-1", StopMode::Force);
    cluster.states_until(State::Stopped).await;
    until_gone(&main).await;
    second.kill().unwrap();
    second.wait().unwrap();
}

/// The daemon as a process of its own
pub fn role(folder: &Path, cluster: &Cluster, token: Option<JoinToken>) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .arg("role-node")
        .arg(folder)
        .arg(cluster.address.to_string())
        .env(
            "TEST_JOIN_TOKEN",
            token.map(|token| token.expose().to_owned()).unwrap_or_default(),
        )
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// The body of that process
pub async fn serve(folder: &Path, controller: &str) {
    let token = std::env::var("TEST_JOIN_TOKEN").unwrap();
    let token = (!token.is_empty()).then(|| JoinToken::parse(&token).unwrap());
    let mut daemon = Daemon::start(config(folder, controller, token), own_program())
        .await
        .unwrap();
    daemon.wait().await;
}

async fn a_node_shut_down_by_its_controller_stops_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let mut daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(standin(free_port()));
    cluster.states_until(State::Running).await;
    let main = only_control(&folder.path().join("data"))
        .read_state()
        .unwrap()
        .unwrap()
        .main;
    cluster.shut_down_node("maintenance");
    let ack = loop {
        if let Seen::ShutdownAcknowledged(ack) = cluster.next().await {
            break ack;
        }
    };
    assert_eq!(ack.running_instances, 1);
    assert_eq!(ack.estimated_drain_seconds, 70, "grace and kill timeout");
    cluster.states_until(State::Stopped).await;
    let finished = daemon.wait().await;
    assert_eq!(
        finished,
        Finished::ShutDownByController {
            reason: "maintenance".into()
        }
    );
    assert_eq!(daemon.wait().await, finished);
    until_gone(&main).await;
}

async fn a_stopped_daemon_leaves_instances_running() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(standin(free_port()));
    cluster.states_until(State::Running).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
    let main = only_control(&folder.path().join("data"))
        .read_state()
        .unwrap()
        .unwrap()
        .main;
    assert!(main.is_running().unwrap());
    let again = config(folder.path(), &cluster.address.to_string(), None);
    let daemon = Daemon::start(again, own_program()).await.unwrap();
    assert_eq!(daemon.adopted(), 1);
    cluster.established().await;
    cluster.stop_instance("lobby-1", StopMode::Graceful);
    cluster.states_until(State::Stopped).await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}

async fn what_ended_while_no_daemon_ran_is_not_listed_as_alive() {
    for (word, end) in [("stop", State::Stopped), ("crash", State::Crashed)] {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start().await;
        let daemon = node(&mut cluster, folder.path()).await;
        cluster.start_instance(standin(free_port()));
        cluster.states_until(State::Running).await;
        assert_eq!(daemon.shutdown().await, Finished::Stopped);
        let control = only_control(&folder.path().join("data"));
        std::fs::write(control.stdin(), format!("{word}\n")).unwrap();
        until("it has ended", || control.read_exit().unwrap()).await;
        let again = config(folder.path(), &cluster.address.to_string(), None);
        let daemon = Daemon::start(again, own_program()).await.unwrap();
        cluster.established().await;
        assert_eq!(cluster.listed(), (vec![], vec![end.to_wire()]), "{word}");
        let health = daemon.health_addr().unwrap();
        let health = reqwest::get(format!("http://{health}/health")).await.unwrap();
        let health: serde_json::Value = serde_json::from_str(&health.text().await.unwrap()).unwrap();
        assert_eq!(health["instanceCount"], 0, "{health}");
        assert_eq!(daemon.shutdown().await, Finished::Stopped);
    }
}

async fn a_token_is_used_once_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let token = cluster.token();
    let path = folder.path().join("daemon.toml");
    let text = format!(
        "data_dir = {:?}\n[controller]\nendpoints = [\"{}\"]\n[enrolment]\njoin_token = \"{}\"\n[health]\nenabled = false\n",
        folder.path().join("data"),
        cluster.address,
        token.expose()
    );
    std::fs::write(&path, text).unwrap();
    let loaded = config::load(Some(&path), []).unwrap();
    let daemon = Daemon::start(loaded.config, own_program()).await.unwrap();
    cluster.established().await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains("pxr_"));
    let security = folder.path().join("data/security");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&security), 0o700);
    for name in ["node.p12", ".node-password"] {
        assert_eq!(mode(&security.join(name)), 0o600);
    }
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
    // Enrolled for good: neither a token nor the bootstrap service is needed any more.
    let daemon = Daemon::start(config::load(Some(&path), []).unwrap().config, own_program())
        .await
        .unwrap();
    cluster.established().await;
    assert_eq!(daemon.shutdown().await, Finished::Stopped);

    let other = tempfile::tempdir().unwrap();
    let replay = config(other.path(), &cluster.address.to_string(), Some(token));
    let error = Daemon::start(replay, own_program()).await.unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Enrolment(EnrolmentFailure::Exchange(EnrolError::Refused { .. }))
        ),
        "{error}"
    );
    assert!(error.to_string().contains("used already"), "{error}");
}

async fn enrolment_fails_with_a_reason() {
    let cluster = Cluster::start().await;
    let stranger = Cluster::start().await;
    let address = cluster.address.to_string();
    let failure = async |token: Option<JoinToken>| {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &address, token);
        match Daemon::start(config, own_program()).await {
            Err(StartError::Enrolment(failure)) => failure,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(failure(None).await, EnrolmentFailure::NoToken));
    let without_pin = JoinToken::generate(None).unwrap();
    assert!(matches!(
        failure(Some(without_pin)).await,
        EnrolmentFailure::NoPin
    ));
    let pinned_elsewhere = JoinToken::generate(Some(CaPin::of(stranger.authority.certificate()))).unwrap();
    let untrusted = failure(Some(pinned_elsewhere)).await;
    assert!(
        matches!(
            untrusted,
            EnrolmentFailure::Exchange(EnrolError::Untrusted { .. })
        ),
        "{untrusted}"
    );
    assert!(untrusted.to_string().contains(&address), "{untrusted}");
    let unknown = JoinToken::generate(Some(CaPin::of(cluster.authority.certificate()))).unwrap();
    assert!(matches!(
        failure(Some(unknown)).await,
        EnrolmentFailure::Exchange(EnrolError::Refused { .. })
    ));
}

async fn one_data_folder_serves_one_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    let second = config(folder.path(), &cluster.address.to_string(), None);
    let error = Daemon::start(second, own_program()).await.unwrap_err();
    assert!(matches!(error, StartError::DataDir(_)), "{error}");
    assert_eq!(daemon.shutdown().await, Finished::Stopped);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut wrong = config(folder.path(), &cluster.address.to_string(), None);
    wrong.data_dir = file.join("data");
    let error = Daemon::start(wrong, own_program()).await.unwrap_err();
    assert!(error.to_string().contains("file/data"), "{error}");

    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = config(folder.path(), &cluster.address.to_string(), None);
    busy.health.listen = occupied.local_addr().unwrap();
    let error = Daemon::start(busy, own_program()).await.unwrap_err();
    assert!(error.to_string().contains("health.listen"), "{error}");
    assert!(TcpStream::connect(occupied.local_addr().unwrap()).await.is_ok());
}
