//! A node that is never idle

use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::Finished;
use prexorcloud_proto::{RequestCacheStatus, controller_message};
use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::State;

use super::cluster::Cluster;
use super::node::{node, standin};
use super::stage::free_port;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial(
        "a_busy_node_lets_go_of_its_ends",
        a_busy_node_lets_go_of_its_ends,
    )]
}

async fn a_busy_node_lets_go_of_its_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start().await;
    let daemon = node(&mut cluster, folder.path()).await;
    cluster.start_instance(standin(free_port()));
    cluster.states_until(State::Running).await;
    cluster.stop_instance("lobby-1", StopMode::Graceful);
    cluster.states_until(State::Stopped).await;
    let workspace = folder.path().join("data/instances/lobby/lobby-1");
    assert!(workspace.exists());
    // Each request comes sooner than the ping that confirms the end.
    for _ in 0..30 {
        let request = controller_message::Payload::RequestCacheStatus(RequestCacheStatus::default());
        cluster.send(request);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if !workspace.exists() {
            break;
        }
    }
    assert!(!workspace.exists(), "the end is settled while the node is busy");
    assert_eq!(daemon.shutdown().await, Finished::Stopped);
}
