//! `prexorcloud controller`: the server, and what is done to its data folder

mod admin_token;
mod data_folder;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use prexorcloud_controller::config::{self, ControllerConfig, LogFormat};
use prexorcloud_controller::{Controller, RunningController, Surroundings};
use prexorcloud_daemon::process::descriptors;
use prexorcloud_logs::FileLimits;

use crate::arguments::{ControllerArguments, EXIT_FAILED, EXIT_USAGE, ServeArguments};
use crate::cluster::announcement::ControllerReady;
use crate::ending::{Ending, Hangup};
use crate::logging::{self, Log, LogFile, Shape};
use crate::{complain, environment, sentence, tether};

/// How long a shutdown may take before the process ends anyway
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

pub async fn run(arguments: ControllerArguments) -> ExitCode {
    let ControllerArguments {
        serve: arguments,
        command,
    } = arguments;
    let loaded = match config::load(arguments.config.as_deref(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error.to_string(), EXIT_USAGE),
    };
    let mut config = loaded.config;
    if let Some(folder) = &arguments.data_dir {
        config.data_dir.clone_from(folder);
    }
    if let Some(command) = command {
        return match data_folder::run(&config.data_dir, command).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&sentence(&error), EXIT_FAILED),
        };
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
    match serve(config, &arguments, &log, shape).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&sentence(&error), EXIT_FAILED),
    }
}

async fn serve(
    config: ControllerConfig,
    arguments: &ServeArguments,
    log: &Log,
    shape: Shape,
) -> anyhow::Result<()> {
    let mut ending = Ending::of_a_server().context("cannot listen for signals")?;
    let mut hangup = Hangup::listen().context("cannot listen for signals")?;
    let started_with = config.clone();
    let surroundings = Surroundings {
        lost_log_lines: logging::lost_lines(),
        log: Some(log.mirror()),
        log_file: log.file(),
    };
    // The ports get what the process has.
    descriptors::raise_limit();
    let controller = tokio::select! {
        started = Controller::start_within(surroundings, config) => started?,
        () = ending.asked_for() => return Ok(()),
        () = tether::cut(arguments.tether) => return Ok(()),
    };
    greet(&controller, shape);
    if arguments.announce
        && let Err(error) = announce(&controller)
    {
        tracing::warn!("--announce has nobody to tell ({error}): give it a standard output that is read");
    }
    let (mut failed, mut cut) = (
        pin!(controller.wait_failed()),
        pin!(tether::cut(arguments.tether)),
    );
    let failure = loop {
        tokio::select! {
            failure = &mut failed => break Some(failure),
            () = ending.asked_for() => break None,
            () = &mut cut => break None,
            () = hangup.heard() => reload(&controller, &started_with, arguments, log),
        }
    };
    tracing::info!("stopping; instances run on");
    tokio::select! {
        finished = tokio::time::timeout(SHUTDOWN_LIMIT, controller.shutdown()) => if finished.is_err() {
            tracing::warn!("the shutdown took longer than {} s and is cut short", SHUTDOWN_LIMIT.as_secs());
        },
        () = ending.asked_for() => tracing::warn!("the shutdown is cut short by a second signal"),
    }
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Takes what can change while a controller runs: the log's filter and the names in its certificate
///
/// Whatever is wrong is said, and what was good before stays.
fn reload(controller: &RunningController, before: &ControllerConfig, arguments: &ServeArguments, log: &Log) {
    let now = match config::load(arguments.config.as_deref(), environment()) {
        Ok(loaded) => loaded.config,
        Err(error) => {
            tracing::error!("SIGHUP: everything stays as it is: {error}");
            return;
        }
    };
    match log.refilter(&now.log.filter, now.log.mirror) {
        Ok(()) => tracing::info!(
            filter = now.log.filter,
            "SIGHUP: the log follows the configuration"
        ),
        Err(error) => tracing::error!("SIGHUP: the log stays as it is: {}", sentence(&error)),
    }
    match controller.reissue_certificate(now.grpc.names.clone()) {
        Ok(()) => tracing::info!("SIGHUP: the next connection sees a new server certificate"),
        Err(error) => tracing::error!("SIGHUP: the server certificate stays: {error}"),
    }
    let mut as_before = now;
    as_before.grpc.names.clone_from(&before.grpc.names);
    as_before.log.clone_from(&before.log);
    if let Some(folder) = &arguments.data_dir {
        as_before.data_dir.clone_from(folder);
    }
    if as_before != *before {
        tracing::warn!("SIGHUP: other changes of the configuration take effect at the next start");
    }
}

fn announce(controller: &RunningController) -> io::Result<()> {
    ControllerReady {
        grpc: controller.grpc_addr(),
        http: controller.http_addr(),
        pin: controller.token_pin(),
    }
    .print()
}

/// Says where everything is, and after a first start what to do next
fn greet(controller: &RunningController, shape: Shape) {
    let data = controller.data_dir();
    tracing::info!(folder = %data.display(), "everything is kept here");
    let Some(first) = controller.first_run() else {
        return;
    };
    let token = &first.admin_token_file;
    if shape == Shape::Json {
        tracing::info!(admin_token_file = %token.display(), "first start: made a certificate authority and an administrator");
        return;
    }
    logging::say(first_steps(data, token, controller.http_addr()));
}

fn first_steps(data: &Path, token: &Path, http: SocketAddr) -> String {
    let http = if http.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, http.port()))
    } else {
        http
    };
    let (data, token) = (data.display(), token.display());
    format!(
        "\n\
        This was the first start here. A certificate authority and an administrator were made.\n\
        \n\
        \x20 everything is in   {data}   (back it up; it holds the authority's key)\n\
        \x20 admin token        {token}   (keep it secret)\n\
        \n\
        Next, make a one-time token for a node:\n\
        \x20 prexorctl -c http://{http} --token-file {token} token create --node node-1\n\
        \n\
        and start its daemon with it, on the node:\n\
        \x20 prexorcloud config example daemon > daemon.toml   # set controller.endpoints and enrolment.join_token\n\
        \x20 prexorcloud daemon --config daemon.toml\n"
    )
}
