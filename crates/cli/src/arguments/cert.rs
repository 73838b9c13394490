//! `prexorctl cert`

use clap::{Args, Subcommand};

/// `prexorctl cert`
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Shows the authorities, and what nodes have of them
    Show,
    /// Has the daemon of a node ask for another certificate now
    Renew {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Makes the authority that is to sign next, and has nodes believe it
    Prepare,
    /// Gives up the authority that was to sign next
    Discard,
    /// Has the prepared authority sign from now on; the one before is believed still
    Activate(Step),
    /// Believes the former authority no more
    Retire(Step),
}

/// A step that may lock nodes out
#[derive(Args, Debug)]
pub struct Step {
    /// Also if nodes are locked out: each then needs a join token that is bound to it
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}
