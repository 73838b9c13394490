//! What the controller knows about the instances of one node
//!
//! A [`Roster`] outlives the streams to its node. Each instance has a [`Lifecycle`] and a [ledger](crate::unstable::ledger);
//! at every handshake the [reconciliation plan](crate::unstable::reconcile) brings belief and report together. A
//! [`ControllerNode`](crate::node::ControllerNode) owns one and drives it; an application reads it there. Starts and stops
//! that nobody can be told of are kept until the next handshake.
//!
//! # An instance that is in the way
//! A daemon may run an incarnation that nobody wants: of an unknown group, of an id that has been started elsewhere, or
//! one that counts as ended here. Such an *orphan* is stopped, gracefully first, with deadlines like any other
//! instance, and for as long as the daemon refuses. A start of the same id waits until the orphan is gone; a stop does not.
//! Orphans are not among the [`entries`](Roster::entries).
//!
//! # What is bounded
//! - Entries that live: a start beyond [`limits::INSTANCES_PER_NODE`] is denied, and so are orphans beyond that ignored. What
//!   a daemon lists alive is believed all the same: it runs, whatever a limit says.
//! - Instances that only the daemon knew: as many as it can have, twice over, and then one every ten seconds; beyond that
//!   they are left alone, and [told](InstanceEvent::NotAdopted) of. No node takes all ids of a fleet.
//! - Entries that have ended: whoever owns the roster forgets [what ended first](Roster::surplus) of more than
//!   [`ENDED_REMEMBERED`]. They never stand in the way of a start.
//! - Dispatches: at most one per instance is waiting, in the ledger of the instance. What one incarnation can cost on one
//!   stream is bounded by its [commands](crate::unstable::ledger), and what an id can cost by `1 + RETRIES` orphans beside
//!   it; a daemon that refuses a stop is asked again every ten seconds.
//! - Events: [`EVENTS_KEPT`]. A step adds at most a handful per instance, so an application that polls never sees the
//!   bound. One that does not loses the later events, and is told so by [`InstanceEvent::Lagged`]; the entries are right
//!   in any case.
//!
//! # A node that stays away
//! Timers that wait for the daemon rest while there is no stream, and while [nobody answers](Roster::handle_silence) on
//! the one there is, because neither a late start nor a lost stop can be told from a broken cable. Afterwards the daemon
//! is given its time again. How long to believe in a silent node is the application's decision; it ends the wait with
//! [`declare_lost`](Roster::declare_lost). If the node comes back after all, what runs there is
//! [taken back](crate::instance::lifecycle), unless it was meant to stop, or another incarnation has taken its place.
//!
//! # What a daemon's own figures say
//! A load report names the ports in use and counts what runs. It is evidence against an end that is only inferred: what it
//! counts stays `STOPPING`, or is taken back, and its port is in use.
//!
//! # Invariants
//! Checked after every step by `tests/roster`:
//! - `traffic_is_bounded`: whatever the daemon says, an incarnation costs a bounded number of messages per stream, and
//!   one that it refuses to stop one more every ten seconds;
//! - `at_most_one_live_attempt` per instance, and `nothing_leaves_while_disconnected`;
//! - `terminal_is_final`, per incarnation, unless the end was only assumed;
//! - `incarnations_only_rise`: the entry of an id never goes back to an earlier incarnation;
//! - `stale_news_changes_nothing`: news of an earlier incarnation leaves the entry as it was;
//! - `no_deadline_in_the_past_after_timeout`;
//! - `earliest_deadline_is_exact`: `poll_timeout` is the minimum over all instances;
//! - `events_tell_the_whole_story`: following the events from the beginning gives exactly the entries;
//! - `nothing_waits_for_ever`: with a mute daemon, every wanted stop ends and every start fails within its deadlines.

mod deadlines;
mod dispatch;
mod event;
mod expiry;
mod figures;
mod handshake;
mod memory;
mod messages;
mod readiness;
mod slots;
mod stream_order;

use std::collections::VecDeque;
use std::time::Instant;

use prexorcloud_proto::StartInstance;

pub use event::{Dispatch, Due, InstanceEvent, RosterEntry, RosterTimer};
use figures::Figures;
use readiness::Awaited;
pub(crate) use slots::Role;
use slots::{Place, Slot, Slots};
pub use stream_order::StreamOrder;

pub use crate::instance::CrashVerdict;
pub use crate::ledger::{CommandTimer, Disposition, StartFailure};
pub use crate::reconcile::{GroupPolicy, OrphanReason, ReconcilePolicy};

use crate::id::{InstanceId, NodeId};
use crate::instance::{Cause, Judgement, Lifecycle, LifecycleOutput, Spec, State};
use crate::ledger::{Order, RETRIES};
use crate::limits;
use crate::peer::DaemonPeer;
use crate::session::budget::Bucket;
use crate::validate::{Fault, Invalid};
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How many instances that have ended are remembered; of more, those that ended first are to be forgotten.
pub const ENDED_REMEMBERED: usize = 1_024;

/// How many events are kept for an application that does not poll.
pub const EVENTS_KEPT: usize = 4 * limits::INSTANCES_PER_NODE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Up {
        peer: DaemonPeer,
    },
    /// There is a stream, and the daemon does not answer on it.
    Silent {
        peer: DaemonPeer,
    },
}

/// The instances of one node
///
/// After every call, drain [`poll_event`](Self::poll_event); take from [`poll_dispatch`](Self::poll_dispatch) as there is room
/// for it; [`poll_timeout`](Self::poll_timeout) may have moved.
///
/// ```
/// use std::time::Instant;
/// use prexorcloud_protocol::instance::State;
/// use prexorcloud_protocol::proto::{InstanceStatusUpdate, StartInstance};
/// use prexorcloud_protocol::roster::ReconcilePolicy;
/// use prexorcloud_protocol::roster::{Dispatch, Roster};
/// use prexorcloud_protocol::peer::DaemonPeer;
/// use prexorcloud_protocol::{Capabilities, NodeId, Verdict};
/// # let now = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let mut roster = Roster::new(NodeId::new("node-1").unwrap());
/// let start = StartInstance {
///     instance_id: "lobby-1".into(),
///     group: "lobby".into(),
///     port: 30_000,
///     incarnation: 1,
///     ..Default::default()
/// };
/// assert_eq!(roster.start(now, Box::new(start)), Verdict::Accepted);
/// assert_eq!(roster.poll_dispatch(), None, "there is no stream yet");
///
/// let policy = ReconcilePolicy { peer: DaemonPeer::of(Capabilities::SESSION), ..Default::default() };
/// roster.handle_handshake(now, &[], &policy);
/// assert!(matches!(roster.poll_dispatch(), Some(Dispatch::Start(_))));
///
/// let id = "lobby-1".parse().unwrap();
/// let running = InstanceStatusUpdate {
///     instance_id: "lobby-1".into(),
///     state: State::Running.to_wire(),
///     incarnation: 1,
///     ..Default::default()
/// };
/// assert!(roster.handle_status(now, &running).is_accepted());
/// assert_eq!(roster.get(id).unwrap().state(), State::Running);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Roster {
    node: NodeId,
    slots: Slots,
    link: Link,
    events: VecDeque<InstanceEvent>,
    dropped: u64,
    /// The newest stream that was ever admitted.
    newest: Option<StreamOrder>,
    waiting_changes: u64,
    /// What the daemon last said of its load, on the present stream.
    figures: Option<Figures>,
    /// How many instances that nobody knew are still taken over.
    adoptions: Bucket,
    not_adopted: usize,
}

impl Roster {
    /// The roster of a node about which nothing is known.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            slots: Slots::default(),
            link: Link::Down,
            events: VecDeque::new(),
            dropped: 0,
            newest: None,
            waiting_changes: 0,
            figures: None,
            adoptions: Bucket::of_adoptions(),
            not_adopted: 0,
        }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Whether a stream may take over: none that was opened after it has been admitted yet.
    #[must_use]
    pub fn admits(&self, stream: &StreamOrder) -> bool {
        self.newest
            .as_ref()
            .is_none_or(|newest| !stream.is_older_than(newest))
    }

    /// The newest stream that was ever admitted.
    pub(crate) const fn newest(&self) -> Option<&StreamOrder> {
        self.newest.as_ref()
    }

    pub(crate) fn admit(&mut self, stream: &StreamOrder) {
        self.newest = Some(stream.clone());
    }

    /// Whether a session is established.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.peer().is_some()
    }

    /// The daemon at the other end of the stream, if there is one.
    fn peer(&self) -> Option<DaemonPeer> {
        match self.link {
            Link::Up { peer } | Link::Silent { peer } => Some(peer),
            Link::Down => None,
        }
    }

    /// Everything that is known, in the order of the ids, instances that have ended included.
    pub fn entries(&self) -> impl Iterator<Item = &Lifecycle> {
        self.slots
            .places()
            .filter_map(|place| Some(&self.slots.get(place.entry?)?.lifecycle))
    }

    /// What is known of one instance.
    #[must_use]
    pub fn get(&self, instance: InstanceId) -> Option<&Lifecycle> {
        self.slots.entry(instance).map(|slot| &slot.lifecycle)
    }

    /// Instances that the daemon runs although nobody wants them, and that are being stopped.
    pub fn orphans(&self) -> impl Iterator<Item = &Lifecycle> {
        self.slots
            .places()
            .filter_map(|place| Some(&self.slots.get(place.orphan?)?.lifecycle))
    }

    /// What [`start`](Self::start) would say, and nothing more.
    pub fn judge_start(&self, start: &StartInstance) -> Verdict {
        match Spec::of(start) {
            Ok(spec) => self.judge_spec(&spec),
            Err(invalid) => Verdict::Denied(DeniedReason::Invalid(invalid)),
        }
    }

    fn judge_spec(&self, spec: &Spec) -> Verdict {
        match self.judge_known(spec) {
            Verdict::Accepted if self.slots.live() >= limits::INSTANCES_PER_NODE => {
                Verdict::Denied(Self::too_many())
            }
            verdict => verdict,
        }
    }

    /// Whether what is known of the id forbids the start.
    fn judge_known(&self, spec: &Spec) -> Verdict {
        if !spec.incarnation.is_known() {
            let invalid = Invalid {
                field: "start_instance.incarnation",
                fault: Fault::OutOfRange,
            };
            return Verdict::Denied(DeniedReason::Invalid(invalid));
        }
        let Some(known) = self.get(spec.instance) else {
            return Verdict::Accepted;
        };
        let (given, current) = (spec.incarnation, known.incarnation());
        match (given.cmp(&current), known.is_terminal()) {
            (std::cmp::Ordering::Greater, true) => Verdict::Accepted,
            (std::cmp::Ordering::Greater, false) => Verdict::Denied(DeniedReason::StillAlive { current }),
            (std::cmp::Ordering::Equal, false) if known.desired().stop_mode().is_none() => {
                Verdict::AlreadyInEffect
            }
            (std::cmp::Ordering::Equal, false) => {
                Verdict::Denied(DeniedReason::WrongState { state: known.state() })
            }
            (std::cmp::Ordering::Equal, true) | (std::cmp::Ordering::Less, _) => {
                Verdict::Denied(DeniedReason::StaleIncarnation { given, current })
            }
        }
    }

    /// Starts an instance, as soon as there is a stream. Its record must be stored already.
    ///
    /// A start with a higher incarnation replaces an instance of the same id that has ended.
    pub fn start(&mut self, now: Instant, start: Box<StartInstance>) -> Verdict {
        let spec = match Spec::of(&start) {
            Ok(spec) => spec,
            Err(invalid) => return Verdict::Denied(DeniedReason::Invalid(invalid)),
        };
        let verdict = self.judge_spec(&spec);
        if verdict == Verdict::Accepted {
            self.begin(now, spec, start);
        }
        verdict
    }

    fn begin(&mut self, now: Instant, spec: Spec, start: Box<StartInstance>) {
        let slot = self
            .slots
            .insert(Slot::new(Role::Entry, Lifecycle::new(now, spec), Some(start)));
        self.join(now, slot);
        if let Some(slot) = self.slots.get_mut(slot) {
            // A new ledger takes every order.
            let _ = slot.ledger.issue(now, Order::Start);
        }
        self.pump(now, slot);
    }

    /// Stops an instance. The wish must be stored already.
    pub fn stop(&mut self, now: Instant, instance: InstanceId, mode: StopMode) -> Verdict {
        self.command(now, instance, |lifecycle| lifecycle.request_stop(now, mode))
    }

    /// Lets a running instance run empty.
    pub fn drain(&mut self, now: Instant, instance: InstanceId) -> Verdict {
        self.command(now, instance, |lifecycle| lifecycle.request_drain(now))
    }

    /// Takes back a [`drain`](Self::drain).
    pub fn undrain(&mut self, now: Instant, instance: InstanceId) -> Verdict {
        self.command(now, instance, |lifecycle| lifecycle.cancel_drain(now))
    }

    /// Gives an instance up, because its node has stayed away for too long.
    pub fn declare_lost(&mut self, now: Instant, instance: InstanceId) -> Verdict {
        self.command(now, instance, |lifecycle| {
            if lifecycle.is_terminal() {
                return Verdict::AlreadyInEffect;
            }
            lifecycle.handle_lost(now, Cause::DeclaredLost);
            Verdict::Accepted
        })
    }

    fn command(
        &mut self,
        now: Instant,
        instance: InstanceId,
        act: impl FnOnce(&mut Lifecycle) -> Verdict,
    ) -> Verdict {
        let entry = self.slots.place(instance).entry;
        let Some((index, slot)) = entry.and_then(|index| Some((index, self.slots.get_mut(index)?))) else {
            return Verdict::Denied(DeniedReason::UnknownInstance);
        };
        let verdict = act(&mut slot.lifecycle);
        self.pump(now, index);
        verdict
    }

    /// The server itself says that it is ready, past the daemon.
    pub fn ready(&mut self, now: Instant, instance: InstanceId) -> Judgement {
        let entry = self.slots.place(instance).entry;
        let Some((index, slot)) = entry.and_then(|index| Some((index, self.slots.get_mut(index)?))) else {
            return Judgement::UnknownInstance;
        };
        let judgement = slot.lifecycle.handle_ready(now);
        if judgement.is_accepted() && slot.ledger.order() == Some(Order::Start) {
            slot.ledger.handle_evidence();
        }
        self.pump(now, index);
        judgement
    }

    /// The stream is gone. What was on its way is sent again after the next handshake, if it is still wanted.
    pub fn handle_disconnected(&mut self, now: Instant) {
        if self.link == Link::Down {
            return;
        }
        for index in self.slots.entry_indices() {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.lifecycle.handle_disconnected(now);
            }
        }
        self.rest();
    }

    /// The daemon does not answer on its stream. Nothing that it has to do falls due until it does.
    pub fn handle_silence(&mut self) {
        if let Link::Up { peer } = self.link {
            self.link = Link::Silent { peer };
            self.for_each_slot(|slot| {
                slot.lifecycle.handle_silence();
                slot.ledger.handle_silence();
            });
        }
    }

    /// The daemon answers again, and is given its time again. Without effect if it was not silent.
    pub fn handle_heard(&mut self, now: Instant) {
        if let Link::Silent { peer } = self.link {
            self.link = Link::Up { peer };
            self.for_each_slot(|slot| {
                slot.lifecycle.handle_heard(now);
                slot.ledger.handle_heard(now);
            });
        }
    }

    fn for_each_slot(&mut self, mut act: impl FnMut(&mut Slot)) {
        for Place { entry, orphan } in self.slots.places().collect::<Vec<_>>() {
            for index in [entry, orphan].into_iter().flatten() {
                if let Some(slot) = self.slots.get_mut(index) {
                    act(slot);
                }
                self.slots.refresh(index);
            }
        }
    }

    /// Waits for the daemon no longer; needs no clock, because nothing is armed.
    pub(crate) fn rest(&mut self) {
        if self.link == Link::Down {
            return;
        }
        self.link = Link::Down;
        self.figures = None;
        self.touch();
        for Place { entry, orphan } in self.slots.places().collect::<Vec<_>>() {
            if let Some(slot) = orphan.and_then(|index| self.slots.get(index)) {
                // The next handshake tells whether it is still there.
                let instance = slot.lifecycle.instance();
                self.slots.remove(instance, Role::Orphan);
            }
            let Some(index) = entry else { continue };
            if let Some(slot) = self.slots.get_mut(index) {
                slot.lifecycle.rest();
                slot.uncounted = None;
                slot.orphans = 0;
                slot.ledger.handle_disconnected();
            }
            self.slots.refresh(index);
        }
    }

    /// The next piece of news.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<InstanceEvent> {
        self.events.pop_front().or_else(|| {
            let dropped = std::mem::take(&mut self.dropped);
            (dropped > 0).then_some(InstanceEvent::Lagged { dropped })
        })
    }

    fn too_many() -> DeniedReason {
        DeniedReason::TooMany {
            limit: limits::INSTANCES_PER_NODE,
        }
    }

    fn tell(&mut self, event: InstanceEvent) {
        // Once one is lost, later ones have to wait behind the notice.
        if self.dropped > 0 || self.events.len() >= EVENTS_KEPT {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.events.push_back(event);
        }
    }

    /// Connects a new slot to the stream, if there is one.
    fn join(&mut self, now: Instant, index: usize) {
        let Some(peer) = self.peer() else {
            return;
        };
        let is_silent = matches!(self.link, Link::Silent { .. });
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let (instance, role) = (slot.lifecycle.instance(), slot.role);
        slot.lifecycle.handle_connected(now, peer);
        slot.ledger.handle_connected(now);
        if is_silent {
            slot.lifecycle.handle_silence();
            slot.ledger.handle_silence();
        }
        if role == Role::Entry && self.slots.place(instance).orphan.is_some() {
            self.hold(now, instance, true);
        }
    }

    /// Keeps the entry of an id back while there is an orphan of it.
    fn hold(&mut self, now: Instant, instance: InstanceId, held: bool) {
        let Some(index) = self.slots.place(instance).entry else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(index) {
            slot.ledger.hold(now, held);
        }
        self.slots.refresh(index);
    }

    /// Begins to stop an incarnation that nobody wants.
    fn stop_orphan(&mut self, now: Instant, spec: Spec, state: State, reason: OrphanReason) {
        let instance = spec.instance;
        let known = self.slots.place(instance).orphan.is_some();
        let full = self.slots.orphans() >= limits::INSTANCES_PER_NODE;
        // Without a stream there is nobody to tell; the next handshake will show it again.
        if known || full || !self.is_connected() {
            return;
        }
        // A daemon that has it end and live by turns is not told for ever.
        let entry = self.slots.place(instance).entry;
        if let Some(entry) = entry.and_then(|index| self.slots.get_mut(index)) {
            if entry.orphans > RETRIES {
                return;
            }
            entry.orphans += 1;
        }
        let index = self.slots.insert(Slot::new(
            Role::Orphan,
            Lifecycle::adopted(now, spec, state),
            None,
        ));
        self.tell(InstanceEvent::OrphanStopped {
            instance,
            incarnation: spec.incarnation,
            reason,
        });
        self.join(now, index);
        self.hold(now, instance, true);
        if let Some(slot) = self.slots.get_mut(index) {
            let _ = slot.lifecycle.request_stop(now, StopMode::Graceful);
        }
        self.pump(now, index);
    }

    /// Carries out what a lifecycle wants, until it wants nothing more.
    fn pump(&mut self, now: Instant, index: usize) {
        while let Some(slot) = self.slots.get_mut(index) {
            let lifecycle = &mut slot.lifecycle;
            let Some(output) = lifecycle.poll_output() else {
                break;
            };
            let (instance, incarnation) = (lifecycle.instance(), lifecycle.incarnation());
            let event = match output {
                LifecycleOutput::Changed { from, to, cause } => {
                    let stops = matches!(slot.ledger.order(), Some(Order::Stop(_)));
                    if to.is_terminal() || (stops && lifecycle.desired().stop_mode().is_none()) {
                        slot.ledger.withdraw();
                    }
                    if !to.is_coming_up() {
                        // It carries secrets, and cannot be needed any more.
                        slot.start = None;
                    }
                    if !to.is_coming_up() || to == State::Scheduled {
                        slot.awaited = Awaited::default();
                    }
                    self.waiting_changes = self.waiting_changes.wrapping_add(1);
                    if to.is_terminal()
                        && cause.is_seen()
                        && let Some(figures) = &mut self.figures
                    {
                        figures.note_end(lifecycle.port());
                    }
                    InstanceEvent::Changed {
                        instance,
                        group: lifecycle.group(),
                        incarnation,
                        from,
                        to,
                        cause,
                        port: lifecycle.port(),
                        player_count: lifecycle.player_count(),
                        uptime: lifecycle.uptime(),
                    }
                }
                LifecycleOutput::Stop(mode) => {
                    if lifecycle.is_dispatched() {
                        if slot.ledger.issue(now, Order::Stop(mode)) == Verdict::AlreadyInEffect {
                            // It had no effect.
                            slot.ledger.renew(now);
                        }
                    } else {
                        lifecycle.handle_gone(now, Cause::Withdrawn);
                    }
                    continue;
                }
                LifecycleOutput::StartupTimedOut { limit } => InstanceEvent::StartupTimedOut {
                    instance,
                    incarnation,
                    limit,
                },
                LifecycleOutput::StopOverdue(mode) => InstanceEvent::StopOverdue {
                    instance,
                    incarnation,
                    mode,
                },
                LifecycleOutput::StillRuns => {
                    let port = lifecycle.port();
                    self.tell(InstanceEvent::StillRuns {
                        instance,
                        incarnation,
                        port,
                    });
                    continue;
                }
                LifecycleOutput::LifetimeOver => InstanceEvent::LifetimeOver {
                    instance,
                    incarnation,
                },
            };
            if slot.role == Role::Entry {
                self.tell(event);
            }
        }
        let Some(slot) = self.slots.get(index) else { return };
        if slot.role == Role::Orphan && slot.lifecycle.is_terminal() {
            let instance = slot.lifecycle.instance();
            self.slots.remove(instance, Role::Orphan);
            self.hold(now, instance, false);
        } else {
            self.slots.refresh(index);
        }
    }
}
