//! `prexorctl logs`

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{id, time_to_live};

/// `prexorctl logs`
#[derive(Debug, Subcommand)]
pub enum LogsCommand {
    /// What the controller logs
    Controller {
        /// Which part of it
        #[command(flatten)]
        wanted: LogsArguments,
    },
    /// What the daemon of a node logs, as far as the controller has it
    Daemon {
        /// The node [default: the only one]
        #[arg(value_parser = id)]
        node: Option<String>,
        /// Which part of it
        #[command(flatten)]
        wanted: LogsArguments,
    },
    /// What a server prints
    Instance {
        /// The instance [default: the only one]
        #[arg(value_parser = id)]
        id: Option<String>,
        /// Which part of it; it has neither levels nor loggers
        #[command(flatten)]
        wanted: LogsArguments,
    },
    /// All of it, each line behind its source
    All {
        /// Of servers only those of this group
        #[arg(long, value_parser = id)]
        group: Option<String>,
        /// Of daemons and servers only those of this node
        #[arg(long, value_parser = id)]
        node: Option<String>,
        /// Which part of it
        #[command(flatten)]
        wanted: LogsArguments,
    },
}

/// Which part of a log is wanted
#[derive(Args, Clone, Debug)]
pub struct LogsArguments {
    /// Go on with what is logged from now on, until Ctrl-C; over restarts of the controller and the network
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// So many records of those that are there
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub tail: u32,
    /// The least important level: TRACE, DEBUG, INFO, WARN or ERROR
    #[arg(long, default_value = "INFO", ignore_case = true, value_parser = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"])]
    pub level: String,
    /// Only loggers that begin with this, prexorcloud_daemon::node for example
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub logger: String,
    /// Only what is not older: 90s, 15m, 1h, 7d, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<i64>,
}

/// In milliseconds since 1970
fn since(text: &str) -> Result<i64, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let ago = i64::try_from(time_to_live(text)?).unwrap_or(i64::MAX);
    Ok(Timestamp::now()
        .as_millisecond()
        .saturating_sub(ago.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_so_long_ago() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1_000));
        let now = Timestamp::now().as_millisecond();
        assert!(since("1h").is_ok_and(|at| (now - 3_600_000..now - 3_590_000).contains(&at)));
        assert!(since("yesterday").is_err());
    }
}
