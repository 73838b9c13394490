//! The controller's node: its streams, its instances, and what has to be recorded before what
//!
//! ```text
//!            hello ──Admit──> recorded ──Accept──> established: the stream's turn begins, the former one's ends
//!  order, message ──> roster ──Commit──> committed ──> start, stop, acknowledgement, answer
//! ```
//!
//! The machine lives as long as the node. It owns the [`Roster`] and knows its streams, each by the number that the
//! controller gave it when it came in; a [`ControllerSession`] is the machine of one of them.
//!
//! # Write, then act
//! What depends on a record leaves only after [`handle_committed`](ControllerNode::handle_committed) of that record:
//! a start after the record of its incarnation, a stop after the record of the wish, an acknowledgement of a crash after the
//! report, an answer after all of what it speaks of. One commit is under way at a time; what changes meanwhile is
//! collected, and orders take turns with it. A commit that failed is tried again where only the storage is behind what is
//! true, and fails its order where the order is not true yet; orders pass what waits to be tried again. A crash report that
//! is refused for good is dropped unacknowledged: its daemon tells it on the next stream.
//!
//! # Streams
//! At most one stream is current. A new one goes through `Admit` and `Accept` while the current one goes on, and takes
//! over when its session says [`Established`](ControllerEvent::Established): a stream that has ended meanwhile costs
//! the current one nothing, and one that was opened before the current one is turned away. One that is not known to come
//! from the same process of the daemon (it names another `boot_id`, or none) may be of a copy of the machine: the current
//! one's daemon is asked, and as long as it [answers](ANSWERS_WITHIN) nobody takes its place. What a stream says that is
//! not current changes nothing, so let the machine hear what the current one has said *before* it hears of the new
//! one's `Established`.
//!
//! # What is bounded
//! Two streams beside the current one, and one that is about to challenge it: another handshake takes the place of the
//! oldest that waits. [`ORDERS_WAITING`]
//! orders; one more is refused. Of orders that have not been sent, as many traces are
//! remembered; one more order goes out without its trace. [`CRASHES_WAITING`] crash reports wait, and no more are taken than a peer is
//! [answered](crate::session#what-a-peer-can-cost); one more is left to its daemon, which tells it again on its next stream
//! if it keeps crash reports, and is lost if not.
//! Of the instances that have ended, those that did so first are forgotten once nothing else waits for the storage.
//! What waits to be recorded is bounded by the roster, and a commit of it by [`SNAPSHOTS_PER_COMMIT`].

mod commits;
mod crashes;
mod drain;
mod messages;
mod orders;
mod pending;
mod records;
mod streams;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prexorcloud_proto::controller_message;

use crate::id::{InstanceId, NodeId};
use crate::instance::{Cause, Lifecycle, State};
use crate::peer::DaemonPeer;
use crate::redact;
use crate::roster::{Dispatch, InstanceEvent, Roster, RosterEntry, RosterTimer};
use crate::session::budget::Bucket;
#[cfg(doc)]
use crate::session::controller::ControllerEvent;
use crate::session::controller::ControllerSession;
use crate::time::Deadline;
use crate::trace::TraceParent;
use crate::verdict::DeniedReason;

pub use commits::SNAPSHOTS_PER_COMMIT;
pub use crashes::CRASHES_WAITING;
pub use drain::Drain;
pub use orders::ORDERS_WAITING;
pub use streams::{ANSWERS_WITHIN, HELD, REPLACED};
pub use work::{
    Change, Commit, CommitFailure, Contest, ControllerWork, InstanceSnapshot, OrderOutcome, OrderRefusal,
};

use drain::DrainState;
use orders::Kind;
use records::Records;
use streams::Streams;

/// A stream, by its number among those that the controller accepted
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The stream whose [`ControllerSession`] was made with this number.
    #[must_use]
    pub const fn new(accepted: u64) -> Self {
        Self(accepted)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// An order, by a number that the application gives it; used again only after its answer
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// A commit; never used twice
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub(super) u64);

/// How a controller's node machine works
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControllerNodeConfig {
    /// How long to wait before writing again what the storage refused.
    pub retry: Duration,
}

impl Default for ControllerNodeConfig {
    /// 5 s.
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(5),
        }
    }
}

/// The timers of a controller's node machine
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControllerNodeTimer {
    /// A deadline of an instance or a command.
    Roster(RosterTimer),
    /// The storage is tried again.
    Storage,
    /// The daemon that is there has to have answered, since another one has come.
    Answer,
    /// What still runs when the time of a drain is over is killed.
    Drain,
}

/// Decides what a controller does about one of its nodes
///
/// Facts and orders go in. After each, drain [`poll_work`](Self::poll_work) and do the work in its order; work that is
/// answered at once may be answered while draining. Then let the current stream's session take what it
/// has room for with [`feed`](Self::feed). Call [`handle_timeout`](Self::handle_timeout) at the
/// deadline from [`poll_timeout`](Self::poll_timeout), which may move after any of these.
///
/// ```
/// use prexorcloud_protocol::node::controller::{Change, ControllerNode, ControllerWork, OrderId, OrderOutcome};
/// use prexorcloud_protocol::proto::StartInstance;
/// # let now = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let mut node = ControllerNode::new("node-1".parse()?);
/// let start = StartInstance {
///     instance_id: "lobby-1".into(),
///     group: "lobby".into(),
///     port: 30_000,
///     incarnation: 1,
///     ..Default::default()
/// };
/// node.start(now, OrderId(1), Box::new(start));
/// let Some(ControllerWork::Commit(commit)) = node.poll_work() else { panic!("first it is written down") };
/// assert!(matches!(commit.changes[0], Change::Start(_)));
/// assert_eq!(node.poll_work(), None, "nothing else happens before");
///
/// node.handle_committed(now, commit.id);
/// let answer = ControllerWork::Answer { order: OrderId(1), result: Ok(OrderOutcome::Started) };
/// assert_eq!(node.poll_work(), Some(answer));
/// # Ok::<(), prexorcloud_protocol::InvalidName>(())
/// ```
#[derive(Clone, Debug)]
pub struct ControllerNode {
    config: ControllerNodeConfig,
    roster: Roster,
    streams: Streams,
    records: Records,
    drain: DrainState,
    /// How many crash reports are still taken: each is stored and acknowledged.
    crash_reports: Bucket,
    /// The traces of orders that have not been sent yet.
    traces: BTreeMap<(InstanceId, Kind), TraceParent>,
    /// How many commands that are answered were sent.
    commands: u64,
    work: VecDeque<ControllerWork>,
}

impl ControllerNode {
    /// A node about which nothing is known.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self::with_config(node, ControllerNodeConfig::default())
    }

    /// As [`new`](Self::new), with other times.
    #[must_use]
    pub fn with_config(node: NodeId, config: ControllerNodeConfig) -> Self {
        Self {
            config,
            roster: Roster::new(node),
            streams: Streams::default(),
            records: Records::default(),
            drain: DrainState::default(),
            crash_reports: Bucket::of_answers(),
            traces: BTreeMap::new(),
            commands: 0,
            work: VecDeque::new(),
        }
    }

    /// Puts recorded instances back after a restart of the controller
    ///
    /// Those that could not be put back are returned with the reason, as by [`Roster::restore`].
    #[must_use = "an instance that is not restored is an orphan at the next handshake"]
    pub fn restore(
        &mut self,
        now: Instant,
        entries: impl IntoIterator<Item = RosterEntry>,
    ) -> Vec<(RosterEntry, DeniedReason)> {
        let refused = self.roster.restore(now, entries);
        for entry in self.roster.entries() {
            self.records.restored(
                entry.instance(),
                entry.incarnation(),
                entry.state(),
                entry.desired(),
            );
        }
        self.settle(now);
        refused
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.roster.node()
    }

    /// What is known of the node's instances; what the records are behind of included.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The stream that counts.
    #[must_use]
    pub fn current_stream(&self) -> Option<StreamId> {
        self.streams.current().map(|current| current.stream)
    }

    /// The daemon at the other end of the stream that counts.
    #[must_use]
    pub fn peer(&self) -> Option<DaemonPeer> {
        self.streams.current().map(|current| current.peer)
    }

    /// The ports that instances have or are about to have, those of instances that are not wanted there included, and those
    /// that the daemon's own figures say are used.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        let live = self.roster.entries().chain(self.roster.orphans());
        live.filter(|entry| !entry.is_terminal())
            .map(Lifecycle::port)
            .chain(self.records.ports())
            .chain(self.roster.used_ports())
    }

    /// Starts that were accepted and are not recorded yet: what they take of the node is taken.
    pub fn unrecorded_starts(&self) -> impl Iterator<Item = &prexorcloud_proto::StartInstance> {
        self.records.starts()
    }

    /// Whether everything is recorded, and no order or admission waits.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.records.is_idle() && !self.streams.is_admitting() && self.work.is_empty()
    }

    /// The next work to do.
    #[must_use]
    pub fn poll_work(&mut self) -> Option<ControllerWork> {
        self.work.pop_front()
    }

    /// Gives the current stream's session the starts and stops that it has room for, and lets it confirm to the daemon
    /// what is recorded; without effect for any other session.
    ///
    /// Every event that the session has given must have been handed over before.
    pub fn feed(&mut self, session: &mut ControllerSession) {
        if self.current_stream() == Some(session.stream()) {
            session.take_orders(|| self.poll_dispatch());
            if self.records.is_idle() {
                session.all_stored();
            }
        }
    }

    /// The next start or stop for the current stream; what is taken counts as sent.
    fn poll_dispatch(&mut self) -> Option<(controller_message::Payload, Option<TraceParent>)> {
        self.streams.current()?;
        let records = &self.records;
        let dispatch = self
            .roster
            .poll_dispatch_if(|role, lifecycle, order| records.covers(role, lifecycle, order))?;
        Some(match dispatch {
            Dispatch::Start(start) => {
                let trace = self.take_trace(&start.instance_id, Kind::Start);
                (controller_message::Payload::StartInstance(start), trace)
            }
            Dispatch::Stop(stop) => {
                let trace = self.take_trace(&stop.instance_id, Kind::Stop);
                (controller_message::Payload::StopInstance(stop), trace)
            }
        })
    }

    /// The earliest deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<ControllerNodeTimer>> {
        let at = |at: Option<Instant>, timer| at.map(|at| Deadline { at, timer });
        let roster = self
            .roster
            .poll_timeout()
            .map(|deadline| deadline.map(ControllerNodeTimer::Roster));
        let storage = at(self.records.retry_at(), ControllerNodeTimer::Storage);
        let drain = at(self.drain.deadline(), ControllerNodeTimer::Drain);
        let answer = at(self.streams.challenge_until(), ControllerNodeTimer::Answer);
        Deadline::earlier(
            Deadline::earlier(roster, answer),
            Deadline::earlier(storage, drain),
        )
    }

    /// Lets expired timers take effect; early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.roster.handle_timeout(now);
        self.records.handle_timeout(now);
        self.drain.handle_timeout(now);
        self.handle_challenge_timeout(now);
        self.settle(now);
    }

    /// Draws the conclusions from whatever has just happened.
    fn settle(&mut self, _now: Instant) {
        while let Some(event) = self.roster.poll_event() {
            self.note_event(&event);
            self.work.push_back(ControllerWork::News(event));
        }
        self.review_drain();
        self.begin_commit();
    }

    /// What to say of a state that nobody has seen.
    fn conclusion(&self, instance: InstanceId, to: State, cause: Cause) -> Option<&'static str> {
        let lifecycle = self.roster.get(instance)?;
        let is_lasting = lifecycle.peer().finds_its_servers;
        match (to, cause) {
            (State::Crashed, Cause::Reconciled) if !lifecycle.is_lost() => None,
            (State::Crashed, Cause::Reconciled) if is_lasting => Some("lost: its daemon does not list it"),
            (State::Crashed, Cause::Reconciled) => Some(
                "lost: its daemon does not list it; if the daemon was killed, the server may still run on its host",
            ),
            (State::Stopped, Cause::Reconciled | Cause::StopAcknowledged) if !is_lasting => Some(
                "its daemon has nothing of it any more; if the daemon was killed, the server may still run on its host",
            ),
            (State::Crashed, Cause::DeclaredLost) => Some("lost: it was given up while its node was away"),
            (State::Crashed, Cause::StopOverdue) => Some("lost: its daemon did not confirm the stop"),
            (State::Stopping, Cause::TakenBack) => Some("it counted as lost; its daemon is asked to stop it"),
            (State::Preparing | State::Starting, Cause::TakenBack) => {
                Some("it counted as lost, and its daemon shows that it runs")
            }
            _ => None,
        }
    }

    /// What an event leaves to be recorded.
    fn note_event(&mut self, event: &InstanceEvent) {
        let note = match event {
            InstanceEvent::Changed {
                instance, to, cause, ..
            } => self.conclusion(*instance, *to, *cause).map(str::to_owned),
            InstanceEvent::Adopted { .. } => None,
            InstanceEvent::Counted { .. }
            | InstanceEvent::Forgotten { .. }
            | InstanceEvent::Misreported { .. }
            | InstanceEvent::NotAdopted { .. } => return,
            InstanceEvent::StartRetrying {
                attempt,
                after,
                failure,
                ..
            } => Some(format!(
                "{}: {} (attempt {attempt} in {} s)",
                failure.error_code,
                failure.message,
                after.as_secs()
            )),
            InstanceEvent::StartFailed { failure, .. } => {
                Some(format!("{}: {}", failure.error_code, failure.message))
            }
            InstanceEvent::StopRefused {
                instance,
                incarnation,
                ..
            } if self.roster.get(*instance).map(Lifecycle::incarnation) != Some(*incarnation) => return,
            InstanceEvent::StopRefused { message, .. } if message.is_empty() => {
                Some("the daemon refuses the stop, and does not say why; it is asked again".to_owned())
            }
            InstanceEvent::StopRefused { message, .. } => Some(format!(
                "the daemon refuses the stop, and is asked again: {message}"
            )),
            InstanceEvent::StopUnanswered { .. } => Some("the daemon did not answer the stop".to_owned()),
            InstanceEvent::StartupTimedOut { limit, .. } => {
                Some(format!("not running after {} s", limit.as_secs()))
            }
            InstanceEvent::StopOverdue { mode, .. } => Some(format!("the stop ({mode:?}) took too long")),
            InstanceEvent::StillRuns {
                instance,
                incarnation,
                ..
            } if self.roster.get(*instance).map(Lifecycle::incarnation) != Some(*incarnation) => return,
            InstanceEvent::StillRuns { .. } => Some(
                "the stop was not confirmed, and the daemon's own figures say that the server still runs; it is asked again"
                    .to_owned(),
            ),
            // Nothing is lost: a step brings less than the roster keeps, and its events are taken after every step.
            InstanceEvent::Lagged { .. } => return,
            InstanceEvent::StartAccepted { .. } | InstanceEvent::OrphanStopped { .. } => return,
            InstanceEvent::LifetimeOver { .. } => None,
        };
        if let Some(instance) = event.instance() {
            // Daemons quote what they could not download.
            let note = note.map(|note| redact::urls(&note).into_owned());
            self.records.mark(instance, note);
        }
    }
}
