//! Whether a host still answers
//!
//! A ping stands behind the events that were written before it, and is answered in its turn: a host that is stuck in one of them does not
//! answer, however busy it looks.

use std::time::Instant;

use super::Patience;

/// The pings of one process
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    /// The last one
    number: u64,
    is_awaited: bool,
    /// When the next one is due, or the answer to the last one
    until: Instant,
}

/// What a pulse wants when its time has come
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Ping(u64),
    /// There was no answer
    Stopped,
}

impl Pulse {
    pub(super) fn new(now: Instant, patience: &Patience) -> Self {
        Self {
            number: 0,
            is_awaited: false,
            until: now + patience.ping,
        }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Its time has come
    pub(super) fn beat(&mut self, now: Instant, patience: &Patience) -> Beat {
        if self.is_awaited {
            return Beat::Stopped;
        }
        self.number += 1;
        self.is_awaited = true;
        self.until = now + patience.pong;
        Beat::Ping(self.number)
    }

    /// An answer; says whether it is one
    pub(super) fn answered(&mut self, now: Instant, number: u64, patience: &Patience) -> bool {
        let is_answer = self.is_awaited && number == self.number;
        if is_answer {
            self.is_awaited = false;
            self.until = now + patience.ping;
        }
        is_answer
    }
}
