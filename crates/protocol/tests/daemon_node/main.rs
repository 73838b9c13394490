//! The daemon's node: what is done about orders and processes, and in which order
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod adopted;
mod crashes;
mod ends;
mod fencing;
mod former;
mod fuzz;
mod host;
mod properties;
mod starts;
mod stops;
mod telling;
mod world;
