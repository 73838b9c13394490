//! `prexorctl instance`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::id;

/// `prexorctl instance`
#[derive(Debug, Subcommand)]
pub enum InstanceCommand {
    /// Starts servers of a group, or one server from a jar
    Start(Box<StartArguments>),
    /// Stops a server gracefully
    Stop {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
        /// Kill it instead
        #[arg(long)]
        force: bool,
        /// Return when it has stopped
        #[arg(long)]
        wait: bool,
        /// For how long --wait waits
        #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        timeout: u64,
    },
    /// Lists instances
    List {
        /// Only those of this group
        #[arg(long)]
        group: Option<String>,
        /// Only those on this node
        #[arg(long)]
        node: Option<String>,
        /// Only those in this state, RUNNING for example
        #[arg(long)]
        state: Option<String>,
        /// At most so many; all without it
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// Go on where the page before has ended, which says how
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows one instance
    #[command(visible_alias = "info")]
    Show {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
    },
    /// Shows the console: what is kept, then live lines until Ctrl-C
    Console(ConsoleArguments),
    /// As `console --input`: typed lines go to the server
    Attach(ConsoleArguments),
    /// Types one line on the console of a server: prexorctl instance exec lobby-1 -- say hi
    Exec {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
        /// The line, its words joined by spaces
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Looks at the files of a server, on the disk of its node
    #[command(subcommand)]
    Files(FilesCommand),
    /// Says that a server is ready, where neither its console nor a plugin can
    Ready {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
    },
    /// Forgets an instance that has ended
    Delete {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
    },
}

/// `prexorctl instance files`
#[derive(Debug, Subcommand)]
pub enum FilesCommand {
    /// Lists files and folders; a folder with very many entries is one line with their sum
    Ls {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
        /// Only what is in this folder, config for example
        folder: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(i32).range(1..=131_072))]
        limit: i32,
        /// So many folders deep
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(i32).range(1..=64))]
        depth: i32,
    },
    /// Prints a file
    Cat {
        /// The instance
        #[arg(value_parser = id)]
        id: String,
        /// The file, from the folder of the instance: server.properties, logs/latest.log
        path: String,
        /// At most so many bytes
        #[arg(long, default_value_t = 1_048_576, value_parser = clap::value_parser!(i32).range(1..=1_048_576))]
        bytes: i32,
        /// The end of a longer file, not its beginning
        #[arg(long)]
        tail: bool,
    },
}

/// `prexorctl instance start`
#[derive(Args, Debug)]
pub struct StartArguments {
    /// The group that it belongs to
    #[arg(value_parser = id)]
    pub group: String,
    /// So many servers, with what the group says
    #[arg(long, default_value_t = 1, conflicts_with = "jar", value_parser = clap::value_parser!(u32).range(1..=50))]
    pub count: u32,
    /// The server: an http(s) URL, or a path on the node. Then the group is only a name, and what follows is said here
    #[arg(long, value_name = "URL|PATH")]
    pub jar: Option<String>,
    /// What the jar's SHA-256 must be, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "jar")]
    pub sha256: Option<String>,
    /// Its name [default: the group and a number]
    #[arg(long, value_parser = id, requires = "jar")]
    pub id: Option<String>,
    /// Where to run it [default: the controller chooses]
    #[arg(long, value_name = "ID", value_parser = id, requires = "jar")]
    pub node: Option<String>,
    /// A template that is laid into its folder; several times, later ones over earlier ones
    #[arg(long = "template", value_name = "NAME", requires = "jar")]
    pub templates: Vec<String>,
    /// A value of a template's variable, NAME=VALUE; several times. That of a SECRET belongs into --var-file
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub variables: Vec<String>,
    /// The value of a variable from a file, NAME=FILE; several times
    #[arg(long = "var-file", value_name = "NAME=FILE")]
    pub variable_files: Vec<String>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", requires = "jar", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory_mb: Option<u32>,
    /// An argument for the JVM; may be given several times
    #[arg(
        long = "jvm-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        requires = "jar"
    )]
    pub jvm_args: Vec<String>,
    /// An argument behind the jar, instead of --port N --nogui; may be given several times. %PORT% stands for the port
    #[arg(
        long = "arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        requires = "jar"
    )]
    pub program_arguments: Vec<String>,
    /// What ends it when it is typed into its console [default: stop]
    #[arg(long, value_name = "LINE", requires = "jar")]
    pub stop_command: Option<String>,
    /// An environment variable, NAME=VALUE; several times. Secrets belong into --env-file
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "jar")]
    pub environment: Vec<String>,
    /// A file of NAME=VALUE lines; empty lines and those that begin with # are left out
    #[arg(long, value_name = "FILE", requires = "jar")]
    pub env_file: Option<PathBuf>,
    /// Its port [default: a free one of the configured range]
    #[arg(long, requires = "jar", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Seconds that it may take to start
    #[arg(long, value_name = "SECONDS", requires = "jar")]
    pub startup_timeout: Option<u32>,
    /// Seconds that it gets to stop before it is killed
    #[arg(long, value_name = "SECONDS", requires = "jar")]
    pub grace: Option<u32>,
    /// Stop it after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "jar")]
    pub max_lifetime: Option<u32>,
    /// What makes it RUNNING: port, plugin, or line:TEXT, which its console message begins with (line:*TEXT: has anywhere)
    /// [default: the ready line of its platform, else the port]
    #[arg(long, value_name = "RULE", value_parser = ready_rule, requires = "jar")]
    pub ready: Option<ReadyRule>,
    /// Return when it is RUNNING
    #[arg(long)]
    pub wait: bool,
    /// For how long --wait waits
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// What makes a server ready, if not what its platform prints
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyRule {
    /// Its port
    Port,
    /// Its plugin
    Plugin,
    /// A line on its console
    Line(String),
}

pub(super) fn ready_rule(text: &str) -> Result<ReadyRule, String> {
    match text.split_once(':') {
        None if text == "port" => Ok(ReadyRule::Port),
        None if text == "plugin" => Ok(ReadyRule::Plugin),
        Some(("line", line)) if !line.trim().is_empty() => Ok(ReadyRule::Line(line.to_owned())),
        _ => Err("port, plugin or line:TEXT is expected".to_owned()),
    }
}

/// `prexorctl instance console` and `attach`
#[derive(Args, Debug)]
pub struct ConsoleArguments {
    /// The instance
    #[arg(value_parser = id)]
    pub id: String,
    /// Number of the first line to show [default: the oldest that is kept]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub from: u64,
    /// Show what is kept and end
    #[arg(long, conflicts_with = "input")]
    pub no_follow: bool,
    /// Send the lines of standard input to the server
    #[arg(long)]
    pub input: bool,
    /// Pass control sequences of the server on to this terminal. Only for servers that you trust
    #[arg(long)]
    pub raw: bool,
}
