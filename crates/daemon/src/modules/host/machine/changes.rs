//! How often a host may change its mind

use std::time::{Duration, Instant};

/// How many changes a host may tell of: a few at once, and one each second
#[derive(Clone, Debug)]
pub(super) struct Changes {
    left: u32,
    since: Instant,
}

impl Changes {
    const AT_ONCE: u32 = 64;

    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: Self::AT_ONCE,
            since: now,
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(Self::AT_ONCE);
            self.since += Duration::from_secs(seconds);
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}
