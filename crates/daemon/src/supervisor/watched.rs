//! The process of an instance: waiting for its end, and signals
//!
//! With a pidfd an end is known at once. Where none is left, the process is looked at every second until there is one again:
//! a lack of descriptors makes this slower and changes nothing else.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::process::descriptors::{self, Convenience};
use crate::process::{Identity, kill_tree};
use crate::readable::readable;

/// How often a process without a pidfd is looked at
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Watched {
    main: Identity,
    pidfd: Option<AsyncFd<OwnedFd>>,
    /// When to look again, absent before the first look; absolute, so that a wait may be broken off as often as one likes
    look_at: Option<Instant>,
    has_complained: bool,
}

/// What a look at a process without a pidfd showed
enum Look {
    Gone,
    Watched(AsyncFd<OwnedFd>),
    /// It runs, or nothing can be told of it now
    Unwatched(Option<io::Error>),
}

impl Watched {
    pub(super) fn new(main: Identity) -> Self {
        Self {
            main,
            pidfd: None,
            look_at: None,
            has_complained: false,
        }
    }

    /// Waits until the process is gone; cancel safe
    pub(super) async fn gone(&mut self) {
        loop {
            if let Some(pidfd) = &self.pidfd {
                match pidfd.readable().await {
                    Ok(_) => return,
                    // The runtime watches nothing any more; looking still works.
                    Err(_) => self.pidfd = None,
                }
            }
            if let Some(look_at) = self.look_at {
                sleep_until(look_at).await;
            }
            self.look_at = Some(Instant::now() + LOOK_EVERY);
            match self.look() {
                Look::Gone => return,
                Look::Watched(pidfd) => {
                    if self.has_complained {
                        tracing::info!(pid = self.main.pid, "the process is watched again");
                        self.has_complained = false;
                    }
                    self.pidfd = Some(pidfd);
                }
                Look::Unwatched(error) => {
                    if !self.has_complained {
                        let error =
                            error.map_or_else(|| "too few are left".to_owned(), |error| error.to_string());
                        tracing::warn!(
                            pid = self.main.pid,
                            error,
                            "no file descriptor for a process; it is looked at every second"
                        );
                        self.has_complained = true;
                    }
                }
            }
        }
    }

    fn look(&self) -> Look {
        let opened = match self.main.open() {
            Ok(Some(pidfd)) => pidfd,
            Ok(None) => return Look::Gone,
            Err(error) => {
                return match self.main.is_running() {
                    Ok(false) => Look::Gone,
                    Ok(true) | Err(_) => Look::Unwatched(Some(error)),
                };
            }
        };
        if !descriptors::is_spare(opened.as_fd(), Convenience::Watching) {
            return match self.main.is_running() {
                Ok(false) => Look::Gone,
                Ok(true) | Err(_) => Look::Unwatched(None),
            };
        }
        match readable(opened) {
            Ok(pidfd) => Look::Watched(pidfd),
            Err(error) => Look::Unwatched(Some(error)),
        }
    }

    /// Sends a signal to the process; one that is gone is fine
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd.get_ref(), signal),
            None => match self.main.open()? {
                Some(pidfd) => pidfd_send_signal(&pidfd, signal),
                None => Ok(()),
            },
        };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the process and everything below it, or at least the process
    pub(super) fn kill(&self) -> io::Result<()> {
        match kill_tree(&self.main, true) {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(pid = self.main.pid, %error, "the process tree cannot be listed, killing the main process");
                self.signal(Signal::KILL)
            }
        }
    }
}
