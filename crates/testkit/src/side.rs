//! What a [`Pair`](crate::Pair) needs of the host on either side
//!
//! [`DaemonHost`](crate::DaemonHost) and [`ControllerHost`](crate::ControllerHost) put the shipped machines of this
//! repository there. Whoever has a daemon or a controller of his own puts a host around it and lets it stand against the
//! shipped other side, with the same links, the same steps and the same invariants. An invariant that asks for what only a
//! [view](DaemonSide::view) shows is not checked for a side that gives none; what can be seen on the wire always is.
//!
//! ```
//! use std::time::Duration;
//! use prexorcloud_protocol::Received;
//! use prexorcloud_protocol::compat::PROTOCOL_VERSION;
//! use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage, Handshake, Pong};
//! use prexorcloud_protocol::proto::{controller_message, daemon_message};
//! use prexorcloud_testkit::{DaemonSide, NODE, Pair, Turn};
//!
//! /// Says hello, answers pings, and does nothing else.
//! #[derive(Default)]
//! struct Idle {
//!     says: Vec<daemon_message::Payload>,
//!     is_admitted: bool,
//! }
//!
//! impl DaemonSide for Idle {
//!     fn handle_opened(&mut self, _turn: &mut Turn<'_>) {
//!         self.says.push(daemon_message::Payload::Handshake(Box::new(Handshake {
//!             node_id: NODE.to_owned(),
//!             version: "idle".to_owned(),
//!             protocol_version: PROTOCOL_VERSION,
//!             ..Handshake::default()
//!         })));
//!     }
//!
//!     fn handle_message(&mut self, _turn: &mut Turn<'_>, received: Received<ControllerMessage>) {
//!         match received.message.payload {
//!             Some(controller_message::Payload::HandshakeAck(_)) => self.is_admitted = true,
//!             Some(controller_message::Payload::Ping(ping)) => {
//!                 let pong = Pong { sequence: ping.sequence };
//!                 self.says.push(daemon_message::Payload::Pong(pong));
//!             }
//!             _ => {}
//!         }
//!     }
//!
//!     fn handle_ended(&mut self, _turn: &mut Turn<'_>) {
//!         *self = Self::default();
//!     }
//!
//!     fn poll_transmit(&mut self, _turn: &mut Turn<'_>) -> Option<DaemonMessage> {
//!         let payload = (!self.says.is_empty()).then(|| self.says.remove(0))?;
//!         Some(DaemonMessage { payload: Some(payload) })
//!     }
//!
//!     fn is_established(&self) -> bool {
//!         self.is_admitted
//!     }
//! }
//!
//! let mut pair = Pair::with_daemon(1, Idle::default());
//! pair.run_until(Duration::from_secs(30), Pair::is_established).unwrap();
//! pair.run_for(Duration::from_secs(600)).unwrap();
//! assert!(pair.is_established(), "the controller is content with its pongs");
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_protocol::node::controller::ControllerNode;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::roster::Roster;
use prexorcloud_protocol::{ControllerSession, DaemonSession, Incarnation, InstanceId, Received};

use crate::action::Action;
use crate::clock::Clock;
use crate::facts::{ControllerFacts, DaemonFacts};
use crate::plain::PlainDaemon;
use crate::plain_controller::PlainController;
use crate::store::Store;
use crate::supervisor::Supervisor;
pub use crate::world::Turn;

/// Why an action changed nothing, for the log
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no effect: {0}")]
pub struct NoEffect(pub Cow<'static, str>);

impl NoEffect {
    /// For this reason.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

/// What an action came to
pub type Effect = Result<(), NoEffect>;

const UNKNOWN: NoEffect = NoEffect(Cow::Borrowed("this host knows no such action"));

/// The host of a daemon
///
/// The pair dials for it whenever it is [up](Self::is_up) and has no stream, and dials again, later each time, when a
/// stream has ended. A daemon has one stream at a time.
pub trait DaemonSide {
    /// A stream is open.
    fn handle_opened(&mut self, turn: &mut Turn<'_>);

    /// A message has come in.
    fn handle_message(&mut self, turn: &mut Turn<'_>, received: Received<ControllerMessage>);

    /// The stream is over, whoever ended it.
    fn handle_ended(&mut self, turn: &mut Turn<'_>);

    /// The next message for the stream, asked for while there is room for one.
    fn poll_transmit(&mut self, turn: &mut Turn<'_>) -> Option<DaemonMessage>;

    /// Whether the session is established as far as the daemon knows.
    fn is_established(&self) -> bool;

    /// Whether the daemon wants its stream ended once everything is written.
    fn wants_end(&self) -> bool {
        false
    }

    /// Whether the daemon runs.
    fn is_up(&self) -> bool {
        true
    }

    /// When something falls due next; what is due on the host's clock is at [`Clock::moment_of`].
    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        None
    }

    /// Does one thing that is due, and says whether anything was.
    fn handle_wake(&mut self, _turn: &mut Turn<'_>) -> bool {
        false
    }

    /// Carries out what follows from what has just happened, and says whether there was anything.
    fn settle(&mut self, _turn: &mut Turn<'_>) -> bool {
        false
    }

    /// What a scenario does to the host: processes that crash, a disk that is full, `kill -9`, and the end of all that.
    ///
    /// A daemon that is killed has no stream any more, and is not told so.
    ///
    /// # Errors
    /// [`NoEffect`] says why nothing has changed.
    fn act(&mut self, _turn: &mut Turn<'_>, _action: &Action) -> Effect {
        Err(UNKNOWN)
    }

    /// The instances whose plugin has something to say to the controller, past a daemon that does not judge readiness.
    ///
    /// With the start that its credential is of, if that can be told.
    fn plugins(&self) -> Vec<(InstanceId, Incarnation)> {
        let ready = self.view().map(|view| view.supervisor.ready_instances());
        let ready = ready.unwrap_or_default().into_iter();
        ready.map(|instance| (instance, Incarnation::UNKNOWN)).collect()
    }

    /// What invariants may ask; `None` if they cannot.
    fn view(&self) -> Option<DaemonView<'_>> {
        None
    }

    /// The host itself, for the invariants about daemons that announce nothing; `None` for any other.
    fn plain(&self) -> Option<&PlainDaemon> {
        None
    }
}

/// The host of a controller
///
/// It may have several streams of the node, each by its number.
pub trait ControllerSide {
    /// A stream has come in.
    fn handle_opened(&mut self, turn: &mut Turn<'_>, stream: u32);

    /// A message has come in.
    fn handle_message(&mut self, turn: &mut Turn<'_>, stream: u32, received: Received<DaemonMessage>);

    /// A stream is over, whoever ended it.
    fn handle_ended(&mut self, turn: &mut Turn<'_>, stream: u32);

    /// The next message for a stream, asked for while there is room for one.
    fn poll_transmit(&mut self, turn: &mut Turn<'_>, stream: u32) -> Option<ControllerMessage>;

    /// Whether the session on this stream is established as far as the controller knows.
    fn is_established(&self, stream: u32) -> bool;

    /// Whether the controller wants a stream ended once everything is written.
    fn wants_end(&self, _stream: u32) -> bool {
        false
    }

    /// Whether the controller runs, and takes streams.
    fn is_up(&self) -> bool {
        true
    }

    /// When something falls due next; what is due on the host's clock is at [`Clock::moment_of`].
    fn next_wake(&self, _clock: &Clock) -> Option<Duration> {
        None
    }

    /// Does one thing that is due, and says whether anything was. The store is there for controllers that have none of
    /// their own.
    fn handle_wake(&mut self, _turn: &mut Turn<'_>, _store: &mut Store) -> bool {
        false
    }

    /// Carries out what follows from what has just happened, and says whether there was anything.
    fn settle(&mut self, _turn: &mut Turn<'_>, _store: &mut Store) -> bool {
        false
    }

    /// What a scenario orders, or does to the host: starts and stops, `kill -9`, an admission that takes long.
    ///
    /// A controller that is killed has no streams any more, and is not told so.
    ///
    /// # Errors
    /// [`NoEffect`] says why nothing has changed.
    fn act(&mut self, _turn: &mut Turn<'_>, _store: &mut Store, _action: &Action) -> Effect {
        Err(UNKNOWN)
    }

    /// A server says itself that it is ready, past a daemon that does not (the Java daemon). Its credential is of that start,
    /// if that can be told.
    fn handle_ready(&mut self, _turn: &mut Turn<'_>, _instance: InstanceId, _start: Incarnation) {}

    /// Another controller takes over, while this one goes on believing in itself; `None` if there is no other.
    fn depose(&mut self, _turn: &mut Turn<'_>) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// What invariants may ask; `None` if they cannot.
    fn view(&self) -> Option<ControllerView<'_>> {
        None
    }

    /// The host itself, for the invariants about controllers that announce nothing; `None` for any other.
    fn plain(&self) -> Option<&PlainController> {
        None
    }
}

/// What a daemon's host shows to the invariants
#[derive(Clone, Copy, Debug)]
pub struct DaemonView<'a> {
    /// The session, while the daemon runs.
    pub session: Option<&'a DaemonSession>,
    /// Its processes and its disk.
    pub supervisor: &'a Supervisor,
    /// What was seen.
    pub facts: &'a DaemonFacts,
}

/// What a controller's host shows to the invariants; its records are those of the pair's [`Store`]
#[derive(Clone, Copy, Debug)]
pub struct ControllerView<'a> {
    /// The node machine, while the controller runs.
    pub node: Option<&'a ControllerNode>,
    /// The sessions, by the number of their stream.
    pub sessions: &'a BTreeMap<u32, ControllerSession>,
    /// What was seen.
    pub facts: &'a ControllerFacts,
    /// Whether nothing waits for a commit, an admission or an answer.
    pub is_quiet: bool,
}

impl<'a> ControllerView<'a> {
    /// What the controller knows of the node's instances.
    #[must_use]
    pub fn roster(&self) -> Option<&'a Roster> {
        self.node.map(ControllerNode::roster)
    }
}
