//! What the controller remembers: one prost message per kind of record
//!
//! Field numbers are permanent: a store outlives the release that wrote it. New facts get new numbers, and absent
//! fields mean what they meant before the field existed. Times are milliseconds since 1970, UTC.

use std::collections::HashMap;

use prexorcloud_proto::{HostInfo, InstanceState, StartInstance};

use crate::store::Record;

/// The controller itself; there is one
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerRecord {
    /// Random name of this cluster, made at the first start
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// How many times a controller started on this store; daemons refuse commands of a lower one
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// When the store was made
    #[prost(int64, tag = "3")]
    pub created_at_ms: i64,
    /// The highest epoch that a daemon obeys and this controller had not; 0 = none since the last recovery
    #[prost(uint64, tag = "4")]
    pub fence: u64,
    /// The node that reported it
    #[prost(string, tag = "5")]
    pub fence_node: String,
    /// The fingerprint of the authority that every certificate of this cluster is signed by; empty until a start has noted it
    #[prost(string, tag = "6")]
    pub authority: String,
}

impl Record for ControllerRecord {
    const PREFIX: &'static str = "controller/";

    fn id(&self) -> String {
        Self::ONLY.to_owned()
    }
}

impl ControllerRecord {
    /// The id of the only one
    pub const ONLY: &'static str = "self";
}

/// Something that happened, appended in the transaction that made it happen
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventRecord {
    /// What it is, for instance `NODE_CONNECTED`
    #[prost(string, tag = "1")]
    pub kind: String,
    /// When it was recorded
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
    /// Its fields as a JSON object, as the Java controller writes them
    #[prost(string, tag = "3")]
    pub payload_json: String,
}

/// A node that enrolled or connected at least once
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeRecord {
    /// The node id
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// When its first token was exchanged, or its first handshake came
    #[prost(int64, tag = "2")]
    pub first_seen_ms: i64,
    /// When it last connected or disconnected
    #[prost(int64, tag = "3")]
    pub last_seen_ms: i64,
    /// The operator wants no new instances here
    #[prost(bool, tag = "4")]
    pub cordoned: bool,
    /// The operator wants it empty; absent when not draining
    #[prost(message, optional, tag = "5")]
    pub drain: Option<DrainRecord>,
    /// The daemon's release, from its last handshake
    #[prost(string, tag = "6")]
    pub version: String,
    /// Where it says it can be reached, else the address that it connected from
    #[prost(string, tag = "7")]
    pub address: String,
    /// Memory that its instances may use together, in MiB
    #[prost(int64, tag = "8")]
    pub total_memory_mb: i64,
    /// Processors
    #[prost(int32, tag = "9")]
    pub available_cpus: i32,
    /// Labels from its configuration
    #[prost(map = "string, string", tag = "10")]
    pub labels: HashMap<String, String>,
    /// About the machine
    #[prost(message, optional, tag = "11")]
    pub host_info: Option<HostInfo>,
    /// When the certificate expires that it connected with last, or enrolled for; 0 = not known
    #[prost(int64, tag = "12")]
    pub certificate_expires_at_ms: i64,
    /// Serial numbers of the certificates that it got over its stream, the oldest first; as many as are worth a record
    #[prost(string, repeated, tag = "13")]
    pub renewals: Vec<String>,
    /// SHA-256 of the authority that signed the certificate that it connected with last; empty = not known
    #[prost(string, tag = "14")]
    pub signed_by: String,
    /// SHA-256 of the authorities that it believes; empty = it does not say
    #[prost(string, repeated, tag = "15")]
    pub trusts: Vec<String>,
}

impl Record for NodeRecord {
    const PREFIX: &'static str = "nodes/";

    fn id(&self) -> String {
        self.node_id.clone()
    }
}

/// A drain that an operator asked for and that is not finished
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DrainRecord {
    /// When it was asked for
    #[prost(int64, tag = "1")]
    pub requested_at_ms: i64,
    /// When what still runs is stopped by force
    #[prost(int64, tag = "2")]
    pub deadline_ms: i64,
    /// Whether the daemon is shut down once the node is empty
    #[prost(bool, tag = "3")]
    pub shutdown: bool,
}

/// A certificate that this controller issued to a node
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CertificateRecord {
    /// Serial number in lower-case hex
    #[prost(string, tag = "1")]
    pub serial: String,
    /// Whose it is
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// When it was issued
    #[prost(int64, tag = "3")]
    pub issued_at_ms: i64,
    /// When it expires
    #[prost(int64, tag = "4")]
    pub expires_at_ms: i64,
    /// When it was revoked; 0 = it was not
    #[prost(int64, tag = "5")]
    pub revoked_at_ms: i64,
}

impl Record for CertificateRecord {
    const PREFIX: &'static str = "certificates/";

    fn id(&self) -> String {
        self.serial.clone()
    }
}

/// All certificates of a node that were issued before a moment are revoked
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeRevocationRecord {
    /// Whose
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// Certificates issued up to now are revoked, later ones are not
    #[prost(int64, tag = "2")]
    pub issued_before_ms: i64,
}

impl Record for NodeRevocationRecord {
    const PREFIX: &'static str = "node-revocations/";

    fn id(&self) -> String {
        self.node_id.clone()
    }
}

/// A one-time token that enrols a node; the token itself is stored nowhere
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JoinTokenEntry {
    /// `tok_<uuid>`, by which it is listed and revoked
    #[prost(string, tag = "1")]
    pub token_id: String,
    /// SHA-256 of the token in hex
    #[prost(string, tag = "2")]
    pub hash: String,
    /// The only node that may use it; empty = any
    #[prost(string, tag = "3")]
    pub node_id: String,
    /// When it was minted
    #[prost(int64, tag = "4")]
    pub created_at_ms: i64,
    /// When it expires
    #[prost(int64, tag = "5")]
    pub expires_at_ms: i64,
    /// When it was used; 0 = it was not
    #[prost(int64, tag = "6")]
    pub consumed_at_ms: i64,
    /// Who used it
    #[prost(string, tag = "7")]
    pub consumed_by: String,
    /// When it was revoked; 0 = it was not
    #[prost(int64, tag = "8")]
    pub revoked_at_ms: i64,
    /// SHA-256 in hex of the node's own key that it was used for; empty = the controller made the key
    #[prost(string, tag = "9")]
    pub consumed_key: String,
    /// Serial number of the certificate that it became last
    #[prost(string, tag = "10")]
    pub consumed_serial: String,
}

impl Record for JoinTokenEntry {
    const PREFIX: &'static str = "join-tokens/";

    fn id(&self) -> String {
        self.token_id.clone()
    }
}

/// Finds a join token by its hash
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JoinTokenIndex {
    /// SHA-256 of the token in hex
    #[prost(string, tag = "1")]
    pub hash: String,
    /// The token's id
    #[prost(string, tag = "2")]
    pub token_id: String,
}

impl Record for JoinTokenIndex {
    const PREFIX: &'static str = "join-token-hashes/";

    fn id(&self) -> String {
        self.hash.clone()
    }
}

/// A bearer token of a person or a tool; the token itself is stored nowhere
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AccessTokenRecord {
    /// SHA-256 of the token in hex
    #[prost(string, tag = "1")]
    pub hash: String,
    /// Who it stands for, in the audit log
    #[prost(string, tag = "2")]
    pub name: String,
    /// Names of permissions; `*` = all
    #[prost(string, repeated, tag = "3")]
    pub permissions: Vec<String>,
    /// When it was minted
    #[prost(int64, tag = "4")]
    pub created_at_ms: i64,
    /// When it expires; 0 = never
    #[prost(int64, tag = "5")]
    pub expires_at_ms: i64,
    /// When it was revoked; 0 = it was not
    #[prost(int64, tag = "6")]
    pub revoked_at_ms: i64,
}

impl Record for AccessTokenRecord {
    const PREFIX: &'static str = "access-tokens/";

    fn id(&self) -> String {
        self.hash.clone()
    }
}

/// What somebody did, or tried to do
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AuditRecord {
    /// Time-ordered
    #[prost(string, tag = "1")]
    pub id: String,
    /// When
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
    /// Who: `admin:<name>`, `token:<name>`, `node:<id>`, or the peer's address
    #[prost(string, tag = "3")]
    pub actor: String,
    /// What, for instance `join-token.create`
    #[prost(string, tag = "4")]
    pub action: String,
    /// On what
    #[prost(string, tag = "5")]
    pub target: String,
    /// More about it; never a secret
    #[prost(string, tag = "6")]
    pub detail: String,
}

impl Record for AuditRecord {
    const PREFIX: &'static str = "audit/";

    fn id(&self) -> String {
        self.id.clone()
    }
}

/// What is wanted of an instance
#[derive(Copy, Clone, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Wanted {
    /// It should run
    Run = 0,
    /// It should stop by itself
    Stop = 1,
    /// It should be killed
    ForceStop = 2,
}

/// The credential of the plugin inside a server; the token itself is stored nowhere
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PluginCredential {
    /// SHA-256 of the token
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// When it expires; 0 = its time begins with the server
    #[prost(int64, tag = "2")]
    pub expires_at_ms: i64,
}

/// An instance: what was asked for and what was last seen
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstanceRecord {
    /// The instance id
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// Where it runs
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// The command that started it, with its incarnation; sent again when a daemon must be told again
    #[prost(message, optional, tag = "3")]
    pub start: Option<StartInstance>,
    /// What is wanted
    #[prost(enumeration = "Wanted", tag = "4")]
    pub wanted: i32,
    /// What was last seen
    #[prost(enumeration = "InstanceState", tag = "5")]
    pub state: i32,
    /// When it was first asked for
    #[prost(int64, tag = "6")]
    pub created_at_ms: i64,
    /// When this incarnation reached RUNNING; 0 = it has not
    #[prost(int64, tag = "7")]
    pub running_since_ms: i64,
    /// When this record last changed
    #[prost(int64, tag = "8")]
    pub updated_at_ms: i64,
    /// What went wrong last; empty = nothing
    #[prost(string, tag = "9")]
    pub last_error: String,
    /// It counts as ended because nothing was heard of it; when it is listed alive again, it is taken back
    #[prost(bool, tag = "12")]
    pub lost: bool,
    /// The secrets of `start`, sealed: its environment and the credential of its plugin; empty once it has ended
    #[prost(bytes = "vec", tag = "13")]
    pub sealed_secrets: Vec<u8>,
    /// Who may call as the plugin inside of it, as long as it lives
    #[prost(message, repeated, tag = "14")]
    pub plugin_credentials: Vec<PluginCredential>,
    /// The values of variables that somebody gave at its start, sealed; empty = none, or nobody wants it any more
    #[prost(bytes = "vec", tag = "15")]
    pub sealed_given: Vec<u8>,
    /// Why its group has started it, for people; empty = somebody has
    #[prost(string, tag = "16")]
    pub started_because: String,
}

impl Record for InstanceRecord {
    const PREFIX: &'static str = "instances/";

    fn id(&self) -> String {
        self.instance_id.clone()
    }
}

/// The last incarnation that an instance id had; kept after the instance is deleted, so that no number returns
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct IncarnationRecord {
    /// The instance id
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// The highest number given out
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

impl Record for IncarnationRecord {
    const PREFIX: &'static str = "incarnations/";

    fn id(&self) -> String {
        self.instance_id.clone()
    }
}

/// An instance that ended unexpectedly
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CrashRecord {
    /// `crash-<time-ordered uuid>`
    #[prost(string, tag = "1")]
    pub crash_id: String,
    /// The instance
    #[prost(string, tag = "2")]
    pub instance_id: String,
    /// Its group
    #[prost(string, tag = "3")]
    pub group: String,
    /// Where it ran
    #[prost(string, tag = "4")]
    pub node_id: String,
    /// Which start of it; 0 = the daemon did not say
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// Exit code; 128 + n for signal n, -1 = nobody saw the end
    #[prost(int32, tag = "6")]
    pub exit_code: i32,
    /// Why, in one word, for instance `OOM`
    #[prost(string, tag = "7")]
    pub classification: String,
    /// Why, in one sentence
    #[prost(string, tag = "8")]
    pub cause: String,
    /// Equal for crashes that look alike
    #[prost(string, tag = "9")]
    pub signature: String,
    /// The last lines of its output
    #[prost(string, repeated, tag = "10")]
    pub log_tail: Vec<String>,
    /// How long it ran
    #[prost(int64, tag = "11")]
    pub uptime_ms: i64,
    /// When the report was stored, by the controller's clock
    #[prost(int64, tag = "12")]
    pub crashed_at_ms: i64,
    /// Key of the [`CrashReportIndex`] entry; empty = the daemon gave its report no id
    #[prost(string, tag = "13")]
    pub report_key: String,
}

impl Record for CrashRecord {
    const PREFIX: &'static str = "crashes/";

    fn id(&self) -> String {
        self.crash_id.clone()
    }
}

/// What a list says of a crash: all of its record but the lines
///
/// Its id is that of the [`CrashRecord`], and it is written and deleted together with it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CrashSummary {
    /// The record without its lines
    #[prost(message, optional, tag = "1")]
    pub crash: Option<CrashRecord>,
    /// How large the whole record is
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

impl Record for CrashSummary {
    const PREFIX: &'static str = "crash-summaries/";

    fn id(&self) -> String {
        self.crash
            .as_ref()
            .map(|crash| crash.crash_id.clone())
            .unwrap_or_default()
    }
}

impl CrashSummary {
    /// What is to be said of a crash
    #[must_use]
    pub fn of(record: &CrashRecord) -> Self {
        Self {
            crash: Some(CrashRecord {
                log_tail: Vec::new(),
                ..record.clone()
            }),
            bytes: prost::Message::encoded_len(record) as u64,
        }
    }
}

/// Something that was done once to records of an earlier release
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MigrationRecord {
    /// What
    #[prost(string, tag = "1")]
    pub name: String,
    /// When
    #[prost(int64, tag = "2")]
    pub done_at_ms: i64,
}

impl Record for MigrationRecord {
    const PREFIX: &'static str = "migrations/";

    fn id(&self) -> String {
        self.name.clone()
    }
}

/// Recognises a crash report that is sent again
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CrashReportIndex {
    /// SHA-256 over node id and report id, in hex: report ids come from the daemon and are not safe as keys
    #[prost(string, tag = "1")]
    pub report_key: String,
    /// The stored crash
    #[prost(string, tag = "2")]
    pub crash_id: String,
}

impl Record for CrashReportIndex {
    const PREFIX: &'static str = "crash-reports/";

    fn id(&self) -> String {
        self.report_key.clone()
    }
}
