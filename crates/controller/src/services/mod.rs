//! The gRPC services that are not a session: enrolment, administration and artifacts
//!
//! Each translates between the wire and the domain and does nothing else. The statuses are those of the contract's
//! documentation; no detail of an internal failure leaves the process.

mod admin;
mod artifacts;
mod bootstrap;
mod identity;

pub(crate) use self::{admin::Admin, artifacts::Artifacts, bootstrap::Bootstrap, identity::node_of};
