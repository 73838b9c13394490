//! Processes of this machine: who one is, and what it started
//!
//! A process id alone names nobody: the kernel reuses it. [`Identity`] adds the start time and the boot, and every
//! signal goes through a pidfd that was checked against it, so a stranger is never hit.

mod identity;
mod tree;

pub use identity::Identity;
pub use tree::{children, kill_tree};
