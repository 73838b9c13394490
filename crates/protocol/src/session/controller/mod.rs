//! The controller's whole session with one daemon, over one stream
//!
//! ```text
//!  AwaitingHandshake ─ Hello ─▶ AwaitingAdmission ─ accept ─▶ Established ─▶ Closing
//!         │                          │      └──── redirect ─────────────────────▲
//!         └──────── refused ─────────┴──────────────────────────────────────────┘
//! ```
//!
//! Nothing is registered before the verdict: the application hears of the node through
//! [`ControllerEvent::Hello`], decides, and lets the stream in with [`accept`](ControllerSession::accept). The
//! acknowledgement is the first message out.
//!
//! A session knows the rules of its stream: what may come when, what is valid, who is alive. What the messages mean for
//! the node and its instances is decided by a [`ControllerNode`](crate::node::ControllerNode), which outlives the stream.
//! Starts and stops are [pulled](ControllerSession::take_orders) as the outbox has room for them, so that a node with
//! thousands of them to hear of connects like any other. Nothing follows [`ControllerEvent::Closed`].
//!
//! The session knows whether the node answers. Whether an operator has cordoned or is draining it is another fact,
//! kept by the application, and nothing here changes it.

mod admission;
mod arrivals;
mod config;
mod news;
mod orders;
mod reports;

use std::collections::VecDeque;
use std::time::Instant;

use prexorcloud_compat as compat;
use prexorcloud_proto::{
    ControllerMessage, DaemonMessage, ErrorReport, HandshakeAck, Ping, controller_message,
};

use super::budget::PeerBudget;
use super::{Anomaly, Close, Received, Session, UnknownVariants};
use crate::capability::Capabilities;
use crate::handshake::controller::{ControllerHandshake, HandshakeTimer, Refusal};
use crate::heartbeat::{self, Prober};
use crate::id::{Epoch, NodeId};
use crate::limits;
use crate::node::controller::StreamId;
use crate::outbox::{Class, Outbox, Overflow};
use crate::session::Code;
use crate::time::Deadline;
use crate::trace::TraceParent;

use arrivals::Arrivals;

pub use admission::AcceptError;
pub use config::ControllerConfig;
pub use news::{
    Admission, CommandError, ControllerEvent, ControllerOutcome, CrashStanding, DaemonRequest, Objection,
};

/// The timers of a controller's session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControllerTimer {
    /// The handshake, or the decision on it, is overdue.
    Handshake(HandshakeTimer),
    /// A ping is due, or one went unanswered for too long.
    Heartbeat,
    /// Console lines that have arrived are to be acknowledged.
    ConsoleAck,
}

#[derive(Clone, Debug)]
struct Live {
    epoch: Epoch,
    capabilities: Capabilities,
    prober: Prober,
    /// The ping whose place is held in the outbox. A later one takes the place, since a daemon that does not read would be
    /// asked as often as it was silent.
    waiting: Option<Ping>,
    /// The ping that somebody waits for the answer of.
    probe: Option<i64>,
    arrivals: Arrivals,
}

#[derive(Clone, Debug)]
enum Link {
    Idle,
    Handshaking(ControllerHandshake),
    Established(Box<Live>),
    Closing(Close),
    Ended,
}

/// The controller's side of the protocol, for one stream
///
/// A driver calls it through [`Session`]; the crate's [front page](crate) has an example. The application gives its events
/// to the node's [`ControllerNode`](crate::node::ControllerNode), and does here what comes back
/// ([`ControllerWork::hand_to`](crate::node::controller::ControllerWork::hand_to) does it in one call).
#[derive(Clone, Debug)]
pub struct ControllerSession {
    config: ControllerConfig,
    identity: NodeId,
    accepted: u64,
    link: Link,
    /// A start or stop did not fit.
    wants_room: bool,
    outbox: Outbox<ControllerMessage>,
    events: VecDeque<ControllerEvent>,
    unknown: UnknownVariants,
    budget: PeerBudget,
    /// Whether nothing that was told is left to be stored.
    is_stored: bool,
    /// The application has been told of the end, so there is no more news.
    is_end_told: bool,
}

impl ControllerSession {
    /// A session for a stream whose client certificate names `identity`. Make it when the stream is accepted.
    ///
    /// `accepted` numbers the streams that this controller accepts, rising with every one; it orders the streams of
    /// daemons that do not count them themselves.
    #[must_use]
    pub fn new(config: ControllerConfig, identity: NodeId, accepted: u64) -> Self {
        let outbox = Outbox::new(config.bounds);
        Self {
            config,
            identity,
            accepted,
            link: Link::Idle,
            wants_room: false,
            outbox,
            events: VecDeque::new(),
            unknown: UnknownVariants::default(),
            budget: PeerBudget::new(),
            is_stored: false,
            is_end_told: false,
        }
    }

    /// The node, as its certificate names it.
    #[must_use]
    pub const fn identity(&self) -> NodeId {
        self.identity
    }

    /// Whether the node is admitted and the stream open.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        matches!(self.link, Link::Established(_))
    }

    /// Whether a handshake waits for the application's decision.
    #[must_use]
    pub const fn is_awaiting_admission(&self) -> bool {
        matches!(&self.link, Link::Handshaking(handshake) if handshake.is_awaiting_admission())
    }

    /// What both sides can do beyond protocol version 1, while the session is established.
    #[must_use]
    pub fn capabilities(&self) -> Option<Capabilities> {
        match &self.link {
            Link::Established(live) => Some(live.capabilities),
            _ => None,
        }
    }

    /// The stream, by its number among those that this controller accepted.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        StreamId::new(self.accepted)
    }

    /// Whether a message of this class and encoded length (in bytes) can be queued without shedding or an error.
    #[must_use]
    pub fn has_room(&self, class: Class, len: usize) -> bool {
        self.outbox.has_room(class, len)
    }

    /// How many messages of this class wait until they can be sent.
    #[must_use]
    pub fn queued(&self, class: Class) -> usize {
        self.outbox.len(class)
    }

    /// How many messages of unknown kinds have arrived.
    #[must_use]
    pub const fn unknown_variants(&self) -> u64 {
        self.unknown.count()
    }

    /// How many mistakes the daemon made, reported or not.
    #[must_use]
    pub fn anomalies(&self) -> u64 {
        self.budget.total()
    }

    fn push(&mut self, payload: controller_message::Payload) {
        self.push_traced(payload, None);
    }

    fn push_traced(&mut self, payload: controller_message::Payload, trace: Option<TraceParent>) {
        let epoch = match &self.link {
            Link::Established(live) => live.epoch,
            _ => Epoch::UNFENCED,
        };
        let message = ControllerMessage {
            payload: Some(payload),
            epoch: epoch.get(),
            traceparent: trace.map(|trace| trace.as_str().to_owned()).unwrap_or_default(),
        };
        if let Err(overflow) = self.outbox.push(message) {
            self.fail_slow(overflow);
        }
    }

    fn fail_slow(&mut self, overflow: Overflow) {
        self.begin_closing(
            Close::new(Code::ResourceExhausted, overflow.to_string()),
            overflow.into(),
        );
    }

    fn refuse_stream(&mut self, refusal: Refusal) {
        if let Refusal::Incompatible(incompatible) = &refusal {
            // The daemon learns both versions from the acknowledgement, which precedes the status.
            self.push(controller_message::Payload::HandshakeAck(Box::new(
                HandshakeAck {
                    protocol_version: compat::Negotiation::UpgradeRequired(*incompatible).version_to_ack(),
                    protocol_compatible: false,
                    capabilities: self.config.capabilities.announcement(),
                    ..Default::default()
                },
            )));
        }
        self.begin_closing(Close::from(&refusal), refusal.into());
    }

    fn begin_closing(&mut self, close: Close, outcome: ControllerOutcome) {
        match std::mem::replace(&mut self.link, Link::Closing(close)) {
            Link::Established(_) | Link::Idle | Link::Handshaking(_) => {}
            ended @ (Link::Closing(_) | Link::Ended) => {
                self.link = ended;
                return;
            }
        }
        self.tell(ControllerEvent::Closed(outcome));
    }

    /// Queues news for the application; after the end there is none.
    fn tell(&mut self, event: ControllerEvent) {
        self.is_stored = false;
        if !self.is_end_told {
            self.is_end_told = matches!(event, ControllerEvent::Closed(_));
            self.events.push_back(event);
        }
    }

    fn answer_error(&mut self, code: &str, message: String, context: &str) {
        let mut report = ErrorReport {
            error_code: code.to_owned(),
            error_message: message,
            context: context.to_owned(),
            retry_after_seconds: 0,
        };
        limits::fit_error_report(&mut report);
        self.push(controller_message::Payload::ErrorReport(Box::new(report)));
    }

    /// Tells the application, and with a code also the daemon, as far as the budget goes.
    fn note(&mut self, anomaly: Anomaly, code: Option<&str>, context: &str) {
        if !self.budget.mistake() {
            return;
        }
        if let Some(code) = code {
            self.answer_error(code, anomaly.to_string(), context);
        }
        self.tell(ControllerEvent::Ignored(anomaly));
    }

    /// Asks the daemon for a sign of life now; [`ControllerEvent::Answered`] tells of it. Without effect on a stream that is
    /// not established.
    pub fn probe(&mut self, now: Instant) {
        if let Link::Established(live) = &mut self.link {
            live.probe = Some(live.prober.probe(now));
            self.pump();
        }
    }

    /// Everything that the application has been told is in its store, until it is told more; without effect while there
    /// is more to be told already.
    ///
    /// The daemon learns it with the next ping, and forgets the ends that it has reported until then. An application that
    /// never says so costs its daemons space: they keep every end.
    pub fn all_stored(&mut self) {
        self.is_stored = self.events.is_empty();
        self.confirm();
    }

    /// Confirms what has arrived if it is stored.
    fn confirm(&mut self) {
        if let Link::Established(live) = &mut self.link
            && self.is_stored
        {
            live.prober.confirm();
        }
    }

    /// Moves what the machines have to say to the outbox and the events.
    fn pump(&mut self) {
        while let Link::Established(live) = &mut self.link {
            if let Some(output) = live.prober.poll_output() {
                match output {
                    heartbeat::ProbeOutput::SendPing { sequence, answered } => {
                        let ping = Ping { sequence, answered };
                        if live.waiting.replace(ping).is_none() {
                            self.push(controller_message::Payload::Ping(ping));
                        }
                    }
                    heartbeat::ProbeOutput::News(heartbeat::News::Unreachable { missed, silent_for }) => {
                        self.tell(ControllerEvent::Unreachable { missed, silent_for });
                    }
                    heartbeat::ProbeOutput::News(heartbeat::News::Recovered { after }) => {
                        self.tell(ControllerEvent::Recovered { after });
                    }
                }
            } else {
                break;
            }
        }
    }
}

impl Session for ControllerSession {
    type Incoming = DaemonMessage;
    type Outgoing = ControllerMessage;
    type Event = ControllerEvent;
    type Timer = ControllerTimer;

    fn handle_connected(&mut self, now: Instant) {
        if matches!(self.link, Link::Idle) {
            self.budget = PeerBudget::new();
            self.link = Link::Handshaking(ControllerHandshake::new(
                now,
                self.identity,
                self.accepted,
                self.config.capabilities,
                self.config.handshake_timeout,
                self.config.admission_timeout,
            ));
        }
    }

    fn handle_message(&mut self, now: Instant, received: Received<DaemonMessage>) {
        let Received {
            message,
            unknown_variant,
            refused,
        } = received;
        self.budget.refill(now);
        if let Some(refused) = refused {
            return self.handle_refused(refused);
        }
        match &mut self.link {
            Link::Idle | Link::Closing(_) | Link::Ended => {}
            Link::Handshaking(handshake) => match handshake.handle_message(now, message) {
                Ok(Some(hello)) => self.tell(ControllerEvent::Hello(Box::new(hello))),
                Ok(None) => {}
                Err(refusal) => self.refuse_stream(refusal),
            },
            Link::Established(_) => {
                if message.payload.is_some() {
                    return self.handle_established(now, message);
                }
                match unknown_variant {
                    Some(tag) if self.unknown.note(tag) => {
                        self.note(Anomaly::UnknownVariant { tag }, None, "");
                    }
                    Some(_) => {}
                    None => self.note(Anomaly::EmptyEnvelope, None, ""),
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.link {
            Link::Handshaking(handshake) => {
                if let Err(refusal) = handshake.handle_timeout(now) {
                    self.refuse_stream(refusal);
                }
            }
            Link::Established(live) => {
                live.prober.handle_timeout(now);
                self.pump();
                self.acknowledge_console(now);
            }
            Link::Idle | Link::Closing(_) | Link::Ended => {}
        }
    }

    fn handle_disconnected(&mut self, _now: Instant) {
        match std::mem::replace(&mut self.link, Link::Ended) {
            Link::Idle => return,
            Link::Handshaking(_) => self.tell(ControllerEvent::Closed(ControllerOutcome::StreamEnded)),
            Link::Established(_) => self.tell(ControllerEvent::Closed(ControllerOutcome::StreamEnded)),
            Link::Closing(_) | Link::Ended => {}
        }
        self.outbox.clear_stream();
    }

    fn poll_transmit(&mut self) -> Option<ControllerMessage> {
        match self.link {
            Link::Idle | Link::Ended => None,
            Link::Handshaking(_) | Link::Closing(_) => self.outbox.pop(),
            Link::Established(ref mut live) => {
                let mut message = self.outbox.pop();
                if let Some(controller_message::Payload::Ping(ping)) =
                    message.as_mut().and_then(|message| message.payload.as_mut())
                {
                    *ping = live.waiting.take().unwrap_or(*ping);
                }
                if self.wants_room && self.has_room_for_orders() {
                    self.wants_room = false;
                    self.tell(ControllerEvent::HasRoom);
                }
                message
            }
        }
    }

    fn poll_event(&mut self) -> Option<ControllerEvent> {
        let event = self.events.pop_front()?;
        self.console_taken(&event);
        Some(event)
    }

    fn poll_timeout(&self) -> Option<Deadline<ControllerTimer>> {
        match &self.link {
            Link::Handshaking(handshake) => handshake
                .poll_timeout()
                .map(|deadline| deadline.map(ControllerTimer::Handshake)),
            Link::Established(live) => Deadline::earlier(
                live.prober
                    .poll_timeout()
                    .map(|deadline| deadline.map(|_| ControllerTimer::Heartbeat)),
                live.arrivals.due().map(|at| Deadline {
                    at,
                    timer: ControllerTimer::ConsoleAck,
                }),
            ),
            Link::Idle | Link::Closing(_) | Link::Ended => None,
        }
    }

    fn close(&self) -> Option<&Close> {
        match &self.link {
            Link::Closing(close) => Some(close),
            _ => None,
        }
    }

    fn events_pending(&self) -> usize {
        self.events.len()
    }
}
