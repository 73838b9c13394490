//! The PrexorCloud controller as a library: node sessions, stores, services
#![warn(missing_docs)]

pub mod config;
pub mod store;
