//! `prexorctl catalog`

use clap::Subcommand;

/// `prexorctl catalog`
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Lists the versions of platforms that are known
    List,
    /// Adds a version of a platform, or replaces it
    Add {
        /// The name of the software, PAPER for example
        platform: String,
        /// Its version
        #[arg(long)]
        version: String,
        /// The server: an http(s) URL, or a path on the nodes
        #[arg(long, value_name = "URL|PATH")]
        url: String,
        /// What the jar's SHA-256 must be, 64 hexadecimal digits
        #[arg(long, value_name = "HEX", default_value = "")]
        sha256: String,
        /// SERVER or PROXY
        #[arg(long, default_value = "SERVER")]
        category: String,
        /// PAPER, SPIGOT, VELOCITY, BUNGEECORD or GEYSER [default: by the name of the platform]
        #[arg(long, value_name = "FAMILY", default_value = "")]
        config_format: String,
        /// Groups that name no version get this one
        #[arg(long)]
        recommended: bool,
    },
    /// Makes a version the one that groups get which name none
    Recommend {
        /// The platform
        platform: String,
        /// The version
        version: String,
    },
    /// Removes a version; servers that run with it run on
    Remove {
        /// The platform
        platform: String,
        /// The version
        version: String,
    },
}
