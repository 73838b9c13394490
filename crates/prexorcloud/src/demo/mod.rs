//! `prexorcloud demo`: everything once, on this machine, leaving nothing behind

mod content;
mod intruder;
pub mod java;
mod server;
mod stage;
mod tour;

use std::process::ExitCode;

use prexorctl::output::Paint;
use prexorctl::printable;

use crate::arguments::{DemoArguments, EXIT_FAILED, EXIT_INTERRUPTED};
use crate::cluster::{Cluster, Folder, Runtime};
use crate::ending::Ending;
use crate::{complain, logging, sentence};
use stage::Stage;

/// Lines of each log that are shown after a failure
const TAIL_LINES: usize = 15;

pub async fn run(arguments: DemoArguments) -> ExitCode {
    let mut ending = match Ending::of_a_command() {
        Ok(ending) => ending,
        Err(error) => return complain(&format!("cannot listen for signals: {error}"), EXIT_FAILED),
    };
    let folder = match Folder::temporary("demo") {
        Ok(folder) if arguments.keep => folder.keep(),
        Ok(folder) => folder,
        Err(error) => return complain(&sentence(&error), EXIT_FAILED),
    };
    let java = java::find().await;
    let runtime = if java.is_some() {
        Runtime::Java
    } else {
        Runtime::Standin
    };
    let mut stage = Stage::new(Paint::for_stdout(arguments.no_color));
    let ran_on = match &java {
        Some(java) => format!("Java:  {} ({})", java.version, java.program.display()),
        None => format!(
            "No Java found, so a built-in stand-in plays the server; for the real thing: {}",
            java::how_to_install()
        ),
    };
    let kept = if arguments.keep {
        "kept"
    } else {
        "removed at the end"
    };
    stage.open(&[
        "A controller and a node daemon, as two processes of this program, run game servers over mutual TLS.",
        &ran_on,
        &format!("Data:  {} ({kept})", folder.path().display()),
    ]);

    let mut cluster = match Cluster::prepare(folder, runtime) {
        Ok(cluster) => cluster,
        Err(error) => return complain(&sentence(&error), EXIT_FAILED),
    };
    let outcome = tokio::select! {
        outcome = tour::run(&mut cluster, &mut stage) => Some(outcome),
        () = ending.asked_for() => None,
    };
    let code = match outcome {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            report(&error, &stage, &cluster);
            ExitCode::from(EXIT_FAILED)
        }
        None => {
            logging::say("interrupted; ending what was started");
            ExitCode::from(EXIT_INTERRUPTED)
        }
    };
    let succeeded = code == ExitCode::SUCCESS;
    let kept = arguments.keep.then(|| cluster.folder().to_owned());
    drop(cluster);
    if succeeded {
        stage.summary();
        stage.say("\nRUNNING, STOPPED and CRASHED were all seen. Every process of this demo has ended.");
        stage.say("A cluster that stays up, to try it by hand: prexorcloud dev");
    }
    if let Some(folder) = kept {
        stage.say(&format!("The data folder is kept: {}", folder.display()));
    }
    code
}

/// Names the step, what was wrong, and what the processes said last
fn report(error: &anyhow::Error, stage: &Stage, cluster: &Cluster) {
    let step = stage.failing().map_or_else(String::new, |(number, title)| {
        format!("step {number} ({title}) failed: ")
    });
    logging::say(format_args!(
        "error: {step}{}",
        printable::short(&sentence(error), 2_000)
    ));
    for process in cluster.processes() {
        logging::say(format_args!("-- the end of the log of the {} --", process.name()));
        for line in process.tail(TAIL_LINES) {
            logging::say(printable::line(&line));
        }
    }
}
