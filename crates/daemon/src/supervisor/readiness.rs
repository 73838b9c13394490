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

/// Whether the instance is ready by now: its console is read to its end and its port is tried, whatever time that takes
///
/// To be asked before a deadline counts. A daemon that comes back late, or is busy, may have read only a part until then.
pub(super) async fn is_ready_by_now(facts: &InstanceFacts, control: &ControlDir) -> bool {
    let mut cursor = Cursor::START;
    has_marker(&facts.ready_markers, control, &mut cursor).await || is_port_open(facts.port).await
}

/// Returns once the instance is ready, and waits for ever if it never is
pub(super) async fn ready(facts: &InstanceFacts, control: &ControlDir, watcher: Option<&Watcher>) {
    tokio::select! {
        () = port_open(facts.port) => {}
        () = marker_seen(&facts.ready_markers, control, watcher) => {}
    }
}

async fn port_open(port: u16) {
    while !is_port_open(port).await {
        sleep(PORT_INTERVAL).await;
    }
}

async fn is_port_open(port: u16) -> bool {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let connect = TcpStream::connect(SocketAddr::new(address, port));
        if let Ok(Ok(_)) = timeout(PORT_TIMEOUT, connect).await {
            return true;
        }
    }
    false
}

async fn marker_seen(markers: &[String], control: &ControlDir, watcher: Option<&Watcher>) {
    if markers.is_empty() {
        return std::future::pending().await;
    }
    let path = control.console_log();
    let mut cursor = Cursor::START;
    loop {
        let changed = watcher.and_then(|watcher| watcher.arm(&path).ok());
        if has_marker(markers, control, &mut cursor).await {
            return;
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

/// Whether a marker stands between `cursor` and the end of the console; moves the cursor there
async fn has_marker(markers: &[String], control: &ControlDir, cursor: &mut Cursor) -> bool {
    let Ok(mut follower) = Follower::open(&control.console_log(), *cursor) else {
        return false;
    };
    let mut lines = Vec::new();
    while follower.read(0, &mut lines).unwrap_or(false) {
        let seen = |marker: &String| lines.iter().any(|line| line.text.contains(marker));
        if markers.iter().any(seen) {
            return true;
        }
        lines.clear();
        tokio::task::yield_now().await;
    }
    *cursor = follower.cursor();
    false
}
