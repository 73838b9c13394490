//! Keeps a misbehaving peer from filling the log, or our outbox, with its mistakes

use std::time::{Duration, Instant};

/// How many mistakes in a row are reported before the rest are only counted.
const BURST: u32 = 32;

/// How long it takes until one more is reported.
const REFILL: Duration = Duration::from_secs(1);

/// A token bucket over a peer's mistakes on one stream
#[derive(Clone, Debug)]
pub(crate) struct AnomalyBudget {
    left: u32,
    refilled: Instant,
    total: u64,
}

impl AnomalyBudget {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
            total: 0,
        }
    }

    /// Counts a mistake; says whether it should be reported to the application and to the peer.
    pub(crate) fn spend(&mut self, now: Instant) -> bool {
        self.total += 1;
        let elapsed = now.saturating_duration_since(self.refilled);
        let refill = u32::try_from(elapsed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if refill > 0 {
            self.left = self.left.saturating_add(refill).min(BURST);
            self.refilled = now;
        }
        let report = self.left > 0;
        self.left = self.left.saturating_sub(1);
        report
    }

    /// All mistakes, reported or not.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }
}
