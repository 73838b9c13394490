//! Templates, their versions and variables

use serde::Deserialize;

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
