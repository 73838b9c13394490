//! One simulated process

use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, StopMode};

use crate::behaviour::Behaviour;
use crate::world::earlier;

/// How long the daemon waits after the grace period before it kills.
const KILL: Duration = Duration::from_secs(10);

/// An instance as the simulated supervisor has it on its disk, alive or ended
#[derive(Clone, Debug)]
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
    pub(super) forwarded: u64,
    pub(super) launched: Option<Duration>,
    /// The end of the preparation or of the startup.
    phase_ends: Option<Duration>,
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
    Line,
    Ended(End),
}

impl Process {
    pub(super) fn new(
        now: Duration,
        (instance, group, incarnation): (InstanceId, GroupName, Incarnation),
        port: u16,
        behaviour: Behaviour,
    ) -> Self {
        Self {
            instance,
            group,
            incarnation,
            port,
            behaviour,
            state: State::Preparing,
            since: now,
            asked: None,
            written: 0,
            forwarded: 0,
            launched: None,
            phase_ends: Some(now + behaviour.prepare),
            ends: None,
            kill: None,
            next_line: None,
        }
    }

    /// Whether it is alive, or in the making.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        !self.state.is_terminal()
    }

    /// How long it has been running.
    pub(super) fn uptime(&self, now: Duration) -> Duration {
        self.launched
            .map_or(Duration::ZERO, |launched| now.saturating_sub(launched))
    }

    pub(super) fn launch(&mut self, now: Duration) {
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
        self.ends = match (crash, exit) {
            (Some(after), _) => Some((now + after, End::Crashed)),
            (None, Some(after)) => Some((now + after, End::Exited)),
            (None, None) => None,
        };
        self.next_line = (lines > 0).then_some(now + every);
    }

    pub(super) fn become_ready(&mut self, now: Duration) {
        self.state = State::Running;
        self.since = now;
        self.phase_ends = None;
    }

    /// Asks it to stop; what it does about that is in its script.
    pub(super) fn ask(&mut self, now: Duration, mode: StopMode) {
        self.asked = self.asked.max(Some(mode));
        self.state = State::Stopping;
        self.since = now;
        self.phase_ends = None;
        match mode {
            StopMode::Force => self.kill = Some(now + Duration::from_millis(5)),
            StopMode::Graceful => {
                let grace = match u64::try_from(self.behaviour.grace_seconds) {
                    Ok(0) | Err(_) => Duration::from_secs(30),
                    Ok(seconds) => Duration::from_secs(seconds),
                };
                self.kill = Some(now + grace + KILL);
                let obeyed = self.behaviour.stop.map(|stop| (now + stop, End::Obeyed));
                self.ends = match (self.ends, obeyed) {
                    (Some(own), Some(obeyed)) if obeyed.0 < own.0 => Some(obeyed),
                    (None, obeyed) => obeyed,
                    (own, _) => own,
                };
            }
        }
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

    pub(super) fn end(&mut self, now: Duration, state: State) {
        self.state = state;
        self.since = now;
        self.phase_ends = None;
        self.ends = None;
        self.kill = None;
        self.next_line = None;
    }

    /// What happens next; without a daemon nobody prepares, kills, or notices that a server is ready.
    pub(super) fn next(&self, daemon_is_up: bool) -> Option<(Duration, Due)> {
        let up = |moment: Option<Duration>| moment.filter(|_| daemon_is_up);
        let phase = if self.state == State::Preparing {
            Due::Prepared
        } else {
            Due::Ready
        };
        let candidates = [
            up(self.kill).map(|at| (at, Due::Ended(End::Killed))),
            self.ends.map(|(at, end)| (at, Due::Ended(end))),
            up(self.phase_ends).map(|at| (at, phase)),
            self.next_line.map(|at| (at, Due::Line)),
        ];
        let first = candidates
            .iter()
            .flatten()
            .fold(None, |first, (at, _)| earlier(first, Some(*at)))?;
        candidates.into_iter().flatten().find(|(at, _)| *at == first)
    }
}
