//! `prexorctl`, the operator command line of PrexorCloud

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use prexorctl::arguments::Arguments;
use prexorctl::failure::{EXIT_USAGE, Failure};
use prexorctl::output::{Colour, Paint};
use prexorctl::{commands, printable};

const LONGEST_MESSAGE: usize = 2_000;

fn main() -> ExitCode {
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
    // One provider, chosen before anything could choose another one.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let paint = Paint::for_stderr(arguments.global.no_color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&Failure::Output(error), paint),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => complain(&failure, paint),
    }
}

fn complain(failure: &Failure, paint: Paint) -> ExitCode {
    let message = printable::short(&failure.to_string(), LONGEST_MESSAGE);
    eprintln!("{} {message}", paint.paint(Colour::Bad, "error:"));
    if let Some(hint) = failure.hint() {
        eprintln!(
            "{}  {}",
            paint.paint(Colour::Dim, "hint:"),
            printable::line(&hint)
        );
    }
    failure.exit_code()
}
