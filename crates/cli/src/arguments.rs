//! The command line

mod cache;
mod catalog;
mod cert;
mod deploy;
mod group;
mod instance;
mod logs;
mod module;
mod node;
mod template;

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::failure::EXIT_CODES;
use crate::settings::Overrides;

pub use self::cache::CacheCommand;
pub use self::catalog::CatalogCommand;
pub use self::cert::{CertCommand, Step};
pub use self::deploy::{DeployArguments, DeployCommand, DeploymentArguments};
pub use self::group::{GroupCommand, GroupFields};
pub use self::instance::{ConsoleArguments, FilesCommand, InstanceCommand, ReadyRule, StartArguments};
pub use self::logs::{LogsArguments, LogsCommand};
pub use self::module::ModuleCommand;
pub use self::node::NodeCommand;
pub use self::template::{SetVariable, TemplateCommand, VariableCommand};

const ABOUT: &str = "Operates a PrexorCloud cluster through its controller's HTTP interface";

const SECRETS: &str = "\
The controller is the first of: --controller, PREXORCTL_CONTROLLER, PREXOR_CONTROLLER, the context of the settings file,
http://127.0.0.1:8080. The token is the first of: --token-file, PREXOR_TOKEN, the context. Tokens are not taken from the
command line, because everybody on a machine can read the arguments of its processes.

Settings file (~/.prexorcloud/config.toml, mode 600; another one: PREXORCTL_CONFIG):
  current_context = \"home\"
  [contexts.home]
  controller = \"http://127.0.0.1:8080\"
  token_file = \"/var/lib/prexorcloud/admin.token\"";

/// The whole command line
#[derive(Debug, Parser)]
#[command(name = "prexorctl", version, about = ABOUT, after_help = EXIT_CODES, after_long_help = format!("{SECRETS}\n\n{EXIT_CODES}"))]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// What applies to all commands
    #[command(flatten)]
    pub global: Global,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What applies to all commands
#[derive(Args, Debug)]
pub struct Global {
    /// Base URL of the controller's HTTP interface
    #[arg(
        long,
        short = 'c',
        global = true,
        value_name = "URL",
        help_heading = "Connection"
    )]
    pub controller: Option<String>,
    /// File that holds the token (mode 600)
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,
    /// Context of the settings file to use [env: PREXOR_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub context: Option<String>,
    /// Trust only these certificates (PEM) for https
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub ca_file: Option<PathBuf>,
    /// Refused: see --token-file
    #[arg(long, short = 't', global = true, hide = true, value_name = "TOKEN", num_args = 0..=1, default_missing_value = "")]
    pub token: Option<String>,
    /// How to print results
    #[arg(
        long,
        short = 'o',
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        env = "PREXOR_OUTPUT",
        help_heading = "Output"
    )]
    pub output: Format,
    /// No colours, also with NO_COLOR set or without a terminal
    #[arg(long, global = true, help_heading = "Output")]
    pub no_color: bool,
}

impl Global {
    /// What of it concerns the target
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            controller: self.controller.clone(),
            token_file: self.token_file.clone(),
            context: self.context.clone(),
            ca_file: self.ca_file.clone(),
        }
    }
}

/// How results are printed
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change
    Table,
    /// For programs: what the controller sent, keys sorted
    Json,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join tokens, with which nodes enrol
    #[command(subcommand)]
    Token(TokenCommand),
    /// Nodes, which host instances
    #[command(subcommand)]
    Node(NodeCommand),
    /// Instances, the servers themselves
    #[command(subcommand, visible_alias = "inst")]
    Instance(InstanceCommand),
    /// Groups, what servers of a kind are started with
    #[command(subcommand)]
    Group(GroupCommand),
    /// Deployments, which bring what a group says to its servers, and take it back
    #[command(subcommand)]
    Deploy(DeployCommand),
    /// The catalog, which jar a version of a platform is
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Templates, the folders that servers are started from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Crash reports
    #[command(subcommand)]
    Crash(CrashCommand),
    /// Modules: what nodes run beside their servers
    #[command(subcommand)]
    Module(ModuleCommand),
    /// Certificates: of nodes, and of the authority that signs them
    #[command(subcommand)]
    Cert(CertCommand),
    /// What the controller and the daemons log, and what servers print
    #[command(subcommand)]
    Logs(LogsCommand),
    /// What happens in the cluster
    #[command(subcommand)]
    Event(EventCommand),
    /// Who did what, the newest first
    Audit {
        /// How many entries
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only what is older than the entry with this id
        #[arg(long, value_name = "ID")]
        before: Option<String>,
    },
    /// Versions of this program and of the controller
    Version,
    /// Prints a completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// `prexorctl token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Creates a one-time token for a node to enrol with; it is shown this once
    Create {
        /// Only this node may use it
        #[arg(long, value_name = "ID", value_parser = id)]
        node: Option<String>,
        /// How long it may be used: 90s, 15m, 1h, 7d [default: what the controller is configured for]
        #[arg(long, value_name = "TIME", value_parser = time_to_live)]
        ttl: Option<u64>,
    },
    /// Lists tokens, without the secrets
    List,
    /// Revokes a token that was not used yet
    Revoke {
        /// The token's id (tok_...), not the token itself
        #[arg(value_parser = id)]
        id: String,
    },
}

/// `prexorctl event ...`
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Shows what happens until Ctrl-C, also across restarts of the controller
    Watch {
        /// Only events of this type, for instance NODE_CONNECTED; may be given more than once
        #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
        kinds: Vec<String>,
        /// Begin after the event with this number; 0 shows all that are kept [default: what happens from now on]
        #[arg(long, value_name = "NUMBER")]
        since: Option<u64>,
    },
}

/// `prexorctl crash`
#[derive(Debug, Subcommand)]
pub enum CrashCommand {
    /// Lists crashes, newest first
    List {
        /// Only those of this instance
        #[arg(long)]
        instance: Option<String>,
        /// Only those of this group
        #[arg(long)]
        group: Option<String>,
        /// Only those on this node
        #[arg(long)]
        node: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Go on where the page before has ended, which says how
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows a crash with the end of its log
    #[command(visible_alias = "info")]
    Show {
        /// The crash's id
        #[arg(value_parser = id)]
        id: String,
    },
}

/// A name that is safe in a path
fn id(text: &str) -> Result<String, String> {
    let first_is_fine = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest_is_fine = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if first_is_fine && rest_is_fine && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("an id has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit".to_owned())
    }
}

/// `90`, `90s`, `15m`, `1h`, `7d` in seconds
fn time_to_live(text: &str) -> Result<u64, String> {
    let expected = || "a time is expected, like 90s, 15m, 1h or 7d".to_owned();
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let seconds = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(expected)?;
    if seconds == 0 {
        return Err("the time must be longer than nothing".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn ids_are_safe() {
        for right in ["a", "node-1", "tok_3fa85f64-5717-4562-b3fc-2c963f66afa6", "A.b_c"] {
            assert_eq!(id(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a,b",
            "-x",
            "ü",
            "a b",
            &"x".repeat(65),
        ] {
            assert!(id(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("1h", 3_600),
            ("7d", 604_800),
        ] {
            assert_eq!(time_to_live(text), Ok(seconds));
        }
        for wrong in [
            "",
            "h",
            "1w",
            "-1h",
            "1.5h",
            "0s",
            "1hh",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(time_to_live(wrong).is_err(), "{wrong:?}");
        }
    }
}
