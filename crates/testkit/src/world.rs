//! What every part of the simulation shares

use std::fmt;
use std::time::{Duration, Instant};

use prexorcloud_protocol::node::controller::ControllerNode;
use prexorcloud_protocol::{ControllerSession, DaemonSession, Session as _};

use crate::log::Log;
use crate::rng::Rng;
use crate::supervisor::Node;

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

/// What a host is lent while it does something: the time, the dice and the log
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time on the host's own clock.
    pub now: Instant,
    pub(crate) world: &'a mut World,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(now: Instant, world: &'a mut World) -> Self {
        Self { now, world }
    }

    /// The moment of the simulation, which no clock that leaps can change.
    #[must_use]
    pub const fn moment(&self) -> Duration {
        self.world.now
    }

    /// The dice; whoever uses others cannot be replayed.
    pub const fn rng(&mut self) -> &mut Rng {
        &mut self.world.rng
    }

    /// Adds a line to the log; `text` is not even called when nothing is kept.
    pub fn note<T: fmt::Display>(&mut self, text: impl FnOnce() -> T) {
        self.world.note(text);
    }
}

/// The earlier of two optional moments.
pub(crate) fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A machine with deadlines
pub(crate) trait Timed {
    fn due_at(&self) -> Option<Instant>;
    fn timer(&self) -> String;
    fn expire(&mut self, now: Instant);
}

macro_rules! timed {
    ($($machine:ty),*) => { $(impl Timed for $machine {
        fn due_at(&self) -> Option<Instant> {
            self.poll_timeout().map(|deadline| deadline.at)
        }

        fn timer(&self) -> String {
            self.poll_timeout().map(|deadline| format!("{:?}", deadline.timer)).unwrap_or_default()
        }

        fn expire(&mut self, now: Instant) {
            self.handle_timeout(now);
        }
    })* };
}
timed!(DaemonSession, Node, ControllerSession, ControllerNode);

/// Wakes a machine if that is due, and says whether it was; one that wants to be woken at once again is busy.
pub(crate) fn wake(
    turn: &mut Turn<'_>,
    who: fmt::Arguments<'_>,
    machine: &mut impl Timed,
    busy: &mut Vec<String>,
) -> bool {
    let now = turn.now;
    let is_due = |machine: &_| Timed::due_at(machine).is_some_and(|at| at <= now);
    if !is_due(machine) {
        return false;
    }
    turn.note(|| format!("{who} timer {}", machine.timer()));
    machine.expire(now);
    if is_due(machine) {
        busy.push(format!("{who}: {}", machine.timer()));
    }
    true
}
