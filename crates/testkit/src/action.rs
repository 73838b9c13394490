//! The steps of a scenario

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use prexorcloud_protocol::InstanceId;

use crate::behaviour::Behaviour;
use crate::rng::Rng;
use crate::scenario::ParseError;
use crate::text::{self, Words, show};

/// One of the two hosts
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host of the daemon and its instances.
    Daemon,
    /// The host of the controller that leads.
    Controller,
}

/// One direction of a stream
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the daemon to the controller.
    Up,
    /// From the controller to the daemon.
    Down,
}

/// A message that no well-behaved peer sends, put on the link as if the peer had sent it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// An envelope without a payload.
    Empty,
    /// A payload variant that the receiver's build does not know.
    UnknownVariant(u32),
    /// A second handshake, or a second acknowledgement: ends the stream.
    Repeated,
    /// A message about an instance whose id is a path.
    UnsafeId,
    /// A text longer than the contract allows.
    TooLong,
    /// A number that no enum value has; a start with a negative port.
    OutOfRange,
    /// A message about an instance that the receiver has never heard of.
    Stranger,
    /// A start of a later incarnation of everything that is alive (down); a report of an earlier one (up).
    Rival,
    /// A pong that answers no ping (up); a command of a superseded epoch (down).
    Stale,
}

/// A step of a scenario
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Let time pass.
    Wait(Duration),
    /// The operator starts an instance, unless it is alive.
    Start(InstanceId, Behaviour),
    /// The operator stops an instance.
    Stop(InstanceId),
    /// The operator kills an instance.
    Kill(InstanceId),
    /// The operator lets an instance run empty.
    Drain(InstanceId),
    /// The operator takes that back.
    Undrain(InstanceId),
    /// The operator lets the whole node run empty; what still runs then is killed.
    DrainNode {
        /// How long it may take.
        within: Duration,
        /// Whether the daemon is told to shut down in the end.
        shutdown: bool,
    },
    /// The operator takes that back.
    UndrainNode,
    /// The operator forgets an instance that has ended.
    Forget(InstanceId),
    /// The operator gives an instance up, because its node stays away; without effect while the node is connected.
    DeclareLost(InstanceId),
    /// The operator gives an instance up and deletes its record, while its node is away.
    Abandon(InstanceId),
    /// Whether an instance that nobody knows is adopted when its node lists it, or stopped.
    AdoptUnknown(bool),
    /// The operator shuts the node down; its service manager starts the daemon again a little later.
    ShutDownNode,
    /// The controller ends its session with the node.
    CloseSession,
    /// The controller sends a template of so many bytes.
    Template(usize),
    /// The operator types a console command.
    Command(InstanceId, String),
    /// The process crashes by itself.
    Crash(InstanceId),
    /// The process ends by itself, with exit code 0.
    Exit(InstanceId),
    /// The process writes many lines at once.
    Flood(InstanceId, u32),
    /// The operator marks the node as cordoned, or not.
    Cordon(bool),
    /// Every open stream breaks; in each direction the first messages on their way still arrive.
    Break {
        /// How many messages still reach the controller.
        keep_up: usize,
        /// How many messages still reach the daemon.
        keep_down: usize,
        /// How long the daemon's host takes to notice.
        daemon_notices: Duration,
        /// How long the controller's host takes to notice.
        controller_notices: Duration,
    },
    /// No new stream comes about until [`Heal`](Self::Heal).
    Partition,
    /// Ends partition, stalls and poor links.
    Heal,
    /// Open and new streams get this latency and jitter.
    Latency(Duration, Duration),
    /// Open and new streams pass only so many bytes per second, with a window of that size.
    Narrow(u64),
    /// One direction of the open streams holds everything back.
    Stall(Direction),
    /// Nothing is held back any more.
    Resume,
    /// The daemon can write nothing for so long: no crash report, and no epoch that it obeys.
    FailDisk(Duration),
    /// `kill -9` of the daemon; it comes back after a while.
    RestartDaemon(Duration),
    /// `kill -9` of the controller; it comes back after a while.
    RestartController(Duration),
    /// Another controller takes over; the old one goes on believing in itself.
    Failover,
    /// The daemon's next dial reaches the deposed controller, if there is one.
    DialDeposed,
    /// The deposed controllers stop everything they know of.
    DeposedStopsAll,
    /// From now on, until [`Heal`](Self::Heal), a commit takes up to this long.
    SlowStore(Duration),
    /// The store writes nothing for so long.
    FailStore(Duration),
    /// The next write of the store fails.
    FailCommit,
    /// The next handshake is answered with a redirect.
    Redirect,
    /// The next admission takes this long.
    SlowAdmission(Duration),
    /// The clock of one host leaps ahead.
    Leap(Side, Duration),
    /// One host sleeps: nothing happens on it, while its clock goes on.
    Suspend(Side, Duration),
    /// One side hears once more what belongs to an earlier incarnation or stream and must change nothing now: of what was
    /// recorded and fits, the one that is so far back, counted around. Without effect if a Java peer is there, which
    /// could not tell.
    Replay(Direction, usize),
    /// A message that no well-behaved peer sends.
    Inject(Direction, Garbage),
}

/// The instances that random scenarios play with; few, so that ids are reused.
pub const INSTANCES: [&str; 3] = ["lobby-1", "lobby-2", "bedwars-1"];

impl Action {
    /// A step at random.
    pub fn random(rng: &mut Rng) -> Self {
        let millis = |rng: &mut Rng, most| rng.between(Duration::ZERO, Duration::from_millis(most));
        let short = |rng: &mut Rng| {
            if rng.chance(50) {
                Duration::ZERO
            } else {
                millis(rng, 60_000)
            }
        };
        let name = rng.pick(&INSTANCES).copied().unwrap_or("lobby-1");
        let Ok(instance) = InstanceId::new(name) else {
            return Self::Heal;
        };
        let side = if rng.chance(50) {
            Side::Daemon
        } else {
            Side::Controller
        };
        let direction = if rng.chance(50) {
            Direction::Up
        } else {
            Direction::Down
        };
        match rng.below(100) {
            0..21 => Self::Wait(match rng.below(10) {
                0..3 => millis(rng, 20),
                3..6 => millis(rng, 1_000),
                6..9 => millis(rng, 15_000),
                _ => millis(rng, 300_000),
            }),
            21..25 => Self::Replay(direction, rng.below(64) as usize),
            25..40 => Self::Start(instance, Behaviour::random(rng)),
            40..47 => Self::Stop(instance),
            47..50 => Self::Kill(instance),
            50..52 => Self::Drain(instance),
            52 => Self::Forget(instance),
            53 if rng.chance(25) => Self::DeclareLost(instance),
            53 if rng.chance(50) => Self::Abandon(instance),
            53 => Self::Forget(instance),
            54 => Self::Command(instance, "save-all".to_owned()),
            55..58 => Self::Crash(instance),
            58..60 => Self::Exit(instance),
            60 => Self::Flood(instance, 1 + rng.below(400) as u32),
            61 => match rng.below(9) {
                5 => Self::DrainNode {
                    within: millis(rng, 60_000),
                    shutdown: rng.chance(50),
                },
                6 => Self::UndrainNode,
                7 | 8 => Self::FailDisk(millis(rng, 120_000)),
                0 => Self::Cordon(rng.chance(50)),
                1 => Self::AdoptUnknown(rng.chance(50)),
                2 => Self::ShutDownNode,
                3 => Self::Template(1 + rng.below(200_000) as usize),
                _ => Self::CloseSession,
            },
            62..72 => Self::Break {
                keep_up: rng.below(4) as usize,
                keep_down: rng.below(4) as usize,
                daemon_notices: short(rng),
                controller_notices: short(rng),
            },
            72..74 => Self::Partition,
            74..77 => Self::Heal,
            77 => Self::Latency(millis(rng, 2_000), millis(rng, 2_000)),
            78 => Self::Narrow(200 + rng.below(5_000)),
            79 => Self::Stall(direction),
            80 => Self::Resume,
            81..86 => Self::RestartDaemon(millis(rng, 20_000)),
            86..90 => Self::RestartController(millis(rng, 20_000)),
            90 => Self::Failover,
            91 => Self::DialDeposed,
            92 => Self::DeposedStopsAll,
            93 => Self::Redirect,
            94 => Self::SlowAdmission(millis(rng, 15_000)),
            95 => Self::Leap(
                side,
                rng.between(Duration::from_secs(1), Duration::from_secs(7_200)),
            ),
            97 => Self::Undrain(instance),
            98 => match rng.below(4) {
                0 => Self::FailStore(millis(rng, 120_000)),
                1 => Self::FailCommit,
                _ => Self::SlowStore(millis(rng, 5_000)),
            },
            96 => {
                let most = if rng.chance(50) { 60 } else { 7_200 };
                Self::Suspend(
                    side,
                    rng.between(Duration::from_secs(1), Duration::from_secs(most)),
                )
            }
            _ => Self::Inject(direction, Garbage::random(rng)),
        }
    }
}

impl Action {
    /// Whether the two are out of touch for a while after it, or hear each other worse.
    pub(crate) const fn is_disturbing(&self) -> bool {
        matches!(
            self,
            Self::ShutDownNode
                | Self::CloseSession
                | Self::SlowStore(_)
                | Self::FailStore(_)
                | Self::Break { .. }
                | Self::Partition
                | Self::Latency(..)
                | Self::Narrow(_)
                | Self::Stall(_)
                | Self::RestartDaemon(_)
                | Self::RestartController(_)
                | Self::Failover
                | Self::DialDeposed
                | Self::Redirect
                | Self::SlowAdmission(_)
                | Self::Leap(..)
                | Self::Suspend(..)
        )
    }
}

impl Garbage {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(10) {
            0 => Self::Empty,
            1..3 => Self::UnknownVariant(100 + rng.below(3) as u32),
            3 => Self::Repeated,
            4 => Self::UnsafeId,
            5 => Self::TooLong,
            6 => Self::OutOfRange,
            7 if rng.chance(50) => Self::Rival,
            7 => Self::Stranger,
            _ => Self::Stale,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daemon => "daemon",
            Self::Controller => "controller",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVariant(tag) => write!(f, "unknown-variant {tag}"),
            Self::Empty => f.write_str("empty"),
            Self::Repeated => f.write_str("repeated"),
            Self::UnsafeId => f.write_str("unsafe-id"),
            Self::TooLong => f.write_str("too-long"),
            Self::OutOfRange => f.write_str("out-of-range"),
            Self::Stranger => f.write_str("stranger"),
            Self::Rival => f.write_str("rival"),
            Self::Stale => f.write_str("stale"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(time) => write!(f, "wait {}", show(*time)),
            Self::Start(instance, behaviour) => write!(f, "start {instance} {behaviour}"),
            Self::Stop(instance) => write!(f, "stop {instance}"),
            Self::Kill(instance) => write!(f, "kill {instance}"),
            Self::Drain(instance) => write!(f, "drain {instance}"),
            Self::Undrain(instance) => write!(f, "undrain {instance}"),
            Self::DrainNode { within, shutdown } => {
                let and = if *shutdown { " shutdown" } else { "" };
                write!(f, "drain-node {}{and}", show(*within))
            }
            Self::UndrainNode => f.write_str("undrain-node"),
            Self::FailDisk(time) => write!(f, "fail-disk {}", show(*time)),
            Self::Forget(instance) => write!(f, "forget {instance}"),
            Self::DeclareLost(instance) => write!(f, "declare-lost {instance}"),
            Self::Abandon(instance) => write!(f, "abandon {instance}"),
            Self::AdoptUnknown(true) => f.write_str("adopt-unknown any"),
            Self::AdoptUnknown(false) => f.write_str("adopt-unknown none"),
            Self::ShutDownNode => f.write_str("shut-down-node"),
            Self::CloseSession => f.write_str("close-session"),
            Self::Template(bytes) => write!(f, "template {bytes}"),
            Self::SlowStore(time) => write!(f, "slow-store {}", show(*time)),
            Self::FailStore(time) => write!(f, "fail-store {}", show(*time)),
            Self::FailCommit => f.write_str("fail-commit"),
            Self::Command(instance, line) => write!(f, "command {instance} {line}"),
            Self::Crash(instance) => write!(f, "crash {instance}"),
            Self::Exit(instance) => write!(f, "exit {instance}"),
            Self::Flood(instance, lines) => write!(f, "flood {instance} {lines}"),
            Self::Cordon(true) => f.write_str("cordon"),
            Self::Cordon(false) => f.write_str("uncordon"),
            Self::Break {
                keep_up,
                keep_down,
                daemon_notices,
                controller_notices,
            } => {
                let (daemon, controller) = (show(*daemon_notices), show(*controller_notices));
                write!(
                    f,
                    "break keep {keep_up} up {keep_down} down noticed by daemon {daemon} controller {controller}"
                )
            }
            Self::Partition => f.write_str("partition"),
            Self::Heal => f.write_str("heal"),
            Self::Latency(latency, jitter) => write!(f, "latency {} {}", show(*latency), show(*jitter)),
            Self::Narrow(bytes) => write!(f, "narrow {bytes}"),
            Self::Stall(direction) => write!(f, "stall {direction}"),
            Self::Resume => f.write_str("resume"),
            Self::RestartDaemon(down) => write!(f, "restart-daemon {}", show(*down)),
            Self::RestartController(down) => write!(f, "restart-controller {}", show(*down)),
            Self::Failover => f.write_str("failover"),
            Self::DialDeposed => f.write_str("dial-deposed"),
            Self::DeposedStopsAll => f.write_str("deposed-stops-all"),
            Self::Redirect => f.write_str("redirect"),
            Self::SlowAdmission(time) => write!(f, "slow-admission {}", show(*time)),
            Self::Leap(side, by) => write!(f, "leap {side} {}", show(*by)),
            Self::Suspend(side, time) => write!(f, "suspend {side} {}", show(*time)),
            Self::Replay(direction, back) => write!(f, "replay {direction} {back}"),
            Self::Inject(direction, garbage) => write!(f, "inject {direction} {garbage}"),
        }
    }
}

fn instance(words: &mut Words<'_>) -> Result<InstanceId, ParseError> {
    let word = words.next("an instance id")?;
    word.parse().map_err(|_| ParseError::new(word, "an instance id"))
}

fn duration(words: &mut Words<'_>) -> Result<Duration, ParseError> {
    text::duration(words.next("a duration")?)
}

fn literal(words: &mut Words<'_>, expected: &'static str) -> Result<(), ParseError> {
    let word = words.next(expected)?;
    if word == expected {
        Ok(())
    } else {
        Err(ParseError::new(word, expected))
    }
}

fn side(words: &mut Words<'_>) -> Result<Side, ParseError> {
    match words.next("daemon or controller")? {
        "daemon" => Ok(Side::Daemon),
        "controller" => Ok(Side::Controller),
        other => Err(ParseError::new(other, "daemon or controller")),
    }
}

fn direction(words: &mut Words<'_>) -> Result<Direction, ParseError> {
    match words.next("up or down")? {
        "up" => Ok(Direction::Up),
        "down" => Ok(Direction::Down),
        other => Err(ParseError::new(other, "up or down")),
    }
}

fn garbage(words: &mut Words<'_>) -> Result<Garbage, ParseError> {
    Ok(match words.next("a kind of garbage")? {
        "empty" => Garbage::Empty,
        "unknown-variant" => Garbage::UnknownVariant(text::number(words.next("a field number")?)?),
        "repeated" => Garbage::Repeated,
        "unsafe-id" => Garbage::UnsafeId,
        "too-long" => Garbage::TooLong,
        "out-of-range" => Garbage::OutOfRange,
        "stranger" => Garbage::Stranger,
        "rival" => Garbage::Rival,
        "stale" => Garbage::Stale,
        other => return Err(ParseError::new(other, "a kind of garbage")),
    })
}

fn breakage(words: &mut Words<'_>) -> Result<Action, ParseError> {
    literal(words, "keep")?;
    let keep_up = text::number(words.next("a number of messages")?)?;
    literal(words, "up")?;
    let keep_down = text::number(words.next("a number of messages")?)?;
    for expected in ["down", "noticed", "by", "daemon"] {
        literal(words, expected)?;
    }
    let daemon_notices = duration(words)?;
    literal(words, "controller")?;
    Ok(Action::Break {
        keep_up,
        keep_down,
        daemon_notices,
        controller_notices: duration(words)?,
    })
}

impl FromStr for Action {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let mut words = Words::of(line);
        let w = &mut words;
        let action = match w.next("an action")? {
            "wait" => Self::Wait(duration(w)?),
            "start" => {
                let instance = instance(w)?;
                let script = words.rest().collect::<Vec<_>>().join(" ");
                return Ok(Self::Start(instance, script.parse()?));
            }
            "stop" => Self::Stop(instance(w)?),
            "kill" => Self::Kill(instance(w)?),
            "drain" => Self::Drain(instance(w)?),
            "undrain" => Self::Undrain(instance(w)?),
            "drain-node" => {
                let within = duration(w)?;
                let shutdown = words.rest().collect::<Vec<_>>();
                return match shutdown.as_slice() {
                    [] | ["shutdown"] => Ok(Self::DrainNode {
                        within,
                        shutdown: !shutdown.is_empty(),
                    }),
                    [other, ..] => Err(ParseError::new(other, "shutdown, or nothing")),
                };
            }
            "undrain-node" => Self::UndrainNode,
            "fail-disk" => Self::FailDisk(duration(w)?),
            "forget" => Self::Forget(instance(w)?),
            "declare-lost" => Self::DeclareLost(instance(w)?),
            "abandon" => Self::Abandon(instance(w)?),
            "adopt-unknown" => match w.next("any or none")? {
                "any" => Self::AdoptUnknown(true),
                "none" => Self::AdoptUnknown(false),
                other => return Err(ParseError::new(other, "any or none")),
            },
            "shut-down-node" => Self::ShutDownNode,
            "close-session" => Self::CloseSession,
            "template" => Self::Template(text::number(w.next("a number of bytes")?)?),
            "slow-store" => Self::SlowStore(duration(w)?),
            "fail-store" => Self::FailStore(duration(w)?),
            "fail-commit" => Self::FailCommit,
            "command" => {
                let instance = instance(w)?;
                return Ok(Self::Command(
                    instance,
                    words.rest().collect::<Vec<_>>().join(" "),
                ));
            }
            "crash" => Self::Crash(instance(w)?),
            "exit" => Self::Exit(instance(w)?),
            "flood" => Self::Flood(instance(w)?, text::number(w.next("a number of lines")?)?),
            "cordon" => Self::Cordon(true),
            "uncordon" => Self::Cordon(false),
            "break" => breakage(w)?,
            "partition" => Self::Partition,
            "heal" => Self::Heal,
            "latency" => Self::Latency(duration(w)?, duration(w)?),
            "narrow" => Self::Narrow(text::number(w.next("a number of bytes")?)?),
            "stall" => Self::Stall(direction(w)?),
            "resume" => Self::Resume,
            "restart-daemon" => Self::RestartDaemon(duration(w)?),
            "restart-controller" => Self::RestartController(duration(w)?),
            "failover" => Self::Failover,
            "dial-deposed" => Self::DialDeposed,
            "deposed-stops-all" => Self::DeposedStopsAll,
            "redirect" => Self::Redirect,
            "slow-admission" => Self::SlowAdmission(duration(w)?),
            "leap" => Self::Leap(side(w)?, duration(w)?),
            "suspend" => Self::Suspend(side(w)?, duration(w)?),
            "replay" => Self::Replay(direction(w)?, text::number(w.next("a number of messages")?)?),
            "inject" => Self::Inject(direction(w)?, garbage(w)?),
            other => return Err(ParseError::new(other, "an action")),
        };
        words.end()?;
        Ok(action)
    }
}
