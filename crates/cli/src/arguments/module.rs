//! `prexorctl module`

use std::path::PathBuf;

use clap::Subcommand;

/// `prexorctl module`
#[derive(Debug, Subcommand)]
pub enum ModuleCommand {
    /// Lists the modules that are installed
    List,
    /// Installs a module, or another version of one, on every node
    #[command(visible_alias = "upload")]
    Install {
        /// Its jar
        #[arg(value_name = "JAR")]
        jar: PathBuf,
        /// Its signature [default: JAR.cosign.bundle, or JAR.sig, if one is there]
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
    },
    /// Lets an earlier version of a module count again, on every node
    Rollback {
        /// The module
        #[arg(value_name = "ID")]
        id: String,
        /// Its version [default: the one that was installed before]
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Tries a module again now where it has failed, on the nodes that are there
    Retry {
        /// The module
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Uninstalls a module from every node, also from those that are away
    #[command(visible_alias = "delete")]
    Uninstall {
        /// The module
        #[arg(value_name = "ID")]
        id: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Shows what has come of modules on the nodes
    States {
        /// Only of this module
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
}
