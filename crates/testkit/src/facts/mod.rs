//! What the hosts of the shipped machines remember for the invariants

mod controller;
mod daemon;

pub use controller::{ControllerFacts, Ended, Typed};
pub use daemon::DaemonFacts;

/// The group, and the command, by which an order of a superseded controller is recognised when it is obeyed.
pub(crate) const STALE_MARK: &str = "stale";
