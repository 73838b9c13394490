//! `prexorcloud config`

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::arguments::{ConfigCommand, EXIT_USAGE, Role};
use crate::{complain, environment, logging};

pub fn run(command: ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Check { role, file } => {
            let checked = match role {
                Role::Controller => prexorcloud_controller::config::load(Some(&file), environment())
                    .map(|loaded| loaded.warnings)
                    .map_err(|error| error.to_string()),
                Role::Daemon => prexorcloud_daemon::config::load(Some(&file), environment())
                    .map(|loaded| loaded.warnings)
                    .map_err(|error| error.to_string()),
            };
            match checked {
                Ok(warnings) => {
                    for warning in warnings {
                        logging::say(format_args!("warning: {warning}"));
                    }
                    logging::say(format_args!("{} is fine", file.display()));
                    ExitCode::SUCCESS
                }
                Err(sentence) => complain(&sentence, EXIT_USAGE),
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
