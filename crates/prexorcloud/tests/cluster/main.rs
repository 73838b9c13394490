//! Real processes: a controller, a daemon and servers, killed and misused in every way that an operator may meet
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod delivery;
mod enrolment;
mod examples;
mod link;
mod operator;
mod refusals;
#[allow(dead_code, reason = "what only the worst week needs")]
mod rig;
mod survival;
