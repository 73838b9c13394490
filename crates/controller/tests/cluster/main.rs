//! A real controller over TLS on loopback, with daemons and operators that may misbehave
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod admin;
mod artifacts;
mod bootstrap;
mod cache;
mod catalog;
mod deployments;
mod events;
mod files;
mod groups;
mod http;
mod instances;
mod kill;
mod limits;
mod logs;
mod module_jar;
mod module_signatures;
mod modules;
mod operations;
mod plain;
mod puppet;
mod readiness;
mod scaling;
mod sessions;
mod start;
mod support;
mod templates;
mod traces;
mod values;
