//! `prexorcloud daemon`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use prexorcloud_daemon::config::{self, LogFormat};
use prexorcloud_daemon::{Daemon, Finished, OwnProgram};

use crate::arguments::{EXIT_FAILED, EXIT_USAGE, ServeArguments};
use crate::cluster::announcement::DaemonReady;
use crate::cluster::{SHIM, STANDIN};
use crate::ending::Ending;
use crate::logging::{self, Shape};
use crate::{complain, environment, sentence, tether};

/// How long a shutdown may take before the process ends anyway
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

pub async fn run(arguments: ServeArguments) -> ExitCode {
    let loaded = match config::load(arguments.config.as_deref(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error.to_string(), EXIT_USAGE),
    };
    let mut config = loaded.config;
    if let Some(folder) = &arguments.data_dir {
        config.data_dir.clone_from(folder);
    }
    let shape = match config.log.format {
        LogFormat::Text => Shape::Text,
        LogFormat::Json => Shape::Json,
    };
    if let Err(error) = logging::start(&config.log.filter, shape) {
        return complain(&sentence(&error), EXIT_USAGE);
    }
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    let outcome = serve(config, &arguments).await;
    if arguments.tether
        && let Err(error) = tether::end_descendants()
    {
        tracing::warn!("instances may be left behind: {error}");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&sentence(&error), EXIT_FAILED),
    }
}

async fn serve(config: config::DaemonConfig, arguments: &ServeArguments) -> anyhow::Result<()> {
    let mut ending = Ending::listen().context("cannot listen for signals")?;
    if arguments.tether {
        tether::adopt_orphans().context("cannot adopt orphans")?;
    }
    let own = OwnProgram {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        shim: vec![SHIM.to_owned()],
        standin: vec![STANDIN.to_owned()],
    };
    let data = config.data_dir.clone();
    let mut daemon = tokio::select! {
        started = Daemon::start(config, own) => started?,
        () = ending.asked_for() => return Ok(()),
        () = tether::cut(arguments.tether) => return Ok(()),
    };
    tracing::info!(folder = %data.display(), "everything is kept here");
    if arguments.announce {
        DaemonReady {
            node: daemon.node_id().to_string(),
            adopted: daemon.adopted(),
        }
        .print()
        .context("cannot write to standard output")?;
    }
    tokio::select! {
        finished = daemon.wait() => return match finished {
            Finished::ShutDownByController { reason } => {
                tracing::info!(reason, "shut down by the controller");
                Ok(())
            }
            Finished::Stopped => Ok(()),
            Finished::Failed => bail!("the daemon cannot go on; the log says more"),
        },
        () = ending.asked_for() => {}
        () = tether::cut(arguments.tether) => {}
    }
    tracing::info!("stopping; instances run on");
    tokio::select! {
        finished = tokio::time::timeout(SHUTDOWN_LIMIT, daemon.shutdown()) => if finished.is_err() {
            tracing::warn!("the shutdown took longer than {} s and is cut short", SHUTDOWN_LIMIT.as_secs());
        },
        () = ending.asked_for() => tracing::warn!("the shutdown is cut short by a second signal"),
    }
    Ok(())
}
