//! Caches of nodes

use serde::Deserialize;

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
