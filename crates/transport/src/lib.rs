//! The async driver of PrexorCloud sessions: mTLS server, reconnecting client, envelope codec
//!
//! The sessions of `prexorcloud-protocol` decide everything and touch nothing. This crate is the only one that owns
//! sockets, TLS and timers for them. It knows no policy and stores nothing: certificates arrive as rustls
//! configurations, and what to do about an event is the application's business.
//!
//! A program needs to depend on this crate alone (and on tokio): it re-exports [`proto`], [`protocol`], [`security`],
//! [`rustls`] and [`tonic`].
//!
//! # A daemon
//! [`enrol`] once, then let a [`DaemonRunner`] keep a session connected and give its events to a handler:
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use prexorcloud_transport::protocol::fence::EpochFence;
//! use prexorcloud_transport::protocol::hosted::Hosted;
//! use prexorcloud_transport::protocol::{DaemonConfig, DaemonEvent, DaemonSession, NodeId};
//! use prexorcloud_transport::{DaemonRunner, Dialer, SessionHandle, SessionHandler, Target, enrol};
//!
//! struct Printer;
//!
//! impl SessionHandler<DaemonSession> for Printer {
//!     type End = ();
//!
//!     async fn handle_event(
//!         &mut self,
//!         session: &SessionHandle<DaemonSession>,
//!         event: DaemonEvent,
//!     ) -> ControlFlow<()> {
//!         println!("{event:?}");
//!         match event {
//!             // A daemon that is to outlive its process writes the epoch down first; commands wait for the answer.
//!             DaemonEvent::FenceRaised(epoch) => {
//!                 session.with(|session, _| session.fence_written(epoch));
//!                 ControlFlow::Continue(())
//!             }
//!             // Nothing runs here, so there is nothing to wait for.
//!             DaemonEvent::Shutdown { .. } => {
//!                 session.with(|session, _| session.acknowledge_shutdown(0, std::time::Duration::ZERO));
//!                 ControlFlow::Break(())
//!             }
//!             _ => ControlFlow::Continue(()),
//!         }
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let controller: Target = "controller.example:9090".parse()?;
//!     let node: NodeId = "node-1".parse()?;
//!     let enrolled = enrol(&controller, &"pxr_...".parse()?, node).await?;
//!
//!     let config = DaemonConfig::new(node, "1.0.0");
//!     let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
//!     let runner = DaemonRunner::new(session, Dialer::of(&enrolled)?, [controller])?;
//!     runner.run(&mut Printer, async { drop(tokio::signal::ctrl_c().await) }).await;
//!     Ok(())
//! }
//! ```
//!
//! A daemon for real servers keeps its certificate ([`enrol_once`]) and lets a
//! [`DaemonNode`](protocol::node::DaemonNode) decide what is done about orders; so does the whole program
//!
//! ```sh
//! cargo run -p prexorcloud-transport --example daemon
//! ```
//!
//! # A controller
//! A [`Server`] has the port. [`DaemonService`] asks a [`NodeAcceptor`] for the session of each stream, which is where nodes
//! are let in or not. [`NodeStreams`] has the sessions of one node, around the
//! [`ControllerNode`](protocol::node::ControllerNode) that decides. Join tokens are redeemed by a `BootstrapService`:
//! [`InMemoryEnrolment`], or one of your own over [`enrolment::issue_node`]. All of it together:
//!
//! ```sh
//! cargo run -p prexorcloud-transport --example controller
//! ```
//!
//! A tool that treats every stream alike needs no machine: [`serve`] gives the events of one session to a handler.
//!
//! # The driver
//! Both sides are driven alike: what is due, then what the session has to say as HTTP/2 has room, then up to a few
//! messages of the peer, all under a lock that nobody holds across an await. Without tokio the same loop takes forty
//! lines; the example `without_runtime` of [`protocol`] shows it.
//!
//! # What it needs
//! A tokio runtime with I/O and time. No process-wide rustls provider: the configurations that [`security`] builds bring
//! theirs.
//!
//! | Module | Does |
//! |---|---|
//! | [`codec`] | envelopes to bytes and back; names the variants that this build does not know |
//! | [`handle`] | one session shared by its stream and the application |
//! | [`server`] | one port: accept loop, TLS handshakes, bounds, live connections |
//! | [`connect`] | the rpc `DaemonService.Connect` on that port |
//! | [`client`] | dials one controller, and says in a sentence why that failed |
//! | [`reconnect`] | which controller to dial next, and when; pure |
//! | [`link`] | the daemon's loop: dial, drive, reconnect |
//! | [`node_streams`] | the streams of one node, around a controller's machine |
//! | [`enrolment`] | a join token becomes the node's certificate |
//! | [`runner`] | a session with a handler |
//! | [`counters`] | what passed through |
//! | [`locks`] | a lock for each of many things |
//! | [`vital`] | tasks whose death must not pass in silence |
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod client;
pub mod codec;
pub mod connect;
pub mod counters;
pub mod enrolment;
mod gate;
pub mod handle;
pub mod link;
pub mod locks;
pub mod node_streams;
pub mod reconnect;
pub mod runner;
pub mod server;
mod stream;
pub mod vital;
mod waiters;
mod wire;

pub use client::{CallError, Connection, DialError, DialOptions, Dialer, Target, exchange_join_token};
pub use connect::{DaemonService, NodeAcceptor};
pub use enrolment::{EnrolError, Enrolment, InMemoryEnrolment, enrol, enrol_once};
pub use handle::{SessionHandle, StreamEnd};
pub use link::LinkEvent;
pub use locks::Locks;
pub use node_streams::{NodeStream, NodeStreams};
pub use reconnect::{Backoff, Reconnect};
pub use runner::{DaemonRunner, RunEnd, SessionHandler, due, serve};
pub use server::{BindError, Peer, Server, ServerHandle, ServerOptions};
pub use vital::{Deaths, Vital};

// What the signatures above are made of, so that a program that depends on this crate needs none of these by name.
pub use prexorcloud_proto as proto;
pub use prexorcloud_protocol as protocol;
pub use prexorcloud_security as security;
pub use rustls;
pub use tonic;
