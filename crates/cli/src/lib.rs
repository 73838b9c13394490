//! The operator command line of PrexorCloud, and the HTTP client under it
//!
//! `prexorctl` speaks to the controller's HTTP interface and to nothing else: no gRPC, no files of the controller. The
//! client ([`client`], [`console`]) is a library, so that other programs follow a console with the
//! same care: bounded answers, deadlines on everything that waits, and reconnection from the last line seen.
//!
//! ```no_run
//! use prexorctl::Client;
//! use prexorctl::resource::Node;
//! use prexorctl::settings::{Target, Token};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let target = Target {
//!     controller: "http://127.0.0.1:8080".parse()?,
//!     token: Some(Token::read("admin.token".as_ref())?),
//!     ca_file: None,
//! };
//! let client = Client::new(target)?;
//! for node in client.get::<Vec<Node>>(&["nodes"], &[]).await?.value {
//!     println!("{}: {}", node.id, node.status);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What a controller sends is somebody else's text: console lines come from a game server, names from whoever may
//! create them. [`printable`] makes it harmless before it reaches a terminal.
//!
//! In reading order: [`settings`] (where the controller is, who we are), [`client`], [`resource`] (what comes back),
//! [`event_stream`], [`console`] and [`log_stream`] (live lines), [`transfer`] (bytes of templates), [`failure`] (what can go wrong and the exit code of each), [`arguments`],
//! [`commands`], [`output`] and [`program`].

#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod arguments;
pub mod client;
pub mod commands;
pub mod console;
pub mod event_stream;
pub mod failure;
mod followed;
pub mod log_stream;
mod outage;
pub mod output;
pub mod printable;
pub mod program;
pub mod push;
pub mod resource;
pub mod settings;
pub mod transfer;

pub use client::Client;
pub use failure::Failure;
