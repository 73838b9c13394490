//! One server on the host of a plain daemon

use std::time::Duration;

use prexorcloud_protocol::instance::{Limits, State};
use prexorcloud_protocol::peer::KILL_TIMEOUT;
use prexorcloud_protocol::proto::{ConsoleOutput, RunningInstance, StartInstance};
use prexorcloud_protocol::{Incarnation, InstanceId};

use crate::behaviour::Behaviour;
use crate::dialect;

/// How long the daemon sits on the stop of a server that does not obey: long after every deadline of a controller
pub const SAT_ON: Duration = Duration::from_secs(600);

/// A process, alive or ended
///
/// What the daemon knows of it and what is true of it are two things: it outlives the daemon, which then forgets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// The instance.
    pub instance: InstanceId,
    /// The start that it follows from. Nothing that the daemon says names it; the simulation knows it.
    pub ordered: Incarnation,
    /// When it was launched.
    pub launched: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// The daemon that runs has it in its table.
    pub is_known: bool,
    /// It plays.
    pub is_ready: bool,
    /// It calls the controller when it is ready, and not only prints a line.
    pub has_plugin: bool,
    pub(super) group: String,
    pub(super) port: i32,
    pub(super) state: State,
    behaviour: Behaviour,
    limits: Limits,
    ready_at: Option<Duration>,
    /// When it ends by itself, and with which code.
    ends: Option<(Duration, i32)>,
    /// When the daemon has had its way with it.
    obeys: Option<Duration>,
    /// How many stops wait for its end.
    pub(super) stops: u32,
}

/// What falls due of a server
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ready,
    /// Its process is gone, with this exit code.
    Ended(i32),
}

impl Server {
    pub(super) fn launched(now: Duration, start: &StartInstance) -> Option<Self> {
        let behaviour: Behaviour = start.jar_file.parse().unwrap_or_default();
        let ends = match (behaviour.crash, behaviour.exit) {
            (Some(after), _) => Some((now + after, 134)),
            (None, Some(after)) => Some((now + after, 0)),
            (None, None) => None,
        };
        Some(Self {
            instance: InstanceId::new(&start.instance_id).ok()?,
            ordered: dialect::ordered(start),
            launched: now,
            ended: None,
            is_known: true,
            is_ready: false,
            has_plugin: !behaviour.bare,
            group: start.group.clone(),
            port: start.port,
            state: State::Starting,
            behaviour,
            limits: Limits::of(start),
            ready_at: behaviour.startup.map(|startup| now + startup),
            ends,
            obeys: None,
            stops: 0,
        })
    }

    /// Whether its process is there.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.ended.is_none()
    }

    /// A stop has come in. Says whether it is the first.
    pub(super) fn ask(&mut self, now: Duration, force: bool) -> bool {
        let is_first = self.state != State::Stopping;
        self.state = State::Stopping;
        self.stops += 1;
        let obeys = match (self.behaviour.stop, force) {
            // Its virtual threads wait for each other, also that of the kill.
            (None, _) => now + SAT_ON,
            (Some(_), true) => now + Duration::from_millis(5),
            (Some(stop), false) => now + stop.min(self.limits.grace + KILL_TIMEOUT),
        };
        self.obeys = Some(self.obeys.map_or(obeys, |before| before.min(obeys)));
        is_first
    }

    /// The daemon is gone. Nobody knows the process any more, and nobody stops it.
    pub(super) const fn forget(&mut self) {
        self.is_known = false;
        self.obeys = None;
        self.stops = 0;
    }

    /// It ends by itself right now.
    pub(super) const fn end_now(&mut self, now: Duration, code: i32) {
        self.ends = Some((now, code));
    }

    pub(super) fn next(&self) -> Option<(Duration, Due)> {
        if !self.is_live() {
            return None;
        }
        let obeyed = if self.behaviour.stop.is_none() { 137 } else { 0 };
        let candidates = [
            self.obeys.map(|at| (at, Due::Ended(obeyed))),
            self.ends.map(|(at, code)| (at, Due::Ended(code))),
            self.ready_at.map(|at| (at, Due::Ready)),
        ];
        candidates.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) const fn become_ready(&mut self) {
        self.ready_at = None;
        self.is_ready = true;
    }

    pub(super) const fn end(&mut self, now: Duration) {
        self.ended = Some(now);
        self.is_known = false;
        self.is_ready = false;
    }

    pub(super) fn listing(&self) -> RunningInstance {
        RunningInstance {
            instance_id: self.instance.into(),
            group: self.group.clone(),
            port: self.port,
            state: self.state.to_wire(),
            ..RunningInstance::default()
        }
    }

    pub(super) fn ready_line(&self) -> ConsoleOutput {
        ConsoleOutput {
            instance_id: self.instance.into(),
            line: "[12:00:00] [Server thread/INFO]: Done (2.000s)! For help, type \"help\"".to_owned(),
            ..ConsoleOutput::default()
        }
    }
}
