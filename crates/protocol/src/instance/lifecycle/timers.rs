//! When the deadlines of a [`Lifecycle`] are armed, and what their expiry does

use std::time::{Duration, Instant};

use super::{Lifecycle, Link, MARGIN, ON_ITS_WAY, PREPARATION, Phase, Stop, StopStage};
use crate::instance::{Cause, Desired, LifecycleOutput, LifecycleTimer, Limits, State};
use crate::time::Deadline;
use crate::verdict::StopMode;

impl Lifecycle {
    /// Lets expired timers take effect; early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase.lifetime_due().is_some_and(|at| at <= now) {
            self.outputs.push(LifecycleOutput::LifetimeOver);
            let _ = self.stop(now, StopMode::Graceful, Cause::LifetimeOver);
        }
        if self.link != Link::Up {
            return;
        }
        match self.phase.daemon_due().filter(|deadline| deadline.at <= now) {
            None => {}
            Some(Deadline {
                timer: LifecycleTimer::Stop,
                ..
            }) => self.handle_stop_overdue(now),
            Some(_) => {
                if let Some(limit) = self.startup_limit(self.state()) {
                    self.outputs.push(LifecycleOutput::StartupTimedOut { limit });
                }
                let _ = self.stop(now, StopMode::Force, Cause::StartupTimedOut);
                if let Phase::Stopping(Stop {
                    stage: StopStage::Forced { for_late_start, .. },
                    ..
                }) = &mut self.phase
                {
                    *for_late_start = true;
                }
            }
        }
    }

    fn handle_stop_overdue(&mut self, now: Instant) {
        let Phase::Stopping(Stop { stage, .. }) = self.phase else {
            return;
        };
        match stage {
            StopStage::Graceful { .. } => {
                self.outputs
                    .push(LifecycleOutput::StopOverdue(StopMode::Graceful));
                self.desired = Desired::ForceStop;
                self.outputs.push(LifecycleOutput::Stop(StopMode::Force));
                self.arm_stop(now);
            }
            StopStage::Forced { .. } if self.lives => {
                if let Phase::Stopping(stop) = &mut self.phase
                    && !std::mem::replace(&mut stop.is_in_vain, true)
                {
                    self.outputs.push(LifecycleOutput::StillRuns);
                }
                self.outputs.push(LifecycleOutput::Stop(StopMode::Force));
                self.arm_stop(now);
            }
            StopStage::Forced { .. } => {
                self.outputs.push(LifecycleOutput::StopOverdue(StopMode::Force));
                self.handle_lost(now, Cause::StopOverdue);
            }
            StopStage::Acknowledged => {
                self.handle_gone(now, Cause::StopAcknowledged);
            }
        }
    }

    /// The earliest armed timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<LifecycleTimer>> {
        let lifetime = self.phase.lifetime_due().map(|at| Deadline {
            at,
            timer: LifecycleTimer::Lifetime,
        });
        let daemon = self.phase.daemon_due().filter(|_| self.link == Link::Up);
        Deadline::earlier(lifetime, daemon)
    }

    /// Goes over to a state, with the deadlines that begin there; those of the former end with it.
    pub(super) fn enter(&mut self, now: Instant, to: State) {
        let due = self.startup_due(now, to);
        let lifetime_due = self.phase.lifetime_due().or_else(|| self.lifetime_from(now));
        self.since = now;
        self.phase = match to {
            State::Scheduled => Phase::Scheduled { due: None },
            State::Preparing => Phase::Preparing { due },
            State::Starting => Phase::Starting {
                due,
                lifetime_due: lifetime_due.filter(|_| self.peer.may_never_say_running()),
            },
            State::Running => Phase::Running { lifetime_due },
            State::Draining => Phase::Draining {
                requested: false,
                lifetime_due,
            },
            State::Stopping => {
                let stage = self.stage_of_desired();
                let due = self.stop_due(now, stage);
                let launched = !self.state().is_before_process();
                Phase::Stopping(Stop {
                    stage,
                    launched,
                    is_in_vain: false,
                    due,
                })
            }
            State::Stopped => Phase::Stopped { lost: false },
            State::Crashed => Phase::Crashed { lost: false },
        };
    }

    pub(super) fn lifetime_from(&self, now: Instant) -> Option<Instant> {
        let lifetime = self.spec.limits.lifetime;
        lifetime.and_then(|lifetime| now.checked_add(lifetime))
    }

    /// How long the state may last on the way up; `None` if nobody can tell.
    fn startup_limit(&self, state: State) -> Option<Duration> {
        let Limits { startup, grace, .. } = self.spec.limits;
        match state {
            State::Scheduled | State::Preparing => Some(PREPARATION.max(startup)),
            State::Starting if !self.peer.judges_readiness => None,
            State::Starting if self.peer.keeps_startup_deadline => {
                Some(startup.saturating_add(grace).saturating_add(self.time_to_kill()))
            }
            State::Starting => Some(startup),
            State::Running | State::Draining | State::Stopping | State::Stopped | State::Crashed => None,
        }
    }

    /// How long a daemon may take from the end of a grace until the process is gone.
    const fn time_to_kill(&self) -> Duration {
        self.peer.kill_timeout.saturating_add(MARGIN)
    }

    fn startup_due(&self, now: Instant, state: State) -> Option<Instant> {
        let limit = self.startup_limit(state).filter(|_| self.link != Link::Down)?;
        now.checked_add(limit)
    }

    pub(super) fn arm_startup(&mut self, now: Instant) {
        let due = self.startup_due(now, self.state());
        self.phase.set_startup_due(due);
    }

    /// Begins the stop that is wanted, or begins it anew.
    pub(super) fn arm_stop(&mut self, now: Instant) {
        let Phase::Stopping(stop) = self.phase else {
            return;
        };
        let stage = match (self.stage_of_desired(), stop.stage) {
            // What is known of the same stop stays known.
            (StopStage::Graceful { .. }, StopStage::Graceful { .. })
            | (StopStage::Forced { .. }, StopStage::Forced { .. }) => stop.stage,
            (stage, _) => stage,
        };
        let due = self.stop_due(now, stage);
        self.phase = Phase::Stopping(Stop { stage, due, ..stop });
    }

    fn stop_due(&self, now: Instant, stage: StopStage) -> Option<Instant> {
        let (grace, begun) = match stage {
            StopStage::Graceful { begun, .. } => (self.spec.limits.grace, begun),
            StopStage::Forced { begun, .. } => (Duration::ZERO, begun),
            StopStage::Acknowledged => (Duration::ZERO, true),
        };
        let way = if begun { Duration::ZERO } else { ON_ITS_WAY };
        now.checked_add(way.saturating_add(grace).saturating_add(self.time_to_kill()))
    }

    pub(super) const fn stage_of_desired(&self) -> StopStage {
        match self.desired {
            Desired::ForceStop => StopStage::Forced {
                for_late_start: false,
                begun: false,
            },
            Desired::Run | Desired::Stop => StopStage::Graceful {
                begun: false,
                left: None,
            },
        }
    }
}
