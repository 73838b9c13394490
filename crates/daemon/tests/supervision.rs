//! The supervisor with real processes: the built-in stand-in, a JVM, shell scripts
//!
//! This executable is also the shim, the stand-in server and a small daemon to be killed, chosen by its first argument,
//! so that the tests need no other binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod supervision {
    pub mod busy;
    pub mod cluster;
    pub mod daemon_role;
    pub mod damage;
    pub mod endings;
    pub mod hostile;
    pub mod module_host;
    pub mod modules;
    pub mod node;
    pub mod restarts;
    pub mod scarcity;
    pub mod stage;
    pub mod starts;
    pub mod templates;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|role| role.to_str()) {
        Some("role-shim") => return prexorcloud_daemon::shim::run(arguments),
        Some("role-standin") => return prexorcloud_daemon::standin::run(arguments),
        Some("role-daemon") => return supervision::daemon_role::run(arguments),
        Some("role-scarce") => return supervision::scarcity::run(arguments),
        Some("role-count") => {
            return supervision::scarcity::count(arguments.next().expect("a folder").into());
        }
        Some("role-starve") => return supervision::scarcity::starve(),
        Some("role-full") => return supervision::scarcity::full(arguments.next().expect("a folder").into()),
        Some("role-module-host") => return supervision::module_host::run(arguments),
        Some("role-node") => return node(arguments),
        _ => {}
    }
    let trials = [
        supervision::starts::trials(),
        supervision::endings::trials(),
        supervision::restarts::trials(),
        supervision::damage::trials(),
        supervision::scarcity::trials(),
        supervision::hostile::trials(),
        supervision::module_host::trials(),
        supervision::modules::trials(),
        supervision::node::trials(),
        supervision::busy::trials(),
        supervision::templates::trials(),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}

/// The whole daemon as a process, to be killed
fn node(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let folder = std::path::PathBuf::from(arguments.next().expect("a folder"));
    let controller = arguments
        .next()
        .expect("a controller")
        .into_string()
        .expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(supervision::node::serve(&folder, &controller));
    ExitCode::SUCCESS
}

/// A test that is an async function
fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test());
        runtime.shutdown_background();
        Ok(())
    })
}
