//! Log lines on standard error

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// How a line looks
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// Starts logging what passes `filter`
pub fn start(filter: &str, shape: Shape) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("log.filter {filter:?} is not a filter"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let started = match shape {
        Shape::Text => builder
            .with_ansi(
                io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            )
            .try_init(),
        Shape::Json => builder.json().try_init(),
    };
    // The boxed error does not go into `anyhow` as it is.
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
