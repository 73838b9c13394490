//! The program itself, for every executable that contains it

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::failure::{EXIT_USAGE, Failure};
use crate::output::{Colour, Paint, remark};
use crate::{commands, printable};

const LONGEST_MESSAGE: usize = 2_000;

/// Does what `arguments` say (the first is the program's own name), and gives the exit code
///
/// Starts a runtime of its own, so it must not be called from within one.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
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
    remark(format_args!("{} {message}", paint.paint(Colour::Bad, "error:")));
    if let Some(hint) = failure.hint() {
        let hint = printable::line(&hint);
        remark(format_args!("{}  {hint}", paint.paint(Colour::Dim, "hint:")));
    }
    failure.exit_code()
}
