//! How long a host is waited for

use std::time::Duration;

/// The times and bounds of a host
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From its start until it says that it is ready
    pub ready: Duration,
    /// From being told to start until it says in what state it is
    pub start: Duration,
    /// Between the answer to a ping and the next ping
    pub ping: Duration,
    /// From a ping until its answer
    pub pong: Duration,
    /// From being told to stop until it is killed
    pub stop: Duration,
    /// The pause before the first new start; it doubles
    pub first_pause: Duration,
    /// The longest pause
    pub longest_pause: Duration,
    /// How long it has to work for its failures to be forgotten
    pub stable: Duration,
    /// Failures in a row that are one too many
    pub failures: u32,
    /// Lines that are no messages, or too many, before it has failed
    pub mistakes: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(20),
            start: Duration::from_secs(30),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(60),
            stop: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            stable: Duration::from_secs(60),
            failures: 5,
            mistakes: 32,
        }
    }
}
