//! `prexorctl group`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::instance::{ReadyRule, ready_rule};

/// `prexorctl group`
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Creates a group
    Create {
        /// Its name: 1 to 32 of a-z, 0-9, _ and -
        #[arg(value_parser = name)]
        name: String,
        /// What its servers are started with
        #[command(flatten)]
        fields: Box<GroupFields>,
    },
    /// Lists groups
    List {
        /// Only those whose name contains this
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Shows one group
    #[command(visible_alias = "show")]
    Info {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
    /// Changes what is named, and nothing else; what runs keeps what it was started with
    Update {
        /// The group
        #[arg(value_parser = name)]
        name: String,
        /// What is changed
        #[command(flatten)]
        fields: Box<GroupFields>,
        /// Back to the default: a field (memoryMb), or one entry of it (env.NAME); several times
        #[arg(long = "unset", value_name = "FIELD")]
        unset: Vec<String>,
        /// Only if it still has this revision, as `group info` shows it
        #[arg(long, value_name = "NUMBER")]
        if_revision: Option<u64>,
        /// Change nothing: show what would be started and stopped
        #[arg(long, conflicts_with = "if_revision")]
        dry_run: bool,
    },
    /// Shows what is about to be started and stopped, and why
    Plan {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
    /// Sets how many servers there are at least; where people scale, what is more than that is stopped
    Scale {
        /// The group
        #[arg(value_parser = name)]
        name: String,
        /// So many
        servers: u32,
        /// Change nothing: show what would be started and stopped
        #[arg(long)]
        dry_run: bool,
    },
    /// Starts servers with what the group says
    Start {
        /// The group
        #[arg(value_parser = name)]
        name: String,
        /// So many
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50))]
        count: u32,
        /// A value of a template's variable, NAME=VALUE; several times. That of a SECRET belongs into --var-file
        #[arg(long = "var", value_name = "NAME=VALUE")]
        variables: Vec<String>,
        /// The value of a variable from a file, NAME=FILE; several times
        #[arg(long = "var-file", value_name = "NAME=FILE")]
        variable_files: Vec<String>,
    },
    /// Stops all servers of a group, and pauses it so that they stay stopped
    Stop {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
    /// Starts and stops nothing any more by itself, until it is resumed
    Pause {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
    /// Keeps servers running again, also after a pause for crashes
    Resume {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
    /// Deletes a group of which nothing lives
    Delete {
        /// The group
        #[arg(value_parser = name)]
        name: String,
    },
}

/// What the servers of a group are started with
#[derive(Args, Debug, Default)]
pub struct GroupFields {
    /// The name of the software, PAPER for example
    #[arg(long, value_name = "NAME", help_heading = "Software")]
    pub platform: Option<String>,
    /// Its version
    #[arg(long, value_name = "VERSION", help_heading = "Software")]
    pub platform_version: Option<String>,
    /// The server: an http(s) URL, or a path on the nodes [default: a template brings --jar-file]
    #[arg(long, value_name = "URL|PATH", help_heading = "Software")]
    pub jar: Option<String>,
    /// What the jar's SHA-256 must be, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", help_heading = "Software")]
    pub sha256: Option<String>,
    /// The file that the jar becomes in the folder of a server [default: server.jar]
    #[arg(long, value_name = "NAME", help_heading = "Software")]
    pub jar_file: Option<String>,
    /// A template that is laid into their folders; several times or with commas, later ones over earlier ones
    #[arg(
        long = "template",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Files"
    )]
    pub templates: Vec<String>,
    /// A value of a template's variable, NAME=VALUE; several times. That of a SECRET belongs into --var-file
    #[arg(long = "var", value_name = "NAME=VALUE", help_heading = "Files")]
    pub variables: Vec<String>,
    /// The value of a variable from a file, NAME=FILE; several times
    #[arg(long = "var-file", value_name = "NAME=FILE", help_heading = "Files")]
    pub variable_files: Vec<String>,
    /// A key of a configuration file, FILE:KEY=VALUE; several times
    #[arg(long = "patch", value_name = "FILE:KEY=VALUE", help_heading = "Files")]
    pub patches: Vec<String>,
    /// Keep the folders of servers when they stop, and start them there again
    #[arg(long = "static", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Files")]
    pub is_static: Option<bool>,
    /// The name of a static server; several times or with commas
    #[arg(
        long = "static-name",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Files"
    )]
    pub static_names: Vec<String>,
    /// A path in static folders that templates do not overwrite; several times
    #[arg(long = "protect", value_name = "PATH", help_heading = "Files")]
    pub protected: Vec<String>,
    /// Memory in MiB [default: 1024]
    #[arg(
        long,
        value_name = "MIB",
        visible_alias = "memory",
        help_heading = "Processes"
    )]
    pub memory_mb: Option<u32>,
    /// An argument for the JVM; several times
    #[arg(
        long = "jvm-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        help_heading = "Processes"
    )]
    pub jvm_args: Vec<String>,
    /// An argument behind the jar, instead of --port N --nogui; several times. %PORT% stands for the port
    #[arg(
        long = "arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        help_heading = "Processes"
    )]
    pub program_arguments: Vec<String>,
    /// What ends a server when it is typed into its console [default: end for BungeeCord, stop for all else]
    #[arg(long, value_name = "LINE", help_heading = "Processes")]
    pub stop_command: Option<String>,
    /// An environment variable, NAME=VALUE; several times. Secrets belong into --env-file
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Processes")]
    pub environment: Vec<String>,
    /// A file of NAME=VALUE lines; empty lines and those that begin with # are left out
    #[arg(long, value_name = "FILE", help_heading = "Processes")]
    pub env_file: Option<PathBuf>,
    /// The first port that servers get
    #[arg(long, value_name = "PORT", help_heading = "Processes")]
    pub port_start: Option<u16>,
    /// The last port that servers get
    #[arg(long, value_name = "PORT", help_heading = "Processes")]
    pub port_end: Option<u16>,
    /// What makes a server RUNNING: port, plugin, or line:TEXT
    #[arg(long, value_name = "RULE", value_parser = ready_rule, help_heading = "Processes")]
    pub ready: Option<ReadyRule>,
    /// Seconds that a server may take to start
    #[arg(long, value_name = "SECONDS", help_heading = "Processes")]
    pub startup_timeout: Option<u32>,
    /// Seconds that it gets to stop before it is killed
    #[arg(long, value_name = "SECONDS", help_heading = "Processes")]
    pub grace: Option<u32>,
    /// Stop it after so many seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Processes")]
    pub max_lifetime: Option<u32>,
    /// How many players a server takes
    #[arg(long, value_name = "COUNT", help_heading = "Processes")]
    pub max_players: Option<u32>,
    /// At most so many servers [default: 10]
    #[arg(long, value_name = "COUNT", help_heading = "Placement")]
    pub max: Option<u32>,
    /// At least so many servers [default: 0]
    #[arg(long, value_name = "COUNT", help_heading = "Placement")]
    pub min: Option<u32>,
    /// What decides over their number: DYNAMIC (players), STATIC (--min) or MANUAL (people) [default: DYNAMIC]
    #[arg(long, value_name = "MODE", help_heading = "Placement")]
    pub scaling_mode: Option<String>,
    /// How players are spread over its servers: kept and shown
    #[arg(long, value_name = "STRATEGY", help_heading = "Placement")]
    pub routing: Option<String>,
    /// Only on nodes with this label, KEY or KEY=VALUE; several times
    #[arg(long = "node-label", value_name = "LABEL", help_heading = "Placement")]
    pub affinity: Vec<String>,
    /// Not on nodes with this label; several times
    #[arg(long = "not-node-label", value_name = "LABEL", help_heading = "Placement")]
    pub anti_affinity: Vec<String>,
    /// Any field by its name in the HTTP interface, for instance --set priority=3; several times
    #[arg(long = "set", value_name = "FIELD=JSON", help_heading = "Other fields")]
    pub others: Vec<String>,
}

/// A name that a group can have
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if (1..=32).contains(&text.len()) && !text.starts_with(['-', '_']) && text.bytes().all(is_known) {
        Ok(text.to_owned())
    } else {
        Err("a group's name has 1 to 32 of a-z, 0-9, _ and -, and begins with a letter or digit".to_owned())
    }
}
