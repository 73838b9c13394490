//! When the deadlines of a [`Lifecycle`] are armed, and what their expiry does

use std::time::{Duration, Instant};

use super::{KILL, Lifecycle, Link, MARGIN, PREPARATION, StopStage};
use crate::instance::{Cause, Desired, Input, Limits, State, Timer};
use crate::time::Deadline;
use crate::verdict::StopMode;

impl Lifecycle {
    /// Lets expired timers take effect; early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let expired = |due: Option<Instant>| due.is_some_and(|at| at <= now);
        if expired(self.lifetime_due) {
            self.lifetime_due = None;
            self.pending.lifetime_over = true;
            let _ = self.stop(now, StopMode::Graceful, Cause::LifetimeOver);
        }
        if self.link != Link::Up {
            return;
        }
        if expired(self.startup_due) {
            self.startup_due = None;
            self.pending.startup_timed_out = self.startup_limit();
            let _ = self.stop(now, StopMode::Force, Cause::StartupTimedOut);
            self.startup_stop = self.state == State::Stopping;
        }
        if expired(self.stop_due) {
            self.stop_due = None;
            match self.stop_stage {
                StopStage::Graceful => {
                    self.pending.stop_overdue = Some(StopMode::Graceful);
                    self.desired = Desired::ForceStop;
                    self.pending.stop = Some(StopMode::Force);
                    self.arm_stop(now);
                }
                StopStage::Forced => {
                    self.pending.stop_overdue = Some(StopMode::Force);
                    self.handle_lost(now, Cause::StopOverdue);
                }
                StopStage::Acknowledged => {
                    self.apply(now, Input::Reported(State::Stopped), Cause::StopAcknowledged);
                }
            }
        }
    }

    /// The earliest armed timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<Timer>> {
        let deadline = |timer, due: Option<Instant>| due.map(|at| Deadline { at, timer });
        let lifetime = deadline(Timer::Lifetime, self.lifetime_due);
        if self.link != Link::Up {
            return lifetime;
        }
        let startup = if self.state == State::Starting {
            Timer::Startup
        } else {
            Timer::Preparation
        };
        let waiting = Deadline::earlier(
            deadline(startup, self.startup_due),
            deadline(Timer::Stop, self.stop_due),
        );
        Deadline::earlier(lifetime, waiting)
    }

    /// Arms and disarms the timers of the state that was just entered.
    pub(super) fn arm(&mut self, now: Instant, from: State) {
        match self.state {
            State::Scheduled => self.startup_due = None,
            State::Preparing | State::Starting => self.arm_startup(now),
            State::Running | State::Draining => {
                self.startup_due = None;
                self.stop_due = None;
                if self.state == State::Running && from != State::Draining {
                    self.draining = false;
                }
                if self.lifetime_due.is_none() {
                    self.lifetime_due = self
                        .spec
                        .limits
                        .lifetime
                        .and_then(|lifetime| now.checked_add(lifetime));
                }
            }
            State::Stopping => {
                self.startup_due = None;
                self.lifetime_due = None;
                self.draining = false;
                self.stop_due = None;
                self.grace_left = None;
                if self.link != Link::Down {
                    self.arm_stop(now);
                }
            }
            State::Stopped | State::Crashed => {
                self.startup_due = None;
                self.stop_due = None;
                self.lifetime_due = None;
                self.draining = false;
            }
        }
    }

    /// How long the state may last on the way up; `None` if nobody can tell.
    pub(super) fn startup_limit(&self) -> Option<Duration> {
        let Limits { startup, grace, .. } = self.spec.limits;
        match self.state {
            State::Scheduled | State::Preparing => Some(PREPARATION.max(startup)),
            State::Starting if !self.peer.judges_readiness => None,
            State::Starting if self.peer.keeps_startup_deadline => {
                Some(startup.saturating_add(grace).saturating_add(KILL + MARGIN))
            }
            State::Starting => Some(startup),
            State::Running | State::Draining | State::Stopping | State::Stopped | State::Crashed => None,
        }
    }

    pub(super) fn arm_startup(&mut self, now: Instant) {
        self.startup_due = match (self.link, self.startup_limit()) {
            (Link::Up | Link::Silent, Some(limit)) => now.checked_add(limit),
            (Link::Down, _) | (_, None) => None,
        };
    }

    pub(super) fn arm_stop(&mut self, now: Instant) {
        self.stop_stage = self.stage_of_desired();
        let grace = match self.stop_stage {
            StopStage::Graceful => self.spec.limits.grace,
            StopStage::Forced | StopStage::Acknowledged => Duration::ZERO,
        };
        self.stop_due = now.checked_add(grace.saturating_add(KILL + MARGIN));
    }

    pub(super) fn stage_of_desired(&self) -> StopStage {
        if self.desired == Desired::ForceStop {
            StopStage::Forced
        } else {
            StopStage::Graceful
        }
    }
}
