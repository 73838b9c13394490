//! A daemon, its controllers, and what lies between
//!
//! Nothing here waits: [`Pair::step`] goes straight to the next moment at which anything happens, lets exactly that
//! happen, carries out what follows from it, and checks every [invariant](crate::invariants).

mod act;
mod departures;
mod dialler;
mod drive;
mod inject;
mod recording;
mod seat;
mod stream;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use prexorcloud_protocol::{InstanceId, NodeId};

pub(crate) use departures::Departures;
use dialler::Dialler;
use recording::Recording;
use seat::Seat;
pub use stream::{End, Stream};

use crate::action::Action;
use crate::behaviour::Behaviour;
use crate::clock::Clock;
use crate::controller_host::ControllerHost;
use crate::daemon_host::DaemonHost;
use crate::invariants;
use crate::link::Quality;
use crate::log::Log;
use crate::plain::PlainDaemon;
use crate::plain_controller::PlainController;
use crate::rng::Rng;
use crate::scenario::{Peers, Scenario};
use crate::side::{ControllerSide, ControllerView, DaemonSide, DaemonView};
use crate::store::Store;
use crate::world::World;

/// The node that a daemon of a [`Pair`] has to be.
pub const NODE: &str = "node-1";

/// How long everything is left alone at the end of a scenario, after it has healed.
pub const QUIET: Duration = Duration::from_secs(1_800);

/// A broken promise
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken at {}.{:03} s: {detail}", at.as_secs(), at.subsec_millis())]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// When it was found to be broken.
    pub at: Duration,
    /// What is wrong.
    pub detail: String,
}

/// Why [`Pair::run_until`] came back without the fact that was waited for
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// An invariant was broken meanwhile.
    #[error(transparent)]
    Broken(#[from] Violation),
    /// It did not happen in time.
    #[error("it did not happen within {} s", waited.as_secs())]
    DidNotHappen {
        /// How much virtual time was given.
        waited: Duration,
    },
}

/// A whole simulation
///
/// Both sides are the shipped machines of this repository, or a [host](crate::side) of your own:
/// [`with_daemon`](Self::with_daemon), [`with_controller`](Self::with_controller), [`between`](Self::between).
#[derive(Clone, Debug)]
pub struct Pair<D = DaemonHost, C = ControllerHost> {
    world: World,
    peers: Peers,
    node: NodeId,
    daemon: Seat<D>,
    /// The daemon's stream.
    current: Option<u32>,
    dialler: Dialler,
    controllers: Vec<Seat<C>>,
    store: Store,
    streams: Vec<Stream>,
    streams_opened: u32,
    quality: Quality,
    partitioned: bool,
    dials_deposed: bool,
    cordoned: bool,
    highest_epoch: u64,
    steps_at_this_moment: u32,
    steps: u64,
    plugin_at: Duration,
    at_rest: bool,
    commands: u64,
    undisturbed_since: Duration,
    recording: Recording,
    queue: usize,
    /// How many streams had been opened, and mistakes reported, in the middle of the quiet time.
    pub(crate) halfway: Option<(u32, u64)>,
    pub(crate) departures: Departures,
    /// The instances of which a forced stop was ordered.
    forced: BTreeSet<InstanceId>,
    /// A clock leapt, or a host slept.
    time_was_bent: bool,
    /// Moments at which the two never stopped answering each other.
    pub(crate) endless: Vec<String>,
    busiest_second: u32,
    first_violation: Option<Violation>,
}

impl Pair {
    /// Two peers of this repository, booting now; the log is on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(&Scenario::new(seed)).with_log(Log::new())
    }

    /// The peers of a scenario, before its first action; the log is off.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        Self::between(scenario, shipped_daemon(scenario), shipped_controller(scenario))
    }
}

impl Pair<PlainDaemon> {
    /// A daemon that announces nothing and the shipped controller's side, before the first action; the log is off.
    #[must_use]
    pub fn plain(scenario: &Scenario) -> Self {
        Self::between(scenario, PlainDaemon::new(node()), shipped_controller(scenario))
    }
}

impl Pair<DaemonHost, PlainController> {
    /// The shipped daemon's side and a controller that announces nothing, before the first action; the log is off.
    #[must_use]
    pub fn plainly_led(scenario: &Scenario) -> Self {
        let controller = PlainController::new(scenario.heartbeat);
        Self::between(scenario, shipped_daemon(scenario), controller)
    }
}

impl<D: DaemonSide> Pair<D> {
    /// A daemon of your own against the shipped controller's side; the log is on.
    #[must_use]
    pub fn with_daemon(seed: u64, daemon: D) -> Self {
        let scenario = Scenario::new(seed);
        let controller = shipped_controller(&scenario);
        Self::between(&scenario, daemon, controller).with_log(Log::new())
    }
}

impl<C: ControllerSide> Pair<DaemonHost, C> {
    /// A controller of your own against the shipped daemon's side; the log is on.
    #[must_use]
    pub fn with_controller(seed: u64, controller: C) -> Self {
        let scenario = Scenario::new(seed);
        let daemon = shipped_daemon(&scenario);
        Self::between(&scenario, daemon, controller).with_log(Log::new())
    }
}

impl<D: DaemonSide, C: ControllerSide> Pair<D, C> {
    /// Any two sides, in the circumstances of a scenario, before its first action; the log is off.
    #[must_use]
    pub fn between(scenario: &Scenario, daemon: D, controller: C) -> Self {
        let mut pair = Self {
            world: World {
                now: Duration::ZERO,
                rng: Rng::new(scenario.seed),
                log: Log::silent(),
            },
            peers: scenario.peers,
            node: node(),
            daemon: Seat::of(daemon),
            current: None,
            dialler: Dialler::default(),
            controllers: vec![Seat::of(controller)],
            store: Store::default(),
            streams: Vec::new(),
            streams_opened: 0,
            quality: Quality::default(),
            partitioned: false,
            dials_deposed: false,
            cordoned: false,
            highest_epoch: 0,
            steps_at_this_moment: 0,
            steps: 0,
            plugin_at: Duration::ZERO,
            at_rest: false,
            commands: 0,
            undisturbed_since: Duration::ZERO,
            recording: Recording::default(),
            queue: scenario.queue,
            halfway: None,
            departures: Departures::default(),
            forced: BTreeSet::new(),
            time_was_bent: false,
            endless: Vec::new(),
            busiest_second: 0,
            first_violation: None,
        };
        // Both hosts boot, and nothing else can happen at this moment.
        let _ = pair.run_for(Duration::ZERO);
        pair
    }

    /// The same, with this log.
    #[must_use]
    pub fn with_log(mut self, log: Log) -> Self {
        self.world.log = log;
        self
    }

    /// The time since the beginning.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.world.now
    }

    /// What happened.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.world.log
    }

    /// What happened, when nothing more is going to.
    #[must_use]
    pub fn into_log(self) -> Log {
        self.world.log
    }

    /// What the two sides are.
    #[must_use]
    pub const fn peers(&self) -> Peers {
        self.peers
    }

    /// The host of the daemon.
    #[must_use]
    pub const fn daemon(&self) -> &D {
        &self.daemon.host
    }

    /// The controllers in the order of their leaderships; the last one leads.
    pub fn controllers(&self) -> impl DoubleEndedIterator<Item = &C> + ExactSizeIterator {
        self.controllers.iter().map(|seat| &seat.host)
    }

    /// The controller that leads.
    #[must_use]
    pub fn controller(&self) -> &C {
        &self.leader().host
    }

    /// The clock of the controller that leads.
    #[must_use]
    pub fn controller_clock(&self) -> &Clock {
        &self.leader().clock
    }

    fn leader(&self) -> &Seat<C> {
        match self.controllers.last() {
            Some(leader) => leader,
            None => unreachable!("a pair begins with a controller"),
        }
    }

    /// What the daemon's host shows.
    pub(crate) fn daemon_view(&self) -> Option<DaemonView<'_>> {
        self.daemon.host.view()
    }

    /// What the hosts of the controllers show that show anything.
    pub(crate) fn views(&self) -> impl Iterator<Item = ControllerView<'_>> {
        self.controllers().filter_map(ControllerSide::view)
    }

    /// Whether the daemon has a stream.
    #[must_use]
    pub const fn has_stream(&self) -> bool {
        self.current.is_some()
    }

    /// What the controllers have committed.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The streams that are not over at both ends.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// The most messages that one stream carried in one virtual second, both ways together, console lines aside, and what a
    /// side without a view said.
    #[must_use]
    pub const fn busiest_second(&self) -> u32 {
        self.busiest_second
    }

    /// How many steps have been made.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether an operator has cordoned the node, as the operator remembers it.
    #[must_use]
    pub const fn cordoned(&self) -> bool {
        self.cordoned
    }

    /// The highest epoch that the daemon has obeyed so far.
    #[must_use]
    pub const fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// How many steps have been made at this very moment; a busy loop makes them without end.
    #[must_use]
    pub const fn steps_at_this_moment(&self) -> u32 {
        self.steps_at_this_moment
    }

    /// How many control messages may wait in an outbox of either side.
    #[must_use]
    pub const fn queue(&self) -> usize {
        self.queue
    }

    /// Since when the two have been connected with nothing in their way.
    #[must_use]
    pub fn undisturbed_since(&self) -> Duration {
        if self.is_disturbed() {
            self.world.now
        } else {
            self.undisturbed_since
        }
    }

    fn is_disturbed(&self) -> bool {
        let now = self.world.now;
        let leader = self.leader();
        let disturbed = |stream: &Stream| {
            let is_held_back = stream.up.is_stalled() || stream.down.is_stalled();
            let is_slow = stream.up.is_backed_up(now) || stream.down.is_backed_up(now);
            stream.up.is_cut() || stream.down.is_cut() || is_held_back || is_slow
        };
        !self.is_established()
            || self.store.is_ailing(now)
            || self.quality != Quality::default()
            || self.daemon.is_asleep(now)
            || leader.is_asleep(now)
            || self.streams.iter().any(disturbed)
    }

    /// The instances of which somebody ordered a forced stop.
    #[must_use]
    pub const fn forced(&self) -> &BTreeSet<InstanceId> {
        &self.forced
    }

    /// Whether a clock leapt or a host slept.
    #[must_use]
    pub const fn time_was_bent(&self) -> bool {
        self.time_was_bent
    }

    /// How many streams have been opened.
    #[must_use]
    pub const fn streams_opened(&self) -> u32 {
        self.streams_opened
    }

    /// How many mistakes either side has found in what the other said, as far as it shows that.
    #[must_use]
    pub fn mistakes(&self) -> u64 {
        let found = self.views().map(|view| view.facts.ignored.len() as u64);
        self.daemon_view().map_or(0, |view| view.facts.ignored) + found.sum::<u64>()
    }

    /// Whether both sides have a session with each other.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.current
            .is_some_and(|stream| self.daemon().is_established() && self.controller().is_established(stream))
    }

    /// Whether a scenario is over, and everything has had time to come to rest.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.at_rest
    }

    /// Has the leading controller start an instance.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn start(&mut self, instance: &str, behaviour: Behaviour) -> Result<(), Violation> {
        match InstanceId::new(instance) {
            Ok(instance) => self.apply(&Action::Start(instance, behaviour)),
            Err(invalid) => Err(self.broken("the_test_makes_sense", invalid.to_string())),
        }
    }

    /// Lets a stretch of virtual time pass.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let until = self.world.now + time;
        while self.next_moment().is_some_and(|next| next <= until) {
            self.step()?;
        }
        self.pass_to(until);
        Ok(())
    }

    /// Lets virtual time pass until something is true.
    ///
    /// # Errors
    /// [`RunError::DidNotHappen`] after `within`, or the first broken invariant.
    pub fn run_until(&mut self, within: Duration, fact: impl Fn(&Self) -> bool) -> Result<(), RunError> {
        let until = self.world.now + within;
        loop {
            if fact(self) {
                return Ok(());
            }
            if self.next_moment().is_none_or(|next| next > until) {
                self.pass_to(until);
                return Err(RunError::DidNotHappen { waited: within });
            }
            self.step()?;
        }
    }

    /// Plays actions, heals everything, waits for [`QUIET`], and checks what must be true then.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn play(&mut self, actions: &[Action]) -> Result<(), Violation> {
        for action in actions {
            self.apply(action)?;
        }
        self.come_to_rest()
    }

    /// Heals everything, waits for [`QUIET`], and checks what must be true then.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.heal_for_good()?;
        self.run_for(QUIET / 2)?;
        self.halfway = Some((self.streams_opened, self.mistakes()));
        self.run_for(QUIET / 2)?;
        self.at_rest = true;
        self.check(&invariants::at_rest())
    }

    fn check(&mut self, promises: &[invariants::Invariant<D, C>]) -> Result<(), Violation> {
        if let Some(violation) = &self.first_violation {
            return Err(violation.clone());
        }
        for promise in promises {
            if let Err(detail) = (promise.holds)(self) {
                let violation = self.broken(promise.name, detail);
                self.world.note(|| violation.to_string());
                self.first_violation = Some(violation.clone());
                return Err(violation);
            }
        }
        Ok(())
    }

    fn broken(&self, invariant: &'static str, detail: String) -> Violation {
        Violation {
            invariant,
            at: self.world.now,
            detail,
        }
    }
}

impl<D: DaemonSide, C: ControllerSide> fmt::Display for Pair<D, C> {
    /// The instances as each side sees them, for failure messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = self.daemon_view().map(|view| &view.supervisor.disk.processes);
        for process in processes.into_iter().flatten() {
            let (instance, incarnation) = (process.instance, process.incarnation);
            writeln!(f, "daemon      {instance}#{incarnation} {}", process.state)?;
        }
        let roster = self.controller().view().and_then(|view| view.roster());
        for known in roster.into_iter().flat_map(|roster| roster.entries()) {
            let (instance, incarnation) = (known.instance(), known.incarnation());
            writeln!(
                f,
                "controller  {instance}#{incarnation} {} {:?}",
                known.state(),
                known.desired()
            )?;
        }
        for (instance, record) in &self.store.records {
            writeln!(
                f,
                "store       {instance}#{} {} {:?}",
                record.start.incarnation, record.state, record.desired
            )?;
        }
        Ok(())
    }
}

fn node() -> NodeId {
    match NodeId::new(NODE) {
        Ok(node) => node,
        Err(invalid) => unreachable!("{invalid}"),
    }
}

fn shipped_daemon(scenario: &Scenario) -> DaemonHost {
    DaemonHost::new(scenario.daemon_config(node()), scenario.peers)
}

fn shipped_controller(scenario: &Scenario) -> ControllerHost {
    ControllerHost::new(1, node(), scenario.controller_config(), scenario.peers)
}
