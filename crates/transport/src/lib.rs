//! The async driver of PrexorCloud sessions: mTLS server, reconnecting client, envelope codec
//!
//! The sessions of `prexorcloud-protocol` decide everything and touch nothing. This crate is the only one that owns
//! sockets, TLS and timers for them. It knows no policy and stores nothing: certificates arrive as rustls
//! configurations, and what to do about an event is the application's business.
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
//! | [`enrolment`] | a join token becomes the node's certificate |
//! | [`runner`] | a session with a handler |
//! | [`counters`] | what passed through |
#![warn(missing_docs)]

pub mod client;
pub mod codec;
pub mod connect;
pub mod counters;
pub mod enrolment;
pub mod handle;
pub mod link;
pub mod reconnect;
pub mod runner;
pub mod server;
mod stream;
mod waiters;

pub use client::{CallError, Connection, DialError, DialOptions, Dialer, Target, exchange_join_token};
pub use connect::{DaemonService, NodeAcceptor};
pub use enrolment::{EnrolError, Enrolment, enrol};
pub use handle::{SessionHandle, StreamEnd};
pub use link::LinkEvent;
pub use reconnect::{Backoff, Reconnect};
pub use runner::{DaemonRunner, RunEnd, SessionHandler, serve};
pub use server::{BindError, Peer, Server, ServerHandle, ServerOptions};

// What the signatures above are made of, so that a program that depends on this crate needs none of these by name.
pub use prexorcloud_proto as proto;
pub use prexorcloud_protocol as protocol;
pub use prexorcloud_security as security;
pub use rustls;
pub use tonic;
