//! Waiting in tokio until a descriptor can be read

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands `descriptor` to the runtime
///
/// For a pidfd, readable means that the process ended; for inotify, that there is an event.
///
/// # Errors
/// If the runtime cannot watch it. Call it inside a runtime with I/O enabled, or it panics.
#[allow(
    deprecated,
    reason = "its replacement is an unsafe function whose condition, a descriptor that stays open and the same, an OwnedFd always meets"
)]
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
