//! A connection that comes and goes: how long to wait before the next try, and when to give up

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The controller sends something at least every 15 s, so this is the silence of a dead connection
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_secs(45);

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// A connection that lasted so long ends an outage
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// For how long reconnecting is tried before a stream is given up
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// Since when a stream is gone, if it is
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outage(Option<Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    began: Instant,
    try_at: Instant,
    delay: Duration,
}

impl Outage {
    /// Waits until it is time for the next try
    pub(crate) async fn wait(&self) {
        if let Some(since) = self.0 {
            sleep_until(since.try_at).await;
        }
    }

    /// A connection that was opened then is lost
    pub(crate) fn note_loss(&mut self, opened_at: Instant, now: Instant) {
        if now.duration_since(opened_at) >= STABLE_AFTER {
            self.0 = None;
        }
    }

    pub(crate) fn is_given_up(&self, now: Instant) -> bool {
        self.0
            .is_some_and(|since| now.duration_since(since.began) >= GIVE_UP_AFTER)
    }

    /// A connection was lost or could not be made: the next try waits, longer each time until one proves stable
    pub(crate) fn note_failure(&mut self, now: Instant) {
        let (began, delay) = match self.0 {
            Some(since) => (since.began, (since.delay * 2).min(LONGEST_DELAY)),
            None => (now, FIRST_DELAY),
        };
        self.0 = Some(Since {
            began,
            try_at: now + delay,
            delay,
        });
    }
}
