//! `prexorctl node`

use clap::Subcommand;

use super::{CacheCommand, id};

/// `prexorctl node`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Lists nodes
    List,
    /// Shows one node
    #[command(visible_alias = "info")]
    Show {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
    /// Stops the instances of a node and places no new ones there
    Drain {
        /// The node
        #[arg(value_parser = id)]
        id: String,
        /// Shut the daemon down once it is empty
        #[arg(long)]
        shutdown: bool,
        /// Seconds that instances get before they are killed
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        timeout: u64,
        /// Return when nothing runs there any more
        #[arg(long)]
        wait: bool,
    },
    /// What a node keeps for later starts: jars and templates
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Ends draining
    Undrain {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
    /// Places no new instances on a node
    Cordon {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
    /// Places instances on a node again
    Uncordon {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
    /// Stops the instances of a node and then its daemon
    Shutdown {
        /// The node
        #[arg(value_parser = id)]
        id: String,
        /// Told to the daemon
        #[arg(long, default_value = "asked for by prexorctl")]
        reason: String,
    },
    /// Removes a node that is away: its certificates are revoked, its instances and itself forgotten
    #[command(visible_alias = "forget")]
    Remove {
        /// The node
        #[arg(value_parser = id)]
        id: String,
        /// Give up what counts as alive there
        #[arg(long)]
        force: bool,
    },
    /// Revokes the certificates of a node and closes its connections; a fresh join token enrols it again
    RevokeCert {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
}
