//! What is done to a controller's data folder beside serving from it

use std::path::Path;

use prexorcloud_controller::lineage::{self, RecoverOptions};

use super::admin_token;
use crate::arguments::{ControllerCommand, RecoverArguments};
use crate::logging;

pub async fn run(data_dir: &Path, command: ControllerCommand) -> anyhow::Result<()> {
    match command {
        ControllerCommand::Backup { target } => {
            let (from, to) = (data_dir.to_path_buf(), target.clone());
            tokio::task::spawn_blocking(move || lineage::backup(&from, &to)).await??;
            logging::say(format_args!(
                "{} has everything that a controller needs to go on; keep it as secret as {}",
                target.display(),
                data_dir.display()
            ));
        }
        ControllerCommand::Recover(arguments) => recover(data_dir, arguments).await?,
        ControllerCommand::AdminToken(command) => admin_token::run(data_dir, command).await?,
    }
    Ok(())
}

async fn recover(data_dir: &Path, arguments: RecoverArguments) -> anyhow::Result<()> {
    let RecoverArguments {
        without_records,
        epoch,
    } = arguments;
    let options = RecoverOptions {
        without_records,
        epoch,
    };
    let done = lineage::recover(data_dir, options).await?;
    if let Some((node, obeyed)) = &done.reported {
        logging::say(format_args!("{node} obeys epoch {obeyed}."));
    }
    logging::say(format_args!(
        "The next start has epoch {} (the last one in the records: {}).",
        done.next, done.before
    ));
    logging::say(match done.without_records {
        true => {
            "There are no records: nodes come back by themselves, and so does every certificate that was ever revoked. \
             Revoke again what must stay out (`prexorctl node revoke-cert`); the next start makes a new admin token."
        }
        false => {
            "What the records lack is forgotten, revocations and revoked tokens included: look at `prexorctl node list` \
             and revoke again what must stay out. Should a daemon still answer STALE_EPOCH, the log names the epoch that \
             it obeys: stop, and recover once more."
        }
    });
    Ok(())
}
