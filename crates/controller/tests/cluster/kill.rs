//! A controller that is killed goes on, at the next start, with everything it had told anyone

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use prexorcloud_controller::{Controller, config::ControllerConfig};
use prexorcloud_proto::{
    CrashReport, InstanceState, StartInstance, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use serde_json::json;

use crate::{
    puppet::{Puppet, running},
    support::Cluster,
};

const FOLDER: &str = "PREXORCLOUD_TEST_CONTROLLER_FOLDER";
const SERVES: &str = "serves ";

/// Ends the process whatever happens to the test
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a controller until it is killed
fn serve(data_dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut config = ControllerConfig {
        data_dir: data_dir.to_path_buf(),
        ..ControllerConfig::default()
    };
    config.grpc.listen = "127.0.0.1:0".parse().unwrap();
    config.http.listen = "127.0.0.1:0".parse().unwrap();
    runtime.block_on(async {
        let controller = Controller::start(config).await.unwrap();
        println!("{SERVES}{} {}", controller.grpc_addr(), controller.http_addr());
        controller.wait_failed().await;
    });
}

fn spawn(cluster: &mut Cluster) -> Killed {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::a_killed_controller_keeps_its_word",
            "--nocapture",
        ])
        .env(FOLDER, &cluster.config.data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addresses = lines
        .find_map(|line| line.unwrap().split_once(SERVES).map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let (grpc, http) = addresses.split_once(' ').unwrap();
    (cluster.grpc, cluster.http) = (grpc.parse().unwrap(), http.parse().unwrap());
    Killed(child)
}

#[test]
fn a_killed_controller_keeps_its_word() {
    if let Some(folder) = env::var_os(FOLDER) {
        return serve(folder.as_ref());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(keep_its_word());
}

async fn keep_its_word() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let token = cluster.join_token(None).await;
    cluster.stop().await;
    let mut alive: Vec<StartInstance> = Vec::new();
    for round in 1..=3_u64 {
        let process = spawn(&mut cluster);
        let reported = alive
            .iter()
            .map(|start| running(start, InstanceState::Running))
            .collect();
        let (mut puppet, ack) = Puppet::join_with(&cluster, &credential, "node-1", reported).await;
        assert_eq!(ack.epoch, round + 1);

        // A start that the daemon has seen is recorded, whatever happens next.
        let body = json!({ "group": "game", "id": format!("game-{round}"), "jar": "/srv/server.jar" });
        assert_eq!(cluster.post("/instances", &body).await.0, 201);
        let start = puppet.start().await;
        puppet.bring_up(&start).await;
        cluster.instance_state(&start.instance_id, "RUNNING").await;
        alive.push(start);

        // So is a crash that was acknowledged.
        let body = json!({ "group": "crash", "id": "crash-1", "jar": "/srv/server.jar" });
        assert_eq!(cluster.post("/instances", &body).await.1["incarnation"], round);
        let start = puppet.start().await;
        puppet.bring_up(&start).await;
        let report = CrashReport {
            instance_id: start.instance_id.clone(),
            group: start.group.clone(),
            exit_code: 1,
            incarnation: start.incarnation,
            report_id: format!("report-{round}"),
            ..CrashReport::default()
        };
        puppet
            .report(&start.instance_id, start.incarnation, InstanceState::Crashed)
            .await;
        puppet.say(Payload::CrashReport(Box::new(report))).await;
        assert!(matches!(
            puppet.next().await.unwrap(),
            ToDaemon::CrashReportAck(_)
        ));
        if round == 2 {
            cluster.exchange(&token, "node-2").await.unwrap();
        }
        drop(process);
    }
    cluster.restart().await;
    let (_, crashes) = cluster.get("/crashes").await;
    assert_eq!(crashes.as_array().unwrap().len(), 3, "{crashes}");
    for start in &alive {
        assert_eq!(cluster.instance(&start.instance_id).await["state"], "RUNNING");
    }
    assert_eq!(
        cluster.exchange(&token, "node-3").await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
    assert_eq!(cluster.node("node-2").await["status"], "OFFLINE");
}
