//! The command line

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Something could not be started or could not go on
pub const EXIT_FAILED: u8 = 1;

/// The command line or the configuration is wrong
pub const EXIT_USAGE: u8 = 64;

/// Interrupted by a signal before the work was done
pub const EXIT_INTERRUPTED: u8 = 130;

const EXIT_CODES: &str = "\
Exit codes:
  0    done, or stopped by SIGTERM or SIGINT in good order
  1    could not start or go on; the message says why
  64   the command line or the configuration is wrong
  130  the demo was interrupted";

#[derive(Debug, Parser)]
#[command(
    name = "prexorcloud",
    version,
    about = "Runs a PrexorCloud controller, a node daemon, or both to try them"
)]
#[command(after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a controller: the certificate authority, the nodes' sessions and the operators' interface
    Controller(ControllerArguments),
    /// Runs a node daemon, which hosts instances; they go on when it is restarted
    Daemon(ServeArguments),
    /// Checks a configuration file, or prints an example of one
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Starts a controller and a daemon to develop with, until Ctrl-C
    Dev(DevArguments),
    /// Shows everything once, on this machine, and leaves nothing behind
    Demo(DemoArguments),
    /// Is `prexorctl`, for a machine that has only this program: prexorcloud ctl node list
    Ctl,
}

#[derive(Args, Debug)]
pub struct ControllerArguments {
    #[command(flatten)]
    pub serve: ServeArguments,
    #[command(subcommand)]
    pub command: Option<ControllerCommand>,
}

#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Copies the authority and the records into an empty folder; the controller may run meanwhile
    Backup {
        /// The folder, which is made if need be
        target: PathBuf,
    },
    /// Lets a controller go on with records that are older than its daemons' memory, or without any; it must be stopped
    Recover(RecoverArguments),
    /// Makes, lists and revokes access tokens, whether the controller runs or not; for who can read its data folder
    #[command(subcommand)]
    AdminToken(AdminTokenCommand),
}

#[derive(Debug, Subcommand)]
pub enum AdminTokenCommand {
    /// Makes a token and prints it on standard output, this once
    Mint {
        /// Whom it stands for, in lists and in the audit log
        #[arg(long, default_value = "admin")]
        name: String,
        /// What it allows, for instance nodes.view; may be repeated [default: everything]
        #[arg(long, value_name = "PERMISSION")]
        permission: Vec<String>,
        /// For how many days [default: until it is revoked]
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        ttl_days: Option<u32>,
    },
    /// Lists tokens: id, status, name, permissions
    List,
    /// Revokes a token at once
    Revoke {
        /// Its id (atk_...), from the list
        id: String,
    },
}

#[derive(Args, Debug)]
pub struct RecoverArguments {
    /// Begin with no records beside the authority that is there: nodes, instances, tokens and revocations are forgotten
    #[arg(long)]
    pub without_records: bool,
    /// Give the next start at least this epoch [default: one more than anybody has reported]
    #[arg(long, value_name = "NUMBER")]
    pub epoch: Option<u64>,
}

#[derive(Args, Debug)]
pub struct ServeArguments {
    /// Configuration file; without one, the defaults and the environment apply
    #[arg(long, value_name = "FILE", env = "PREXORCLOUD_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Where everything is kept, over file and environment
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Print one line of JSON on standard output once it serves
    #[arg(long, hide = true)]
    pub announce: bool,
    /// End when standard input does, and leave no instance behind
    #[arg(long, hide = true)]
    pub tether: bool,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Reads a file and the environment as the server would, and says what is wrong
    Check {
        /// Whose configuration it is
        role: Role,
        /// The file
        file: PathBuf,
    },
    /// Prints a configuration with every key, its default and its meaning
    Example {
        /// Whose configuration
        role: Role,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    Controller,
    Daemon,
}

#[derive(Args, Debug)]
pub struct DevArguments {
    /// Keep the cluster here and find it again next time [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// No colours, also with NO_COLOR set or without a terminal
    #[arg(long)]
    pub no_color: bool,
}

#[derive(Args, Debug)]
pub struct DemoArguments {
    /// Keep the data folder and say where it is
    #[arg(long)]
    pub keep: bool,
    /// No colours, also with NO_COLOR set or without a terminal
    #[arg(long)]
    pub no_color: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
