//! `prexorctl node cache`

use clap::Subcommand;

use super::{group, id};

/// `prexorctl node cache`
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Shows what a node said last
    Show {
        /// The node
        #[arg(value_parser = id)]
        id: String,
    },
    /// Asks the node, and shows what it says
    Refresh {
        /// The node
        #[arg(value_parser = id)]
        id: String,
        /// For how long its answer is waited for
        #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
    /// Has the node fetch jars and templates before they are needed, and says what came of it
    ///
    /// What is asked for while the node still fetches for an earlier order joins that: nothing is fetched twice, and the outcome is that of all.
    Warm {
        /// The node
        #[arg(value_parser = id)]
        id: String,
        /// What servers of this group need; several times [default: of all groups]
        #[arg(long = "group", value_name = "NAME", value_parser = group::name)]
        groups: Vec<String>,
        /// This template; several times
        #[arg(long = "template", value_name = "NAME")]
        templates: Vec<String>,
        /// Do not wait for the outcome
        #[arg(long)]
        no_wait: bool,
        /// For how long it is waited for
        #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
}
