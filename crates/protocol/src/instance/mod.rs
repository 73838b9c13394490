//! The life of one instance, seen from the controller
//!
//! Three vocabularies are kept apart: what someone asked for ([`Desired`]), what the daemon has reported
//! ([`Input::Reported`], tagged with an [`Incarnation`](crate::Incarnation)) and the [`State`] that follows from both.
//! [`transition()`] is the one function that joins them, [`Lifecycle`] adds incarnations, deadlines and events.

pub mod lifecycle;
mod output;
mod report;
mod spec;
mod state;
pub mod transition;

pub use lifecycle::Lifecycle;
pub use output::{LifecycleOutput, LifecycleTimer};
pub use report::{Cause, CrashVerdict, Report};
pub use spec::{DEFAULT_GRACE, DEFAULT_STARTUP, Desired, Limits, NO_STARTUP_LIMIT, Spec};
pub use state::{State, UnknownState};
pub use transition::{Age, Input, Judgement, Transition, transition};
