//! Time that passes only when told to
//!
//! The simulation has one time line, counted as a [`Duration`] from its beginning. Each side reads it through a
//! [`Clock`] of its own, because two hosts never agree on an `Instant`: one of them may leap ahead.

use std::time::{Duration, Instant};

/// One side's view of the simulation's time
///
/// ```
/// use std::time::Duration;
/// use prexorcloud_testkit::Clock;
///
/// let mut clock = Clock::new();
/// let before = clock.at(Duration::from_secs(1));
/// clock.leap(Duration::from_secs(3600));
/// let after = clock.at(Duration::from_secs(1));
/// assert_eq!(after - before, Duration::from_secs(3600));
/// assert_eq!(clock.moment_of(after), Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    ahead: Duration,
}

impl Clock {
    /// A clock that agrees with the simulation's time.
    ///
    /// The real time is read once, as an origin that nothing depends on: `Instant` has no other constructor.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            ahead: Duration::ZERO,
        }
    }

    /// What this clock shows at a moment of the simulation.
    #[must_use]
    pub fn at(&self, moment: Duration) -> Instant {
        self.origin + self.ahead + moment
    }

    /// The moment of the simulation at which this clock shows `instant`; the beginning if that has been leapt over.
    #[must_use]
    pub fn moment_of(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.origin + self.ahead)
    }

    /// Lets this clock alone leap ahead, as after a pause of a virtual machine.
    pub fn leap(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// How far this clock has leapt ahead of the simulation in all.
    #[must_use]
    pub const fn ahead(&self) -> Duration {
        self.ahead
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
