//! Nodes, and what is done to them

use std::collections::BTreeMap;

use serde::Deserialize;

/// Whoever was turned away because a node's own daemon is there and answers
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rival {
    /// Where it came from last
    pub address: String,
    /// When that was
    #[serde(default)]
    pub last_seen: Option<String>,
    /// How often it came
    #[serde(default)]
    pub attempts: u64,
}

/// A node
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name
    pub id: String,
    /// `ONLINE`, `UNREACHABLE`, `DRAINING`, `CORDONED` or `OFFLINE`
    pub status: String,
    /// Whether its daemon is connected now
    #[serde(default)]
    pub connected: bool,
    /// Whether new instances stay away from it
    #[serde(default)]
    pub cordoned: bool,
    /// Whether it is being emptied
    #[serde(default)]
    pub draining: bool,
    /// Where its instances are reached
    #[serde(default)]
    pub address: Option<String>,
    /// The daemon's version
    #[serde(default)]
    pub version: Option<String>,
    /// Processor use, 0 to 100
    #[serde(default)]
    pub cpu_usage: Option<f64>,
    /// Memory that its instances may use together, MiB; all of the machine from a Java daemon
    #[serde(default)]
    pub total_memory_mb: Option<i64>,
    /// Memory in use, MiB
    #[serde(default)]
    pub used_memory_mb: Option<i64>,
    /// Disk left, MiB
    #[serde(default)]
    pub free_disk_mb: Option<i64>,
    /// Whether it was built from the controller's contract: `SAME`, `DIFFERENT`, `UNKNOWN`
    #[serde(default)]
    pub contract: Option<String>,
    /// What came of its daemon's log
    #[serde(default)]
    pub logs: Option<LogCounts>,
    /// Another daemon that came with its identity while it was there
    #[serde(default)]
    pub rival: Option<Rival>,
    /// Instances that it hosts
    #[serde(default)]
    pub instance_count: Option<i64>,
    /// What the operator attached to it
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Since when it is connected
    #[serde(default)]
    pub connected_since: Option<String>,
    /// When it was heard of last
    #[serde(default)]
    pub last_seen: Option<String>,
    /// When its certificate expires
    #[serde(default)]
    pub certificate_expires_at: Option<String>,
}

/// What came of a log since the controller started
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct LogCounts {
    /// Records that came
    pub received: u64,
    /// Records that are known to be missing
    pub lost: u64,
}

/// The answer of actions that have little to say
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// What became of it
    pub status: String,
    /// Whether the node itself confirmed
    pub acknowledged: Option<bool>,
    /// Instances that are being stopped
    pub stopping: Option<u64>,
    /// Serial numbers of certificates that are no longer accepted
    pub revoked_serials: Vec<String>,
    /// Join tokens of the node that were withdrawn with them
    pub revoked_tokens: Vec<String>,
    /// Join tokens of the node that are still good
    pub open_tokens: Vec<String>,
    /// Sessions that were closed by it
    pub closed_connections: Option<u64>,
    /// Whether the daemon has said that a command was written
    pub confirmed: Option<bool>,
    /// Why not
    pub detail: Option<String>,
}
