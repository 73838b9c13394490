//! The output of an instance: an append-only file that is read by byte offset
//!
//! No process stands between an instance and its log, so the output survives the daemon. A [`Follower`] turns the bytes
//! into numbered lines, a [`ProgressFile`] remembers how far they were handed over, [`tail`] takes the last ones for a
//! crash report, and a [`Watcher`] tells when there is more to read.
//!
//! Lines are numbered from 1 for each start of an instance, and a number always means the same line. A daemon that was
//! killed, or whose connection broke, resumes where lines are not known to have arrived ([`Progress::settled`]); a receiver
//! drops what it has by number, and so neither loses nor doubles a line.
//!
//! The log belongs to the daemon, but the server that writes to it runs as the same user. It may cut the log, put another
//! in its place, or make it huge by one write far behind its end: what can still be read is read, and what is lost is said.

mod cursor;
mod follower;
mod line;
mod tail;
mod watch;

pub use cursor::{Cursor, Progress, ProgressFile};
pub use follower::{Follower, Retention, Shed};
pub use line::{ConsoleLine, MAX_LINE_UNITS, TRUNCATION_MARKER};
pub use tail::{MAX_TAIL_LINES, tail};
pub use watch::Watcher;
