//! The controller's node machine, with the sessions of its streams and a store that can be slow or fail
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "one real instant to count from")]

mod drain;
mod instances;
mod orders;
mod plain;
mod readiness;
mod storage;
mod streams;
mod world;
mod write_then_act;
