//! What a program logs, for operators who are somewhere else, and in files that roll
//!
//! ```text
//!  tracing ──▶ MirrorLayer ──▶ Mirror (bounded) ──▶ whoever takes: the stream to a controller, a ring to look at
//!         └──▶ any writer of lines ──▶ RollingFile (bounded, a thread of its own) ──▶ log, log.1, log.2, ...
//! ```
//!
//! What a program has to say about its work is never a reason not to do it. Nothing here waits for a reader, a disk or a network:
//! what finds no room is dropped and counted, and whoever reads on can see how much is missing.
//!
//! | Module | Does |
//! |---|---|
//! | [`record`] | what is kept of one event, within the limits of the wire |
//! | [`mirror`] | the queue between those who log and the one who takes |
//! | [`layer`] | from `tracing` to records |
//! | [`file`](mod@file) | lines on disk, rolled by size |
//! | [`trace`] | the ids of the trace that work belongs to |
//! | [`visible`] | makes text harmless that somebody else wrote |
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod file;
pub mod layer;
pub mod mirror;
pub mod record;
pub mod trace;
pub mod visible;

pub use file::{FileLimits, RollingFile};
pub use layer::MirrorLayer;
pub use mirror::{Counts, Mirror};
pub use record::Record;
