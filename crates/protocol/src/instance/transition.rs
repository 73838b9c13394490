#![doc = include_str!("transitions.md")]

use super::State;
use crate::id::Incarnation;

/// Something that happened to an instance
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The daemon says that the instance is in this state.
    Reported(State),
    /// The start goes out, for the first time or again; the daemon holds nothing of it until it reports.
    Dispatched,
    /// Someone wants the instance stopped.
    StopRequested,
    /// The instance is to empty itself.
    DrainRequested,
    /// The instance may fill up again.
    DrainCancelled,
    /// The start has failed for good.
    StartRejected,
    /// The instance is known to be gone, or given up.
    Lost,
    /// What was only assumed, an end or a stop that did not get there, is taken back: the instance is in this state.
    TakenBack(State),
}

/// What an input does to a state
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The state changes.
    To(State),
    /// The input agrees with the state, and nothing changes.
    Same,
    /// The input cannot be true, or comes too late; nothing changes.
    Illegal,
}

impl Input {
    /// Every input, in the order of the table.
    pub const ALL: [Self; 19] = [
        Self::Reported(State::Scheduled),
        Self::Reported(State::Preparing),
        Self::Reported(State::Starting),
        Self::Reported(State::Running),
        Self::Reported(State::Draining),
        Self::Reported(State::Stopping),
        Self::Reported(State::Stopped),
        Self::Reported(State::Crashed),
        Self::Dispatched,
        Self::StopRequested,
        Self::DrainRequested,
        Self::DrainCancelled,
        Self::StartRejected,
        Self::Lost,
        Self::TakenBack(State::Preparing),
        Self::TakenBack(State::Starting),
        Self::TakenBack(State::Running),
        Self::TakenBack(State::Draining),
        Self::TakenBack(State::Stopping),
    ];
}

/// What `input` does to an instance that is in `state`
///
/// The one place that knows; everything else compares incarnations first and asks here afterwards.
///
/// ```
/// use prexorcloud_protocol::instance::{Input, State, Transition, transition};
///
/// assert_eq!(transition(State::Starting, Input::Reported(State::Running)), Transition::To(State::Running));
/// assert_eq!(transition(State::Running, Input::Reported(State::Starting)), Transition::Illegal);
/// ```
#[must_use]
pub const fn transition(state: State, input: Input) -> Transition {
    use State::{Crashed, Draining, Preparing, Running, Scheduled, Starting, Stopped, Stopping};
    use Transition::{Illegal, Same, To};

    match input {
        Input::Reported(seen) => match (state, seen) {
            (Scheduled, Scheduled)
            | (Preparing, Preparing)
            | (Starting, Starting)
            | (Running, Running)
            | (Draining, Draining)
            | (Stopping, Stopping)
            | (Stopped, Stopped)
            | (Crashed, Crashed) => Same,
            (Stopped | Crashed, _) => Illegal,
            (_, Stopped | Crashed) => To(seen),
            (Stopping, _) => Illegal,
            (_, Stopping) => To(seen),
            (Scheduled, Preparing | Starting | Running) => To(seen),
            (Preparing, Starting | Running) => To(seen),
            (Starting | Draining, Running) => To(seen),
            (Running, Draining) => To(seen),
            (Scheduled | Preparing | Starting, Draining) => Illegal,
            (_, Scheduled | Preparing | Starting) => Illegal,
        },
        Input::Dispatched => match state {
            Scheduled => Same,
            Preparing | Starting => To(Scheduled),
            Running | Draining | Stopping | Stopped | Crashed => Illegal,
        },
        Input::StopRequested => match state {
            Scheduled | Preparing | Starting | Running | Draining => To(Stopping),
            Stopping | Stopped | Crashed => Same,
        },
        Input::DrainRequested => match state {
            Running => To(Draining),
            Draining => Same,
            Scheduled | Preparing | Starting | Stopping | Stopped | Crashed => Illegal,
        },
        Input::DrainCancelled => match state {
            Draining => To(Running),
            Running => Same,
            Scheduled | Preparing | Starting | Stopping | Stopped | Crashed => Illegal,
        },
        Input::StartRejected => match state {
            Scheduled | Preparing | Starting => To(Crashed),
            // Nothing runs, and nothing was meant to run any more.
            Stopping => To(Stopped),
            Stopped | Crashed => Same,
            Running | Draining => Illegal,
        },
        Input::Lost => match state {
            Scheduled | Preparing | Starting | Running | Draining | Stopping => To(Crashed),
            Stopped | Crashed => Same,
        },
        // The one way out of an end, and of a stop: neither was ever seen.
        Input::TakenBack(seen) => match (state, seen) {
            (Crashed, Preparing | Starting | Running | Draining | Stopping) => To(seen),
            (Stopping, Running) => To(Running),
            // Asked to stop once more, because it may not have.
            (Stopped, Stopping) => To(Stopping),
            _ => Illegal,
        },
    }
}

/// How an observation was received
///
/// Incarnations are compared before the state is looked at, so news of an earlier use of the same id never touches
/// the present one. A peer that names no incarnation is judged by state alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Judgement {
    /// The state has changed.
    Applied {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
    },
    /// Known already; player count and uptime may have been refreshed.
    Duplicate,
    /// About an incarnation that is over. Nothing has changed.
    Stale {
        /// The incarnation that the observation is about.
        given: Incarnation,
        /// The incarnation that is current.
        current: Incarnation,
    },
    /// About an incarnation that is newer than any known here. Nothing has changed; the next handshake settles it.
    Newer {
        /// The incarnation that the observation is about.
        given: Incarnation,
        /// The incarnation that is current.
        current: Incarnation,
    },
    /// Cannot follow from the state. Nothing has changed.
    Illegal {
        /// The state.
        state: State,
        /// What was observed.
        input: Input,
    },
    /// About an instance that is not known here. Nothing has changed.
    UnknownInstance,
    /// The message names no instance, or no state. Nothing has changed.
    Invalid(crate::validate::Invalid),
}

impl Judgement {
    /// Whether the observation agreed with what may be true.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Applied { .. } | Self::Duplicate)
    }
}

/// How the incarnation of an observation relates to the current one
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The same one.
    Current,
    /// The peer does not say.
    Unknown,
    /// An earlier one.
    Older,
    /// A later one.
    Newer,
}

impl Age {
    /// Compares `given`, as a peer names it, with the `current` one.
    #[must_use]
    pub fn of(given: Incarnation, current: Incarnation) -> Self {
        if !given.is_known() {
            Self::Unknown
        } else if given == current {
            Self::Current
        } else if given < current {
            Self::Older
        } else {
            Self::Newer
        }
    }
}
