//! What a simulated process does with its life

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::rng::Rng;
use crate::scenario::ParseError;
use crate::text::{self, Words};

/// The script of one process
///
/// It travels to the simulated daemon in `StartInstance.jar_file`, in the words that [`Display`](fmt::Display) writes,
/// so whatever the controller stores and sends again is still the same process.
///
/// ```
/// use prexorcloud_testkit::Behaviour;
///
/// let text = "prepare=2s startup=1s stop=never lines=5@200ms";
/// assert_eq!(text.parse::<Behaviour>().unwrap().to_string(), text);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How long the preparation takes.
    pub prepare: Duration,
    /// How many attempts fail after their preparation, with a TRANSIENT disposition, before one succeeds.
    pub transient_failures: u32,
    /// The preparation fails with a PERMANENT disposition.
    pub refuse: bool,
    /// How long the server takes until it is ready; `None` for ever.
    pub startup: Option<Duration>,
    /// The server has no plugin that tells the controller that it is ready: on a Java node only its console does.
    pub bare: bool,
    /// How long the server takes to stop when asked to; `None` if it has to be killed.
    pub stop: Option<Duration>,
    /// When the process crashes by itself, counted from its launch; `None` for never.
    pub crash: Option<Duration>,
    /// When the process ends by itself with exit code 0, counted from its launch; `None` for never.
    pub exit: Option<Duration>,
    /// How many console lines it writes.
    pub lines: u32,
    /// The time between two of them.
    pub every: Duration,
    /// `shutdown_grace_seconds` of the start; 0 for the default.
    pub grace_seconds: i32,
    /// `startup_timeout_seconds` of the start; 0 for the default.
    pub startup_timeout_seconds: i32,
    /// `max_lifetime_seconds` of the start; 0 for none.
    pub lifetime_seconds: i32,
}

impl Default for Behaviour {
    /// Prepares for a second, is ready two seconds later, stops within half a second.
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(1),
            transient_failures: 0,
            refuse: false,
            startup: Some(Duration::from_secs(2)),
            bare: false,
            stop: Some(Duration::from_millis(500)),
            crash: None,
            exit: None,
            lines: 0,
            every: Duration::from_millis(500),
            grace_seconds: 0,
            startup_timeout_seconds: 0,
            lifetime_seconds: 0,
        }
    }
}

impl Behaviour {
    /// A life at random: mostly ordinary, sometimes hopeless.
    pub fn random(rng: &mut Rng) -> Self {
        let seconds = |rng: &mut Rng, most| rng.between(Duration::ZERO, Duration::from_secs(most));
        let mut behaviour = Self {
            prepare: seconds(rng, 3),
            startup: Some(seconds(rng, 5)),
            ..Self::default()
        };
        if rng.chance(10) {
            behaviour.prepare = seconds(rng, 90);
        }
        if rng.chance(10) {
            behaviour.startup = None;
        }
        behaviour.bare = rng.chance(30);
        if rng.chance(20) {
            behaviour.stop = if rng.chance(50) {
                None
            } else {
                Some(seconds(rng, 60))
            };
        }
        if rng.chance(20) {
            behaviour.crash = Some(seconds(rng, 60));
        } else if rng.chance(10) {
            behaviour.exit = Some(seconds(rng, 60));
        }
        if rng.chance(15) {
            behaviour.transient_failures = 1 + rng.below(5) as u32;
        } else if rng.chance(5) {
            behaviour.refuse = true;
        }
        if rng.chance(50) {
            behaviour.lines = 1 + rng.below(100) as u32;
            behaviour.every = rng.between(Duration::from_millis(50), Duration::from_secs(1));
        }
        if rng.chance(30) {
            behaviour.grace_seconds = 1 + rng.below(40) as i32;
        }
        if rng.chance(30) {
            behaviour.startup_timeout_seconds = 1 + rng.below(120) as i32;
        }
        if rng.chance(10) {
            behaviour.lifetime_seconds = 1 + rng.below(120) as i32;
        }
        behaviour
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_never = |time: Option<Duration>| time.map_or("never".to_owned(), text::show);
        let usual = Self::default();
        write!(
            f,
            "prepare={} startup={} stop={}",
            text::show(self.prepare),
            or_never(self.startup),
            or_never(self.stop)
        )?;
        if self.bare {
            write!(f, " bare")?;
        }
        if self.transient_failures > 0 {
            write!(f, " failures={}", self.transient_failures)?;
        }
        if self.refuse {
            write!(f, " refuse")?;
        }
        if let Some(crash) = self.crash {
            write!(f, " crash={}", text::show(crash))?;
        }
        if let Some(exit) = self.exit {
            write!(f, " exit={}", text::show(exit))?;
        }
        if self.lines > 0 || self.every != usual.every {
            write!(f, " lines={}@{}", self.lines, text::show(self.every))?;
        }
        for (key, seconds) in [
            ("grace", self.grace_seconds),
            ("timeout", self.startup_timeout_seconds),
            ("lifetime", self.lifetime_seconds),
        ] {
            if seconds != 0 {
                write!(f, " {key}={seconds}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Behaviour {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let or_never = |word: &str| {
            if word == "never" {
                Ok(None)
            } else {
                text::duration(word).map(Some)
            }
        };
        let mut behaviour = Self::default();
        for word in Words::of(line).rest() {
            match word.split_once('=') {
                None if word == "refuse" => behaviour.refuse = true,
                None if word == "bare" => behaviour.bare = true,
                Some(("prepare", value)) => behaviour.prepare = text::duration(value)?,
                Some(("startup", value)) => behaviour.startup = or_never(value)?,
                Some(("stop", value)) => behaviour.stop = or_never(value)?,
                Some(("failures", value)) => behaviour.transient_failures = text::number(value)?,
                Some(("crash", value)) => behaviour.crash = Some(text::duration(value)?),
                Some(("exit", value)) => behaviour.exit = Some(text::duration(value)?),
                Some(("lines", value)) => {
                    let (count, every) = value
                        .split_once('@')
                        .ok_or_else(|| ParseError::new(value, "lines=COUNT@EVERY"))?;
                    behaviour.lines = text::number(count)?;
                    behaviour.every = text::duration(every)?.max(Duration::from_millis(1));
                }
                Some(("grace", value)) => behaviour.grace_seconds = text::number(value)?,
                Some(("timeout", value)) => behaviour.startup_timeout_seconds = text::number(value)?,
                Some(("lifetime", value)) => behaviour.lifetime_seconds = text::number(value)?,
                _ => return Err(ParseError::new(word, "a word of a process's script")),
            }
        }
        Ok(behaviour)
    }
}

impl Behaviour {
    /// Scripts that are easier to read, for making a failing scenario smaller.
    pub(crate) fn simpler(&self) -> Vec<Self> {
        let usual = Self::default();
        let mut simpler = vec![usual];
        simpler.push(Self {
            lines: 0,
            every: usual.every,
            ..*self
        });
        simpler.push(Self {
            prepare: usual.prepare,
            startup: usual.startup,
            lines: 0,
            every: usual.every,
            ..*self
        });
        simpler.retain(|candidate| candidate != self);
        simpler
    }
}
