//! The states of a module, as they are told

/// The state of a module, as controllers are told it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ModuleState {
    /// It is here, and does not work yet
    Installed,
    /// It waits for something
    Waiting,
    /// It works
    Active,
    /// It is being stopped
    Stopping,
    /// It is not here
    Unloaded,
    /// It cannot work; the error says why
    Failed,
}

impl ModuleState {
    /// The word on the wire
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Installed => "INSTALLED",
            Self::Waiting => "WAITING",
            Self::Active => "ACTIVE",
            Self::Stopping => "STOPPING",
            Self::Unloaded => "UNLOADED",
            Self::Failed => "FAILED",
        }
    }
}

/// A state, and why
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The state
    pub state: ModuleState,
    /// What is wrong; empty if nothing is
    pub error: String,
}
