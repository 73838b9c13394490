//! Sans-I/O state machines of the PrexorCloud node-control protocol
//!
//! A controller and one daemon per host share a single bidirectional stream. This crate decides everything that can
//! be decided about that stream without touching it: what to say first, when to ping, which command is stale, which
//! message goes out next, what a restart means for the instances that were running. It knows no socket, no clock and
//! no randomness. Time is an [`Instant`](std::time::Instant) that the caller passes in, so a test can run a day in a
//! millisecond and replay it.
//!
//! Every machine has the same shape: facts go in through `handle_*`, work comes out of `poll_*`, and
//! `poll_timeout` names the moment (and the reason) for the next `handle_timeout`.
//!
//! | Module | Decides |
//! |---|---|
//! | [`id`] | which names and numbers are safe to use |
//! | [`payload`] | what holds for each payload of the stream: one table |
//! | [`limits`], [`validate`] | which messages are acceptable, and how ours are cut to fit |
//! | [`capability`] | what both sides can do beyond protocol version 1 |
//! | [`peer`] | what one side may assume of the other |
//! | [`fence`] | which controller is obeyed |
//! | [`handshake`] | whether a stream may carry anything at all |
//! | [`heartbeat`] | when a peer is asked, and when it is given up |
//! | [`instance`] | what an observation means for an instance |
//! | [`ledger`] | whether a command is sent, repeated or given up |
//! | [`reconcile`] | what to do about the difference between belief and report |
//! | [`roster`] | the controller's knowledge of one node's instances, across streams |
//! | [`hosted`] | the daemon's own instances, across streams |
//! | [`node`] | what a daemon does about its instances, across streams |
//! | [`outbox`] | what leaves next, and what is shed when the peer is slow |
//! | [`session`] | all of it composed: [`DaemonSession`] and [`ControllerSession`] |
#![warn(missing_docs)]

pub mod capability;
pub mod fence;
pub mod handshake;
pub mod heartbeat;
pub mod hosted;
pub mod id;
pub mod instance;
pub mod ledger;
pub mod limits;
pub mod node;
pub mod outbox;
pub mod payload;
pub mod peer;
pub mod reconcile;
pub mod roster;
pub mod session;
pub mod time;
pub mod trace;
pub mod validate;
mod verdict;

pub use capability::Capabilities;
pub use id::{Epoch, GroupName, Incarnation, InstanceId, InvalidName, ModuleId, NodeId, TemplateName};
pub use prexorcloud_compat as compat;
pub use prexorcloud_proto as proto;
pub use session::controller::{ControllerConfig, ControllerEvent, ControllerSession};
pub use session::daemon::{DaemonConfig, DaemonEvent, DaemonOutcome, DaemonSession};
pub use session::{Close, Code, Received, SendError, Session};
pub use time::Deadline;
pub use verdict::{DeniedReason, StopMode, Verdict};
