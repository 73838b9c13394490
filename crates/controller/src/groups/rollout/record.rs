//! What is remembered of deployments

use std::collections::BTreeMap;

use super::{Phase, Rollout};
use crate::{
    groups::record::GroupRecord,
    store::Record,
    templates::{TemplateRecord, TemplateVersionRecord},
};

/// What is rolled out in a group, and what is in force; one for each group that was deployed
#[derive(Clone, PartialEq, prost::Message)]
pub struct RolloutRecord {
    /// The name of the group
    #[prost(string, tag = "1")]
    pub name: String,
    /// The highest number that a deployment had
    #[prost(uint32, tag = "2")]
    pub last_revision: u32,
    /// The content that counts unless another is being rolled out
    #[prost(uint32, tag = "3")]
    pub in_force: u32,
    /// The deployment that is under way, paused or halted; 0 = none
    #[prost(uint32, tag = "4")]
    pub active: u32,
    /// Servers that are being replaced, and since when
    #[prost(btree_map = "string, int64", tag = "5")]
    pub replacing: BTreeMap<String, i64>,
    /// Failures before this count for nothing
    #[prost(int64, tag = "6")]
    pub since_ms: i64,
    /// What servers that are replaced were started with by hand, until they are there again: their own records lose it when they are stopped
    #[prost(btree_map = "string, message", tag = "7")]
    pub kept: BTreeMap<String, KeptValues>,
}

/// The values that were given at the start of a server
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeptValues {
    /// The start that they were given for, and are sealed for
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// As they were sealed in the record of the instance
    #[prost(bytes = "vec", tag = "2")]
    pub sealed: Vec<u8>,
}

impl Record for RolloutRecord {
    const PREFIX: &'static str = "rollouts/";

    fn id(&self) -> String {
        self.name.clone()
    }
}

impl RolloutRecord {
    /// The machine's view of it; without a deployment under way nothing is rolled out
    pub(in crate::groups) fn rollout(&self, active: Option<&DeploymentRecord>) -> Rollout {
        let replacing = self.replacing.iter();
        Rollout {
            phase: active.map_or(Phase::Over, |active| active.state().phase()),
            content: active.map_or(self.in_force, |active| active.content),
            in_force: self.in_force,
            batch: active.map_or(1, |active| active.batch.max(1) as usize),
            since_ms: self.since_ms,
            timeout_ms: active.map_or(i64::MAX, |active| i64::from(active.timeout_seconds) * 1000),
            replacing: replacing
                .filter_map(|(instance, since)| Some((instance.parse().ok()?, *since)))
                .collect(),
        }
    }
}

/// What a deployment has come to
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum DeploymentState {
    /// Servers are being replaced
    InProgress = 0,
    /// Somebody has paused it
    Paused = 1,
    /// All servers have it
    Completed = 2,
    /// It was halted, or another one took its place
    Failed = 3,
    /// It was undone
    RolledBack = 4,
    /// What there was before the first deployment
    Baseline = 5,
}

impl DeploymentState {
    /// As the Java controller calls it
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "IN_PROGRESS",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::RolledBack => "ROLLED_BACK",
            Self::Baseline => "BASELINE",
        }
    }

    const fn phase(self) -> Phase {
        match self {
            Self::InProgress => Phase::Active,
            Self::Paused => Phase::Paused,
            Self::Failed => Phase::Halted,
            Self::Completed | Self::RolledBack | Self::Baseline => Phase::Over,
        }
    }
}

/// One deployment of a group
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeploymentRecord {
    /// The name of the group
    #[prost(string, tag = "1")]
    pub group: String,
    /// From 1 on, in the order in which they were asked for; 0 = what there was before the first
    #[prost(uint32, tag = "2")]
    pub revision: u32,
    /// The deployment that has pinned what it brings: itself, or an earlier one for a rollback
    #[prost(uint32, tag = "3")]
    pub content: u32,
    /// What was in force before
    #[prost(uint32, tag = "4")]
    pub base: u32,
    /// What it has come to
    #[prost(enumeration = "DeploymentState", tag = "5")]
    pub state: i32,
    /// The group as it was; absent in a rollback
    #[prost(message, optional, tag = "6")]
    pub settings: Option<GroupRecord>,
    /// The templates as they were, in the order in which they are laid over each other
    #[prost(message, repeated, tag = "7")]
    pub layers: Vec<PinnedLayer>,
    /// The version that the catalog recommended; empty = what the group says
    #[prost(string, tag = "8")]
    pub platform_version: String,
    /// How many servers are replaced at the same time
    #[prost(uint32, tag = "9")]
    pub batch: u32,
    /// How long the replacement of a server may take until it is ready
    #[prost(uint32, tag = "10")]
    pub timeout_seconds: u32,
    /// When it was asked for
    #[prost(int64, tag = "11")]
    pub created_at_ms: i64,
    /// When it ended; 0 = it has not
    #[prost(int64, tag = "12")]
    pub completed_at_ms: i64,
    /// By whom
    #[prost(string, tag = "13")]
    pub created_by: String,
    /// The deployment that it undoes; 0 = none
    #[prost(uint32, tag = "14")]
    pub rollback_of: u32,
    /// Why it was halted, or what took its place
    #[prost(string, tag = "15")]
    pub reason: String,
    /// How many servers there were when that last changed
    #[prost(uint32, tag = "16")]
    pub total: u32,
    /// How many of them were ready with what it brings
    #[prost(uint32, tag = "17")]
    pub updated: u32,
}

/// A template as it was, whatever becomes of it
#[derive(Clone, PartialEq, prost::Message)]
pub struct PinnedLayer {
    /// What it is called
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it said about variables; absent = there was no such template
    #[prost(message, optional, tag = "2")]
    pub template: Option<TemplateRecord>,
    /// The version that counted
    #[prost(message, optional, tag = "3")]
    pub version: Option<TemplateVersionRecord>,
}

impl Record for DeploymentRecord {
    const PREFIX: &'static str = "deployments/";

    fn id(&self) -> String {
        Self::id_of(&self.group, self.revision)
    }
}

impl DeploymentRecord {
    /// The id of a deployment; ids of one group are in the order of their numbers
    #[must_use]
    pub fn id_of(group: &str, revision: u32) -> String {
        format!("{group}/{revision:010}")
    }

    /// The keys of all deployments of a group begin with this
    #[must_use]
    pub fn prefix_of(group: &str) -> String {
        format!("{}{group}/", Self::PREFIX)
    }
}
