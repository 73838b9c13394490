//! What is remembered of modules

use crate::store::Record;

/// A module that is installed
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ModuleRecord {
    /// `^[a-z][a-z0-9-]*$`
    #[prost(string, tag = "1")]
    pub id: String,
    /// What counts
    #[prost(message, optional, tag = "2")]
    pub current: Option<ModuleArtifact>,
    /// Versions that counted before, or do not any more, the newest upload first; their jars are kept
    #[prost(message, repeated, tag = "3")]
    pub former: Vec<ModuleArtifact>,
}

/// A version of a module: its jar, which is a blob, and who vouches for it
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ModuleArtifact {
    /// The version
    #[prost(string, tag = "1")]
    pub version: String,
    /// SHA-256 of the jar
    #[prost(string, tag = "2")]
    pub sha256: String,
    /// Bytes of the jar
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
    /// The name under which it was uploaded
    #[prost(string, tag = "4")]
    pub file_name: String,
    /// The manifest, as it stands in the jar
    #[prost(string, tag = "5")]
    pub manifest: String,
    /// The signature file; empty = none
    #[prost(bytes = "vec", tag = "6")]
    pub signature: Vec<u8>,
    /// `sig`, `cosign-bundle`, or empty
    #[prost(string, tag = "7")]
    pub signature_kind: String,
    /// Who has signed it, as far as that was verified
    #[prost(string, tag = "8")]
    pub signer: String,
    /// When it was stored
    #[prost(int64, tag = "9")]
    pub stored_at_ms: i64,
    /// Who stored it
    #[prost(string, tag = "10")]
    pub stored_by: String,
}

impl Record for ModuleRecord {
    const PREFIX: &'static str = "modules/";

    fn id(&self) -> String {
        self.id.clone()
    }
}

/// Changes with every change of any module, so that two that are judged together are written together
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ModuleSetRecord {
    /// When it last changed
    #[prost(int64, tag = "1")]
    pub changed_at_ms: i64,
}

impl Record for ModuleSetRecord {
    const PREFIX: &'static str = "module-set/";

    fn id(&self) -> String {
        "current".to_owned()
    }
}

/// What is known of the modules on a node, also while it is away
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeModulesRecord {
    /// The node
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// Its modules
    #[prost(message, repeated, tag = "2")]
    pub modules: Vec<NodeModule>,
}

/// A module that a node has, or was sent
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeModule {
    /// Which
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its version
    #[prost(string, tag = "2")]
    pub version: String,
    /// SHA-256 of its jar; empty = nobody said
    #[prost(string, tag = "3")]
    pub sha256: String,
    /// As the daemon writes it, or `SENT`
    #[prost(string, tag = "4")]
    pub state: String,
    /// Why it failed
    #[prost(string, tag = "5")]
    pub last_error: String,
    /// When that was said
    #[prost(int64, tag = "6")]
    pub updated_at_ms: i64,
}

impl Record for NodeModulesRecord {
    const PREFIX: &'static str = "node-modules/";

    fn id(&self) -> String {
        self.node_id.clone()
    }
}
