//! The parts that the sessions and node machines are made of
//!
//! They are public for those who test, measure or study them. Nothing here is covered by semantic versioning: a program
//! that builds on the protocol uses [`session`](crate::session) and [`node`](crate::node).

/// Whether a command is sent, repeated or given up: the command in force for one incarnation
pub mod ledger {
    pub use crate::ledger::*;
}

/// What to do about the difference between belief and report: a pure plan
pub mod reconcile {
    pub use crate::reconcile::*;
}

/// What leaves next, and what is shed when the peer is slow
pub mod outbox {
    pub use crate::outbox::*;
}

/// When a peer is asked for a sign of life, and when it is given up: both sides
pub mod heartbeat {
    pub use crate::heartbeat::prober::*;
    pub use crate::heartbeat::silence::{SilenceTimer, SilenceWatch};
    pub use crate::heartbeat::*;
}
