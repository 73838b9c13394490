//! `prexorcloud config`

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use prexorcloud_daemon::preparation::find_java;

use crate::arguments::{ConfigCommand, EXIT_USAGE, Role};
use crate::{complain, environment, logging, sentence};

pub fn run(command: ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Check { role, file } => {
            let checked = match role {
                Role::Controller => check_controller(&file),
                Role::Daemon => check_daemon(&file),
            };
            match checked {
                Ok(warnings) => {
                    for warning in warnings {
                        logging::say(format_args!("warning: {warning}"));
                    }
                    logging::say(format_args!("{} is fine", file.display()));
                    ExitCode::SUCCESS
                }
                Err(error) => complain(&sentence(&error), EXIT_USAGE),
            }
        }
        ConfigCommand::Example { role } => {
            let example = match role {
                Role::Controller => prexorcloud_controller::config::example(),
                Role::Daemon => prexorcloud_daemon::config::example(),
            };
            // A reader that closes the pipe has seen enough.
            let _ = io::stdout().write_all(example.as_bytes());
            ExitCode::SUCCESS
        }
    }
}

fn check_controller(file: &Path) -> anyhow::Result<Vec<String>> {
    let loaded = prexorcloud_controller::config::load(Some(file), environment())?;
    logging::check(&loaded.config.log.filter)?;
    Ok(loaded.warnings)
}

/// What else keeps a daemon from its work: a filter that is none, and a Java that is not there
fn check_daemon(file: &Path) -> anyhow::Result<Vec<String>> {
    let loaded = prexorcloud_daemon::config::load(Some(file), environment())?;
    logging::check(&loaded.config.log.filter)?;
    let mut warnings = loaded.warnings;
    let java = find_java(loaded.config.runtime.java.as_deref(), |name| {
        std::env::var(name).ok()
    });
    warnings.extend(java.err().map(|error| error.to_string()));
    Ok(warnings)
}
