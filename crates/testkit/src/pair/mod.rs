//! A daemon, its controllers, and what lies between
//!
//! Nothing here waits: [`Pair::step`] goes straight to the next moment at which anything happens, lets exactly that
//! happen, carries out what follows from it, and checks every [invariant](crate::invariants).

mod act;
mod drive;
mod inject;
mod recording;
mod stream;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use prexorcloud_protocol::{DaemonSession, InstanceId, NodeId};

use recording::Recording;
pub use stream::{End, Stream};

use crate::action::Action;
use crate::behaviour::Behaviour;
use crate::controller_host::{ControllerHost, Store};
use crate::daemon_host::DaemonHost;
use crate::invariants;
use crate::link::Quality;
use crate::log::Log;
use crate::rng::Rng;
use crate::scenario::{Peers, Scenario};
use crate::world::World;

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
#[derive(Clone, Debug)]
pub struct Pair {
    world: World,
    peers: Peers,
    heartbeat: Duration,
    node: NodeId,
    daemon: DaemonHost,
    controllers: Vec<ControllerHost>,
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
    adopts_unknown: bool,
    commands: u64,
    undisturbed_since: Duration,
    recording: Recording,
    queue: usize,
    /// How many streams had been opened, and mistakes reported, in the middle of the quiet time.
    pub(crate) halfway: Option<(u32, u64)>,
    pub(crate) first_up_faults: Vec<String>,
    pub(crate) first_down_faults: Vec<String>,
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
        let node = node();
        let is_java = scenario.peers == Peers::JavaDaemon;
        let mut pair = Self {
            world: World {
                now: Duration::ZERO,
                rng: Rng::new(scenario.seed),
                log: Log::silent(),
            },
            peers: scenario.peers,
            heartbeat: scenario.heartbeat,
            node,
            daemon: DaemonHost::new(node, is_java, scenario.queue),
            controllers: Vec::new(),
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
            adopts_unknown: true,
            commands: 0,
            undisturbed_since: Duration::ZERO,
            recording: Recording::default(),
            queue: scenario.queue,
            halfway: None,
            first_up_faults: Vec::new(),
            first_down_faults: Vec::new(),
            forced: BTreeSet::new(),
            time_was_bent: false,
            endless: Vec::new(),
            busiest_second: 0,
            first_violation: None,
        };
        pair.add_controller(Duration::ZERO);
        // Both hosts boot, and nothing else can happen at this moment.
        let _ = pair.run_for(Duration::ZERO);
        pair
    }

    fn add_controller(&mut self, boots_at: Duration) {
        let name = format!("controller {}", self.controllers.len() + 1);
        let mut controller = ControllerHost::new(name, self.node, self.heartbeat, self.queue, boots_at);
        match self.peers {
            Peers::Rust => {}
            Peers::JavaDaemon => controller.expect_java(),
            Peers::JavaController => controller.play_java(),
        }
        self.controllers.push(controller);
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
    pub const fn daemon(&self) -> &DaemonHost {
        &self.daemon
    }

    /// The host of the daemon, to change what it starts with.
    pub const fn daemon_mut(&mut self) -> &mut DaemonHost {
        &mut self.daemon
    }

    /// The controllers in the order of their leaderships; the last one leads.
    #[must_use]
    pub fn controllers(&self) -> &[ControllerHost] {
        &self.controllers
    }

    /// The controller that leads.
    ///
    /// # Panics
    /// Never: there is one from the beginning.
    #[must_use]
    pub fn controller(&self) -> &ControllerHost {
        match self.controllers.last() {
            Some(leader) => leader,
            None => unreachable!("a pair begins with a controller"),
        }
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

    /// The most messages that one stream carried in one virtual second, both ways together, console lines aside.
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
        let leader = self.controller();
        let disturbed = |stream: &Stream| {
            stream.up.is_cut() || stream.down.is_cut() || stream.up.is_stalled() || stream.down.is_stalled()
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

    /// How many mistakes either side has found in what the other said.
    #[must_use]
    pub fn mistakes(&self) -> u64 {
        let ignored = |controller: &ControllerHost| controller.facts.ignored.len() as u64;
        self.daemon.facts.ignored + self.controllers.iter().map(ignored).sum::<u64>()
    }

    /// Whether both sides have a session with each other.
    #[must_use]
    pub fn is_established(&self) -> bool {
        let Some(stream) = self.daemon.stream else {
            return false;
        };
        self.daemon.session().is_some_and(DaemonSession::is_established)
            && self
                .controller()
                .session_of(stream)
                .is_some_and(|session| session.is_established())
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
        self.check(invariants::AT_REST)
    }

    fn check(&mut self, promises: &[invariants::Invariant]) -> Result<(), Violation> {
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

impl fmt::Display for Pair {
    /// The instances as each side sees them, for failure messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.daemon.disk.processes {
            let (instance, incarnation) = (process.instance, process.incarnation);
            writeln!(f, "daemon      {instance}#{incarnation} {}", process.state)?;
        }
        for known in self
            .controller()
            .roster()
            .into_iter()
            .flat_map(|roster| roster.entries())
        {
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
    match NodeId::new("node-1") {
        Ok(node) => node,
        Err(invalid) => unreachable!("{invalid}"),
    }
}
