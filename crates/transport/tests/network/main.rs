//! The whole crate over real sockets and real TLS on loopback
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cluster;
mod pki;
mod plain;
mod raw;

mod bounds;
mod enrolling;
mod envelopes;
mod liveness;
mod node_streams;
mod reconnecting;
mod refusals;
mod reload;
mod running;
mod sessions;
mod whole;
