//! Real processes: a controller, a daemon and servers, killed and misused in every way that an operator may meet
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod diagnostics;
mod enrolment;
mod examples;
mod operator;
mod refusals;
mod rig;
mod signals;
mod survival;
mod wrong_files;
