//! The PrexorCloud node daemon as a library: preparation, supervision, console
//!
//! One daemon runs on each node. It keeps a session with the controller, prepares and starts the instances that the
//! controller orders, and reports what becomes of them. It is a library without a `main`: the `prexorcloud` binary puts a
//! command line around it. A program of your own lends the daemon its executable, because a [`shim`] is a process:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use prexorcloud_daemon::{Daemon, Finished, OwnProgram, config, shim, standin};
//!
//! fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
//!     let mut words = std::env::args_os().skip(1);
//!     match words.next() {
//!         Some(word) if word == "shim" => return Ok(shim::run(words)),
//!         Some(word) if word == "standin-server" => return Ok(standin::run(words)),
//!         _ => {}
//!     }
//!     let loaded = config::load(Some("daemon.toml".as_ref()), std::env::vars())?;
//!     let runtime = tokio::runtime::Runtime::new()?;
//!     let finished = runtime.block_on(async {
//!         let mut daemon = Daemon::start(loaded.config, OwnProgram::current()).await?;
//!         println!("{} runs, with {} instances of before", daemon.node_id(), daemon.adopted());
//!         Ok::<_, Box<dyn std::error::Error>>(daemon.wait().await)
//!     })?;
//!     Ok(if finished == Finished::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
//! }
//! ```
//!
//! | Module | Does |
//! |---|---|
//! | [`config`] | what an operator can set |
//! | [`enrolment`] | turns a one-time token into the node's certificate |
//! | [`node`] | the application: drives the session and obeys it |
//! | [`preparation`] | from an order to a folder and a command line |
//! | [`supervisor`] | starts, watches, stops and finds instances again |
//! | [`console`] | reads what instances print, line by line, across restarts |
//! | [`shim`] | the process beside each instance, so that it outlives the daemon |
//! | [`control`], [`process`], [`durable`] | the records between both, who a process is, files that survive |
//! | [`modules`] | jars that extend a daemon, and the processes that host them |
//! | [`health`] | `/health` and `/ready` |
//! | [`standin`] | a built-in server for machines without Java |
//!
//! An instance belongs to its shim and not to the daemon: killing the daemon stops nothing, and the next one finds
//! everything by the records on disk. A process manager must leave them alone too: under systemd that is
//! `KillMode=process`.

#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod cache;
pub mod config;
pub mod console;
pub mod control;
pub mod durable;
pub mod enrolment;
mod events;
mod files;
mod foreign;
pub mod health;
pub mod modules;
pub mod node;
mod partial;
pub mod preparation;
pub mod process;
mod readable;
mod reflink;
pub mod shim;
pub mod standin;
pub mod supervisor;
mod wall_clock;
mod yaml;

pub use config::DaemonConfig;
pub use node::{Daemon, Finished, OwnProgram, ReloadError, RunningDaemon, Surroundings};
