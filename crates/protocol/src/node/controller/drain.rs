//! A node that is to run empty: everything is stopped, what is late is killed, and an empty node is done

use std::time::Instant;

use super::pending::Pending;
use super::{ControllerNode, ControllerWork};
use crate::id::InstanceId;
use crate::instance::Lifecycle;
use crate::roster::Roster;
use crate::verdict::StopMode;

/// What a daemon is told when its drain is complete.
const DRAINED: &str = "Node drain completed";

/// The wish that a node runs empty; recorded by the application, so that it survives the controller
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When what still runs is killed.
    pub deadline: Instant,
    /// Whether the daemon is told to shut down in the end.
    pub shutdown: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) enum DrainState {
    #[default]
    None,
    Active {
        drain: Drain,
        overdue: bool,
        /// What was last ordered to stop.
        last: Option<InstanceId>,
    },
    /// The node is empty, and the application records that.
    Recording { drain: Drain },
    /// It could not be recorded, and is tried again.
    Unrecorded { drain: Drain, retry_at: Option<Instant> },
}

impl DrainState {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Active {
                drain,
                overdue: false,
                ..
            } => Some(drain.deadline),
            Self::Unrecorded { retry_at, .. } => *retry_at,
            Self::None | Self::Active { .. } | Self::Recording { .. } => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Active { drain, overdue, .. } if drain.deadline <= now => *overdue = true,
            Self::Unrecorded { retry_at, .. } if retry_at.is_some_and(|at| at <= now) => *retry_at = None,
            _ => {}
        }
    }
}

impl ControllerNode {
    /// Lets the node run empty, or takes that back. What was stopped stays stopped; a stop that waits to be recorded is
    /// not ordered any more.
    ///
    /// A node is empty when nothing runs there that is known of, orphans included.
    ///
    /// The wish must be recorded already.
    pub fn set_drain(&mut self, now: Instant, drain: Option<Drain>) {
        self.records.withdraw_drain();
        self.drain = drain.map_or(DrainState::None, |drain| DrainState::Active {
            drain,
            overdue: drain.deadline <= now,
            last: None,
        });
        self.settle(now);
    }

    /// Whether the node is to run empty, or just has.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        !matches!(self.drain, DrainState::None)
    }

    /// The end of the drain is recorded.
    pub fn handle_drain_recorded(&mut self) {
        if matches!(self.drain, DrainState::Recording { .. }) {
            self.drain = DrainState::None;
        }
    }

    /// The end of the drain could not be recorded; it is tried again.
    pub fn handle_drain_failed(&mut self, now: Instant) {
        if let DrainState::Recording { drain } = self.drain {
            let retry_at = now.checked_add(self.config.retry);
            self.drain = DrainState::Unrecorded { drain, retry_at };
        }
    }

    /// Whether nothing lives there, wanted or not, and nothing is about to.
    fn is_empty(&self) -> bool {
        let mut known = self.roster.entries().chain(self.roster.orphans());
        known.all(Lifecycle::is_terminal) && !self.records.has_starts()
    }

    pub(super) fn review_drain(&mut self) {
        if matches!(self.drain, DrainState::None | DrainState::Recording { .. }) {
            return;
        }
        let is_empty = self.is_empty();
        match &mut self.drain {
            DrainState::Active { overdue, last, .. } if !is_empty => {
                let mode = if *overdue {
                    StopMode::Force
                } else {
                    StopMode::Graceful
                };
                // One at a time, as they are recorded: orders need not wait behind all of them.
                if !self.records.has_stop_of_drain()
                    && let Some(instance) = next_to_stop(&self.roster, mode, *last)
                {
                    *last = Some(instance);
                    self.records.push(Pending::Stop {
                        order: None,
                        instance,
                        mode,
                    });
                }
            }
            DrainState::Active { drain, .. } => {
                let drain = *drain;
                // A node that is away is told when it is back.
                if !drain.shutdown || self.shut_down(DRAINED).is_ok() {
                    self.record_drained(drain);
                }
            }
            &mut DrainState::Unrecorded { drain, .. } if !is_empty => {
                // Something has come to light since.
                self.drain = DrainState::Active {
                    drain,
                    overdue: false,
                    last: None,
                };
                self.review_drain();
            }
            &mut DrainState::Unrecorded {
                drain,
                retry_at: None,
            } => self.record_drained(drain),
            DrainState::None | DrainState::Recording { .. } | DrainState::Unrecorded { .. } => {}
        }
    }

    fn record_drained(&mut self, drain: Drain) {
        self.drain = DrainState::Recording { drain };
        self.work.push_back(ControllerWork::Drained);
    }
}

/// Who lives and is not wanted stopped as hard as that, in the order of the ids and by turns: one whose stop cannot be
/// recorded does not hold the others up.
fn next_to_stop(roster: &Roster, mode: StopMode, last: Option<InstanceId>) -> Option<InstanceId> {
    roster
        .entries()
        .filter(|entry| !entry.is_terminal() && entry.desired() < mode.into())
        .map(Lifecycle::instance)
        .min_by_key(|instance| (Some(*instance) <= last, *instance))
}
