//! What every store must do, run against the SQLite store, and what is particular to that one
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod conformance;
mod kill;
mod model;
mod sqlite_file;
