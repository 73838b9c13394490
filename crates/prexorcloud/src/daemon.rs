//! `prexorcloud daemon`

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use prexorcloud_daemon::config::{self, DaemonConfig, LogFormat};
use prexorcloud_daemon::{Daemon, Finished, OwnProgram, RunningDaemon, Surroundings};
use prexorcloud_logs::FileLimits;

use crate::arguments::{EXIT_FAILED, EXIT_USAGE, ServeArguments};
use crate::cluster::announcement::DaemonReady;
use crate::cluster::{SHIM, STANDIN};
use crate::ending::{Ending, Hangup};
use crate::logging::{self, Log, LogFile, Shape};
use crate::small_shim::SmallShim;
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
    let file = config.log.file.clone().map(|path| LogFile {
        path,
        limits: FileLimits {
            bytes: config.log.file_bytes,
            former: config.log.file_count,
        },
    });
    let log = match logging::start(&config.log.filter, shape, config.log.mirror, file) {
        Ok(log) => log,
        Err(error) => return complain(&sentence(&error), EXIT_USAGE),
    };
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    let outcome = serve(config, &arguments, &log).await;
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

async fn serve(config: DaemonConfig, arguments: &ServeArguments, log: &Log) -> anyhow::Result<()> {
    let mut ending = Ending::of_a_server().context("cannot listen for signals")?;
    let mut hangup = Hangup::listen().context("cannot listen for signals")?;
    if arguments.tether {
        tether::adopt_orphans().context("cannot adopt orphans")?;
    }
    let mut own = OwnProgram {
        shim: vec![SHIM.to_owned()],
        standin: vec![STANDIN.to_owned()],
        ..OwnProgram::current()
    };
    // Open for as long as instances may be started.
    let small_shim = SmallShim::beside(&own.program).unwrap_or_else(|error| {
        tracing::warn!("every server costs more memory, since {error}");
        None
    });
    if let Some(shim) = &small_shim {
        own.shim_program = shim.path();
    }
    let started_with = config.clone();
    let surroundings = Surroundings {
        log: Some(log.mirror()),
    };
    let mut daemon = tokio::select! {
        started = Daemon::start_within(surroundings, config, own) => started?,
        () = ending.asked_for() => return Ok(()),
        () = tether::cut(arguments.tether) => return Ok(()),
    };
    tracing::info!(folder = %started_with.data_dir.display(), "everything is kept here");
    if arguments.announce
        && let Err(error) = (DaemonReady {
            node: daemon.node_id().to_string(),
            adopted: daemon.adopted(),
        })
        .print()
    {
        tracing::warn!("--announce has nobody to tell ({error}): give it a standard output that is read");
    }
    let mut cut = pin!(tether::cut(arguments.tether));
    loop {
        tokio::select! {
            finished = daemon.wait() => return match finished {
                Finished::ShutDownByController { reason } => {
                    tracing::info!(reason, "shut down by the controller");
                    Ok(())
                }
                Finished::Stopped => Ok(()),
                Finished::Failed => bail!("the daemon cannot go on; the log says more"),
            },
            () = ending.asked_for() => break,
            () = &mut cut => break,
            () = hangup.heard() => reload(&daemon, &started_with, arguments, log).await,
        }
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

/// Takes what can change while a daemon runs: the log's filter and the node's certificate
///
/// Whatever is wrong is said, and what was good before stays.
async fn reload(daemon: &RunningDaemon, before: &DaemonConfig, arguments: &ServeArguments, log: &Log) {
    match config::load(arguments.config.as_deref(), environment()) {
        Ok(loaded) => {
            let now = loaded.config;
            match log.refilter(&now.log.filter, now.log.mirror) {
                Ok(()) => tracing::info!(
                    filter = now.log.filter,
                    "SIGHUP: the log follows the configuration"
                ),
                Err(error) => tracing::error!("SIGHUP: the log stays as it is: {}", sentence(&error)),
            }
            let mut offered = before.clone();
            offered.enrolment.token.clone_from(&now.enrolment.token);
            daemon.offer_token(offered);
            if takes_a_restart(&now, before, arguments) {
                tracing::warn!("SIGHUP: other changes of the configuration take effect at the next start");
            }
        }
        Err(error) => tracing::error!("SIGHUP: the configuration stays as it is: {error}"),
    }
    match daemon.reload_certificate().await {
        Ok(()) => tracing::info!("SIGHUP: the certificate was read again; the next connection has it"),
        Err(error) => tracing::error!("SIGHUP: the certificate in use stays: {error}"),
    }
}

/// Whether anything else is not as it was; a join token is gone once it was used
fn takes_a_restart(now: &DaemonConfig, before: &DaemonConfig, arguments: &ServeArguments) -> bool {
    let as_before = DaemonConfig {
        data_dir: arguments.data_dir.as_ref().unwrap_or(&now.data_dir).clone(),
        enrolment: before.enrolment.clone(),
        log: before.log.clone(),
        ..now.clone()
    };
    as_before.certificate_dir() != before.certificate_dir()
        || format!("{as_before:?}") != format!("{before:?}")
}
