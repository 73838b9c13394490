//! The output of an instance: an append-only file that is read by byte offset
//!
//! No process stands between an instance and its log, so the output survives the daemon. A [`Follower`] turns the bytes
//! into numbered lines, a [`ProgressFile`] remembers how far they were handed over, [`tail`] takes the last ones for a
//! crash report, and a [`Watcher`] tells when there is more to read.
//!
//! Lines are numbered from 1 for each start of an instance, and a number always means the same line. A daemon that was
//! killed resumes a little before the place it had reached ([`Progress::settled`]); a receiver drops what it has by number,
//! and so neither loses nor doubles a line.

mod cursor;
mod follower;
mod line;
mod tail;
mod watch;

pub use cursor::{Cursor, Progress, ProgressFile};
pub use follower::{Follower, Retention};
pub use line::{ConsoleLine, MAX_LINE_UNITS, TRUNCATION_MARKER};
pub use tail::{MAX_TAIL_LINES, tail};
pub use watch::Watcher;
