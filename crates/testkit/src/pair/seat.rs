//! A place for a host: its clock, and whether it sleeps

use std::time::Duration;

use crate::clock::Clock;
use crate::side::Turn;
use crate::world::World;

/// A host on its machine
#[derive(Clone, Debug)]
pub(super) struct Seat<H> {
    pub(super) host: H,
    pub(super) clock: Clock,
    pub(super) asleep_until: Duration,
}

impl<H> Seat<H> {
    pub(super) fn of(host: H) -> Self {
        Self {
            host,
            clock: Clock::new(),
            asleep_until: Duration::ZERO,
        }
    }

    pub(super) fn is_asleep(&self, now: Duration) -> bool {
        self.asleep_until > now
    }

    /// Lets the host do something now.
    pub(super) fn with<R>(&mut self, world: &mut World, act: impl FnOnce(&mut H, &mut Turn<'_>) -> R) -> R {
        let mut turn = Turn::new(self.clock.at(world.now), world);
        act(&mut self.host, &mut turn)
    }
}
