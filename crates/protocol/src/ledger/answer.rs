//! What a daemon's answer, or its silence, did to a command

use std::time::Duration;

use super::Order;

/// What an acknowledgement did
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The command is answered: the daemon has it.
    Settled,
    /// The command was answered before. Nothing has changed.
    Repeated,
    /// The attempt was rejected; another one follows.
    Retrying {
        /// The number of the attempt to come; the first one was 1. Of a stop, the number of its refusals and one.
        attempt: u32,
        /// When it follows.
        after: Duration,
    },
    /// The start has failed for good.
    Failed,
    /// No such command is in force. Nothing has changed.
    Unexpected,
    /// About an incarnation that is over. Nothing has changed.
    Stale,
    /// About an incarnation that is newer than this one. Nothing has changed.
    Newer,
}

/// What became of a command that was answered and had no effect
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reissue {
    /// It goes out again.
    Again,
    /// It has no attempt left. Nothing has changed.
    Exhausted,
    /// There is none, or it has not been answered yet. Nothing has changed.
    Pending,
}

/// What became of an attempt that the daemon did not answer
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// The command goes out again at once.
    Retrying {
        /// What it wants.
        order: Order,
        /// The number of the attempt; the first one was 1.
        attempt: u32,
    },
    /// The command has failed for good; a stop may still be answered late.
    Failed {
        /// What it wanted.
        order: Order,
    },
}
