//! The PrexorCloud controller as a library: node sessions, stores, services
#![warn(missing_docs)]

pub mod access;
pub mod audit;
pub mod config;
pub mod console;
pub mod crash;
pub mod enrolment;
pub mod join_tokens;
pub mod rate_limit;
pub mod records;
pub mod store;

mod wall_clock;
