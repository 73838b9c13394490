//! A simulated host with a daemon on it
//!
//! The [`DaemonSession`] is real; what surrounds it is a script. Processes live on when the daemon is killed, as do the
//! things on its disk: the highest epoch, the records of the processes, the spool of crash reports. What the session is
//! told is what a real application would tell it, and every order is carried out without asking whether it makes sense:
//! to refuse nonsense is the session's task, and that it does is what the [invariants](crate::invariants) check.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance, Observed};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{
    ConsoleOutput, CrashReport, NodeStatus, StartFailureDisposition, StartInstance, StartPreparationStage,
    daemon_message,
};
use prexorcloud_protocol::session::daemon::{StartOrder, StartRejection, StatusReport};
use prexorcloud_protocol::{
    Capabilities, DaemonConfig, DaemonEvent, DaemonOutcome, DaemonSession, Deadline, Epoch, Incarnation,
    InstanceId, NodeId, Session as _, StopMode,
};

pub use process::Process;
use process::{Due, End};

use crate::behaviour::Behaviour;
use crate::clock::Clock;
use crate::world::{World, earlier};

/// What survives `kill -9`
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The highest epoch that was obeyed.
    pub epoch: Epoch,
    /// Every process that was ever begun, in that order.
    pub processes: Vec<Process>,
    /// Crash reports that no controller has confirmed, by their id.
    pub spool: BTreeMap<String, CrashReport>,
    attempts: BTreeMap<(InstanceId, Incarnation), u32>,
}

/// What the host remembers for the invariants
#[derive(Clone, Debug, Default)]
pub struct DaemonFacts {
    /// Every process that was launched, in order.
    pub launches: Vec<(InstanceId, Incarnation)>,
    /// Every crash report that was written.
    pub crashes: Vec<CrashReport>,
    /// The reports that the daemon was told to forget.
    pub forgotten: Vec<String>,
    /// How often a stream was opened.
    pub connects: u64,
    /// How often the end of a stream was told.
    pub disconnects: u64,
    /// How the last stream ended.
    pub last_outcome: Option<DaemonOutcome>,
    /// The commands that reached a process.
    pub commands: Vec<(InstanceId, String)>,
    /// Orders that were carried out although a newer controller had been obeyed before.
    pub obeyed_stale: Vec<String>,
    /// The stops that were ordered.
    pub stops: Vec<(InstanceId, Incarnation)>,
    /// How many mistakes of the controller were ignored.
    pub ignored: u64,
    /// Reports of the supervisor that the session did not believe.
    pub disbelieved: Vec<String>,
    /// Sessions that wanted to be woken at a moment that had passed, right after they were woken.
    pub busy_timers: Vec<String>,
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
    is_java: bool,
    session: Option<DaemonSession>,
    pub(crate) stream: Option<u32>,
    pub(crate) boots_at: Option<Duration>,
    pub(crate) dials_at: Option<Duration>,
    pub(crate) asleep_until: Duration,
    failures: u32,
    shutting_down: bool,
    ready: Vec<InstanceId>,
    handed_over: BTreeSet<String>,
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
            is_java,
            session: None,
            stream: None,
            boots_at: Some(Duration::ZERO),
            dials_at: None,
            asleep_until: Duration::ZERO,
            failures: 0,
            shutting_down: false,
            ready: Vec::new(),
            handed_over: BTreeSet::new(),
        }
    }

    /// The session, while the daemon runs.
    #[must_use]
    pub const fn session(&self) -> Option<&DaemonSession> {
        self.session.as_ref()
    }

    /// The configuration that the daemon starts with next time.
    pub const fn config_mut(&mut self) -> &mut DaemonConfig {
        &mut self.config
    }

    /// The live process of an instance, the newest if there are several.
    #[must_use]
    pub fn process(&self, instance: InstanceId) -> Option<&Process> {
        self.disk
            .processes
            .iter()
            .rev()
            .find(|process| process.instance == instance && process.is_live())
    }

    /// The last process of an instance, alive or not.
    #[must_use]
    pub fn last_process(&self, instance: InstanceId) -> Option<&Process> {
        self.disk
            .processes
            .iter()
            .rev()
            .find(|process| process.instance == instance)
    }

    /// The processes that are alive, or in the making.
    pub fn live(&self) -> impl Iterator<Item = &Process> {
        self.disk.processes.iter().filter(|process| process.is_live())
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.session.is_some()
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
        self.session.as_mut().map(|session| act(session, now))
    }

    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let up = self.is_up();
        let processes = self
            .disk
            .processes
            .iter()
            .filter_map(|process| Some(process.next(up)?.0))
            .min();
        let timer = self.session.as_ref().and_then(|session| session.poll_timeout());
        let timer = timer.map(|Deadline { at, .. }| self.clock.moment_of(at));
        earlier(earlier(processes, timer), self.boots_at).map(|at| at.max(self.asleep_until))
    }

    /// Does what is due, and says whether anything was.
    pub(crate) fn handle_wake(&mut self, world: &mut World) -> bool {
        if self.boots_at.is_some_and(|at| at <= world.now) {
            self.boot(world);
            return true;
        }
        let now = self.local(world);
        if let Some(session) = &mut self.session
            && let Some(Deadline { at, timer }) = session.poll_timeout()
            && at <= now
        {
            world.note(|| format!("daemon timer {timer:?}"));
            session.handle_timeout(now);
            if let Some(again) = session.poll_timeout().filter(|again| again.at <= now) {
                self.facts
                    .busy_timers
                    .push(format!("the daemon's {:?}", again.timer));
            }
            return true;
        }
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
        match due {
            Some((index, due)) => self.handle_process(world, index, due),
            None => return false,
        }
        true
    }

    fn boot(&mut self, world: &mut World) {
        world.note(|| "daemon starts");
        self.boots_at = None;
        self.failures = 0;
        let mut session = DaemonSession::new(
            self.config.clone(),
            Hosted::new(),
            EpochFence::new(self.disk.epoch),
        );
        let mut latest: BTreeMap<InstanceId, &Process> = BTreeMap::new();
        for process in &self.disk.processes {
            latest.insert(process.instance, process);
        }
        for process in latest.values() {
            let adopted = session.adopt(HostedInstance {
                instance: process.instance,
                group: process.group,
                incarnation: process.incarnation,
                port: process.port,
                state: process.state,
            });
            if let Err(reason) = adopted {
                self.facts
                    .disbelieved
                    .push(format!("{} cannot be adopted: {reason}", process.instance));
            }
        }
        self.session = Some(session);
        self.handed_over.clear();
        self.hand_over();
        for index in 0..self.disk.processes.len() {
            self.forward(index);
        }
        self.dials_at = Some(world.now);
    }

    /// `kill -9`: the processes live on, everything in memory is gone.
    pub(crate) fn kill(&mut self, world: &mut World, down_for: Duration) {
        world.note(|| "daemon is killed");
        if self.session.take().is_some() && self.facts.connects > self.facts.disconnects {
            // Nobody is left to tell.
            self.facts.disconnects = self.facts.connects;
        }
        self.stream = None;
        self.dials_at = None;
        self.boots_at = Some(world.now + down_for);
        self.shutting_down = false;
        self.ready.clear();
        self.disk
            .processes
            .retain(|process| process.launched.is_some() || !process.is_live());
    }

    fn handle_process(&mut self, world: &mut World, index: usize, due: Due) {
        let Some(process) = self.disk.processes.get_mut(index) else {
            return;
        };
        let (instance, incarnation) = (process.instance, process.incarnation);
        match due {
            Due::Prepared => self.prepared(world, index),
            Due::Ready => {
                process.become_ready(world.now);
                world.note(|| format!("{instance}#{incarnation} is ready"));
                if self.is_java {
                    self.ready.push(instance);
                } else {
                    self.report(world, index);
                }
            }
            Due::Line => {
                process.write_line(world.now);
                self.forward(index);
            }
            Due::Ended(end) => self.ended(world, index, end),
        }
    }

    fn prepared(&mut self, world: &mut World, index: usize) {
        let Some(process) = self.disk.processes.get_mut(index) else {
            return;
        };
        let (instance, incarnation, behaviour) = (process.instance, process.incarnation, process.behaviour);
        let attempt = self.disk.attempts.entry((instance, incarnation)).or_default();
        *attempt += 1;
        if behaviour.refuse || *attempt <= behaviour.transient_failures {
            let disposition = match behaviour.refuse {
                true => StartFailureDisposition::Permanent,
                false => StartFailureDisposition::Transient,
            };
            world.note(|| format!("{instance}#{incarnation} cannot be prepared"));
            self.disk.processes.remove(index);
            if let Some(session) = &mut self.session {
                let rejection = StartRejection {
                    stage: StartPreparationStage::RuntimeProvision,
                    error_code: "RUNTIME_PROVISION_FAILED".to_owned(),
                    message: "the script says so".to_owned(),
                    disposition,
                    retry_after: Duration::from_secs(2),
                    plan_hash: String::new(),
                };
                session.start_rejected(instance, incarnation, rejection);
            }
            return;
        }
        process.launch(world.now);
        world.note(|| format!("{instance}#{incarnation} is launched"));
        self.facts.launches.push((instance, incarnation));
        if let Some(session) = &mut self.session {
            session.start_accepted(instance, incarnation, "");
        }
        self.report(world, index);
    }

    fn ended(&mut self, world: &mut World, index: usize, end: End) {
        let Some(process) = self.disk.processes.get_mut(index) else {
            return;
        };
        let (instance, incarnation) = (process.instance, process.incarnation);
        let uptime = process.uptime(world.now);
        let crashed = end == End::Crashed && process.asked.is_none();
        process.end(world.now, if crashed { State::Crashed } else { State::Stopped });
        world.note(|| format!("{instance}#{incarnation} ends: {end:?}"));
        let asked = process.asked.is_some();
        if crashed {
            let report = CrashReport {
                instance_id: instance.into(),
                group: process.group.into(),
                exit_code: 134,
                log_tail: vec!["it fell over".to_owned()],
                uptime_ms: i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX),
                incarnation: incarnation.get(),
                report_id: format!("crash-{}", self.facts.crashes.len() + 1),
            };
            self.facts.crashes.push(report.clone());
            self.disk.spool.insert(report.report_id.clone(), report);
            self.hand_over();
        }
        if asked
            && self.is_java
            && let Some(session) = &mut self.session
        {
            session.stop_acknowledged(instance, incarnation, Ok(()));
        }
        self.report(world, index);
        self.leave_when_empty(world);
    }

    /// Gives the session every report that it has not taken yet; what it refuses now it takes after an
    /// acknowledgement.
    fn hand_over(&mut self) {
        let Some(session) = &mut self.session else { return };
        for (id, report) in &self.disk.spool {
            if !self.handed_over.contains(id) && session.crash(report.clone()).is_ok() {
                self.handed_over.insert(id.clone());
            }
        }
    }

    fn report(&mut self, world: &mut World, index: usize) {
        let Some(process) = self.disk.processes.get(index) else {
            return;
        };
        let report = StatusReport {
            instance: process.instance,
            incarnation: process.incarnation,
            state: process.state,
            player_count: 0,
            uptime: process.uptime(world.now),
        };
        if let Some(session) = &mut self.session {
            let observed = session.report(&report);
            let StatusReport {
                instance,
                incarnation,
                state,
                ..
            } = report;
            world.note(|| format!("daemon reports {instance}#{incarnation} {state}: {observed:?}"));
            if !matches!(observed, Observed::Changed { .. } | Observed::Unchanged) {
                self.facts
                    .disbelieved
                    .push(format!("{instance}#{incarnation} {state}: {observed:?}"));
            }
        }
    }

    /// Hands new console lines to the session.
    fn forward(&mut self, index: usize) {
        let (Some(process), Some(session)) = (self.disk.processes.get_mut(index), &mut self.session) else {
            return;
        };
        while process.forwarded < process.written {
            process.forwarded += 1;
            session.console(ConsoleOutput {
                instance_id: process.instance.into(),
                line: format!("line {}", process.forwarded),
                timestamp_ms: 0,
                incarnation: process.incarnation.get(),
                sequence: process.forwarded,
            });
        }
    }

    /// Carries out what the session says; `epoch` is that of the controller at the other end.
    pub(crate) fn handle_events(&mut self, world: &mut World, epoch: Option<Epoch>) -> bool {
        let mut any = false;
        while let Some(event) = self.session.as_mut().and_then(|session| session.poll_event()) {
            any = true;
            self.handle_event(world, event, epoch);
        }
        any
    }

    fn handle_event(&mut self, world: &mut World, event: DaemonEvent, epoch: Option<Epoch>) {
        let order = matches!(
            event,
            DaemonEvent::Start(_)
                | DaemonEvent::Stop { .. }
                | DaemonEvent::Command { .. }
                | DaemonEvent::Request(_)
        );
        if order && epoch.is_some_and(|epoch| epoch.is_fenced() && epoch < self.disk.epoch) {
            self.facts.obeyed_stale.push(format!("{event:?}"));
        }
        match event {
            DaemonEvent::Start(order) => self.start(world, order),
            DaemonEvent::Stop {
                instance,
                incarnation,
                mode,
                ..
            } => self.stop(world, instance, incarnation, mode),
            DaemonEvent::Command { instance, line, .. } => {
                world.note(|| format!("{instance} is told: {line}"));
                if line == STALE_MARK {
                    self.facts.obeyed_stale.push(format!("a command to {instance}"));
                }
                self.facts.commands.push((instance, line));
            }
            DaemonEvent::CrashReportAcknowledged { report_id } => {
                world.note(|| format!("daemon forgets {report_id}"));
                self.disk.spool.remove(&report_id);
                self.facts.forgotten.push(report_id);
                self.hand_over();
            }
            DaemonEvent::FenceRaised(epoch) => {
                world.note(|| format!("daemon obeys epoch {epoch} from now on"));
                self.disk.epoch = epoch;
            }
            DaemonEvent::NodeStatusDue => {
                if let Some(session) = &mut self.session {
                    let status = NodeStatus {
                        total_memory_mb: 1024,
                        ..Default::default()
                    };
                    let _ = session.send(daemon_message::Payload::NodeStatus(status));
                }
            }
            DaemonEvent::Connected(_) => {
                world.note(|| "daemon is connected");
                self.failures = 0;
            }
            DaemonEvent::Disconnected(outcome) => {
                world.note(|| format!("daemon is disconnected: {outcome}"));
                self.facts.disconnects += 1;
                if outcome.reached_established() {
                    self.failures = 0;
                }
                self.facts.last_outcome = Some(outcome);
            }
            DaemonEvent::Ignored(anomaly) => {
                world.note(|| format!("daemon ignores: {anomaly}"));
                self.facts.ignored += 1;
            }
            DaemonEvent::Shutdown { reason } => self.shut_down(world, &reason),
            other => world.note(|| format!("daemon hears {other:?}")),
        }
    }

    fn start(&mut self, world: &mut World, order: StartOrder) {
        let StartOrder {
            instance,
            group,
            incarnation,
            start,
            ..
        } = order;
        let StartInstance {
            jar_file,
            port,
            shutdown_grace_seconds,
            ..
        } = *start;
        if group.as_str() == STALE_MARK {
            self.facts.obeyed_stale.push(format!("a start of {instance}"));
        }
        if self.shutting_down
            && let Some(session) = &mut self.session
        {
            let rejection = StartRejection {
                stage: StartPreparationStage::Validation,
                error_code: "NODE_SHUTTING_DOWN".to_owned(),
                message: "this node is shutting down".to_owned(),
                disposition: StartFailureDisposition::Transient,
                retry_after: Duration::from_secs(30),
                plan_hash: String::new(),
            };
            session.start_rejected(instance, incarnation, rejection);
            return;
        }
        let mut behaviour: Behaviour = jar_file.parse().unwrap_or_default();
        behaviour.grace_seconds = shutdown_grace_seconds;
        world.note(|| format!("daemon prepares {instance}#{incarnation} ({behaviour})"));
        let port = u16::try_from(port).unwrap_or_default();
        self.disk.processes.push(Process::new(
            world.now,
            (instance, group, incarnation),
            port,
            behaviour,
        ));
        self.report(world, self.disk.processes.len() - 1);
    }

    fn stop(&mut self, world: &mut World, instance: InstanceId, incarnation: Incarnation, mode: StopMode) {
        world.note(|| format!("daemon stops {instance}#{incarnation} ({mode:?})"));
        self.facts.stops.push((instance, incarnation));
        let is_meant = |process: &Process| {
            process.instance == instance && process.incarnation == incarnation && process.is_live()
        };
        let index = self.disk.processes.iter().rposition(is_meant);
        let Some(session) = &mut self.session else { return };
        let Some((index, process)) =
            index.and_then(|index| Some((index, self.disk.processes.get_mut(index)?)))
        else {
            session.stop_acknowledged(instance, incarnation, Err("no such process".to_owned()));
            return;
        };
        if !self.is_java || process.launched.is_none() {
            session.stop_acknowledged(instance, incarnation, Ok(()));
        }
        let in_preparation = process.launched.is_none();
        process.ask(world.now, mode);
        self.report(world, index);
        if in_preparation {
            self.ended(world, index, End::Obeyed);
        }
    }

    fn shut_down(&mut self, world: &mut World, reason: &str) {
        world.note(|| format!("daemon is to shut down: {reason}"));
        self.shutting_down = true;
        let live: Vec<usize> = self
            .disk
            .processes
            .iter()
            .enumerate()
            .filter(|(_, p)| p.is_live())
            .map(|(index, _)| index)
            .collect();
        if let Some(session) = &mut self.session {
            session.acknowledge_shutdown(live.len() as u32, Duration::from_secs(40));
        }
        let mut in_preparation = Vec::new();
        for index in live {
            let Some(process) = self.disk.processes.get_mut(index) else {
                continue;
            };
            if process.launched.is_none() {
                in_preparation.push(index);
            }
            process.ask(world.now, StopMode::Graceful);
            self.report(world, index);
        }
        for index in in_preparation {
            self.ended(world, index, End::Obeyed);
        }
        self.leave_when_empty(world);
    }

    /// Ends the session as soon as nothing runs any more.
    fn leave_when_empty(&mut self, world: &mut World) {
        if self.shutting_down
            && self.live().next().is_none()
            && let Some(session) = &mut self.session
        {
            world.note(|| "daemon shuts down");
            session.shut_down();
            if self.stream.is_none() {
                self.leave(world);
            }
        }
    }

    /// The process exits as planned; its service manager starts it again.
    pub(crate) fn leave(&mut self, world: &mut World) {
        self.shutting_down = false;
        self.session = None;
        self.dials_at = None;
        self.ready.clear();
        self.boots_at = Some(world.now + Duration::from_secs(10));
        world.note(|| "daemon has left");
    }

    /// Whether nothing keeps the daemon any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.shutting_down && self.live().next().is_none() && self.stream.is_none() && self.is_up()
    }

    /// A process ends by itself; says whether there was one.
    pub(crate) fn end_process(&mut self, world: &mut World, instance: InstanceId, crash: bool) -> bool {
        let running = |process: &&mut Process| {
            process.instance == instance && process.is_live() && process.launched.is_some()
        };
        let Some(process) = self.disk.processes.iter_mut().rev().find(running) else {
            return false;
        };
        process.end_now(world.now, if crash { End::Crashed } else { End::Exited });
        true
    }

    /// A process writes many lines at once.
    pub(crate) fn flood(&mut self, instance: InstanceId, lines: u32) {
        let running = |process: &Process| {
            process.instance == instance && process.is_live() && process.launched.is_some()
        };
        if let Some(index) = self.disk.processes.iter().rposition(running) {
            if let Some(process) = self.disk.processes.get_mut(index) {
                process.flood(lines);
            }
            self.forward(index);
        }
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

    /// The instances whose plugin has something to say to the controller, past the daemon.
    pub(crate) fn ready_instances(&self) -> Vec<InstanceId> {
        let running =
            |instance: &InstanceId| self.process(*instance).is_some_and(|p| p.state == State::Running);
        self.ready.iter().copied().filter(running).collect()
    }
}

/// The group, and the command, by which an order of a superseded controller is recognised when it is obeyed.
pub(crate) const STALE_MARK: &str = "stale";
