//! Deployments of groups

use serde::Deserialize;

/// A deployment
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deployment {
    /// The group
    pub group_name: String,
    /// Which of its deployments
    pub revision: u32,
    /// `IN_PROGRESS`, `PAUSED`, `COMPLETED`, `FAILED` or `ROLLED_BACK`
    pub state: String,
    /// Servers that there are
    pub total_instances: u32,
    /// Servers that have it
    pub updated_instances: u32,
    /// When it was asked for
    pub created_at: Option<String>,
    /// When it ended
    pub completed_at: Option<String>,
    /// By whom
    pub created_by: String,
    /// The one that it undoes
    pub rollback_of: Option<u32>,
    /// The one that has pinned what it brings
    pub content_revision: Option<u32>,
    /// What was in force before
    pub base_revision: Option<u32>,
    /// Why it was halted, or what took its place
    pub reason: String,
    /// How fast it goes
    pub rollout: Pace,
    /// The servers in the order in which they are replaced, where that was asked for
    pub waves: Vec<Vec<String>>,
}

/// How fast a deployment goes
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pace {
    /// How many servers are replaced at the same time
    pub batch_size: u32,
    /// Within so many seconds each must be ready
    pub replacement_timeout_seconds: u32,
}

/// Some deployments of a group, the newest first
#[derive(Clone, Debug, Deserialize)]
pub struct DeploymentPage {
    /// The deployments
    pub data: Vec<Deployment>,
}
