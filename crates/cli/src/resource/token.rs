//! Join tokens

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
