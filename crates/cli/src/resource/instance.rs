//! Instances and their crashes

use serde::Deserialize;

/// An instance
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its name
    pub id: String,
    /// The group that it belongs to
    pub group: String,
    /// The node that hosts it
    #[serde(default)]
    pub node: Option<String>,
    /// One of the eight states of the contract
    pub state: String,
    /// What is missing until the next state
    #[serde(default)]
    pub detail: Option<String>,
    /// What was asked of it: `RUN`, `STOP` or `FORCE_STOP`
    #[serde(default)]
    pub desired: Option<String>,
    /// Its port
    #[serde(default)]
    pub port: Option<i64>,
    /// Which start of this id it is, from 1
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// Players that it reported
    #[serde(default)]
    pub player_count: Option<i64>,
    /// For how long it has been running
    #[serde(default)]
    pub uptime_ms: Option<i64>,
    /// Memory that it was given, MiB
    #[serde(default)]
    pub memory_mb: Option<i64>,
    /// When it was created
    #[serde(default)]
    pub created_at: Option<String>,
    /// When it was last started
    #[serde(default)]
    pub started_at: Option<String>,
    /// Why it did not start, if it did not
    #[serde(default)]
    pub last_error: Option<String>,
    /// Why its group started it, if that was not somebody
    #[serde(default)]
    pub started_because: Option<String>,
    /// Whether it comes back with the values that were given at its start
    #[serde(default)]
    pub keeps_values: bool,
}

/// A crash, with the end of the log when asked for alone
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Crash {
    /// Its name
    pub id: String,
    /// The instance that crashed
    pub instance_id: String,
    /// Its group
    #[serde(default)]
    pub group: Option<String>,
    /// Its node
    #[serde(default)]
    pub node: Option<String>,
    /// Which start of the instance it was; 0 = not known
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// The exit code; 128 + n after a signal, -1 if nobody saw the end
    #[serde(default)]
    pub exit_code: Option<i64>,
    /// What kind of crash the controller takes it for
    #[serde(default)]
    pub classification: Option<String>,
    /// The line that says it best
    #[serde(default)]
    pub cause_summary: Option<String>,
    /// How long it had been running
    #[serde(default)]
    pub uptime_ms: Option<i64>,
    /// When
    #[serde(default)]
    pub crashed_at: Option<String>,
    /// The last lines of its console
    #[serde(default)]
    pub log_tail: Vec<String>,
}

/// What a start of a group came to
#[derive(Clone, Debug, Deserialize)]
pub struct Started {
    /// The instances
    #[serde(default)]
    pub instances: Vec<String>,
    /// Why they are not as many as were asked for
    #[serde(default)]
    pub refused: Option<String>,
}
