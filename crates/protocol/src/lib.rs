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
//! # Where to begin
//! | You write | You need |
//! |---|---|
//! | a daemon | a [`DaemonSession`] for its streams, a [`DaemonNode`](node::DaemonNode) for what to do about orders |
//! | a controller | a [`ControllerSession`] for each stream, a [`ControllerNode`](node::ControllerNode) for each node |
//! | a tool, or tests | the sessions alone; `prexorcloud-testkit` for a whole cluster in virtual time |
//!
//! `prexorcloud-transport` has the async driver, TLS and reconnection, and whole programs as examples. Without it,
//! `cargo run -p prexorcloud-protocol --example without_runtime` shows both sides on threads and TCP.
//!
//! # The words
//! - A *node* is a host with a daemon. It runs *instances*, which are game servers or proxies and belong to *groups*.
//! - A *stream* is one call of `DaemonService.Connect`; a *session* is what both sides make of it.
//! - An [`Incarnation`] counts the starts of one instance id, because ids are used again.
//! - An [`Epoch`] counts the leaders among several controllers; the [`fence`] of a daemon obeys the highest that it has seen.
//! - A *capability* is an addition to protocol version 1, used where both sides announced it. The programs in Java, which
//!   speak the same protocol, announce none; [`peer`] says what that means.
//!
//! # A session and its driver
//! Whoever owns the stream and the clock drives: what is due, what is to be written, what there is to tell, then exactly
//! one new input. Here the wire is two function calls, and the clock stands still:
//!
//! ```
//! use std::time::Instant;
//!
//! use prexorcloud_protocol::fence::EpochFence;
//! use prexorcloud_protocol::hosted::Hosted;
//! use prexorcloud_protocol::session::controller::Admission;
//! use prexorcloud_protocol::{
//!     ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonSession, NodeId, Session,
//! };
//!
//! // A turn of the driver.
//! fn turn<S: Session>(
//!     session: &mut S,
//!     now: Instant,
//!     mut write: impl FnMut(S::Outgoing),
//!     mut tell: impl FnMut(&mut S, S::Event),
//! ) {
//!     if session.poll_timeout().is_some_and(|deadline| deadline.at <= now) {
//!         session.handle_timeout(now);
//!     }
//!     loop {
//!         if let Some(message) = session.poll_transmit() {
//!             write(message);
//!         } else if let Some(event) = session.poll_event() {
//!             tell(session, event);
//!         } else {
//!             break;
//!         }
//!     }
//! }
//!
//! # let now = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
//! let node: NodeId = "node-1".parse()?;
//! let config = DaemonConfig::new(node, "1.0.0");
//! let mut daemon = DaemonSession::new(config, Hosted::new(), EpochFence::default());
//! let mut controller = ControllerSession::new(ControllerConfig::default(), node, 1);
//! daemon.handle_connected(now);
//! controller.handle_connected(now);
//!
//! // The daemon's handshake, then the controller's acknowledgement of it.
//! turn(&mut daemon, now, |message| controller.handle_message(now, message.into()), |_, _| {});
//! turn(
//!     &mut controller,
//!     now,
//!     |message| daemon.handle_message(now, message.into()),
//!     |session, event| {
//!         if let ControllerEvent::Hello(hello) = event {
//!             session.accept(now, hello, Admission::default()).unwrap();
//!         }
//!     },
//! );
//! assert!(daemon.is_established() && controller.is_established());
//! # Ok::<(), prexorcloud_protocol::InvalidName>(())
//! ```
//!
//! When nothing is left to do, a driver waits for the next message or until `poll_timeout`; when `close` says why, it
//! writes what there is and ends the stream. The example `without_runtime` does that with threads and TCP,
//! `prexorcloud-transport` over gRPC with mutual TLS, `prexorcloud-testkit` in virtual time.
//!
//! # The modules
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
//! | [`readiness`] | when a server is ready for players |
//! | [`content`] | which templates are asked for, and which entries of a cache go |
//! | [`roster`] | the controller's knowledge of one node's instances, across streams |
//! | [`hosted`] | the daemon's own instances, across streams |
//! | [`modules`] | which modules a node is sent, and which it has to remove |
//! | [`renewal`] | when a node asks for another certificate |
//! | [`node`] | what either side does about a node and its instances, across streams, and what has to be recorded first |
//! | [`time`], [`trace`] | deadlines with their reason; the trace that an order belongs to |
//! | [`unstable`] | the parts of these machines (ledger, reconciliation, outbox, heartbeat), for those who test or study them |
//! | [`session`] | all of it composed: [`DaemonSession`] and [`ControllerSession`] |
#![warn(missing_docs)]

pub mod capability;
pub mod content;
pub mod events;
pub mod fence;
pub mod handshake;
pub mod heartbeat;
pub mod hosted;
pub mod id;
pub mod instance;
mod ledger;
pub mod limits;
pub mod modules;
pub mod node;
mod outbox;
pub mod payload;
pub mod peer;
pub mod readiness;
mod reconcile;
pub mod redact;
pub mod renewal;
pub mod roster;
pub mod session;
pub mod time;
pub mod trace;
pub mod unstable;
pub mod validate;
mod verdict;

pub use capability::Capabilities;
pub use id::{Epoch, GroupName, Incarnation, InstanceId, InvalidName, ModuleId, NodeId, TemplateName};
pub use prexorcloud_compat as compat;
pub use prexorcloud_proto as proto;
pub use session::controller::{ControllerConfig, ControllerEvent, ControllerSession};
pub use session::daemon::{DaemonConfig, DaemonEvent, DaemonOutcome, DaemonSession};
pub use session::{Close, Code, Received, Refused, SendError, Session};
pub use time::Deadline;
pub use verdict::{DeniedReason, StopMode, Verdict};
