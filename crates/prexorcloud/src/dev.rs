//! `prexorcloud dev`: the same cluster as in the demo, left up to be tried by hand

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use prexorctl::output::{Colour, Paint};
use prexorctl::resource::Outcome;

use crate::arguments::{DevArguments, EXIT_FAILED};
use crate::cluster::announcement::ControllerReady;
use crate::cluster::{self, Cluster, Folder, NODE, Runtime};
use crate::demo::java;
use crate::ending::Ending;
use crate::{complain, logging, sentence};

/// How long servers get to stop by themselves after Ctrl-C
const STOP_LIMIT: Duration = Duration::from_secs(40);

pub async fn run(arguments: DevArguments) -> ExitCode {
    match serve(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&sentence(&error), EXIT_FAILED),
    }
}

async fn serve(arguments: &DevArguments) -> anyhow::Result<()> {
    let mut ending = Ending::of_a_command().context("cannot listen for signals")?;
    let folder = match &arguments.data_dir {
        Some(path) => Folder::at(path)?,
        None => Folder::temporary("dev")?,
    };
    // Two clusters on one folder would overwrite each other's configuration before either of them notices.
    let _lock = prexorcloud_security::files::DataDirLock::acquire(folder.path(), "prexorcloud dev")?;
    let runtime = match java::find().await {
        Some(_) => Runtime::Java,
        None => {
            logging::say(format_args!(
                "No Java found, so servers are a built-in stand-in; for real ones: {}",
                java::how_to_install()
            ));
            Runtime::Standin
        }
    };
    let mut cluster = Cluster::prepare(folder, runtime)?;
    let controller = tokio::select! {
        started = start(&mut cluster) => started?,
        () = ending.asked_for() => return Ok(()),
    };
    greet(&cluster, &controller, arguments)?;
    let outcome = tokio::select! {
        () = ending.asked_for() => Ok(()),
        failure = failure(&mut cluster) => failure,
    };
    if outcome.is_ok() {
        logging::say(
            "\nStopping the servers, the daemon and the controller. A second Ctrl-C ends them at once.",
        );
        tokio::select! {
            stopped = stop(&mut cluster, &controller) => if let Err(error) = stopped {
                logging::say(format_args!("warning: {}", sentence(&error)));
            },
            () = ending.asked_for() => {}
        }
    }
    outcome
}

async fn start(cluster: &mut Cluster) -> anyhow::Result<ControllerReady> {
    let controller = cluster.start_controller().await?;
    let operator = cluster.operator(&controller)?;
    let token = if is_enrolled(&cluster.data("daemon")) {
        None
    } else {
        Some(cluster::create_token(&operator, NODE).await?.token)
    };
    cluster.start_daemon(&controller, token.as_deref()).await?;
    cluster::node_until(&operator, "ONLINE", |node| {
        node.connected && node.status == "ONLINE"
    })
    .await?;
    Ok(controller)
}

/// Whether there is a certificate from an earlier run
fn is_enrolled(data: &Path) -> bool {
    std::fs::read_dir(data.join("security")).is_ok_and(|mut files| files.next().is_some())
}

/// Resolves when one of the processes ends, which none of them should
async fn failure(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (controller, daemon) = cluster.both_mut()?;
    let (name, status) = tokio::select! {
        status = controller.gone() => ("controller", status?),
        status = daemon.gone() => ("daemon", status?),
    };
    ensure!(
        name == "daemon" && status.success(),
        "the {name} ended ({status}); the end of its log:\n{}",
        cluster
            .processes()
            .filter(|process| process.name() == name)
            .flat_map(|process| process.tail(10))
            .collect::<Vec<_>>()
            .join("\n")
    );
    logging::say("The daemon was shut down by the controller.");
    Ok(())
}

async fn stop(cluster: &mut Cluster, controller: &ControllerReady) -> anyhow::Result<()> {
    // An operator may have shut it down before.
    if cluster.daemon_mut()?.id().is_some() {
        let operator = cluster.operator(controller)?;
        let reason = [("reason", "the development cluster ends".to_owned())];
        operator
            .post::<Outcome>(&["nodes", NODE, "shutdown"], &reason, None)
            .await?;
        cluster.daemon_mut()?.ended(STOP_LIMIT).await?;
    }
    cluster.stop_controller().await
}

fn greet(cluster: &Cluster, controller: &ControllerReady, arguments: &DevArguments) -> anyhow::Result<()> {
    let paint = Paint::for_stdout(arguments.no_color);
    let jar = cluster.jar()?;
    let program = prexorctl_command()?;
    let target = format!(
        "{program} -c http://{} --token-file {}",
        controller.http,
        quoted(&cluster.admin_token_file().display().to_string())
    );
    let kept = if arguments.data_dir.is_some() {
        "kept"
    } else {
        "removed at the end"
    };
    let lines = [
        format!(
            "{} one controller, one daemon ({NODE})",
            paint.paint(Colour::Good, "The cluster is up:")
        ),
        format!("  gRPC  {}", controller.grpc),
        format!("  HTTP  http://{}", controller.http),
        format!(
            "  data  {} ({kept}; logs are there, too)",
            cluster.folder().display()
        ),
        String::new(),
        "Try, in another terminal:".to_owned(),
        format!("  {target} node list"),
        format!(
            "  {target} instance start lobby --id lobby-1 --jar {} --wait",
            quoted(&jar.path)
        ),
        format!("  {target} instance attach lobby-1"),
        String::new(),
        "Ctrl-C stops all of it.".to_owned(),
    ];
    // Somebody who closed standard output knows already, or does not want to.
    let _ = writeln!(io::stdout(), "{}", lines.join("\n"));
    Ok(())
}

/// How to run `prexorctl` from here: the one beside this program, or the one in it
fn prexorctl_command() -> anyhow::Result<String> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = own.with_file_name("prexorctl");
    Ok(if beside.is_file() {
        quoted(&beside.display().to_string())
    } else {
        format!("{} ctl", quoted(&own.display().to_string()))
    })
}

/// As one word of a shell
fn quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-:=+@,".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/tmp/a-b_c.d"), "/tmp/a-b_c.d");
        assert_eq!(quoted("/my folder/it's"), "'/my folder/it'\\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }
}
