//! What is done about the host of one version of a module, from its first start until nothing of it runs
//!
//! ```text
//!  Launching ──> AwaitingReady ──ready──> AwaitingState ──state──> Working ──stop──> Stopping ──┐
//!      ^               └────────────────────────┴─────────────────────┴──> Killed ──────────────┤
//!      └─────────────────────── Resting <──── goes on ──────── the process has ended <──────────┘
//!                                                                     └── Over
//! ```
//!
//! Facts go in and work comes out, time is an argument. A version that has never worked gets one try; one that has gets a bounded number in a
//! row, with pauses that double. What a host says too often, or in no language of ours, is counted, and beyond a bound it has failed.

mod changes;
mod patience;
mod pulse;
mod state;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use changes::Changes;
use pulse::{Beat, Pulse};

pub use patience::Patience;
pub use state::{ModuleState, Report};

use super::line::{self, HostState, PROTOCOL, Said, Told};

/// Whom a host is for
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The module's id
    pub module: String,
    /// Its version
    pub version: String,
    /// The node that it runs on
    pub node: String,
    /// Where it may keep files
    pub folder: String,
}

/// What there is to do, in order
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Start the process
    Launch,
    /// Write this, and lose none of it
    Write(String),
    /// End the process and all that it has started
    Kill,
    /// Tell of this state
    Report(Report),
    /// Keep this line of the module
    Log {
        /// As the host wrote it
        level: String,
        /// The text
        message: String,
    },
    /// Say this in the log of the daemon
    Complain(String),
    /// It listens to these types, and to no others
    Listen(BTreeSet<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Launching,
    AwaitingReady {
        until: Instant,
    },
    AwaitingState {
        until: Instant,
    },
    Working {
        since: Instant,
    },
    Stopping {
        until: Instant,
    },
    /// Its process is being killed, for this failure or, without one, because it did not stop
    Killed {
        failure: Option<String>,
    },
    Resting {
        until: Instant,
    },
    Over,
}

/// See the [module](self)
#[derive(Clone, Debug)]
pub struct HostMachine {
    patience: Patience,
    greeting: Greeting,
    phase: Phase,
    /// Whether it has ever worked
    proven: bool,
    /// Whether it is to end
    unwanted: bool,
    failures: u32,
    mistakes: u32,
    unknown: u64,
    changes: Changes,
    /// Whether its process has said that it answers pings
    answers_pings: bool,
    pulse: Option<Pulse>,
    types: BTreeSet<String>,
    /// Whether anybody believes that it listens
    counts_as_listening: bool,
    reported: Option<Report>,
    work: VecDeque<Work>,
}

impl HostMachine {
    /// One whose process is to be launched; `proven` says that this version has worked before
    #[must_use]
    pub fn new(now: Instant, greeting: Greeting, patience: Patience, proven: bool) -> Self {
        Self {
            patience,
            greeting,
            phase: Phase::Launching,
            proven,
            unwanted: false,
            failures: 0,
            mistakes: 0,
            unknown: 0,
            changes: Changes::new(now),
            answers_pings: false,
            pulse: None,
            types: BTreeSet::new(),
            counts_as_listening: false,
            reported: None,
            work: [Work::Launch].into(),
        }
    }

    /// The process runs
    pub fn handle_launched(&mut self, now: Instant) {
        if self.phase != Phase::Launching {
            return;
        }
        if self.unwanted {
            return self.kill(None);
        }
        let Greeting {
            module,
            version,
            node,
            folder,
        } = &self.greeting;
        let hello = Told::Hello {
            protocol: PROTOCOL,
            module,
            version,
            node,
            folder,
        };
        self.work.push_back(Work::Write(hello.line()));
        self.phase = Phase::AwaitingReady {
            until: now + self.patience.ready,
        };
    }

    /// The process could not be started
    pub fn handle_launch_failed(&mut self, now: Instant, error: &str) {
        if self.phase == Phase::Launching {
            self.failed(now, format!("its host cannot be started: {error}"));
        }
    }

    /// The host wrote a line, without its end
    pub fn handle_line(&mut self, now: Instant, text: &[u8]) {
        match line::read(text) {
            Ok(said) => self.handle_said(now, said),
            Err(problem) => self.mistake(&problem),
        }
    }

    /// The host wrote a line that is longer than any may be
    pub fn handle_overlong(&mut self) {
        self.mistake(&format!("a line of more than {} bytes", line::MAX_LINE));
    }

    fn handle_said(&mut self, now: Instant, said: Said) {
        let is_change = matches!(
            said,
            Said::State { .. } | Said::Subscribe(_) | Said::Unsubscribe(_)
        );
        if is_change && !self.changes.take(now) {
            return self.mistake("states and subscriptions change faster than anybody can follow");
        }
        match (&self.phase, said) {
            (_, Said::Log { level, message }) => self.work.push_back(Work::Log { level, message }),
            (_, Said::Unknown(kind)) => {
                self.unknown += 1;
                if self.unknown == 1 {
                    let text = format!(
                        "its host says `{kind}`, which this daemon does not know, and which is ignored"
                    );
                    self.work.push_back(Work::Complain(text));
                }
            }
            (
                Phase::AwaitingReady { .. },
                Said::Ready {
                    protocol: PROTOCOL,
                    answers_pings,
                },
            ) => {
                self.answers_pings = answers_pings;
                self.work.push_back(Work::Write(Told::Start.line()));
                self.phase = Phase::AwaitingState {
                    until: now + self.patience.start,
                };
            }
            (Phase::AwaitingReady { .. }, Said::Ready { protocol, .. }) => {
                self.kill(Some(format!(
                    "its host speaks version {protocol} of the protocol, and this daemon {PROTOCOL}"
                )));
            }
            (Phase::AwaitingState { .. } | Phase::Working { .. }, Said::State { state, error }) => {
                self.handle_state(now, state, error);
            }
            (Phase::Working { .. }, Said::Pong { number }) => {
                let patience = &self.patience;
                let is_answer = self
                    .pulse
                    .as_mut()
                    .is_some_and(|pulse| pulse.answered(now, number, patience));
                if !is_answer {
                    self.mistake("`pong` to no ping");
                }
            }
            (Phase::AwaitingState { .. } | Phase::Working { .. }, Said::Subscribe(types)) => {
                let room = line::MAX_TYPES.saturating_sub(self.types.len());
                let new: Vec<String> = types
                    .into_iter()
                    .filter(|name| !self.types.contains(name))
                    .collect();
                if new.len() > room {
                    return self.mistake(&format!("more than {} subscriptions", line::MAX_TYPES));
                }
                if !new.is_empty() {
                    self.types.extend(new);
                    self.listen();
                }
            }
            (Phase::AwaitingState { .. } | Phase::Working { .. }, Said::Unsubscribe(types)) => {
                let before = self.types.len();
                self.types.retain(|name| !types.contains(name));
                if self.types.len() != before {
                    self.listen();
                }
            }
            // Its process ends next, and only that counts.
            (Phase::Stopping { .. }, Said::Stopped) | (Phase::Killed { .. } | Phase::Over, _) => {}
            // On the way while it was told to stop.
            (Phase::Stopping { .. }, _) => {}
            (Phase::Launching | Phase::AwaitingReady { .. } | Phase::Resting { .. }, said) => {
                self.mistake(&format!("{} before its turn", name(&said)));
            }
            (
                Phase::AwaitingState { .. } | Phase::Working { .. },
                said @ (Said::Ready { .. } | Said::Stopped | Said::Pong { .. }),
            ) => {
                self.mistake(&format!("{} out of turn", name(&said)));
            }
        }
    }

    fn handle_state(&mut self, now: Instant, state: HostState, error: String) {
        let state = match state {
            HostState::Active => ModuleState::Active,
            HostState::Waiting => ModuleState::Waiting,
            HostState::Failed => {
                let why = match error.is_empty() {
                    true => "the module says so, and not why".to_owned(),
                    false => error,
                };
                return self.kill(Some(why));
            }
        };
        self.proven = true;
        if matches!(self.phase, Phase::AwaitingState { .. }) {
            self.phase = Phase::Working { since: now };
            self.pulse = self.answers_pings.then(|| Pulse::new(now, &self.patience));
        }
        self.report(state, error);
    }

    /// The process has ended, and everything that it had started
    pub fn handle_exited(&mut self, now: Instant, how: &str) {
        self.pulse = None;
        // Its next process listens anew. Until then it counts as listening, so that it is told what it has missed.
        self.types.clear();
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Stopping { .. } | Phase::Over => {}
            Phase::Killed { failure: None } => {}
            Phase::Killed {
                failure: Some(failure),
            } => self.failed(now, failure),
            Phase::Working { since } => {
                if now.saturating_duration_since(since) >= self.patience.stable {
                    self.failures = 0;
                }
                self.failed(now, format!("its host has ended: {how}"));
            }
            Phase::AwaitingReady { .. } | Phase::Launching => {
                self.failed(now, format!("its host has ended before it was ready: {how}"));
            }
            Phase::AwaitingState { .. } => {
                self.failed(now, format!("its host has ended while it started: {how}"));
            }
            phase @ Phase::Resting { .. } => self.phase = phase,
        }
    }

    fn listen(&mut self) {
        self.counts_as_listening = !self.types.is_empty();
        self.work.push_back(Work::Listen(self.types.clone()));
    }

    /// It will not work again
    fn give_up(&mut self, error: String) {
        if self.counts_as_listening {
            self.listen();
        }
        self.report(ModuleState::Failed, error);
    }

    fn failed(&mut self, now: Instant, why: String) {
        self.failures += 1;
        self.mistakes = 0;
        self.phase = Phase::Over;
        if self.unwanted {
            return;
        }
        if !self.proven {
            return self.give_up(why);
        }
        if self.failures >= self.patience.failures {
            let error = format!(
                "given up after {} failures in a row; the last one: {why}",
                self.failures
            );
            return self.give_up(error);
        }
        let doubled = 2_u32.saturating_pow(self.failures - 1);
        let pause = self
            .patience
            .first_pause
            .saturating_mul(doubled)
            .min(self.patience.longest_pause);
        self.phase = Phase::Resting { until: now + pause };
        let next = self.failures + 1;
        let error = format!("{why}; try {next} of {} in {:.0?}", self.patience.failures, pause);
        self.report(ModuleState::Waiting, error);
    }

    /// The module is to end
    pub fn handle_stop(&mut self, now: Instant) {
        self.unwanted = true;
        match self.phase {
            Phase::AwaitingReady { .. } | Phase::AwaitingState { .. } | Phase::Working { .. } => {
                let grace_ms = u64::try_from(self.patience.stop.as_millis()).unwrap_or(u64::MAX);
                self.work.push_back(Work::Write(Told::Stop { grace_ms }.line()));
                self.phase = Phase::Stopping {
                    until: now + self.patience.stop,
                };
                self.report(ModuleState::Stopping, String::new());
            }
            Phase::Resting { .. } => self.phase = Phase::Over,
            // What was launched meanwhile is killed as soon as it is known.
            Phase::Launching | Phase::Stopping { .. } | Phase::Killed { .. } | Phase::Over => {}
        }
    }

    /// Whether events are of use now
    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::AwaitingState { .. } | Phase::Working { .. })
    }

    /// Acts on the deadline, if it has come; early calls are harmless
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout().filter(|due| *due <= now) else {
            return;
        };
        debug_assert!(due <= now);
        let seconds = |limit: Duration| limit.as_secs_f64();
        match self.phase {
            Phase::AwaitingReady { .. } => {
                let why = format!("its host was not ready within {} s", seconds(self.patience.ready));
                self.kill(Some(why));
            }
            Phase::AwaitingState { .. } => {
                let why = format!("it did not start within {} s", seconds(self.patience.start));
                self.kill(Some(why));
            }
            Phase::Stopping { .. } => {
                let text = format!(
                    "did not stop within {} s and is killed",
                    seconds(self.patience.stop)
                );
                self.work.push_back(Work::Complain(text));
                self.kill(None);
            }
            Phase::Resting { .. } => {
                self.phase = Phase::Launching;
                self.work.push_back(Work::Launch);
            }
            Phase::Working { .. } => {
                let patience = &self.patience;
                match self.pulse.as_mut().map(|pulse| pulse.beat(now, patience)) {
                    Some(Beat::Ping(number)) => {
                        self.work.push_back(Work::Write(Told::Ping { number }.line()));
                    }
                    Some(Beat::Stopped) => {
                        let why = format!(
                            "it hangs: no answer to a ping within {} s",
                            seconds(patience.pong)
                        );
                        self.kill(Some(why));
                    }
                    None => {}
                }
            }
            Phase::Launching | Phase::Killed { .. } | Phase::Over => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::AwaitingReady { until }
            | Phase::AwaitingState { until }
            | Phase::Stopping { until }
            | Phase::Resting { until } => Some(until),
            Phase::Working { .. } => self.pulse.as_ref().map(Pulse::until),
            Phase::Launching | Phase::Killed { .. } | Phase::Over => None,
        }
    }

    /// The next thing to do
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// Whether nothing of it runs, and nothing will
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.work.is_empty()
    }

    /// Lines of the host that were no messages, since its process was started
    #[must_use]
    pub fn mistakes(&self) -> u32 {
        self.mistakes
    }

    fn mistake(&mut self, what: &str) {
        if matches!(
            self.phase,
            Phase::Killed { .. } | Phase::Over | Phase::Resting { .. }
        ) {
            return;
        }
        self.mistakes += 1;
        if self.mistakes == 1 {
            let text = format!("its host writes to standard output what is no message: {what}");
            self.work.push_back(Work::Complain(text));
        }
        if self.mistakes >= self.patience.mistakes {
            let why = format!(
                "its host wrote {} lines that are no messages to standard output; the last one: {what}",
                self.mistakes
            );
            self.kill(Some(why));
        }
    }

    fn kill(&mut self, failure: Option<String>) {
        self.phase = Phase::Killed { failure };
        self.work.push_back(Work::Kill);
    }

    fn report(&mut self, state: ModuleState, error: String) {
        let report = Report { state, error };
        if self.reported.as_ref() != Some(&report) {
            self.reported = Some(report.clone());
            self.work.push_back(Work::Report(report));
        }
    }
}

fn name(said: &Said) -> &'static str {
    match said {
        Said::Ready { .. } => "`ready`",
        Said::State { .. } => "`state`",
        Said::Log { .. } => "`log`",
        Said::Subscribe(_) => "`subscribe`",
        Said::Unsubscribe(_) => "`unsubscribe`",
        Said::Stopped => "`stopped`",
        Said::Pong { .. } => "`pong`",
        Said::Unknown(_) => "an unknown type",
    }
}

#[cfg(test)]
mod tests;
