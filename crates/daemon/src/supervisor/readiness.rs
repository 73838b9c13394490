//! When an instance is ready: its port takes connections, or its console says so

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::record::InstanceFacts;
use crate::console::{Cursor, Follower, Watcher};
use crate::control::ControlDir;

/// How often the port is tried
const PORT_INTERVAL: Duration = Duration::from_millis(250);

/// How long one try may take; it never leaves the machine
const PORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the console is read when the system has no watches left
const WITHOUT_WATCH: Duration = Duration::from_millis(100);

/// Returns once the instance is ready, and waits for ever if it never is
pub(super) async fn ready(facts: &InstanceFacts, control: &ControlDir, watcher: Option<&Watcher>) {
    tokio::select! {
        () = port_open(facts.port) => {}
        () = marker_seen(&facts.ready_markers, control, watcher) => {}
    }
}

async fn port_open(port: u16) {
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    loop {
        for address in addresses {
            let connect = TcpStream::connect(SocketAddr::new(address, port));
            if let Ok(Ok(_)) = timeout(PORT_TIMEOUT, connect).await {
                return;
            }
        }
        sleep(PORT_INTERVAL).await;
    }
}

async fn marker_seen(markers: &[String], control: &ControlDir, watcher: Option<&Watcher>) {
    if markers.is_empty() {
        return std::future::pending().await;
    }
    let path = control.console_log();
    let mut cursor = Cursor::START;
    loop {
        let changed = watcher.and_then(|watcher| watcher.arm(&path).ok());
        if let Ok(mut follower) = Follower::open(&path, cursor) {
            let mut lines = Vec::new();
            while follower.read(0, &mut lines).unwrap_or(false) {
                let seen = |marker: &String| lines.iter().any(|line| line.text.contains(marker));
                if markers.iter().any(seen) {
                    return;
                }
                lines.clear();
                tokio::task::yield_now().await;
            }
            cursor = follower.cursor();
        }
        let woken = async {
            let watched = match changed {
                Some(changed) => changed.await.is_ok(),
                None => false,
            };
            if !watched {
                sleep(WITHOUT_WATCH).await;
            }
        };
        // Watches can be lost; look again before long in any case.
        let _ = timeout(Duration::from_secs(1), woken).await;
    }
}
