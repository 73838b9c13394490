//! `prexorcloud`, the server program: a controller, a node daemon, a cluster to develop with, and a demo
//!
//! Two hidden subcommands come first, before any runtime or TLS library starts: `shim` stands between a daemon and each of
//! its instances, `standin-server` is what the demo runs on a machine without Java.
// They panic where nothing can be written.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod cluster;
mod config_check;
mod controller;
mod daemon;
mod demo;
mod dev;
mod ending;
mod logging;
mod small_shim;
mod tether;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command, EXIT_FAILED, EXIT_USAGE};

/// The subcommand that is `prexorctl`
const CTL: &str = "ctl";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == cluster::SHIM => return prexorcloud_daemon::shim::run(words),
        Some(word) if word == cluster::STANDIN => return prexorcloud_daemon::standin::run(words),
        // `prexorctl`, for a machine that has only this program.
        Some(word) if word == CTL => {
            return prexorctl::program::run(std::iter::once("prexorctl".into()).chain(words));
        }
        _ => {}
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version come as an error, too.
            let asked_for = !error.use_stderr();
            return match error.print() {
                Ok(()) if asked_for => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_USAGE),
            };
        }
    };
    if let Err(error) = ending::hear_signals() {
        return complain(&format!("cannot prepare for signals: {error}"), EXIT_FAILED);
    }
    // One provider for everything, chosen before anything could choose another one.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), EXIT_FAILED),
    };
    let code = runtime.block_on(async {
        match arguments.command {
            Command::Controller(arguments) => controller::run(arguments).await,
            Command::Daemon(arguments) => daemon::run(arguments).await,
            Command::Config(command) => config_check::run(command),
            Command::Dev(arguments) => dev::run(arguments).await,
            Command::Demo(arguments) => demo::run(arguments).await,
            // Taken before: its words are not ours to read.
            Command::Ctl => ExitCode::from(EXIT_USAGE),
        }
    });
    // Reads of standard input cannot be interrupted and must not keep the process alive.
    runtime.shutdown_background();
    code
}

/// Says on standard error, in one sentence, what is wrong
fn complain(sentence: &str, code: u8) -> ExitCode {
    logging::say(format_args!(
        "error: {}",
        prexorctl::printable::short(sentence, 2_000)
    ));
    ExitCode::from(code)
}

/// An error and its causes as one sentence; a cause that was told already is not told again
fn sentence(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for part in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = part;
        } else if !told.contains(&part) {
            told = format!("{told}: {part}");
        }
    }
    told
}

/// The environment as text; a value that is none is shown to the configuration as it can be
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::other("the disk is full");
        let middle = anyhow::Error::from(cause).context("cannot write /x: the disk is full");
        let told = Err::<(), _>(middle)
            .context("the store")
            .map_err(|error| super::sentence(&error));
        assert_eq!(
            told,
            Err("the store: cannot write /x: the disk is full".to_owned())
        );
    }
}
