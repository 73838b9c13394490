//! `prexor-shim`, the hidden subcommand `shim` of `prexorcloud` as a program of its own
//!
//! A daemon that finds it beside its own file runs this one between itself and each instance: a program that holds nothing
//! else has no tables of a large one to relocate, and costs a fraction of its memory for every server. It takes the same
//! arguments, so that nothing tells the two apart but their size.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == "shim" => prexorcloud_daemon::shim::run(words),
        // What a shim starts as this program is the one that the shim runs.
        Some(word) if word == "standin-server" => prexorcloud_daemon::standin::run(words),
        Some(word) if word == "--version" => {
            let said = writeln!(std::io::stdout(), "prexor-shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::from(u8::from(said.is_err()))
        }
        _ => {
            let _ = writeln!(std::io::stderr(), "prexor-shim is started by prexorcloud daemon");
            ExitCode::from(2)
        }
    }
}
