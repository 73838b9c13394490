//! Groups

use std::collections::BTreeMap;

use serde::Deserialize;

/// A group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Group {
    /// Its name
    pub name: String,
    /// The name of the software
    pub platform: String,
    /// Its version
    pub platform_version: String,
    /// An http(s) URL or a path on the nodes; empty = a template brings the file
    pub jar: String,
    /// What the jar is called in the folder of a server
    pub jar_file: String,
    /// Templates that are laid over each other
    pub templates: Vec<String>,
    /// Values of variables that may be shown
    pub variable_values: BTreeMap<String, String>,
    /// Variables whose values may not
    pub hidden_variables: Vec<String>,
    /// Keys of configuration files
    pub config_patches: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether folders are kept
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Names of static servers
    pub static_instance_names: Vec<String>,
    /// What templates do not overwrite
    pub protected_paths: Vec<String>,
    /// MiB of each server
    pub memory_mb: i64,
    /// For the JVM
    pub jvm_args: Vec<String>,
    /// Behind the jar; `None` = by the category
    pub arguments: Option<Vec<String>>,
    /// What is typed to end a server; empty = by the platform
    pub stop_command: String,
    /// Environment of the servers, to whoever may see it
    pub env: BTreeMap<String, String>,
    /// Names of variables whose values are not shown
    pub hidden_env: Vec<String>,
    /// First port
    pub port_range_start: i64,
    /// Last port
    pub port_range_end: i64,
    /// Until RUNNING
    pub startup_timeout_seconds: u64,
    /// From a stop to the kill
    pub shutdown_grace_seconds: u64,
    /// 0 = no limit
    pub max_lifetime_seconds: u64,
    /// The most servers
    pub max_instances: u64,
    /// Servers that have not ended
    pub live_instances: u64,
    /// Servers that are RUNNING
    pub running_instances: u64,
    /// Players on all of them
    pub total_players: i64,
    /// What is done about their number
    pub scaling: Scaling,
    /// Fields that are set, and that nothing acts on
    pub not_in_effect: Vec<String>,
    /// Rises with every change
    pub revision: u64,
    /// When anything of it last changed
    pub updated_at: Option<String>,
}

/// What a controller does about the number of servers of a group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scaling {
    /// SETTLED, CHANGING, SHORT, PAUSED, HELD or WAITING; empty = it does not say
    pub state: String,
    /// Servers that there should be
    pub desired: u64,
    /// Servers that serve, or come up
    pub serving: u64,
    /// Why there are not as many
    pub reasons: Vec<String>,
    /// Until when nothing is started because servers crash
    pub paused_until: Option<String>,
    /// Why the last start was refused
    pub refused: Option<String>,
    /// When that was
    pub refused_at: Option<String>,
    /// What is about to be done, where that was asked for
    pub steps: Vec<Step>,
}

/// Something that is about to be done
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Step {
    /// START, STOP or `GIVE_UP`
    pub action: String,
    /// To which server
    pub instance: String,
    /// Why
    pub reason: String,
}

/// What was stopped of a group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoppedGroup {
    /// The instances
    pub instances: Vec<String>,
}

/// Some of the groups
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPage {
    /// By name
    pub data: Vec<Group>,
    /// How many a page has that is not the last
    pub page_size: usize,
}
