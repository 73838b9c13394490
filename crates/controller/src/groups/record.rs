//! What is remembered of groups

use std::collections::HashMap;

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
