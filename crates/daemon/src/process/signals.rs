//! What signals mean to this process, and to those that it starts
//!
//! A child inherits what is ignored (`nohup` ignores SIGHUP, a shell SIGINT for its background jobs) and what is blocked.
//! A server that was started by such a daemon would never see them, so nothing of it is handed on: a signal that is
//! *heard* instead of ignored is back at its default in whatever is executed, by the rules of `execve`, and the mask is
//! emptied before the first thread starts.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::SigSet;
use rustix::process::Signal;
use signal_hook::consts::FORBIDDEN;

/// Dispositions of this process, as the kernel shows them
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    ignored: u64,
}

/// The highest signal that is no real-time one
const LAST: i32 = 31;

/// What ends a program, or makes it read its configuration again
pub const OF_OPERATORS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// What means nothing to any of our programs, and would end them
///
/// Timers that nobody has set, descriptors that nobody has asked to be told of, and what is for the operator to try. A file
/// that may grow no further is an error where it is written.
pub const MEANINGLESS: [Signal; 9] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::STKFLT,
    Signal::XFSZ,
];

/// Those that have numbers and no names, and would end a program, too
const REAL_TIME: RangeInclusive<i32> = 35..=64;

impl Signals {
    /// Those of this process
    ///
    /// # Errors
    /// `/proc` cannot be read or is of another kind.
    pub fn now() -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/status")?)
            .ok_or_else(|| io::Error::other("/proc/self/status shows no signals"))
    }

    fn parse(status: &str) -> Option<Self> {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        let ignored = u64::from_str_radix(mask.trim(), 16).ok()?;
        Some(Self { ignored })
    }

    /// Whether it has no effect
    #[must_use]
    pub fn ignores(self, signal: Signal) -> bool {
        contains(self.ignored, signal.as_raw())
    }

    /// All that have no effect and can be heard instead
    ///
    /// Without SIGPIPE, which `std` ignores and gives children the default of.
    pub fn ignored(self) -> impl Iterator<Item = Signal> {
        (1..=LAST)
            .filter(move |signal| contains(self.ignored, *signal) && !FORBIDDEN.contains(signal))
            .filter_map(Signal::from_named_raw)
            .filter(|signal| *signal != Signal::PIPE)
    }
}

fn contains(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1)
        .ok()
        .and_then(|bit| mask.checked_shr(bit))
        .is_some_and(|mask| mask & 1 == 1)
}

/// Blocks no signal in this thread, nor in those that it starts from now on, nor in what they execute
///
/// Whoever starts a program with signals blocked, often without knowing, could never end it.
///
/// # Errors
/// None that the system documents.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// From now on `signals` do nothing to this process, and whatever it executes has their default
///
/// # Errors
/// The system does not take a handler.
pub fn shrug_off(signals: impl IntoIterator<Item = Signal>) -> io::Result<()> {
    signals
        .into_iter()
        .try_for_each(|signal| shrug_off_number(signal.as_raw()))
}

/// [`shrug_off`] for everything that [means nothing](MEANINGLESS), and for those without names
///
/// # Errors
/// As [`shrug_off`].
pub fn shrug_off_meaningless() -> io::Result<()> {
    shrug_off(MEANINGLESS)?;
    REAL_TIME.into_iter().try_for_each(shrug_off_number)
}

fn shrug_off_number(number: i32) -> io::Result<()> {
    let nobody_looks = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(number, nobody_looks).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_bit_by_bit() {
        let status = "Name:\tx\nSigPnd:\t0\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000001001\n";
        let signals = Signals::parse(status);
        let Some(signals) = signals else {
            unreachable!("{status}");
        };
        assert!(signals.ignores(Signal::HUP) && signals.ignores(Signal::PIPE));
        assert!(!signals.ignores(Signal::TERM));
        assert_eq!(signals.ignored().collect::<Vec<_>>(), [Signal::HUP]);
        assert_eq!(Signals::parse("SigBlk:\t0\n"), None);
    }
}
