//! Real processes: a controller, a daemon and servers, killed and misused in every way that an operator may meet
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod access;
mod capacity;
mod commands;
mod delivery;
mod deployments;
mod diagnostics;
mod endings;
mod enrolment;
mod events;
mod examples;
mod groups;
mod handwritten;
mod identity;
mod liars;
mod lineage;
mod link;
mod module_fleet;
#[path = "../../../controller/tests/cluster/module_jar.rs"]
mod module_jar;
mod modules;
mod operator;
mod readiness;
mod refusals;
#[allow(dead_code, reason = "what only the worst week needs")]
mod rig;
mod secrets;
mod signals;
mod survival;
mod templates;
mod traces;
mod wrong_files;
