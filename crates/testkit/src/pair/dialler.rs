//! When a daemon dials again

use std::time::Duration;

use crate::rng::Rng;

/// The part of a daemon's transport that opens its streams
#[derive(Clone, Debug, Default)]
pub(super) struct Dialler {
    /// When the next dial is made; `None` while there is a stream, or nobody to dial.
    pub(super) at: Option<Duration>,
    failures: u32,
}

impl Dialler {
    /// Dials later: full jitter, a second at first, a minute at most.
    pub(super) fn plan(&mut self, now: Duration, rng: &mut Rng) {
        let ceiling = Duration::from_secs(1) * 2_u32.pow(self.failures.min(6));
        self.failures += 1;
        let delay = rng.between(Duration::ZERO, ceiling.min(Duration::from_secs(60)));
        self.at = Some(now + delay);
    }

    /// A session has come about: what failed before is forgotten.
    pub(super) const fn succeed(&mut self) {
        self.failures = 0;
    }
}
