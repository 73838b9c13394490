//! `prexorctl`, the operator command line of PrexorCloud

use std::process::ExitCode;

fn main() -> ExitCode {
    prexorctl::program::run(std::env::args_os())
}
