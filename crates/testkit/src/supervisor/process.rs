//! One simulated process

use std::time::Duration;

use prexorcloud_protocol::instance::{Limits, State};
use prexorcloud_protocol::node::daemon::{self as machine, Attempt, StopReason, is_crash};
use prexorcloud_protocol::peer::KILL_TIMEOUT;
use prexorcloud_protocol::proto::{ConsoleOutput, StartInstance};
use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, StopMode};

use crate::behaviour::Behaviour;
use crate::world::earlier;

/// An instance as the simulated supervisor has it on its disk, alive or ended
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// The instance.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id it is, as the controller said.
    pub incarnation: Incarnation,
    /// Its port.
    pub port: u16,
    /// What it does.
    pub behaviour: Behaviour,
    /// What is true of it.
    pub state: State,
    /// Since when that is so.
    pub since: Duration,
    /// How it has been asked to stop.
    pub asked: Option<StopMode>,
    /// How many console lines it has written.
    pub written: u64,
    /// It was killed although it had been asked politely and its grace was not over: since when it had been asked.
    pub hurried: Option<Duration>,
    limits: Limits,
    pub(super) is_ready: bool,
    pub(crate) stopped_for: Option<StopReason>,
    pub(super) is_settled: bool,
    pub(super) forwarded: u64,
    pub(super) launched: Option<Duration>,
    polite: Option<Duration>,
    code: i32,
    /// The end of the preparation or of the startup.
    phase_ends: Option<Duration>,
    /// When it is too late to be ready.
    startup_ends: Option<Duration>,
    lifetime_ends: Option<Duration>,
    /// When the process ends by itself, or obeys.
    ends: Option<(Duration, End)>,
    kill: Option<Duration>,
    next_line: Option<Duration>,
}

/// How a process ends
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Obeyed,
    Killed,
    Exited,
    Crashed,
}

/// What falls due
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Prepared,
    Ready,
    Overdue(StopReason),
    Line,
    Ended(End),
}

impl Process {
    /// What an order will be a process of, once it is prepared.
    pub(super) fn ordered(
        now: Duration,
        attempt: Attempt,
        start: &StartInstance,
        limits: Limits,
    ) -> Option<Self> {
        let behaviour: Behaviour = start.jar_file.parse().unwrap_or_default();
        Some(Self {
            instance: attempt.instance(),
            group: GroupName::new(&start.group).ok()?,
            incarnation: attempt.incarnation(),
            port: u16::try_from(start.port).unwrap_or_default(),
            behaviour,
            limits,
            state: State::Preparing,
            since: now,
            asked: None,
            written: 0,
            hurried: None,
            is_ready: false,
            stopped_for: None,
            is_settled: false,
            forwarded: 0,
            launched: None,
            polite: None,
            code: 0,
            phase_ends: Some(now + behaviour.prepare),
            startup_ends: None,
            lifetime_ends: None,
            ends: None,
            kill: None,
            next_line: None,
        })
    }

    /// Whether it is alive, or in the making.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        !self.state.is_terminal()
    }

    /// How long it has been running, or ran.
    /// Whether there is a process that reads its console
    pub(crate) const fn takes_commands(&self) -> bool {
        matches!(
            self.state,
            State::Starting | State::Running | State::Draining | State::Stopping
        )
    }

    pub(super) fn uptime(&self, now: Duration) -> Duration {
        let until = if self.is_live() { now } else { self.since };
        self.launched
            .map_or(Duration::ZERO, |launched| until.saturating_sub(launched))
    }

    pub(super) fn prepared(self) -> machine::Prepared<Box<Self>> {
        machine::Prepared {
            port: self.port,
            grace: self.limits.grace,
            startup_timeout: self.limits.startup,
            launch: Box::new(self),
        }
    }

    pub(super) fn adopted(&self, now: Duration) -> machine::Adopted {
        machine::Adopted {
            instance: self.instance,
            incarnation: self.incarnation,
            port: self.port,
            grace: self.limits.grace,
            startup_timeout: self.limits.startup,
            uptime: self.uptime(now),
            is_ready: self.is_ready,
            is_stopping: self.stopped_for.is_some(),
        }
    }

    /// What is recorded of its life, whether it has ended or not.
    pub(super) const fn found(&self) -> State {
        match (self.stopped_for, self.is_ready) {
            (Some(_), _) => State::Stopping,
            (None, true) => State::Running,
            (None, false) => State::Starting,
        }
    }

    pub(super) fn exit(&self, number: usize) -> machine::Exit {
        machine::Exit {
            instance: self.instance,
            group: self.group,
            incarnation: self.incarnation,
            code: self.code,
            stopped_for: self.stopped_for,
            uptime: self.uptime(self.since),
            report_id: format!("crash-{number}"),
            log_tail: vec!["it fell over".to_owned()],
        }
    }

    pub(super) fn launch(&mut self, now: Duration, keeps_deadlines: bool) {
        let Behaviour {
            startup,
            crash,
            exit,
            lines,
            every,
            ..
        } = self.behaviour;
        self.state = State::Starting;
        self.since = now;
        self.launched = Some(now);
        self.phase_ends = startup.map(|startup| now + startup);
        if keeps_deadlines {
            self.startup_ends = Some(now + self.limits.startup);
            self.lifetime_ends = self.limits.lifetime.map(|lifetime| now + lifetime);
        }
        self.ends = match (crash, exit) {
            (Some(after), _) => Some((now + after, End::Crashed)),
            (None, Some(after)) => Some((now + after, End::Exited)),
            (None, None) => None,
        };
        self.next_line = (lines > 0).then_some(now + every);
    }

    /// It is ready, and whoever keeps its deadlines hears of that or does not.
    pub(super) fn become_ready(&mut self, now: Duration, is_heard: bool) {
        self.is_ready = true;
        self.state = State::Running;
        self.since = now;
        self.phase_ends = None;
        self.startup_ends = self.startup_ends.filter(|_| !is_heard);
    }

    /// What it prints then. Its platform is not named, so that any will do.
    pub(super) fn ready_line(&self) -> ConsoleOutput {
        ConsoleOutput {
            instance_id: self.instance.into(),
            line: "[12:00:00] [Server thread/INFO]: Done (2.000s)! For help, type \"help\"".to_owned(),
            ..Default::default()
        }
    }

    /// Asks it to stop; what it does about that is in its script. Says whether nobody had asked before.
    pub(super) fn ask(&mut self, now: Duration, mode: StopMode, reason: StopReason) -> bool {
        let is_first = self.stopped_for.is_none();
        self.stopped_for.get_or_insert(reason);
        if self.asked >= Some(mode) {
            return is_first;
        }
        self.asked = Some(mode);
        self.state = State::Stopping;
        self.since = now;
        (self.phase_ends, self.startup_ends, self.lifetime_ends) = (None, None, None);
        match mode {
            StopMode::Force => self.kill = Some(now + Duration::from_millis(5)),
            StopMode::Graceful => {
                self.polite = Some(now);
                self.kill = Some(now + self.limits.grace + KILL_TIMEOUT);
                let obeyed = self.behaviour.stop.map(|stop| (now + stop, End::Obeyed));
                self.ends = match (self.ends, obeyed) {
                    (Some(own), Some(obeyed)) if obeyed.0 < own.0 => Some(obeyed),
                    (None, obeyed) => obeyed,
                    (own, _) => own,
                };
            }
        }
        is_first
    }

    /// Lets it end by itself right now.
    pub(super) const fn end_now(&mut self, now: Duration, end: End) {
        self.ends = Some((now, end));
    }

    pub(super) fn write_line(&mut self, now: Duration) {
        self.written += 1;
        let more = self.written < u64::from(self.behaviour.lines);
        self.next_line = more.then_some(now + self.behaviour.every);
    }

    pub(super) fn flood(&mut self, lines: u32) {
        self.written += u64::from(lines);
    }

    pub(super) fn end(&mut self, now: Duration, end: End) {
        self.code = match end {
            End::Obeyed | End::Exited => 0,
            End::Killed => 137,
            End::Crashed => 134,
        };
        let polite = self.polite.filter(|polite| now < *polite + self.limits.grace);
        self.hurried = polite.filter(|_| end == End::Killed);
        self.state = if is_crash(self.stopped_for, self.code) {
            State::Crashed
        } else {
            State::Stopped
        };
        self.since = now;
        (self.phase_ends, self.startup_ends, self.lifetime_ends) = (None, None, None);
        (self.ends, self.kill, self.next_line) = (None, None, None);
    }

    /// What happens next; without a daemon nobody prepares, kills, or notices that a server is ready.
    pub(super) fn next(&self, daemon_is_up: bool) -> Option<(Duration, Due)> {
        let up = |moment: Option<Duration>| moment.filter(|_| daemon_is_up);
        let phase = if self.state == State::Preparing {
            Due::Prepared
        } else {
            Due::Ready
        };
        let overdue = |moment, reason| up(moment).map(|at| (at, Due::Overdue(reason)));
        let candidates = [
            up(self.kill).map(|at| (at, Due::Ended(End::Killed))),
            self.ends.map(|(at, end)| (at, Due::Ended(end))),
            up(self.phase_ends).map(|at| (at, phase)),
            overdue(self.startup_ends, StopReason::StartupTimeout),
            overdue(self.lifetime_ends, StopReason::LifetimeOver),
            self.next_line.map(|at| (at, Due::Line)),
        ];
        let first = candidates
            .iter()
            .flatten()
            .fold(None, |first, (at, _)| earlier(first, Some(*at)))?;
        candidates.into_iter().flatten().find(|(at, _)| *at == first)
    }
}
