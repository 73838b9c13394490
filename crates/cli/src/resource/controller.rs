//! The controller itself

use serde::Deserialize;

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
