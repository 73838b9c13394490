//! Where an instance is in its life, with what is only known there
//!
//! A flag or a deadline beside the state would have to be cleared on every way out of the state, and one that is
//! forgotten acts in the next: a server killed for a start that is long complete. Here it ends with its phase, and an
//! end that waits for something cannot be written down. Which moves are legal is not known here; [`transition()`]
//! decides that.
//!
//! [`transition()`]: crate::instance::transition()

use std::time::{Duration, Instant};

use crate::instance::{LifecycleTimer, State};
use crate::time::Deadline;

/// A [`State`] and what belongs to it
///
/// A deadline is absent if nobody keeps one, or if it lies beyond the end of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Has a deadline once the daemon has accepted the start.
    Scheduled {
        due: Option<Instant>,
    },
    Preparing {
        due: Option<Instant>,
    },
    Starting {
        due: Option<Instant>,
        /// Where `RUNNING` may never come.
        lifetime_due: Option<Instant>,
    },
    Running {
        lifetime_due: Option<Instant>,
    },
    Draining {
        /// Somebody asked for it here, and the daemon did not begin it by itself.
        requested: bool,
        lifetime_due: Option<Instant>,
    },
    Stopping(Stop),
    Stopped {
        /// As of `Crashed`.
        lost: bool,
    },
    Crashed {
        /// The end was inferred, and not seen.
        lost: bool,
    },
}

/// A stop that is under way
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) stage: StopStage,
    /// There is a process to stop, as far as the daemon has been heard.
    pub(super) launched: bool,
    /// It has been said that even a kill had no effect.
    pub(super) is_in_vain: bool,
    pub(super) due: Option<Instant>,
}

/// What a stop is waiting for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopStage {
    /// The server may save and exit by itself.
    Graceful {
        /// The daemon has shown that it has the order, so the grace has begun.
        begun: bool,
        /// What was left of its time when the stream ended; gone once a handshake has told whether the stop had begun.
        left: Option<Duration>,
    },
    /// The process is to be killed.
    Forced {
        /// It is for a late start, nobody else wants it, and the daemon has not shown that it has it.
        for_late_start: bool,
        /// The daemon has shown that it has the order.
        begun: bool,
    },
    /// The daemon has concluded the stop; only its last status may still be on the way.
    Acknowledged,
}

impl Phase {
    pub(super) const fn state(self) -> State {
        match self {
            Self::Scheduled { .. } => State::Scheduled,
            Self::Preparing { .. } => State::Preparing,
            Self::Starting { .. } => State::Starting,
            Self::Running { .. } => State::Running,
            Self::Draining { .. } => State::Draining,
            Self::Stopping(_) => State::Stopping,
            Self::Stopped { .. } => State::Stopped,
            Self::Crashed { .. } => State::Crashed,
        }
    }

    /// Fixes or lifts the moment at which the instance has lived long enough; without effect unless it is up.
    pub(super) const fn set_lifetime_due(&mut self, at: Option<Instant>) {
        if let Self::Starting { lifetime_due, .. }
        | Self::Running { lifetime_due }
        | Self::Draining { lifetime_due, .. } = self
        {
            *lifetime_due = at;
        }
    }

    /// When the instance has lived long enough, if it is up.
    pub(super) const fn lifetime_due(self) -> Option<Instant> {
        match self {
            Self::Starting { lifetime_due, .. }
            | Self::Running { lifetime_due }
            | Self::Draining { lifetime_due, .. } => lifetime_due,
            _ => None,
        }
    }

    /// What the daemon has to do, and until when.
    pub(super) fn daemon_due(self) -> Option<Deadline<LifecycleTimer>> {
        let (timer, due) = match self {
            Self::Scheduled { due } | Self::Preparing { due } => (LifecycleTimer::Preparation, due),
            Self::Starting { due, .. } => (LifecycleTimer::Startup, due),
            Self::Stopping(Stop { due, .. }) => (LifecycleTimer::Stop, due),
            Self::Running { .. } | Self::Draining { .. } | Self::Stopped { .. } | Self::Crashed { .. } => {
                return None;
            }
        };
        due.map(|at| Deadline { at, timer })
    }

    /// Fixes or lifts the deadline of a start; without effect in a phase that is none.
    pub(super) const fn set_startup_due(&mut self, at: Option<Instant>) {
        if let Self::Scheduled { due } | Self::Preparing { due } | Self::Starting { due, .. } = self {
            *due = at;
        }
    }

    /// Whether a stop is under way that nobody but this controller's own deadline wants.
    pub(super) const fn is_stopped_for_late_start(self) -> bool {
        let Self::Stopping(Stop { stage, .. }) = self else {
            return false;
        };
        matches!(
            stage,
            StopStage::Forced {
                for_late_start: true,
                ..
            }
        )
    }

    /// The instance has been seen in this state, which proves a process or does not.
    pub(super) const fn note_seen(&mut self, seen: State) {
        if let Self::Stopping(Stop { launched, .. }) = self
            && !seen.is_before_process()
        {
            *launched = true;
        }
    }

    /// Whether the end was only inferred; without effect unless it has ended.
    pub(super) const fn set_lost(&mut self, is_lost: bool) {
        if let Self::Stopped { lost } | Self::Crashed { lost } = self {
            *lost = is_lost;
        }
    }

    /// What was only assumed has been seen: it is not taken back any more.
    pub(super) const fn confirm(&mut self) {
        self.set_lost(false);
        self.confirm_stop();
    }

    /// Whether the daemon has shown that it has the order to stop, if one is under way that it is to carry out.
    const fn begun_mut(&mut self) -> Option<&mut bool> {
        let Self::Stopping(Stop { stage, .. }) = self else {
            return None;
        };
        match stage {
            StopStage::Graceful { begun, .. } | StopStage::Forced { begun, .. } => Some(begun),
            StopStage::Acknowledged => None,
        }
    }

    /// The daemon has shown that it has the order to stop; whether that is news.
    pub(super) const fn begin_stop(&mut self) -> bool {
        match self.begun_mut() {
            Some(begun) if !*begun => {
                *begun = true;
                true
            }
            _ => false,
        }
    }

    /// The daemon does not stop the instance after all, or nobody knows any more whether it does.
    pub(super) const fn unbegin_stop(&mut self) {
        if let Some(begun) = self.begun_mut() {
            *begun = false;
        }
    }

    /// Somebody wants the stop, or the daemon has it: it is not taken back any more.
    pub(super) const fn confirm_stop(&mut self) {
        if let Self::Stopping(Stop {
            stage: StopStage::Forced { for_late_start, .. },
            ..
        }) = self
        {
            *for_late_start = false;
        }
    }
}
