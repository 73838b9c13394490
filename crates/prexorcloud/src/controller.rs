//! `prexorcloud controller`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use prexorcloud_controller::config::{self, LogFormat};
use prexorcloud_controller::{Controller, RunningController};

use crate::arguments::{EXIT_FAILED, EXIT_USAGE, ServeArguments};
use crate::cluster::announcement::ControllerReady;
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
    match serve(config, &arguments, shape).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&sentence(&error), EXIT_FAILED),
    }
}

async fn serve(
    config: config::ControllerConfig,
    arguments: &ServeArguments,
    shape: Shape,
) -> anyhow::Result<()> {
    let mut ending = Ending::listen().context("cannot listen for signals")?;
    let controller = tokio::select! {
        started = Controller::start(config) => started?,
        () = ending.asked_for() => return Ok(()),
        () = tether::cut(arguments.tether) => return Ok(()),
    };
    greet(&controller, shape);
    if arguments.announce {
        announce(&controller)?;
    }
    let failure = tokio::select! {
        failure = controller.wait_failed() => Some(failure),
        () = ending.asked_for() => None,
        () = tether::cut(arguments.tether) => None,
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

fn announce(controller: &RunningController) -> anyhow::Result<()> {
    ControllerReady {
        grpc: controller.grpc_addr(),
        http: controller.http_addr(),
        pin: controller.token_pin(),
    }
    .print()
    .context("cannot write to standard output")
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
    eprintln!("{}", first_steps(data, token, controller.http_addr()));
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
