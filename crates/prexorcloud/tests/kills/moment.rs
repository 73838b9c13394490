//! What is done at a moment, all of it from one number

use std::fmt;
use std::time::Duration;

/// A SplitMix64 generator: the same seed, the same numbers
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn percent(&mut self) -> u64 {
        self.number() % 100
    }
}

/// What is under way
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A folder, from the operator to the controller
    Push,
    /// A template that the daemon does not have
    Transfer,
    /// A start from what is in its cache
    Preparation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Daemon,
    Controller,
    Both,
}

/// A kill
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kill {
    pub victim: Victim,
    /// After which part of the time that the work takes, in thousandths
    after: u32,
}

impl Kill {
    pub fn after(&self, work: Duration) -> Duration {
        work * self.after / 1000
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    pub seed: u64,
    pub work: Work,
    /// How many starts need it at once
    pub starts: usize,
    pub first: Kill,
    /// While they recover
    pub second: Option<Kill>,
}

impl Moment {
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let work = match rng.percent() {
            0..15 => Work::Push,
            15..60 => Work::Transfer,
            _ => Work::Preparation,
        };
        let starts = match rng.percent() {
            0..70 => 1,
            70..90 => 2,
            _ => 3,
        };
        let first = Kill {
            victim: match (work, rng.percent()) {
                // A daemon has no part in it.
                (Work::Push, _) => Victim::Controller,
                (Work::Transfer, 0..45) | (Work::Preparation, 0..75) => Victim::Daemon,
                (_, 0..90) => Victim::Controller,
                _ => Victim::Both,
            },
            // A little longer than it takes, so that the end of it is met too.
            after: thousandths(&mut rng, 1100),
        };
        let second = (rng.percent() < 30).then(|| Kill {
            victim: match rng.percent() {
                0..60 => Victim::Daemon,
                60..90 => Victim::Controller,
                _ => Victim::Both,
            },
            after: thousandths(&mut rng, 800),
        });
        Self {
            seed,
            work,
            starts,
            first,
            second,
        }
    }
}

fn thousandths(rng: &mut Rng, most: u64) -> u32 {
    u32::try_from(rng.number() % most).unwrap()
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts = self.starts;
        match self.work {
            Work::Push => write!(f, "a push")?,
            Work::Transfer => write!(f, "a transfer for {starts}")?,
            Work::Preparation => write!(f, "a preparation of {starts}")?,
        }
        write!(f, ", {}", self.first)?;
        match self.second {
            Some(second) => write!(f, ", then {second}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = match self.victim {
            Victim::Daemon => "the daemon",
            Victim::Controller => "the controller",
            Victim::Both => "both",
        };
        write!(f, "{victim} killed at {:.1} %", f64::from(self.after) / 10.0)
    }
}
