//! The PrexorCloud controller as a library: node sessions, stores, services
//!
//! [`Controller::start`] turns a [`config::ControllerConfig`] into a [`RunningController`] that serves daemons over
//! mutual TLS and operators over gRPC and HTTP. There is no `main` here.
//!
//! ```
//! use prexorcloud_controller::{Controller, config::ControllerConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path().join("data");
//! let mut config = ControllerConfig { data_dir: folder, ..ControllerConfig::default() };
//! config.grpc.listen = "127.0.0.1:0".parse()?;
//! config.http.listen = "127.0.0.1:0".parse()?;
//! let controller = Controller::start(config).await?;
//!
//! // What a node needs to join: an address and a token that works once.
//! let join = controller.create_join_token(Some("node-1"), None).await?;
//! println!("{}: a token until {:?}", controller.grpc_addr(), join.expires_at);
//! controller.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! | Module | Does |
//! |---|---|
//! | [`config`] | reads what an operator sets |
//! | [`store`], [`records`], `secrets` | remembers, durably, and what is secret sealed |
//! | [`access`], [`host_access`], [`audit`] | knows who may do what, and who did |
//! | [`join_tokens`], [`enrolment`], [`rate_limit`] | turns one-time tokens into nodes' certificates |
//! | [`lineage`] | judges whether a data folder is one cluster's newest state; backup and recovery |
//! | [`authorities`] | knows who signs, and whom nodes believe |
//! | `rotation` | puts another authority in its place |
//! | `certificates` | revokes nodes, renews the server's certificate |
//! | `inventory` | knows in memory what is recorded of every instance |
//! | `nodes`, `fleet` | one task per node: sessions, instances, drains; what is asked of all of them |
//! | `placement` | where a new instance goes |
//! | `groups` | what servers of a kind are started with |
//! | [`content`], [`templates`] | keeps bytes by their digest, and folders in versions made of them |
//! | [`modules`] | what is installed on nodes: jars, who vouches for them, what they need |
//! | [`console`], [`crash`] | what instances print, and why they end |
//! | `readiness` | whether a write can be committed |
//! | `services`, `http` | the gRPC services and the HTTP interface |
//!
//! Two rules hold everywhere. An effect on a daemon leaves only after the record of it is durable, so that a controller
//! that is killed goes on where it was. And nothing that a peer sends is trusted, unbounded, or lost without a word.
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access;
pub mod audit;
pub mod authorities;
mod catalog;
mod certificates;
pub mod config;
pub mod console;
pub mod content;
mod controller;
pub mod crash;
mod descriptors;
pub mod enrolment;
mod events;
mod fleet;
mod groups;
pub mod host_access;
mod http;
mod inventory;
pub mod join_tokens;
pub mod lineage;
mod logs;
mod maintenance;
pub mod modules;
mod nodes;
mod origin;
mod placement;
pub mod rate_limit;
mod readiness;
pub mod records;
mod rotation;
mod secrets;
mod services;
pub mod store;
pub mod templates;
mod trace;
mod wall_clock;
mod workloads;

pub use self::{
    certificates::ServerCertificateError,
    controller::{Controller, ControllerFailure, FirstRun, RunningController, StartError, Surroundings},
    http::HttpServerError,
};
