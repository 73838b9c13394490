//! What is remembered of groups

use std::collections::{BTreeMap, HashMap};

use prexorcloud_protocol::GroupName;

use super::scaling::{History, health::Health};
use crate::store::Record;

/// A group: what servers of a kind are started with
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupRecord {
    /// 1 to 32 of `a-z`, `0-9`, `_` and `-`, beginning with a letter or digit
    #[prost(string, tag = "1")]
    pub name: String,
    /// The fields that somebody has set, as JSON, but for those that may be secret; what is not there has its default
    #[prost(string, tag = "2")]
    pub settings: String,
    /// A sealed [`GroupSecrets`]; empty = there are none
    #[prost(bytes = "vec", tag = "3")]
    pub sealed: Vec<u8>,
    /// Variables whose values were a SECRET when they were set
    #[prost(string, repeated, tag = "4")]
    pub hidden: Vec<String>,
    /// When it was created
    #[prost(int64, tag = "5")]
    pub created_at_ms: i64,
    /// When anything of it last changed
    #[prost(int64, tag = "6")]
    pub updated_at_ms: i64,
}

impl Record for GroupRecord {
    const PREFIX: &'static str = "groups/";

    fn id(&self) -> String {
        self.name.clone()
    }
}

/// What may be secret in a group
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupSecrets {
    /// Environment of its servers
    #[prost(map = "string, string", tag = "1")]
    pub env: HashMap<String, String>,
    /// Values of the variables of its templates
    #[prost(map = "string, string", tag = "2")]
    pub variable_values: HashMap<String, String>,
}

/// What has happened to the servers of a group, as far as it decides over the next ones
///
/// It is made when a group is looked after for the first time, and deleted with the group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupHealthRecord {
    /// The name of the group
    #[prost(string, tag = "1")]
    pub name: String,
    /// Since when it is looked after: what ended before counts for nothing
    #[prost(int64, tag = "2")]
    pub known_since_ms: i64,
    /// By instance, the incarnation whose end was counted last
    #[prost(btree_map = "string, uint64", tag = "3")]
    pub counted: BTreeMap<String, u64>,
    /// When servers ended badly, as long as it matters
    #[prost(int64, repeated, tag = "4")]
    pub recent_ms: Vec<i64>,
    /// When one did last
    #[prost(int64, tag = "5")]
    pub last_crash_ms: i64,
    /// Pauses in a row
    #[prost(uint32, tag = "6")]
    pub pauses: u32,
    /// Until when nothing is started; 0 = it was never paused
    #[prost(int64, tag = "7")]
    pub paused_until_ms: i64,
    /// Why
    #[prost(string, tag = "8")]
    pub cause: String,
    /// Who has said that nothing is to be started or stopped; empty = nobody
    #[prost(string, tag = "9")]
    pub held_by: String,
    /// When the number of servers was last changed for the sake of players
    #[prost(int64, tag = "10")]
    pub scaled_at_ms: i64,
    /// One of its servers has said that somebody plays
    #[prost(bool, tag = "11")]
    pub counts_players: bool,
    /// When somebody has resumed it last
    #[prost(int64, tag = "12")]
    pub resumed_at_ms: i64,
}

impl Record for GroupHealthRecord {
    const PREFIX: &'static str = "group-health/";

    fn id(&self) -> String {
        self.name.clone()
    }
}

impl GroupHealthRecord {
    /// Of a group that nobody has looked after before
    pub(super) fn since(group: GroupName, now_ms: i64) -> Self {
        Self {
            name: group.to_string(),
            known_since_ms: now_ms,
            ..Self::default()
        }
    }

    pub(super) fn health(&self) -> Health {
        let counted = self.counted.iter();
        Health {
            known_since_ms: self.known_since_ms,
            counted: counted
                .filter_map(|(instance, incarnation)| Some((instance.parse().ok()?, *incarnation)))
                .collect(),
            recent_ms: self.recent_ms.clone(),
            last_crash_ms: self.last_crash_ms,
            pauses: self.pauses,
            paused_until_ms: self.paused_until_ms,
            cause: self.cause.clone(),
        }
    }

    pub(super) fn set_health(&mut self, health: Health) {
        let counted = health.counted.into_iter();
        self.counted = counted
            .map(|(instance, incarnation)| (instance.to_string(), incarnation))
            .collect();
        self.recent_ms = health.recent_ms;
        self.last_crash_ms = health.last_crash_ms;
        self.pauses = health.pauses;
        self.paused_until_ms = health.paused_until_ms;
        self.cause = health.cause;
    }

    pub(super) fn history(&self, settled_at_ms: i64) -> History {
        History {
            known_since_ms: self.known_since_ms,
            paused_until_ms: self.paused_until_ms,
            cause: self.cause.clone(),
            held_by: (!self.held_by.is_empty()).then(|| self.held_by.clone()),
            scaled_at_ms: self.scaled_at_ms,
            counts_players: self.counts_players,
            settled_at_ms,
        }
    }
}
