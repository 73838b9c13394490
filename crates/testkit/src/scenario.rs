//! Scenarios as text: a seed, what the peers are, and what happens
//!
//! ```
//! use prexorcloud_testkit::Scenario;
//!
//! let text = "\
//! seed 7
//! peers rust
//! heartbeat 30s
//! queue 256
//! start lobby-1 prepare=2s startup=1s stop=500ms
//! wait 1s
//! break keep 0 up 0 down noticed by daemon 0s controller 2s
//! wait 1m
//! ";
//! let scenario: Scenario = text.parse().unwrap();
//! assert_eq!(scenario.to_string(), text);
//! scenario.run().unwrap();
//! ```
//!
//! A line that begins with `#` is a comment; the ones before `seed` are kept, because a committed scenario should say
//! what it is about.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use prexorcloud_protocol::{Capabilities, ControllerConfig, DaemonConfig, NodeId};

use crate::action::Action;
use crate::log::Log;
use crate::pair::{Pair, Violation};
#[cfg(doc)]
use crate::plain::PlainDaemon;
#[cfg(doc)]
use crate::plain_controller::PlainController;
use crate::rng::Rng;
use crate::side::{ControllerSide, DaemonSide};
use crate::text::{self, Words, show};

/// What the two sides are
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// Two peers of this repository.
    #[default]
    Rust,
    /// The daemon speaks as the Java daemon: nothing beyond protocol version 1, no `RUNNING`, no incarnations.
    JavaDaemon,
    /// The daemon is a [`PlainDaemon`]: it shares nothing with this repository's, and forgets its servers when it dies.
    PlainDaemon,
    /// The controller speaks as the Java controller: no incarnations, no acknowledgement of crash reports, commands
    /// before the handshake's acknowledgement.
    JavaController,
    /// The controller is a [`PlainController`]: it shares nothing with this repository's, and takes what is listed for running.
    PlainController,
}

impl Peers {
    /// Whether the daemon announces nothing.
    #[must_use]
    pub const fn has_java_daemon(self) -> bool {
        matches!(self, Self::JavaDaemon | Self::PlainDaemon)
    }
}

/// A reproducible run
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What it is about; written as comment lines.
    pub about: String,
    /// Decides latencies, delays and ids.
    pub seed: u64,
    /// What the two sides are.
    pub peers: Peers,
    /// The controller's heartbeat interval.
    pub heartbeat: Duration,
    /// How many control messages may wait in an outbox of either side.
    pub queue: usize,
    /// What happens, in order.
    pub actions: Vec<Action>,
}

/// A scenario's text that is none
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {found:?}")]
pub struct ParseError {
    /// The line, from 1; 0 if only a part was parsed.
    pub line: usize,
    /// What would have fitted.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

impl ParseError {
    pub(crate) fn new(found: &str, expected: &'static str) -> Self {
        Self {
            line: 0,
            expected,
            found: found.to_owned(),
        }
    }
}

/// How a run failed: which promise was broken, and the log up to there
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was broken.
    pub violation: Violation,
    /// The log.
    pub log: Log,
}

impl Scenario {
    /// An empty scenario between two peers of this repository.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            about: String::new(),
            seed,
            peers: Peers::Rust,
            heartbeat: Duration::from_secs(30),
            queue: 256,
            actions: Vec::new(),
        }
    }

    /// A scenario of so many actions, all of them decided by the seed.
    #[must_use]
    pub fn random(seed: u64, actions: usize) -> Self {
        let mut rng = Rng::new(seed);
        let peers = match rng.below(10) {
            0 if seed.is_multiple_of(2) => Peers::PlainDaemon,
            0 => Peers::JavaDaemon,
            1 if seed.is_multiple_of(2) => Peers::PlainController,
            1 => Peers::JavaController,
            _ => Peers::Rust,
        };
        let heartbeat = if rng.chance(50) {
            Duration::from_secs(30)
        } else {
            Duration::from_secs(5)
        };
        let queue = if rng.chance(70) { 256 } else { 16 };
        // Where something breaks all the time, nothing else gets its turn.
        let spared = if rng.chance(60) { 85 } else { 0 };
        let actions = (0..actions).map(|_| next_action(&mut rng, spared)).collect();
        Self {
            about: String::new(),
            seed,
            peers,
            heartbeat,
            queue,
            actions,
        }
    }

    /// The shipped controller's configuration, with an outbox so small that a stalled stream fills it.
    pub(crate) fn controller_config(&self) -> ControllerConfig {
        let mut config = ControllerConfig::default();
        config.heartbeat.interval = self.heartbeat;
        config.bounds.control.messages = self.queue;
        config.capabilities = match self.peers {
            Peers::JavaController => Capabilities::NONE,
            _ => config.capabilities.union(Capabilities::EXEC_ACK),
        };
        config
    }

    /// The shipped daemon's configuration, with an outbox so small that a stalled stream fills it.
    pub(crate) fn daemon_config(&self, node: NodeId) -> DaemonConfig {
        let mut config = DaemonConfig::new(node, "testkit");
        config.bounds.control.messages = self.queue;
        config.bounds.best_effort.messages = 64;
        config.capabilities = match self.peers.has_java_daemon() {
            true => Capabilities::NONE,
            false => config.capabilities.union(Capabilities::EXEC_ACK),
        };
        config
    }

    /// The same with other peers.
    #[must_use]
    pub fn between(self, peers: Peers) -> Self {
        Self { peers, ..self }
    }

    /// Plays the scenario, lets everything heal and come to rest, and judges the end.
    ///
    /// Gives what the busiest stream carried, as [`Pair::busiest_second`].
    ///
    /// # Errors
    /// The first [`Violation`] of an [invariant](crate::invariants).
    pub fn run(&self) -> Result<u32, Violation> {
        match self.peers {
            Peers::PlainDaemon => self.play(&mut Pair::plain(self)),
            Peers::PlainController => self.play(&mut Pair::plainly_led(self)),
            Peers::Rust | Peers::JavaDaemon | Peers::JavaController => self.play(&mut Pair::of(self)),
        }
    }

    /// Like [`run`](Self::run), and tells the whole story.
    ///
    /// # Errors
    /// The first violation and the log that leads to it.
    pub fn run_logged(&self) -> Result<Log, Box<Failure>> {
        match self.peers {
            Peers::PlainDaemon => self.tell(Pair::plain(self)),
            Peers::PlainController => self.tell(Pair::plainly_led(self)),
            Peers::Rust | Peers::JavaDaemon | Peers::JavaController => self.tell(Pair::of(self)),
        }
    }

    fn play<D: DaemonSide, C: ControllerSide>(&self, pair: &mut Pair<D, C>) -> Result<u32, Violation> {
        pair.play(&self.actions)?;
        Ok(pair.busiest_second())
    }

    fn tell<D: DaemonSide, C: ControllerSide>(&self, pair: Pair<D, C>) -> Result<Log, Box<Failure>> {
        let mut pair = pair.with_log(Log::new());
        match self.play(&mut pair) {
            Ok(_) => Ok(pair.into_log()),
            Err(violation) => Err(Box::new(Failure {
                violation,
                log: pair.into_log(),
            })),
        }
    }

    /// Removes and shortens actions as long as the run fails with the same invariant.
    #[must_use]
    pub fn minimised(&self) -> Self {
        let Err(original) = self.run() else {
            return self.clone();
        };
        let fails = |candidate: &Self| {
            candidate
                .run()
                .is_err_and(|found| found.invariant == original.invariant)
        };
        let mut best = self.clone();
        loop {
            let before = best.actions.len();
            let mut chunk = (before / 2).max(1);
            loop {
                let mut at = 0;
                while at < best.actions.len() {
                    let mut candidate = best.clone();
                    candidate.actions.drain(at..(at + chunk).min(best.actions.len()));
                    if fails(&candidate) {
                        best = candidate;
                    } else {
                        at += chunk;
                    }
                }
                if chunk == 1 {
                    break;
                }
                chunk /= 2;
            }
            if best.actions.len() == before {
                break;
            }
        }
        for at in 0..best.actions.len() {
            let Some(Action::Start(instance, behaviour)) = best.actions.get(at).cloned() else {
                continue;
            };
            for simpler in behaviour.simpler() {
                let mut candidate = best.clone();
                if let Some(slot) = candidate.actions.get_mut(at) {
                    *slot = Action::Start(instance, simpler);
                }
                if fails(&candidate) {
                    best = candidate;
                    break;
                }
            }
        }
        best
    }
}

/// A step at random; of those that disturb, so many percent are left out.
fn next_action(rng: &mut Rng, spared: u64) -> Action {
    loop {
        let action = Action::random(rng);
        if !action.is_disturbing() || !rng.chance(spared) {
            return action;
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::JavaDaemon => "java-daemon",
            Self::PlainDaemon => "plain-daemon",
            Self::JavaController => "java-controller",
            Self::PlainController => "plain-controller",
        })
    }
}

impl FromStr for Peers {
    type Err = ParseError;

    fn from_str(word: &str) -> Result<Self, ParseError> {
        match word {
            "rust" => Ok(Self::Rust),
            "java-daemon" => Ok(Self::JavaDaemon),
            "plain-daemon" => Ok(Self::PlainDaemon),
            "java-controller" => Ok(Self::JavaController),
            "plain-controller" => Ok(Self::PlainController),
            other => Err(ParseError::new(
                other,
                "rust, java-daemon, plain-daemon, java-controller or plain-controller",
            )),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.lines().try_for_each(|line| writeln!(f, "# {line}"))?;
        writeln!(
            f,
            "seed {}\npeers {}\nheartbeat {}",
            self.seed,
            self.peers,
            show(self.heartbeat)
        )?;
        writeln!(f, "queue {}", self.queue)?;
        self.actions.iter().try_for_each(|action| writeln!(f, "{action}"))
    }
}

impl FromStr for Scenario {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut scenario = Self::new(0);
        let mut about = Vec::new();
        let mut seeded = false;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                if !seeded {
                    about.push(comment.trim());
                }
                continue;
            }
            seeded |= line.starts_with("seed");
            scenario.take(line).map_err(|error| ParseError {
                line: index + 1,
                ..error
            })?;
        }
        scenario.about = about.join("\n");
        Ok(scenario)
    }
}

impl Scenario {
    fn take(&mut self, line: &str) -> Result<(), ParseError> {
        let mut words = Words::of(line);
        match line.split_whitespace().next() {
            None => return Ok(()),
            Some(key @ ("seed" | "peers" | "heartbeat" | "queue")) => {
                words.next("a setting")?;
                let value = words.next("a value")?;
                match key {
                    "seed" => self.seed = text::number(value)?,
                    "peers" => self.peers = value.parse()?,
                    "queue" => self.queue = text::number(value)?,
                    _ => self.heartbeat = text::duration(value)?,
                }
            }
            Some(_) => {
                self.actions.push(line.parse()?);
                return Ok(());
            }
        }
        words.end()
    }
}
