//! A simulated host with a daemon on it
//!
//! The [`DaemonSession`] and the [`DaemonNode`] are the shipped ones; this is the I/O around them. What they want done is
//! done to simulated [processes](Process) and a simulated [`Disk`], and what happens there is told to them: nothing is
//! decided here. Processes and the disk survive when the daemon is killed.

mod facts;
mod process;
mod work;

use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::node::daemon::{Attempt, DaemonNode, DaemonNodeConfig};
use prexorcloud_protocol::{Capabilities, DaemonConfig, DaemonSession, InstanceId, NodeId, Session as _};

pub use facts::{DaemonFacts, Disk};
pub use process::Process;
use process::{Due, End};

use crate::clock::Clock;
use crate::dialect::Plugins;
use crate::world::{World, earlier};

/// The group, and the command, by which an order of a superseded controller is recognised when it is obeyed.
pub(crate) const STALE_MARK: &str = "stale";

/// What a daemon that runs has in memory
#[derive(Clone, Debug)]
struct Running {
    session: DaemonSession,
    node: DaemonNode<Box<Process>>,
    preparing: Vec<(Attempt, Process)>,
    has_finished: bool,
}

/// The host of the daemon
#[derive(Clone, Debug)]
pub struct DaemonHost {
    /// The host's clock.
    pub clock: Clock,
    /// What survives the daemon.
    pub disk: Disk,
    /// What was seen.
    pub facts: DaemonFacts,
    config: DaemonConfig,
    /// Set if the daemon plays a Java daemon.
    plugins: Option<Plugins>,
    running: Option<Running>,
    pub(crate) stream: Option<u32>,
    pub(crate) boots_at: Option<Duration>,
    pub(crate) dials_at: Option<Duration>,
    pub(crate) asleep_until: Duration,
    failures: u32,
}

impl DaemonHost {
    pub(crate) fn new(node: NodeId, is_java: bool, queue: usize) -> Self {
        let mut config = DaemonConfig::new(node, "testkit");
        if is_java {
            config.capabilities = Capabilities::NONE;
        }
        // Small enough that a stalled stream fills them.
        config.bounds.control.messages = queue;
        config.bounds.best_effort.messages = 64;
        Self {
            clock: Clock::new(),
            disk: Disk::default(),
            facts: DaemonFacts::default(),
            config,
            plugins: is_java.then(Plugins::default),
            running: None,
            stream: None,
            boots_at: Some(Duration::ZERO),
            dials_at: None,
            asleep_until: Duration::ZERO,
            failures: 0,
        }
    }

    /// The session, while the daemon runs.
    #[must_use]
    pub fn session(&self) -> Option<&DaemonSession> {
        self.running.as_ref().map(|running| &running.session)
    }

    /// The configuration that the daemon starts with next time.
    pub const fn config_mut(&mut self) -> &mut DaemonConfig {
        &mut self.config
    }

    /// The processes, and behind them what is in the making.
    fn all(&self) -> impl DoubleEndedIterator<Item = &Process> {
        let preparing = self.running.iter().flat_map(|running| &running.preparing);
        self.disk
            .processes
            .iter()
            .chain(preparing.map(|(_, process)| process))
    }

    /// The live process of an instance, the newest if there are several.
    #[must_use]
    pub fn process(&self, instance: InstanceId) -> Option<&Process> {
        self.live().filter(|process| process.instance == instance).last()
    }

    /// The last process of an instance, alive or not.
    #[must_use]
    pub fn last_process(&self, instance: InstanceId) -> Option<&Process> {
        self.all().rev().find(|process| process.instance == instance)
    }

    /// The processes that are alive, or in the making.
    pub fn live(&self) -> impl Iterator<Item = &Process> {
        self.all().filter(|process| process.is_live())
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn is_asleep(&self, now: Duration) -> bool {
        self.asleep_until > now
    }

    fn local(&self, world: &World) -> Instant {
        self.clock.at(world.now)
    }

    /// Acts on the session at the host's time.
    pub(crate) fn with_session<R>(
        &mut self,
        world: &World,
        act: impl FnOnce(&mut DaemonSession, Instant) -> R,
    ) -> Option<R> {
        let now = self.local(world);
        self.running
            .as_mut()
            .map(|running| act(&mut running.session, now))
    }

    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let up = self.is_up();
        let processes = self.all().filter_map(|process| Some(process.next(up)?.0)).min();
        let timers = self.running.iter().flat_map(|running| {
            let session = running.session.poll_timeout().map(|deadline| deadline.at);
            let node = running.node.poll_timeout().map(|deadline| deadline.at);
            session.into_iter().chain(node)
        });
        let timer = timers.min().map(|at| self.clock.moment_of(at));
        earlier(earlier(processes, timer), self.boots_at).map(|at| at.max(self.asleep_until))
    }

    /// Does what is due, and says whether anything was.
    pub(crate) fn handle_wake(&mut self, world: &mut World) -> bool {
        if self.boots_at.is_some_and(|at| at <= world.now) {
            self.boot(world);
            return true;
        }
        let now = self.local(world);
        self.handle_timers(world, now)
            || self.handle_preparations(world, now)
            || self.handle_processes(world, now)
    }

    fn handle_timers(&mut self, world: &mut World, now: Instant) -> bool {
        let Some(Running { session, node, .. }) = &mut self.running else {
            return false;
        };
        if let Some(due) = session.poll_timeout().filter(|due| due.at <= now) {
            world.note(|| format!("daemon timer {:?}", due.timer));
            session.handle_timeout(now);
            let again = session.poll_timeout().filter(|again| again.at <= now);
            self.facts
                .busy_timers
                .extend(again.map(|again| format!("the daemon's {:?}", again.timer)));
            return true;
        }
        if let Some(due) = node.poll_timeout().filter(|due| due.at <= now) {
            world.note(|| format!("daemon timer {:?}", due.timer));
            node.handle_timeout(now);
            let again = node.poll_timeout().filter(|again| again.at <= now);
            self.facts
                .busy_timers
                .extend(again.map(|again| format!("the daemon's {:?}", again.timer)));
            return true;
        }
        false
    }

    fn handle_preparations(&mut self, world: &mut World, now: Instant) -> bool {
        let Some(Running { node, preparing, .. }) = &mut self.running else {
            return false;
        };
        let is_due =
            |(_, process): &(Attempt, Process)| process.next(true).is_some_and(|(at, _)| at <= world.now);
        let Some(index) = preparing.iter().position(is_due) else {
            return false;
        };
        let (attempt, process) = preparing.remove(index);
        match self.disk.preparation_failure(&process) {
            Some(rejection) => {
                world.note(|| format!("{}#{} cannot be prepared", process.instance, process.incarnation));
                node.handle_preparation_failed(now, attempt, rejection);
            }
            None => node.handle_prepared(now, attempt, process.prepared()),
        }
        true
    }

    fn handle_processes(&mut self, world: &mut World, now: Instant) -> bool {
        let up = self.is_up();
        let due = self
            .disk
            .processes
            .iter()
            .enumerate()
            .find_map(|(index, process)| {
                let (at, due) = process.next(up)?;
                (at <= world.now).then_some((index, due))
            });
        let Some((index, due)) = due else { return false };
        let Some(process) = self.disk.processes.get_mut(index) else {
            return false;
        };
        let (instance, incarnation) = (process.instance, process.incarnation);
        let node = self.running.as_mut().map(|running| &mut running.node);
        match due {
            Due::Prepared => {}
            Due::Ready => {
                process.become_ready(world.now);
                world.note(|| format!("{instance}#{incarnation} is ready"));
                match (&mut self.plugins, node) {
                    (Some(plugins), _) => plugins.ready(instance),
                    (None, Some(node)) => node.handle_ready(now, instance, incarnation),
                    (None, None) => {}
                }
            }
            Due::Overdue(reason) => {
                world.note(|| format!("{instance}#{incarnation} is stopped: {reason:?}"));
                process.ask(world.now, prexorcloud_protocol::StopMode::Graceful, reason);
                if let Some(node) = node {
                    node.handle_stopping(now, instance, incarnation, reason);
                }
            }
            Due::Line => {
                process.write_line(world.now);
                self.forward(index);
            }
            Due::Ended(end) => {
                process.end(world.now, end);
                world.note(|| format!("{instance}#{incarnation} ends: {end:?}"));
                if let Some(node) = node {
                    node.handle_exited(now, process.exit(index + 1));
                }
            }
        }
        true
    }

    /// Starts the daemon: what its disk tells is adopted.
    fn boot(&mut self, world: &mut World) {
        world.note(|| "daemon starts");
        self.boots_at = None;
        self.failures = 0;
        let now = self.local(world);
        let fence = EpochFence::new(self.disk.epoch);
        let mut session = DaemonSession::new(self.config.clone(), Hosted::new(), fence);
        let mut node = DaemonNode::new(DaemonNodeConfig::default());
        for (index, process) in self.disk.processes.iter().enumerate() {
            if process.is_settled {
                continue;
            }
            let adopted = session.adopt(HostedInstance {
                instance: process.instance,
                group: process.group,
                incarnation: process.incarnation,
                port: process.port,
                state: process.found(),
            });
            if let Err(reason) = adopted {
                let fault = format!("{} cannot be adopted: {reason}", process.instance);
                self.facts.disbelieved.push(fault);
            }
            node.adopt(now, &process.adopted(world.now));
            if !process.is_live() {
                node.handle_exited(now, process.exit(index + 1));
            }
        }
        self.running = Some(Running {
            session,
            node,
            preparing: Vec::new(),
            has_finished: false,
        });
        self.tell_spooled();
        for index in 0..self.disk.processes.len() {
            self.forward(index);
        }
        self.dials_at = Some(world.now);
    }

    /// `kill -9`: the processes live on, everything in memory is gone.
    pub(crate) fn kill(&mut self, world: &mut World, down_for: Duration) {
        world.note(|| "daemon is killed");
        // Nobody is left to tell.
        self.facts.disconnects = self.facts.connects;
        self.stop_running(world.now + down_for);
    }

    /// The process exits as planned; its service manager starts it again.
    pub(crate) fn leave(&mut self, world: &mut World) {
        self.stop_running(world.now + Duration::from_secs(10));
        world.note(|| "daemon has left");
    }

    fn stop_running(&mut self, boots_at: Duration) {
        self.running = None;
        self.stream = None;
        self.dials_at = None;
        self.boots_at = Some(boots_at);
        self.plugins = self.plugins.take().map(|_| Plugins::default());
    }

    /// Whether nothing keeps the daemon any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stream.is_none() && self.running.as_ref().is_some_and(|running| running.has_finished)
    }

    /// A process ends by itself; says whether there was one.
    pub(crate) fn end_process(&mut self, world: &mut World, instance: InstanceId, crash: bool) -> bool {
        let is_meant = |process: &&mut Process| process.instance == instance && process.is_live();
        let Some(process) = self.disk.processes.iter_mut().rev().find(is_meant) else {
            return false;
        };
        process.end_now(world.now, if crash { End::Crashed } else { End::Exited });
        true
    }

    /// A process writes many lines at once; says whether there was one.
    pub(crate) fn flood(&mut self, instance: InstanceId, lines: u32) -> bool {
        let is_meant = |process: &Process| process.instance == instance && process.is_live();
        let Some(index) = self.disk.processes.iter().rposition(is_meant) else {
            return false;
        };
        if let Some(process) = self.disk.processes.get_mut(index) {
            process.flood(lines);
        }
        self.forward(index);
        true
    }

    /// When the next dial may be made: full jitter, a second at first, a minute at most.
    pub(crate) fn plan_dial(&mut self, world: &mut World) {
        let ceiling = Duration::from_secs(1) * 2_u32.pow(self.failures.min(6));
        self.failures += 1;
        let delay = world
            .rng
            .between(Duration::ZERO, ceiling.min(Duration::from_secs(60)));
        self.dials_at = Some(world.now + delay);
    }

    /// The instances whose plugin has something to say to the controller, past a Java daemon.
    pub(crate) fn ready_instances(&self) -> Vec<InstanceId> {
        let is_running = |instance: InstanceId| {
            self.process(instance)
                .is_some_and(|process| process.state == prexorcloud_protocol::instance::State::Running)
        };
        self.plugins
            .as_ref()
            .map(|plugins| plugins.talking(is_running))
            .unwrap_or_default()
    }
}
