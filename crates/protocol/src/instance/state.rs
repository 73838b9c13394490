//! The eight states of the contract

use std::fmt;

use prexorcloud_proto::InstanceState;

/// What an instance is doing
///
/// The states of the contract without `INSTANCE_STATE_UNSPECIFIED`, which is no state: a message that carries it, or a
/// number that this build does not know, is refused by [`TryFrom<i32>`](#impl-TryFrom%3Ci32%3E-for-State).
///
/// ```
/// use prexorcloud_protocol::instance::{State, UnknownState};
///
/// assert_eq!(State::try_from(4), Ok(State::Running));
/// assert_eq!(State::try_from(0), Err(UnknownState { value: 0 }));
/// assert_eq!(State::Running.to_wire(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Wanted on this node; the daemon has not begun.
    Scheduled,
    /// The daemon collects templates, jars and configuration.
    Preparing,
    /// The process runs, but is not ready for players.
    Starting,
    /// Ready for players.
    Running,
    /// Running, but meant to empty itself: no new players are sent there.
    Draining,
    /// On its way down.
    Stopping,
    /// Ended as it was asked to, or by itself with exit code 0. Final.
    Stopped,
    /// Ended in any other way. Final.
    Crashed,
}

/// A number in a state field that stands for no state
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is no instance state")]
pub struct UnknownState {
    /// The number on the wire.
    pub value: i32,
}

impl State {
    /// Every state, in the order of a normal life.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Preparing,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Stopping,
        Self::Stopped,
        Self::Crashed,
    ];

    /// Whether this incarnation is over and will never change again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Crashed)
    }

    /// Whether there is no process yet.
    pub(crate) const fn is_before_process(self) -> bool {
        matches!(self, Self::Scheduled | Self::Preparing)
    }

    /// Whether the start is not yet complete.
    #[must_use]
    pub const fn is_coming_up(self) -> bool {
        matches!(self, Self::Scheduled | Self::Preparing | Self::Starting)
    }

    /// The number of this state on the wire.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        self.to_proto() as i32
    }

    /// This state as the generated enum.
    #[must_use]
    pub const fn to_proto(self) -> InstanceState {
        match self {
            Self::Scheduled => InstanceState::Scheduled,
            Self::Preparing => InstanceState::Preparing,
            Self::Starting => InstanceState::Starting,
            Self::Running => InstanceState::Running,
            Self::Draining => InstanceState::Draining,
            Self::Stopping => InstanceState::Stopping,
            Self::Stopped => InstanceState::Stopped,
            Self::Crashed => InstanceState::Crashed,
        }
    }

    /// The name in the contract, for instance `RUNNING`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.to_proto().as_str_name()
    }
}

impl TryFrom<i32> for State {
    type Error = UnknownState;

    fn try_from(value: i32) -> Result<Self, UnknownState> {
        match InstanceState::try_from(value) {
            Ok(InstanceState::Scheduled) => Ok(Self::Scheduled),
            Ok(InstanceState::Preparing) => Ok(Self::Preparing),
            Ok(InstanceState::Starting) => Ok(Self::Starting),
            Ok(InstanceState::Running) => Ok(Self::Running),
            Ok(InstanceState::Draining) => Ok(Self::Draining),
            Ok(InstanceState::Stopping) => Ok(Self::Stopping),
            Ok(InstanceState::Stopped) => Ok(Self::Stopped),
            Ok(InstanceState::Crashed) => Ok(Self::Crashed),
            Ok(InstanceState::Unspecified) | Err(_) => Err(UnknownState { value }),
        }
    }
}

impl From<State> for InstanceState {
    fn from(state: State) -> Self {
        state.to_proto()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
