//! The daemon's whole session
//!
//! ```text
//!             handle_connected             HandshakeAck
//!  Offline ───────────────────▶ AwaitingAck ──────────▶ Established
//!     ▲                             │                        │
//!     │ handle_disconnected         ▼                        ▼
//!     └───────────────────────── Closing ◀───────────────────┘
//! ```
//!
//! The session lives as long as the daemon. Between streams it keeps what must not be lost: the [`Hosted`] table, the
//! epoch fence, crash reports that no controller has confirmed, and the newest console lines. Everything else that was
//! waiting belonged to the stream that ended; the next handshake says what is true by then.
//!
//! What may be assumed of the controller is one [`ControllerPeer`], made of the newest acknowledgement. A handshake leaves
//! before there is one, so whether it lists ended instances follows the acknowledgement before it: to a controller that
//! did not announce to understand them, only what lives is listed. Before the first acknowledgement they are listed,
//! because a controller that understands them would take what is not listed for lost. Where that, or a change of
//! controllers, was wrong, the ends are told as reports right after the acknowledgement.
//!
//! That a controller has heard of an end is known by evidence where it [confirms receipt](ControllerPeer::confirms_receipt),
//! and told as [`DaemonEvent::EndHeard`]: its ping names a pong that left behind the report of it, or behind a handshake
//! that listed it. That a controller acknowledged a handshake proves nothing: it may be deposed, and store nothing any more.
//! A controller that confirms nothing, as the Java one, is believed to have what had left before its ping
//! (`departures`).

mod commands;
mod config;
mod departures;
mod fencing;
mod news;
mod readiness;
mod receipts;
mod reports;
mod written;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use prexorcloud_compat as compat;
use prexorcloud_proto::{
    ControllerMessage, CrashReport, DaemonMessage, ErrorReport, Handshake, ShutdownNodeAck, StartInstanceAck,
    controller_message, daemon_message,
};

use super::budget::PeerBudget;
use super::{Anomaly, Close, Code, Received, Refused, Session, UnknownVariants, error_code, kind};
use crate::fence::EpochFence;
use crate::handshake::daemon::{Acknowledged, Connected, DaemonHandshake, HandshakeFailure};
use crate::heartbeat::SilenceWatch;
use crate::hosted::{Hosted, HostedInstance, Listed};
use crate::id::{Epoch, InstanceId};
use crate::limits;
use crate::outbox::{Class, Outbox, Overflow};
use crate::peer::ControllerPeer;
use crate::time::{Deadline, after};
use crate::verdict::DeniedReason;

pub use config::DaemonConfig;
use departures::Departures;
use fencing::{Unwritten, code_of};
use readiness::Awaited;
use receipts::Receipts;
use written::Written;

pub use news::{DaemonEvent, DaemonOutcome, StartOrder, StartRejection, StatusReport};

/// The first `NodeStatus` is due this long after the acknowledgement, or after one interval if that is shorter.
const FIRST_NODE_STATUS: Duration = Duration::from_secs(5);

/// How many reports of what changed meanwhile wait in the outbox at a time; the others follow as it empties, so that an
/// acknowledgement never fills it.
const TOLD_AT_ONCE: usize = 16;

/// How many crash reports wait for a controller's confirmation; the application keeps further ones.
pub const CRASHES_KEPT: usize = 64;

/// The timers of a daemon's session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DaemonTimer {
    /// The handshake's acknowledgement is overdue.
    HandshakeAck,
    /// A `NodeStatus` is due.
    NodeStatus,
    /// The controller has been silent for too long.
    ControllerSilent,
}

#[derive(Clone, Debug)]
struct Live {
    connected: Connected,
    silence: SilenceWatch,
    node_status_due: Instant,
}

#[derive(Clone, Debug)]
enum Link {
    Offline,
    AwaitingAck(DaemonHandshake),
    Established(Box<Live>),
    /// `flush`: everything queued still leaves. Otherwise the peer is not ours to talk to, and only control does.
    Closing {
        close: Close,
        outcome: DaemonOutcome,
        flush: bool,
    },
}

#[derive(Clone, Debug)]
struct PendingCrash {
    report: CrashReport,
    queued: bool,
}

/// The daemon's side of the protocol, for the lifetime of the daemon
///
/// A driver calls it through [`Session`]; the crate's [front page](crate) has an example. The application gives its events
/// to a [`DaemonNode`](crate::node::DaemonNode), and says here what comes back.
#[derive(Clone, Debug)]
pub struct DaemonSession {
    config: DaemonConfig,
    hosted: Hosted,
    fence: EpochFence,
    unwritten: Unwritten,
    link: Link,
    outbox: Outbox<DaemonMessage>,
    events: VecDeque<DaemonEvent>,
    crashes: VecDeque<PendingCrash>,
    unknown: UnknownVariants,
    budget: PeerBudget,
    last_outcome: Option<DaemonOutcome>,
    /// How many streams this session has had.
    streams: u64,
    /// What the newest acknowledgement makes of the controller, on this stream or an earlier one; stays valid while a
    /// stream that is closing is written out.
    peer: Option<ControllerPeer>,
    /// What the controller must hear since its acknowledgement and has not been queued yet.
    to_tell: VecDeque<InstanceId>,
    /// What servers that start wait for; of hosted instances only.
    awaited: HashMap<InstanceId, Awaited>,
    /// The ends that were told on this stream.
    receipts: Receipts,
    /// What has left on this stream and the controller does not acknowledge.
    departures: Departures,
    /// The commands of this stream that want an answer.
    written: Written,
    /// Starts that the handshake listed and that have come to nothing before its acknowledgement.
    rejected: Vec<StartInstanceAck>,
    /// What the handshake listed without a process; a Java controller takes it for running.
    listed_early: HashSet<InstanceId>,
}

impl DaemonSession {
    /// A session without a stream.
    ///
    /// `hosted` holds the instances found after a restart, `fence` the highest epoch persisted before it.
    #[must_use]
    pub fn new(config: DaemonConfig, hosted: Hosted, fence: EpochFence) -> Self {
        let outbox = Outbox::new(config.bounds);
        Self {
            config,
            hosted,
            fence,
            unwritten: Unwritten::default(),
            link: Link::Offline,
            outbox,
            events: VecDeque::new(),
            crashes: VecDeque::new(),
            unknown: UnknownVariants::default(),
            budget: PeerBudget::new(),
            last_outcome: None,
            streams: 0,
            peer: None,
            to_tell: VecDeque::new(),
            awaited: HashMap::new(),
            receipts: Receipts::default(),
            departures: Departures::default(),
            written: Written::default(),
            rejected: Vec::new(),
            listed_early: HashSet::new(),
        }
    }

    /// The instances of this daemon.
    #[must_use]
    pub const fn hosted(&self) -> &Hosted {
        &self.hosted
    }

    /// The highest epoch that was obeyed.
    #[must_use]
    pub const fn fence(&self) -> EpochFence {
        self.fence
    }

    /// What the controller's acknowledgement said, while a session is established.
    #[must_use]
    pub fn connected(&self) -> Option<&Connected> {
        match &self.link {
            Link::Established(live) => Some(&live.connected),
            _ => None,
        }
    }

    /// Why the last stream ended; `None` before the first one has.
    #[must_use]
    pub const fn last_outcome(&self) -> Option<&DaemonOutcome> {
        self.last_outcome.as_ref()
    }

    /// Whether a session is established.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        matches!(self.link, Link::Established(_))
    }

    /// How many streams this session has had, the present one included.
    ///
    /// What was made for one stream is told apart by it from what belongs on the next.
    #[must_use]
    pub const fn stream_ordinal(&self) -> u64 {
        self.streams
    }

    /// How many messages of unknown kinds have arrived since creation.
    #[must_use]
    pub const fn unknown_variants(&self) -> u64 {
        self.unknown.count()
    }

    /// How many mistakes the controller made on the current or last stream, reported or not.
    #[must_use]
    pub fn anomalies(&self) -> u64 {
        self.budget.total()
    }

    /// How many best-effort messages (console lines, log records) have been shed since creation.
    #[must_use]
    pub const fn shed(&self) -> u64 {
        self.outbox.shed()
    }

    /// Whether a message of this class and encoded length (in bytes) can be queued without shedding or an error.
    #[must_use]
    pub fn has_room(&self, class: Class, len: usize) -> bool {
        self.outbox.has_room(class, len)
    }

    /// Puts an instance into the table that this process did not start, as found after a restart.
    ///
    /// # Errors
    /// As [`Hosted::adopt`].
    pub fn adopt(&mut self, instance: HostedInstance) -> Result<(), DeniedReason> {
        self.hosted.adopt(instance)
    }

    /// Acknowledges an order to shut the node down.
    pub fn acknowledge_shutdown(&mut self, running_instances: u32, estimated_drain: Duration) {
        if !self.is_established() || !self.may_answer("ShutdownNode") {
            return;
        }
        self.queue(daemon_message::Payload::ShutdownNodeAck(ShutdownNodeAck {
            running_instances: i32::try_from(running_instances).unwrap_or(i32::MAX),
            estimated_drain_seconds: super::wire_seconds(estimated_drain),
        }));
    }

    /// Ends the session as planned: what is queued still leaves, then the stream is closed.
    pub fn shut_down(&mut self) {
        self.begin_closing(
            Close::new(Code::Ok, "the daemon is shutting down"),
            DaemonOutcome::ShutDown,
        );
    }

    fn queue(&mut self, mut payload: daemon_message::Payload) {
        limits::fit_daemon(&mut payload);
        if let Err(overflow) = self.outbox.push(DaemonMessage {
            payload: Some(payload),
        }) {
            self.fail_slow(overflow);
        }
    }

    fn queue_if_established(&mut self, payload: daemon_message::Payload) {
        if self.is_established() {
            self.queue(payload);
        }
    }

    fn fail_slow(&mut self, overflow: Overflow) {
        self.begin_closing(
            Close::new(Code::ResourceExhausted, overflow.to_string()),
            overflow.into(),
        );
    }

    fn fail_handshake(&mut self, failure: HandshakeFailure) {
        let code = match failure {
            HandshakeFailure::UpgradeRequired(_) | HandshakeFailure::Stale(_) => Code::FailedPrecondition,
            HandshakeFailure::Redirected { .. } => Code::Ok,
            HandshakeFailure::Leaderless { .. } => Code::Unavailable,
            HandshakeFailure::EpochOutOfRange(_) => Code::InvalidArgument,
            HandshakeFailure::AckTimedOut { .. } => Code::DeadlineExceeded,
            HandshakeFailure::TooEarly => Code::ResourceExhausted,
        };
        self.begin_closing(Close::new(code, failure.to_string()), failure.into());
    }

    fn begin_closing(&mut self, close: Close, outcome: DaemonOutcome) {
        let flush = match &self.link {
            Link::AwaitingAck(_) => false,
            Link::Established(_) => true,
            Link::Offline | Link::Closing { .. } => return,
        };
        self.link = Link::Closing {
            close,
            outcome,
            flush,
        };
    }

    /// Whether the controller is still answered, although the message changes nothing.
    fn may_answer(&mut self, what: &'static str) -> bool {
        let may = self.budget.answer();
        if !may {
            self.note(Anomaly::Flood { what }, None, what);
        }
        may
    }

    fn answer_error(&mut self, code: &str, message: String, context: &str) {
        self.queue(daemon_message::Payload::ErrorReport(ErrorReport {
            error_code: code.to_owned(),
            error_message: message,
            context: context.to_owned(),
            retry_after_seconds: 0,
        }));
    }

    /// Tells the application, and with a code also the peer, as far as the budget goes.
    fn note(&mut self, anomaly: Anomaly, code: Option<&str>, context: &str) {
        if !self.budget.mistake() {
            return;
        }
        if let Some(code) = code {
            self.answer_error(code, anomaly.to_string(), context);
        }
        self.events.push_back(DaemonEvent::Ignored(anomaly));
    }

    fn handle_ack(&mut self, now: Instant, ack: prexorcloud_proto::HandshakeAck, epoch: Epoch) {
        let Link::AwaitingAck(handshake) = &mut self.link else {
            let close = Close::new(
                Code::FailedPrecondition,
                DaemonOutcome::AcknowledgedTwice.to_string(),
            );
            self.begin_closing(close, DaemonOutcome::AcknowledgedTwice);
            return;
        };
        let judged = handshake.handle_ack(ack, epoch, self.config.capabilities, &mut self.fence);
        self.have_fence_written();
        let acknowledged = match judged {
            Ok(acknowledged) => acknowledged,
            Err(failure) => {
                let code = match failure {
                    HandshakeFailure::Stale(_) => Some(error_code::STALE_EPOCH),
                    HandshakeFailure::EpochOutOfRange(_) => Some(error_code::INVALID_MESSAGE),
                    _ => None,
                };
                if let Some(code) = code {
                    self.answer_error(code, failure.to_string(), "HandshakeAck");
                }
                self.fail_handshake(failure);
                return;
            }
        };
        let Acknowledged { connected, held } = acknowledged;
        let interval = connected.heartbeat_interval;
        let peer = connected.peer;
        self.peer = Some(peer);
        self.events.push_back(DaemonEvent::Connected(connected.clone()));
        self.link = Link::Established(Box::new(Live {
            connected,
            silence: SilenceWatch::new(now, interval),
            node_status_due: after(now, interval.min(FIRST_NODE_STATUS)),
        }));
        let (to_tell, heard) = self.hosted.acknowledged(peer.understands_ended);
        self.to_tell = to_tell.into();
        self.tell_awaited();
        for (instance, incarnation) in heard {
            match peer.confirms_receipt {
                true => self.receipts.end_queued(instance, incarnation),
                false => self.departures.end(instance, incarnation),
            }
        }
        for rejected in std::mem::take(&mut self.rejected) {
            self.tell_rejected(rejected, true);
        }
        self.tell_waiting();
        self.queue_crashes();
        for message in held {
            if self.is_established() {
                self.handle_established(message);
            }
        }
    }

    /// What follows from a message having left: there is room, and a peer that answers nothing has been told.
    fn handle_left(&mut self, message: &DaemonMessage) {
        use daemon_message::Payload;
        let peer = self.peer.unwrap_or_default();
        match &message.payload {
            Some(Payload::CrashReport(report)) if !peer.acknowledges_crashes => {
                self.crash_acknowledged(report.report_id.clone());
            }
            Some(Payload::InstanceStatus(update)) => {
                if !peer.understands_ended {
                    self.hosted.status_left(update);
                }
                if !peer.confirms_receipt {
                    self.departures.status(update);
                }
            }
            Some(Payload::ConsoleOutput(output)) if !peer.acknowledges_console => {
                self.departures.console(output);
            }
            _ => {}
        }
        self.tell_waiting();
        if message
            .payload
            .as_ref()
            .is_some_and(|payload| Class::of_daemon(payload) == Class::Report)
        {
            self.queue_crashes();
        }
    }
}

impl Session for DaemonSession {
    type Incoming = ControllerMessage;
    type Outgoing = DaemonMessage;
    type Event = DaemonEvent;
    type Timer = DaemonTimer;

    fn handle_connected(&mut self, now: Instant) {
        self.handle_disconnected(now);
        self.budget = PeerBudget::new();
        self.unknown.begin_stream();
        self.written.forget();
        self.streams = self.streams.saturating_add(1);
        let Listed { live, ended } = self.hosted.list();
        let early = self.hosted.live().filter(|facts| facts.state.is_before_process());
        self.listed_early = early.map(|facts| facts.instance).collect();
        let handshake = Handshake {
            node_id: self.config.node_id.into(),
            version: self.config.version.clone(),
            total_memory_mb: self.config.total_memory_mb,
            available_cpus: self.config.available_cpus,
            labels: self.config.labels.clone(),
            running_instances: live,
            advertise_address: self.config.advertise_address.clone(),
            host_info: self.config.host_info.clone(),
            protocol_version: compat::PROTOCOL_VERSION,
            capabilities: self.config.capabilities.announcement(),
            min_protocol_version: compat::MIN_PROTOCOL_VERSION,
            boot_id: self.config.boot_id.clone(),
            stream_ordinal: self.streams,
            kill_timeout_seconds: u32::try_from(self.config.kill_timeout.as_secs()).unwrap_or(u32::MAX),
            ended_instances: ended,
        };
        self.link = Link::AwaitingAck(DaemonHandshake::new(now, self.config.ack_timeout));
        self.queue(daemon_message::Payload::Handshake(Box::new(handshake)));
    }

    fn handle_message(&mut self, now: Instant, received: Received<ControllerMessage>) {
        let Received {
            message,
            unknown_variant,
            refused,
        } = received;
        self.budget.refill(now);
        match &mut self.link {
            Link::Offline | Link::Closing { .. } => return,
            Link::Established(live) => live.silence.handle_message(now),
            Link::AwaitingAck(_) => {}
        }
        if message.payload.is_none() {
            if let Err(refused) = self.admit(Epoch::new(message.epoch)) {
                return self.note(refused.into(), Some(code_of(refused)), "unknown");
            }
            if let Some(Refused { name, invalid }) = refused {
                return self.note(
                    invalid.into(),
                    kind::answer(error_code::INVALID_MESSAGE, name),
                    name,
                );
            }
            return match unknown_variant {
                Some(tag) if self.unknown.note(tag) => self.note(Anomaly::UnknownVariant { tag }, None, ""),
                Some(_) => {}
                None => self.note(Anomaly::EmptyEnvelope, None, ""),
            };
        }
        if let Some(controller_message::Payload::HandshakeAck(ack)) = message.payload {
            return self.handle_ack(now, *ack, Epoch::new(message.epoch));
        }
        if let Link::AwaitingAck(handshake) = &mut self.link {
            if let Err(failure) = handshake.hold(message) {
                self.fail_handshake(failure);
            }
            return;
        }
        self.handle_established(message);
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.link {
            Link::AwaitingAck(handshake) => {
                if let Err(failure) = handshake.handle_timeout(now) {
                    self.fail_handshake(failure);
                }
            }
            Link::Established(live) => {
                if let Some(silent_for) = live.silence.handle_timeout(now) {
                    let outcome = DaemonOutcome::ControllerSilent { silent_for };
                    self.begin_closing(Close::new(Code::DeadlineExceeded, outcome.to_string()), outcome);
                } else if now >= live.node_status_due {
                    live.node_status_due = after(now, live.connected.heartbeat_interval);
                    // An application that does not keep up is asked again an interval later.
                    if self.events.len() < super::EVENTS_HIGH_WATER {
                        self.events.push_back(DaemonEvent::NodeStatusDue);
                    }
                }
            }
            Link::Offline | Link::Closing { .. } => {}
        }
    }

    fn handle_disconnected(&mut self, _now: Instant) {
        let outcome = match std::mem::replace(&mut self.link, Link::Offline) {
            Link::Offline => return,
            Link::AwaitingAck(_) => DaemonOutcome::StreamEnded { established: false },
            Link::Established(_) => DaemonOutcome::StreamEnded { established: true },
            Link::Closing { outcome, .. } => outcome,
        };
        self.outbox.clear_stream();
        self.to_tell.clear();
        if self.config.refills_console {
            let is_console = |message: &DaemonMessage| {
                matches!(message.payload, Some(daemon_message::Payload::ConsoleOutput(_)))
            };
            self.outbox.discard(is_console);
        }
        self.receipts = Receipts::default();
        self.departures = Departures::default();
        self.rejected.clear();
        self.listed_early.clear();
        self.unwritten.forget_commands();
        self.crashes.iter_mut().for_each(|pending| pending.queued = false);
        self.last_outcome = Some(outcome.clone());
        self.events.push_back(DaemonEvent::Disconnected(outcome));
    }

    fn poll_transmit(&mut self) -> Option<DaemonMessage> {
        match &self.link {
            Link::Offline => return None,
            // Until the acknowledgement only the handshake leaves; a Java controller drops everything else.
            Link::AwaitingAck(_) | Link::Closing { flush: false, .. }
                if self.outbox.len(Class::Control) == 0 =>
            {
                return None;
            }
            Link::AwaitingAck(_) | Link::Established(_) | Link::Closing { .. } => {}
        }
        let message = self.outbox.pop()?;
        self.handle_left(&message);
        Some(message)
    }

    fn poll_event(&mut self) -> Option<DaemonEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Deadline<DaemonTimer>> {
        match &self.link {
            Link::AwaitingAck(handshake) => {
                Some(handshake.poll_timeout().map(|()| DaemonTimer::HandshakeAck))
            }
            Link::Established(live) => Deadline::earlier(
                Some(Deadline {
                    at: live.node_status_due,
                    timer: DaemonTimer::NodeStatus,
                }),
                live.silence
                    .poll_timeout()
                    .map(|deadline| deadline.map(|_| DaemonTimer::ControllerSilent)),
            ),
            Link::Offline | Link::Closing { .. } => None,
        }
    }

    fn close(&self) -> Option<&Close> {
        match &self.link {
            Link::Closing { close, .. } => Some(close),
            _ => None,
        }
    }

    fn events_pending(&self) -> usize {
        self.events.len()
    }
}
