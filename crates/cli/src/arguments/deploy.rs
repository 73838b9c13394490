//! `prexorctl deploy`

use clap::{Args, Subcommand};

/// `prexorctl deploy`
#[derive(Debug, Subcommand)]
pub enum DeployCommand {
    /// Brings what a group says now, and the template versions that count now, to all of its servers, a few at a time
    Start(DeployArguments),
    /// Lists the deployments of a group, the newest first
    List {
        /// The group
        #[arg(value_parser = super::group::name)]
        group: String,
    },
    /// Shows one deployment
    #[command(visible_alias = "show")]
    Info(DeploymentArguments),
    /// Replaces no more servers, until it is resumed
    Pause(DeploymentArguments),
    /// Goes on with one that was paused, or was halted by a failure
    Resume(DeploymentArguments),
    /// Undoes one: what was in force before is deployed again, and the group says that again
    Rollback {
        /// Which
        #[command(flatten)]
        which: DeploymentArguments,
        /// Change nothing: show which servers would be replaced, and in which order
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is deployed, and how fast
#[derive(Args, Debug)]
pub struct DeployArguments {
    /// The group
    #[arg(value_parser = super::group::name)]
    pub group: String,
    /// How many servers are replaced at the same time [default: 1]
    #[arg(long, value_name = "SERVERS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub batch: Option<u32>,
    /// After so many seconds a server that is not ready halts it [default: 600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub ready_within: Option<u32>,
    /// Change nothing: show which servers would be replaced, and in which order
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// One deployment of a group
#[derive(Args, Debug)]
pub struct DeploymentArguments {
    /// The group
    #[arg(value_parser = super::group::name)]
    pub group: String,
    /// Its revision, as `deploy list` shows it [default: the newest]
    pub revision: Option<u32>,
}
