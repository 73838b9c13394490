//! What is done at a moment, all of it from one number

use std::fmt;
use std::time::Duration;

use prexorcloud_testkit::Rng;

/// What is under way
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A folder, from the operator to the controller
    Push,
    /// A template that the daemon does not have
    Transfer,
    /// A start from what is in its cache
    Preparation,
    /// The same into a folder that is kept, where another version of the template was
    Static,
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
        let work = match rng.below(100) {
            0..15 => Work::Push,
            15..45 => Work::Transfer,
            45..70 => Work::Preparation,
            _ => Work::Static,
        };
        let starts = match rng.below(100) {
            // Its folder is one.
            _ if work == Work::Static => 1,
            0..70 => 1,
            70..90 => 2,
            _ => 3,
        };
        let first = Kill {
            victim: match (work, rng.below(100)) {
                // A daemon has no part in it.
                (Work::Push, _) => Victim::Controller,
                (Work::Transfer, 0..45) | (Work::Preparation | Work::Static, 0..75) => Victim::Daemon,
                (_, 0..90) => Victim::Controller,
                _ => Victim::Both,
            },
            // A little longer than it takes, so that the end of it is met too.
            after: thousandths(&mut rng, 1100),
        };
        let second = (rng.below(100) < 30).then(|| Kill {
            victim: match rng.below(100) {
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
    u32::try_from(rng.below(most)).unwrap()
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts = self.starts;
        match self.work {
            Work::Push => write!(f, "a push")?,
            Work::Transfer => write!(f, "a transfer for {starts}")?,
            Work::Preparation => write!(f, "a preparation of {starts}")?,
            Work::Static => write!(f, "a preparation of a static one")?,
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
