//! What every part of the simulation shares

use std::fmt;
use std::time::Duration;

use crate::log::Log;
use crate::rng::Rng;

/// The moment, the dice and the log
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) rng: Rng,
    pub(crate) log: Log,
}

impl World {
    pub(crate) fn note<T: fmt::Display>(&mut self, text: impl FnOnce() -> T) {
        self.log.note(self.now, text);
    }
}

/// The earlier of two optional moments.
pub(crate) fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
