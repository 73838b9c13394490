//! What the controller's HTTP interface answers with
//!
//! Only what this program shows is named; fields that it does not know are left alone, and a field that an older
//! controller does not send has its plain default. Times are text here, because they are only shown.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A freshly created join token
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// What the token is called from now on
    pub token_id: String,
    /// The secret itself, shown this once
    pub token: String,
    /// The only node that may use it; `None` = any
    #[serde(default)]
    pub node_id: Option<String>,
    /// Until when
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// A join token as listed: never the secret
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// Its name
    pub token_id: String,
    /// The only node that may use it
    #[serde(default)]
    pub node_id: Option<String>,
    /// Until when
    #[serde(default)]
    pub expires_at: Option<String>,
    /// `ACTIVE`, `EXPIRED`, `CONSUMED` or `REVOKED`
    #[serde(default)]
    pub status: String,
    /// The node that used it
    #[serde(default)]
    pub consumed_by: Option<String>,
}

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
}

/// What is in the folder of an instance
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileTree {
    /// Sorted by name within each folder
    pub entries: Vec<FileEntry>,
    /// There was more than was asked for
    pub truncated: bool,
}

/// A file, a folder, or the sum of one with very many entries
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// From the folder of the instance
    pub path: String,
    /// Whether it is a folder
    pub is_dir: bool,
    /// Of a file, or of all that a sum stands for
    pub size_bytes: i64,
    /// When it was last changed
    #[serde(default)]
    pub modified_at: Option<String>,
    /// It stands for all that is in the folder
    #[serde(default)]
    pub summary: bool,
    /// How many that are
    #[serde(default)]
    pub child_count: i64,
}

/// A file, or an end of it
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileContent {
    /// As the encoding says
    pub content: String,
    /// `utf-8` or `base64`
    pub encoding: String,
    /// Of the whole file
    pub total_size_bytes: i64,
    /// It is not the whole file
    pub truncated: bool,
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

/// A page of what was done
#[derive(Clone, Debug, Deserialize)]
pub struct AuditPage {
    /// The newest first
    pub entries: Vec<AuditEntry>,
}

/// What somebody did
#[derive(Clone, Debug, Deserialize)]
pub struct AuditEntry {
    /// When
    pub at: String,
    /// Who
    pub actor: String,
    /// What
    pub action: String,
    /// On what
    #[serde(default)]
    pub target: String,
    /// More about it
    #[serde(default)]
    pub detail: String,
}

/// What the controller says about itself
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerVersion {
    /// Its version
    pub version: String,
    /// The wire protocol that it speaks
    #[serde(default)]
    pub protocol_version: Option<i64>,
}

/// A template as listed
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Its name
    pub name: String,
    /// Digest of the version that counts; empty = nothing was pushed
    #[serde(default)]
    pub hash: String,
    /// Bytes of its files
    #[serde(default)]
    pub size_bytes: u64,
    /// What it is for
    #[serde(default)]
    pub description: String,
    /// When anything of it last changed
    #[serde(default)]
    pub updated_at: Option<String>,
}

/// A version of a template
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateVersion {
    /// Its number, from 1 on
    #[serde(default)]
    pub number: u64,
    /// Digest of its manifest, by which it is named
    pub hash: String,
    /// Digest of its archive
    #[serde(default)]
    pub archive: String,
    /// Bytes of its archive
    #[serde(default)]
    pub archive_bytes: u64,
    /// Bytes of its files
    #[serde(default)]
    pub size_bytes: u64,
    /// How many files it has
    #[serde(default)]
    pub files: u64,
    /// When it was published
    #[serde(default)]
    pub created_at: Option<String>,
    /// By whom
    #[serde(default)]
    pub created_by: String,
    /// Whether starts get this one
    #[serde(default)]
    pub current: bool,
    /// Whether its manifest is missing or damaged on the controller's disk
    #[serde(default)]
    pub damaged: bool,
}

/// What a push has to send
#[derive(Clone, Debug, Deserialize)]
pub struct MissingContent {
    /// Each once
    pub missing: Vec<MissingBlob>,
    /// The version that counts now
    #[serde(default)]
    pub current: Option<String>,
}

/// Bytes that the controller lacks
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingBlob {
    /// Their digest
    pub sha256: String,
    /// How many
    pub size_bytes: u64,
}

/// How two versions of a template differ
#[derive(Clone, Debug, Deserialize)]
pub struct TemplateDifference {
    /// How many entries differ
    #[serde(default)]
    pub total: u64,
    /// The first of them
    pub changes: Vec<TemplateChange>,
}

/// An entry that differs
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateChange {
    /// Where it is
    pub path: String,
    /// `added`, `removed` or `changed`
    pub change: String,
    /// Bytes of the earlier file
    #[serde(default)]
    pub size_before: Option<u64>,
    /// Bytes of the later file
    #[serde(default)]
    pub size_after: Option<u64>,
}

/// A variable of a template
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateVariable {
    /// Its name
    pub key: String,
    /// `STRING`, `INT`, `BOOL`, `ENUM` or `SECRET`
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is if nobody says otherwise
    #[serde(default)]
    pub default_value: Option<String>,
    /// Of a SECRET whether it has a default
    #[serde(default)]
    pub has_default: Option<bool>,
    /// Whether a start without a value is refused
    #[serde(default)]
    pub required: bool,
    /// The innermost that may set it
    #[serde(default)]
    pub scope: String,
    /// What it is for
    #[serde(default)]
    pub description: String,
}

/// A group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Group {
    /// Its name
    pub name: String,
    /// The name of the software
    pub platform: String,
    /// Its version
    pub platform_version: String,
    /// An http(s) URL or a path on the nodes; empty = a template brings the file
    pub jar: String,
    /// What the jar is called in the folder of a server
    pub jar_file: String,
    /// Templates that are laid over each other
    pub templates: Vec<String>,
    /// Values of variables that may be shown
    pub variable_values: BTreeMap<String, String>,
    /// Variables whose values may not
    pub hidden_variables: Vec<String>,
    /// Keys of configuration files
    pub config_patches: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether folders are kept
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Names of static servers
    pub static_instance_names: Vec<String>,
    /// What templates do not overwrite
    pub protected_paths: Vec<String>,
    /// MiB of each server
    pub memory_mb: i64,
    /// For the JVM
    pub jvm_args: Vec<String>,
    /// Behind the jar; `None` = by the category
    pub arguments: Option<Vec<String>>,
    /// What is typed to end a server; empty = by the platform
    pub stop_command: String,
    /// Environment of the servers, to whoever may see it
    pub env: BTreeMap<String, String>,
    /// Names of variables whose values are not shown
    pub hidden_env: Vec<String>,
    /// First port
    pub port_range_start: i64,
    /// Last port
    pub port_range_end: i64,
    /// Until RUNNING
    pub startup_timeout_seconds: u64,
    /// From a stop to the kill
    pub shutdown_grace_seconds: u64,
    /// 0 = no limit
    pub max_lifetime_seconds: u64,
    /// The most servers
    pub max_instances: u64,
    /// Servers that have not ended
    pub live_instances: u64,
    /// Servers that are RUNNING
    pub running_instances: u64,
    /// Players on all of them
    pub total_players: i64,
    /// What is done about their number
    pub scaling: Scaling,
    /// Fields that are set, and that nothing acts on
    pub not_in_effect: Vec<String>,
    /// Rises with every change
    pub revision: u64,
    /// When anything of it last changed
    pub updated_at: Option<String>,
}

/// What a controller does about the number of servers of a group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scaling {
    /// SETTLED, CHANGING, SHORT, PAUSED, HELD or WAITING; empty = it does not say
    pub state: String,
    /// Servers that there should be
    pub desired: u64,
    /// Servers that serve, or come up
    pub serving: u64,
    /// Why there are not as many
    pub reasons: Vec<String>,
    /// Until when nothing is started because servers crash
    pub paused_until: Option<String>,
    /// Why the last start was refused
    pub refused: Option<String>,
    /// When that was
    pub refused_at: Option<String>,
    /// What is about to be done, where that was asked for
    pub steps: Vec<Step>,
}

/// Something that is about to be done
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Step {
    /// START, STOP or `GIVE_UP`
    pub action: String,
    /// To which server
    pub instance: String,
    /// Why
    pub reason: String,
}

/// What was stopped of a group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoppedGroup {
    /// The instances
    pub instances: Vec<String>,
}

/// Some of the groups
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPage {
    /// By name
    pub data: Vec<Group>,
    /// How many a page has that is not the last
    pub page_size: usize,
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

/// What a node keeps for later starts
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCache {
    /// Contents of templates
    pub templates: Vec<CachedTemplate>,
    /// Runtimes
    pub jars: Vec<CachedJar>,
    /// Prepared files
    pub bootstraps: Vec<CachedBootstrap>,
    /// All of it, in bytes
    pub total_size_bytes: i64,
    /// When the node has said so; `None` = it has not
    pub received_at: Option<String>,
    /// How often it has
    pub number: u64,
    /// What came of the last order to fill it
    pub warming: Option<Warming>,
}

/// A content of a template on a node
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CachedTemplate {
    /// The number of the version that it is the archive of, if the controller knows one
    #[serde(default)]
    pub version: Option<u64>,
    /// The digest by which that version is named
    #[serde(default)]
    pub version_hash: Option<String>,
    /// The template
    pub name: String,
    /// Names the content
    pub hash: String,
    /// Bytes of the archive
    pub size_bytes: i64,
    /// When a start last used it
    pub last_used: Option<String>,
}

/// A runtime on a node
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CachedJar {
    /// The name of the software
    pub platform: String,
    /// Its version
    pub version: String,
    /// The file
    pub jar_file: String,
    /// Its size
    pub size_bytes: i64,
    /// When it came
    pub cached_at: Option<String>,
}

/// Files that make the first start of a runtime faster
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CachedBootstrap {
    /// The family of the runtime
    pub config_format: String,
    /// Its version
    pub version: String,
    /// Bytes of all files
    pub size_bytes: i64,
}

/// What came of an order to fill a cache
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warming {
    /// `WARMING`, `WARMED`, `FAILED`, `BUSY`, `LOST`, `UNANSWERED` or `SENT`
    pub state: String,
    /// Jars of the order
    pub runtimes: u64,
    /// Templates of the order
    pub templates: u64,
    /// When it was given
    pub began_at: String,
    /// When its outcome was known
    pub ended_at: Option<String>,
    /// What the node could not have
    pub failures: Vec<WarmFailure>,
}

/// Something that a node could not have
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WarmFailure {
    /// The file or the template
    pub what: String,
    /// Why, in the daemon's words
    pub message: String,
}
