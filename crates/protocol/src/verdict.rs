//! The three answers to a command, because a repeated command is normal

use crate::id::Incarnation;

/// How a command was judged against the state and everything already accepted
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The command is new and will take effect.
    Accepted,
    /// The same command was accepted before, or its effect is already there. Nothing more happens; not an error.
    AlreadyInEffect,
    /// The command will not take effect.
    Denied(DeniedReason),
}

/// Why a command was denied
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeniedReason {
    /// No instance of that id is known here.
    #[error("no such instance on this node")]
    UnknownInstance,
    /// The instance has ended; a new start needs a new incarnation.
    #[error("the instance has already ended")]
    AlreadyEnded,
    /// The command names an incarnation that has been superseded.
    #[error("incarnation {given} is superseded by {current}")]
    StaleIncarnation {
        /// The incarnation named by the command.
        given: Incarnation,
        /// The incarnation that is current.
        current: Incarnation,
    },
    /// Another incarnation of the same id is still alive.
    #[error("incarnation {current} of this instance is still alive; stop it first")]
    StillAlive {
        /// The incarnation that is alive.
        current: Incarnation,
    },
    /// The instance's state does not allow the command.
    #[error("the instance is {state}")]
    WrongState {
        /// The state that forbids it.
        state: crate::instance::State,
    },
    /// An id or field of the command breaks the contract's rules.
    #[error("the command breaks the contract: {0}")]
    Invalid(crate::validate::Invalid),
    /// A bound of this side is reached.
    #[error("limit of {limit} instances on one node is reached")]
    TooMany {
        /// The bound.
        limit: usize,
    },
}

/// How an instance is to be stopped
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopMode {
    /// Ask the server to save and exit; signals follow only after the grace period.
    Graceful,
    /// Kill the whole process tree now.
    Force,
}
