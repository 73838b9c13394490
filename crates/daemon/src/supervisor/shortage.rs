//! Turns at reading consoles, for as long as there are too few file descriptors for all of them
//!
//! A console that is followed holds a descriptor, whether its instance prints or not. Without turns the first to come would
//! keep theirs, and the last lines of an instance that ended would wait for another instance to end.

use std::io;

use rustix::io::Errno;
use tokio::sync::watch;

/// How many consoles wait for a descriptor
#[derive(Clone, Debug)]
pub(super) struct Shortage(watch::Sender<usize>);

impl Default for Shortage {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

/// One console that waits, until this is dropped
#[derive(Debug)]
pub(super) struct Waiting(watch::Sender<usize>);

impl Shortage {
    /// Waits for a descriptor, if it is a lack of those that `error` tells
    pub(super) fn wait_for_one(&self, error: &io::Error) -> Option<Waiting> {
        let lack = [Errno::MFILE, Errno::NFILE];
        let is_lack = Errno::from_io_error(error).is_some_and(|errno| lack.contains(&errno));
        is_lack.then(|| {
            self.0.send_modify(|waiting| *waiting += 1);
            Waiting(self.0.clone())
        })
    }

    /// Whether somebody waits for a descriptor
    pub(super) fn is_felt(&self) -> bool {
        *self.0.borrow() > 0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_lack_of_descriptors_is_felt_while_somebody_waits() {
        let shortage = Shortage::default();
        assert!(shortage.wait_for_one(&io::ErrorKind::NotFound.into()).is_none());
        assert!(!shortage.is_felt());
        let waiting = [Errno::MFILE, Errno::NFILE].map(|errno| shortage.wait_for_one(&errno.into()).unwrap());
        let [first, second] = waiting;
        drop(first);
        assert!(shortage.is_felt());
        drop(second);
        assert!(!shortage.is_felt());
    }
}
