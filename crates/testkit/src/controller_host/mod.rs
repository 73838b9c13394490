//! A simulated controller around real [`ControllerSession`]s
//!
//! One session per stream; the newest admitted one holds the roster, and while there is none the host holds it. Every
//! effect waits for the commit of its record, and a controller that is killed loses what was not committed. A deposed
//! controller keeps its sessions and its memory, but the store takes nothing from it any more.

mod orders;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use prexorcloud_protocol::handshake::controller::Hello;
use prexorcloud_protocol::instance::{Cause, Desired, State};
use prexorcloud_protocol::proto::{ConsoleOutput, CrashReport, StartInstance};
use prexorcloud_protocol::reconcile::GroupPolicy;
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::session::controller::{AcceptError, Admission, ControllerOutcome};
use prexorcloud_protocol::{
    Capabilities, Close, Code, ControllerConfig, ControllerEvent, ControllerSession, Deadline, Epoch,
    Incarnation, InstanceId, NodeId, Session as _, StopMode, Verdict,
};

pub use store::{Record, Store};

use crate::clock::Clock;
use crate::world::{World, earlier};

/// What the host remembers for the invariants
#[derive(Clone, Debug, Default)]
pub struct ControllerFacts {
    /// How each stream of this controller ended, as its session told it.
    pub closed: BTreeMap<u32, Vec<ControllerOutcome>>,
    /// The last console line of each incarnation.
    pub console: BTreeMap<(String, u64), u64>,
    /// Console lines that came out of order or with another line's text, and gaps that were not counted right.
    pub console_faults: Vec<String>,
    /// How many console lines arrived.
    pub console_lines: u64,
    /// How many gap records arrived.
    pub gap_records: u64,
    /// How often the node was found unreachable.
    pub unreachable: u64,
    /// How often it answered again.
    pub recovered: u64,
    /// Sessions that wanted to be woken at a moment that had passed, right after they were woken.
    pub busy_timers: Vec<String>,
    /// Starts that the roster denied although the application had checked.
    pub denied: Vec<String>,
    /// The incarnations that this controller has reason to stop.
    pub may_stop: BTreeSet<(InstanceId, Incarnation)>,
    /// News of an unreachable node that was unreachable already, and the like.
    pub heartbeat_faults: Vec<String>,
    /// Errors that the daemon reported, by code.
    pub daemon_errors: BTreeMap<String, u64>,
    /// What the sessions ignored.
    pub ignored: Vec<String>,
}

#[derive(Clone, Debug)]
enum Commit {
    Start(Box<StartInstance>),
    Stop(InstanceId, StopMode),
    Forget(InstanceId),
    /// With what is wanted of the instance since; a start that took too long is a wish to kill.
    Event(InstanceEvent, Option<Desired>),
    Crash(Box<CrashReport>, u32),
}

#[derive(Clone, Debug)]
struct Greeting {
    due: Duration,
    stream: u32,
    hello: Box<Hello>,
}

/// The host of a controller
#[derive(Clone, Debug)]
pub struct ControllerHost {
    /// Its name in the log.
    pub name: String,
    /// The host's clock.
    pub clock: Clock,
    /// The epoch of its leadership.
    pub epoch: Epoch,
    /// Another controller leads.
    pub deposed: bool,
    /// What was seen.
    pub facts: ControllerFacts,
    config: ControllerConfig,
    is_java_daemon: bool,
    node: NodeId,
    pub(crate) sessions: BTreeMap<u32, ControllerSession>,
    current: Option<u32>,
    parked: Option<Roster>,
    greetings: Vec<Greeting>,
    commits: VecDeque<(Duration, Commit)>,
    pub(crate) boots_at: Option<Duration>,
    pub(crate) asleep_until: Duration,
    pub(crate) redirects: bool,
    pub(crate) admission_delay: Option<Duration>,
    unreachable: BTreeSet<u32>,
    pub(crate) commit_delay: Duration,
    pub(crate) adopts_unknown: bool,
}

impl ControllerHost {
    pub(crate) fn new(
        name: String,
        node: NodeId,
        heartbeat: Duration,
        queue: usize,
        boots_at: Duration,
    ) -> Self {
        let mut config = ControllerConfig::default();
        config.heartbeat.interval = heartbeat;
        // Small enough that a stalled stream fills them.
        config.bounds.control.messages = queue;
        Self {
            name,
            clock: Clock::new(),
            epoch: Epoch::UNFENCED,
            deposed: false,
            facts: ControllerFacts::default(),
            config,
            is_java_daemon: false,
            node,
            sessions: BTreeMap::new(),
            current: None,
            parked: None,
            greetings: Vec::new(),
            commits: VecDeque::new(),
            boots_at: Some(boots_at),
            asleep_until: Duration::ZERO,
            redirects: false,
            admission_delay: None,
            unreachable: BTreeSet::new(),
            commit_delay: Duration::from_millis(5),
            adopts_unknown: true,
        }
    }

    pub(crate) fn play_java(&mut self) {
        self.config.capabilities = Capabilities::NONE;
    }

    pub(crate) fn expect_java(&mut self) {
        self.is_java_daemon = true;
    }

    /// Whether the controller runs.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.boots_at.is_none()
    }

    pub(crate) fn is_asleep(&self, now: Duration) -> bool {
        self.asleep_until > now
    }

    /// What the controller knows of the node's instances.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.session()
            .and_then(ControllerSession::roster)
            .or(self.parked.as_ref())
    }

    /// The roster, while no session holds it.
    #[must_use]
    pub const fn parked(&self) -> Option<&Roster> {
        self.parked.as_ref()
    }

    /// The session that holds the roster.
    #[must_use]
    pub fn session(&self) -> Option<&ControllerSession> {
        self.current.and_then(|stream| self.sessions.get(&stream))
    }

    /// The session of a stream.
    #[must_use]
    pub fn session_of(&self, stream: u32) -> Option<&ControllerSession> {
        self.sessions.get(&stream)
    }

    /// Whether nothing waits for a commit or an admission.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.commits.is_empty() && self.greetings.is_empty()
    }

    fn local(&self, world: &World) -> Instant {
        self.clock.at(world.now)
    }

    pub(crate) fn open(&mut self, world: &World, stream: u32) {
        let mut session = ControllerSession::new(self.config.clone(), self.node, u64::from(stream));
        session.handle_connected(self.local(world));
        self.sessions.insert(stream, session);
    }

    pub(crate) fn kill(&mut self, world: &mut World, down_for: Duration) {
        world.note(|| format!("{} is killed", self.name));
        for stream in self.sessions.keys() {
            let told = self.facts.closed.entry(*stream).or_default();
            if told.is_empty() {
                // Nobody is left to tell.
                told.push(ControllerOutcome::StreamEnded);
            }
        }
        self.sessions.clear();
        self.current = None;
        self.parked = None;
        self.greetings.clear();
        self.commits.clear();
        self.boots_at = Some(world.now + down_for);
    }

    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let moment = |deadline: Option<Instant>| deadline.map(|at| self.clock.moment_of(at));
        let sessions = self
            .sessions
            .values()
            .filter_map(|session| moment(session.poll_timeout().map(|d| d.at)))
            .min();
        let parked = moment(
            self.parked
                .as_ref()
                .and_then(|roster| roster.poll_timeout())
                .map(|d| d.at),
        );
        let greetings = self.greetings.iter().map(|greeting| greeting.due).min();
        let commits = self.commits.front().map(|(due, _)| *due);
        [sessions, parked, greetings, commits, self.boots_at]
            .into_iter()
            .fold(None, earlier)
            .map(|at| at.max(self.asleep_until))
    }

    /// Does what is due, and says whether anything was.
    pub(crate) fn handle_wake(&mut self, world: &mut World, store: &mut Store) -> bool {
        if self.boots_at.is_some_and(|at| at <= world.now) {
            self.boot(world, store);
            return true;
        }
        let now = self.local(world);
        for (stream, session) in &mut self.sessions {
            if let Some(Deadline { at, timer }) = session.poll_timeout()
                && at <= now
            {
                world.note(|| format!("{} timer {timer:?} of stream {stream}", self.name));
                session.handle_timeout(now);
                if let Some(again) = session.poll_timeout().filter(|again| again.at <= now) {
                    self.facts
                        .busy_timers
                        .push(format!("{}'s {:?}", self.name, again.timer));
                }
                return true;
            }
        }
        if let Some(roster) = &mut self.parked
            && let Some(Deadline { at, timer }) = roster.poll_timeout()
            && at <= now
        {
            world.note(|| format!("{} timer {timer:?} without a stream", self.name));
            roster.handle_timeout(now);
            if let Some(again) = roster.poll_timeout().filter(|again| again.at <= now) {
                self.facts
                    .busy_timers
                    .push(format!("{}'s {:?}", self.name, again.timer));
            }
            return true;
        }
        if let Some(index) = self
            .greetings
            .iter()
            .position(|greeting| greeting.due <= world.now)
        {
            let Greeting { stream, hello, .. } = self.greetings.remove(index);
            self.answer(world, stream, hello);
            return true;
        }
        if self.commits.front().is_some_and(|(due, _)| *due <= world.now) {
            if let Some((_, commit)) = self.commits.pop_front() {
                self.committed(world, store, commit);
            }
            return true;
        }
        false
    }

    fn boot(&mut self, world: &mut World, store: &mut Store) {
        self.boots_at = None;
        if !self.deposed {
            store.epoch = Epoch::new(store.epoch.get() + 1);
            self.epoch = store.epoch;
        }
        world.note(|| format!("{} starts, epoch {}", self.name, self.epoch));
        let mut roster = Roster::new(self.node);
        let refused = roster.restore(self.local(world), store.entries());
        self.facts.denied.extend(
            refused
                .into_iter()
                .map(|(entry, reason)| format!("restore {entry:?}: {reason}")),
        );
        self.parked = Some(roster);
    }

    fn answer(&mut self, world: &mut World, stream: u32, hello: Box<Hello>) {
        let now = self.local(world);
        if std::mem::take(&mut self.redirects) {
            if let Some(session) = self.sessions.get_mut(&stream) {
                session.redirect("leader.example:9090".to_owned(), Vec::new());
            }
            return;
        }
        let is_open = self
            .sessions
            .get(&stream)
            .is_some_and(ControllerSession::is_awaiting_admission);
        let is_older = self.roster().is_some_and(|roster| !roster.admits(&hello.stream));
        if !is_open || is_older {
            // Neither may cost a live session its place.
            if let Some(session) = self.sessions.get_mut(&stream) {
                session.close_with(Close::new(Code::Aborted, AcceptError::Superseded.to_string()));
            }
            return;
        }
        let replaced = self.current.take().filter(|current| *current != stream);
        let roster = replaced.and_then(|current| self.sessions.get_mut(&current)?.replace());
        let Some(roster) = roster.or_else(|| self.parked.take()) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&stream) else {
            self.parked = Some(roster);
            return;
        };
        let admission = Admission {
            session_id: format!("{}/{stream}", self.name),
            epoch: self.epoch,
            groups: if self.adopts_unknown {
                GroupPolicy::AdoptAny
            } else {
                GroupPolicy::Only(Vec::new())
            },
            ..Default::default()
        };
        match session.accept(now, hello, admission, roster) {
            Ok(()) => self.current = Some(stream),
            Err(refused) => self.parked = Some(refused.roster),
        }
    }

    /// Carries out what the sessions say.
    pub(crate) fn handle_events(&mut self, world: &mut World) -> bool {
        let mut any = false;
        let streams: Vec<u32> = self.sessions.keys().copied().collect();
        for stream in streams {
            while let Some(event) = self
                .sessions
                .get_mut(&stream)
                .and_then(|session| session.poll_event())
            {
                any = true;
                self.handle_event(world, stream, event);
            }
        }
        while let Some(event) = self.parked.as_mut().and_then(Roster::poll_event) {
            any = true;
            self.handle_instance(world, event);
        }
        if self.commits.is_empty()
            && !self.deposed
            && let Some(session) = self.current.and_then(|stream| self.sessions.get_mut(&stream))
        {
            session.all_stored();
        }
        any
    }

    fn handle_event(&mut self, world: &mut World, stream: u32, event: ControllerEvent) {
        match event {
            ControllerEvent::Hello(hello) => {
                let usual = world.rng.between(Duration::ZERO, Duration::from_millis(20));
                let due = world.now + self.admission_delay.take().unwrap_or(usual);
                self.greetings.push(Greeting { due, stream, hello });
            }
            ControllerEvent::Instance(event) => self.handle_instance(world, event),
            ControllerEvent::Console(output) => self.handle_console(&output),
            ControllerEvent::Crash { report, standing } => {
                world.note(|| format!("{} hears of {} ({standing:?})", self.name, report.report_id));
                self.commit(world, Commit::Crash(report, stream));
            }
            ControllerEvent::Unreachable { missed, .. } => {
                world.note(|| format!("{}: the node is unreachable, {missed} missed", self.name));
                self.facts.unreachable += 1;
                if !self.unreachable.insert(stream) {
                    self.facts
                        .heartbeat_faults
                        .push(format!("stream {stream} is unreachable twice"));
                }
            }
            ControllerEvent::Recovered { .. } => {
                world.note(|| format!("{}: the node has recovered", self.name));
                self.facts.recovered += 1;
                if !self.unreachable.remove(&stream) {
                    self.facts
                        .heartbeat_faults
                        .push(format!("stream {stream} recovers from nothing"));
                }
            }
            ControllerEvent::Ignored(anomaly) => {
                world.note(|| format!("{} ignores: {anomaly}", self.name));
                self.facts.ignored.push(anomaly.to_string());
            }
            ControllerEvent::DaemonError(report) => {
                *self.facts.daemon_errors.entry(report.error_code).or_default() += 1;
            }
            ControllerEvent::Closed(outcome) => {
                world.note(|| format!("{}: stream {stream} is closed: {outcome}", self.name));
                self.facts.closed.entry(stream).or_default().push(outcome);
                if let Some(roster) = self
                    .sessions
                    .get_mut(&stream)
                    .and_then(ControllerSession::take_roster)
                {
                    self.parked = Some(roster);
                }
                if self.current == Some(stream) {
                    self.current = None;
                }
            }
            ControllerEvent::Established => {
                world.note(|| format!("{}: stream {stream} is established", self.name))
            }
            _ => {}
        }
    }

    fn handle_instance(&mut self, world: &mut World, event: InstanceEvent) {
        match &event {
            InstanceEvent::Changed {
                instance,
                incarnation,
                from,
                to,
                cause,
                ..
            } => {
                world.note(|| {
                    format!(
                        "{}: {instance}#{incarnation} {from} -> {to} ({cause:?})",
                        self.name
                    )
                });
            }
            other => world.note(|| format!("{}: {other:?}", self.name)),
        }
        if let InstanceEvent::StartupTimedOut {
            instance,
            incarnation,
            ..
        }
        | InstanceEvent::LifetimeOver {
            instance,
            incarnation,
        }
        | InstanceEvent::StopOverdue {
            instance,
            incarnation,
            ..
        }
        | InstanceEvent::OrphanStopped {
            instance,
            incarnation,
            ..
        } = &event
        {
            self.facts.may_stop.insert((*instance, *incarnation));
        }
        let desired = match &event {
            InstanceEvent::Changed {
                instance,
                incarnation,
                ..
            } => self
                .roster()
                .and_then(|roster| roster.get(*instance))
                .filter(|known| known.incarnation() == *incarnation)
                .map(|known| known.desired()),
            _ => None,
        };
        self.commit(world, Commit::Event(event, desired));
    }

    fn handle_console(&mut self, output: &ConsoleOutput) {
        let ConsoleOutput {
            instance_id,
            incarnation,
            sequence,
            line,
            ..
        } = output;
        self.facts.console_lines += 1;
        if *sequence == 0 {
            return;
        }
        let last = self
            .facts
            .console
            .entry((instance_id.clone(), *incarnation))
            .or_default();
        let lost = line
            .strip_prefix("[prexorcloud] ")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let fault = match lost {
            _ if *sequence <= *last => Some(format!("line {sequence} after line {last}")),
            Some(lost) if lost > *sequence - *last => {
                Some(format!("{lost} lost between line {last} and {sequence}"))
            }
            Some(_) => None,
            None if *line != format!("line {sequence}") => Some(format!("line {sequence} reads {line:?}")),
            None => None,
        };
        self.facts.gap_records += u64::from(lost.is_some());
        *last = *sequence;
        if let Some(fault) = fault {
            self.facts
                .console_faults
                .push(format!("{instance_id}#{incarnation}: {fault}"));
        }
    }

    fn commit(&mut self, world: &mut World, commit: Commit) {
        let due = world.now + world.rng.between(Duration::ZERO, self.commit_delay);
        let due = self.commits.back().map_or(due, |(last, _)| due.max(*last));
        self.commits.push_back((due, commit));
    }

    fn committed(&mut self, world: &mut World, store: &mut Store, commit: Commit) {
        if self.deposed {
            // The store takes nothing from a deposed leader, and what is not stored is not acted upon.
            return;
        }
        let now = self.local(world);
        match commit {
            Commit::Start(start) => self.start_stored(world, store, start),
            Commit::Stop(instance, mode) => {
                self.may_stop(instance);
                if let Some(record) = store.records.get_mut(&instance) {
                    record.desired = record.desired.max(Desired::from(mode));
                }
                let verdict = self.order(
                    |session| session.stop(now, instance, mode),
                    |roster| roster.stop(now, instance, mode),
                );
                world.note(|| format!("{} stops {instance} ({mode:?}): {verdict:?}", self.name));
            }
            Commit::Forget(instance) => {
                let verdict = self.order(
                    |session| session.forget(instance),
                    |roster| roster.forget(instance),
                );
                if verdict == Some(Verdict::Accepted)
                    && let Some(record) = store.records.remove(&instance)
                {
                    store
                        .ended
                        .remove(&(instance, Incarnation::new(record.start.incarnation)));
                }
            }
            Commit::Event(event, desired) => Self::event_stored(store, event, desired),
            Commit::Crash(report, stream) => {
                let mut id = report.report_id.clone();
                if id.is_empty() {
                    id = format!("java-{}", store.crashes.len() + 1);
                }
                store.crashes.entry(id.clone()).or_insert(*report);
                if let Some(session) = self.sessions.get_mut(&stream) {
                    session.crash_stored(&id);
                }
            }
        }
    }

    fn start_stored(&mut self, world: &mut World, store: &mut Store, start: Box<StartInstance>) {
        let now = self.local(world);
        let Ok(instance) = InstanceId::new(&start.instance_id) else {
            return;
        };
        let incarnation = start.incarnation;
        let record = Record {
            start: start.clone(),
            state: State::Scheduled,
            desired: Desired::Run,
            cause: None,
        };
        let known = store.incarnations.entry(instance).or_default();
        *known = (*known).max(incarnation);
        let before = store.records.insert(instance, record);
        let again = start.clone();
        let verdict = self.order(
            |session| session.start(now, start),
            |roster| roster.start(now, again),
        );
        world.note(|| format!("{} starts {instance}#{incarnation}: {verdict:?}", self.name));
        if let Some(Verdict::Denied(_)) = verdict {
            match before {
                Some(before) => store.records.insert(instance, before),
                None => store.records.remove(&instance),
            };
        }
    }

    fn event_stored(store: &mut Store, event: InstanceEvent, desired: Option<Desired>) {
        match event {
            InstanceEvent::Changed {
                instance,
                incarnation,
                to,
                cause,
                ..
            } => {
                if let Some(record) = store.records.get_mut(&instance)
                    && record.start.incarnation == incarnation.get()
                {
                    record.state = to;
                    record.desired = record.desired.max(desired.unwrap_or(Desired::Run));
                    if cause == Cause::TakenBack {
                        // Neither the end nor the stop was ever seen, so neither is true.
                        store.ended.remove(&(instance, incarnation));
                        record.desired = desired.unwrap_or(record.desired);
                    }
                    record.cause = Some(cause);
                    store.see(instance, incarnation, to);
                }
            }
            InstanceEvent::Adopted {
                instance,
                group,
                incarnation,
                state,
                port,
            } => {
                let start = StartInstance {
                    instance_id: instance.into(),
                    group: group.into(),
                    port: i32::from(port),
                    incarnation: incarnation.get(),
                    ..Default::default()
                };
                let known = store.incarnations.entry(instance).or_default();
                *known = (*known).max(incarnation.get());
                store.see(instance, incarnation, state);
                let record = Record {
                    start: Box::new(start),
                    state,
                    desired: Desired::Run,
                    cause: None,
                };
                store.records.insert(instance, record);
            }
            _ => {}
        }
    }
}
