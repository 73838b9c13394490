//! Processes of this machine: who one is, and what it started
//!
//! A process id alone names nobody: the kernel reuses it. [`Identity`] adds the start time and the boot, and every
//! signal goes through a pidfd that was checked against it, so a stranger is never hit. Where no record says who it is,
//! an instance's process is found by the files that it was [started with](holders). [`signals`] is the
//! other side: what they mean to those who get them.

pub mod descriptors;
mod holders;
mod identity;
pub mod signals;
mod tree;

pub use holders::{holders, homeless_shims, shim_of, working_below};
pub use identity::{End, Identity};
pub use tree::{children, kill_tree};
