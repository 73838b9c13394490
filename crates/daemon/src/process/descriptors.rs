//! How many files this process may have open, and how close it is to that
//!
//! A daemon with many servers needs more descriptors than the usual soft limit of 1024 gives, and has none to lose: without
//! one it can neither dial a controller nor look at a process. So it [raises](raise_limit) its soft limit to the hard one, and
//! what can do without a descriptor of its own leaves the [last ones](is_spare) to what cannot. Servers are started with the
//! [limit of before](limit_before): programs that use `select` break above 1024, and those that want more raise it themselves.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are left for what cannot do without: the link, a start, the records
const RESERVE: u64 = 16;

/// Descriptors beyond these that are left for consoles to take turns with
///
/// What tells of an end is held for as long as the instance lives and lends nothing; without it an end is noticed a second
/// later, and without any descriptor for consoles their lines would not come at all.
const TURNS: u64 = 4;

/// Descriptors that a daemon without instances needs, with room for a few downloads and starts at once
pub const NEEDED: u64 = 64;

/// Descriptors that a running instance takes: one tells of its end, the other reads its console
///
/// Both are needed all the time: without the first an end is noticed a second later, without the second each look at the
/// console would open it anew. Its progress, its standard input and its records are opened when they are used.
pub const PER_INSTANCE: u64 = 2;

static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// A soft limit before and after; `None` is no limit
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// As this process was started
    pub before: Option<u64>,
    /// As it is now
    pub now: Option<u64>,
}

/// Raises the soft limit of open files to the hard limit; calling it again changes nothing
pub fn raise_limit() -> Raised {
    let limit = getrlimit(Resource::Nofile);
    let before = *BEFORE.get_or_init(|| limit.current);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        // Not every system allows what it announces as the hard limit.
        Err(_) => limit.current,
    };
    Raised { before, now }
}

/// The soft limit that this process was started with, if it was raised since
#[must_use]
pub fn limit_before() -> Option<u64> {
    *BEFORE.get()?
}

/// Sets the soft limit of this process, at most to the hard one
pub(crate) fn set_limit(soft: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(limit.maximum.map_or(soft, |hard| soft.min(hard))),
        maximum: limit.maximum,
    };
    // What was allowed before the raise is allowed.
    let _ = setrlimit(Resource::Nofile, wanted);
}

/// What a descriptor is for that an instance can do without for a while
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convenience {
    /// Its end is noticed at once
    Watching,
    /// Its console is read
    Console,
}

/// Whether enough descriptors are left beside this one, which was opened last
///
/// The kernel gives the lowest free number, so a high one says how many are in use.
#[must_use]
pub fn is_spare(descriptor: BorrowedFd<'_>, what_for: Convenience) -> bool {
    let left = match what_for {
        Convenience::Watching => RESERVE + TURNS,
        Convenience::Console => RESERVE,
    };
    let number = u64::try_from(descriptor.as_raw_fd()).unwrap_or(u64::MAX);
    getrlimit(Resource::Nofile)
        .current
        .is_none_or(|limit| number.saturating_add(left) <= limit)
}
