//! How many handshakes are judged at once, and how many more may wait for it
//!
//! A whole fleet comes back together when its controller does. What one handshake costs is small, and what all of them cost
//! at once would keep everything else from its turn: operators, readiness, the nodes that are there already.

use std::{sync::Arc, time::Duration};

use prexorcloud_protocol::{Close, Code};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes that are judged at once
const AT_ONCE: usize = 32;

/// Handshakes that wait for their turn; each holds a list of instances
const WAITING: usize = 512;

/// When those for whom there is no room should come again
const COME_AGAIN: Duration = Duration::from_secs(3);

/// The turn of a handshake, for as long as this exists
pub(super) type Turn = OwnedSemaphorePermit;

pub(super) struct Pacing {
    turns: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self::of(AT_ONCE, WAITING)
    }
}

impl Pacing {
    fn of(at_once: usize, waiting: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
            room: Arc::new(Semaphore::new(at_once + waiting)),
        }
    }

    /// Waits for the turn of a handshake
    ///
    /// # Errors
    /// What its daemon is told where too many wait already: the time after which to come again.
    pub(super) async fn turn(&self) -> Result<Turn, Close> {
        let full = || {
            let message = "too many nodes are connecting at once; this one is to come again in a moment";
            Close::new(Code::Unavailable, message).again_after(COME_AGAIN)
        };
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| full())?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| full());
        drop(room);
        turn
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn those_for_whom_there_is_no_room_are_told_when_to_come_again() {
        let pacing = Pacing::of(1, 1);
        let first = pacing.turn().await.unwrap();
        let mut second = Box::pin(pacing.turn());
        let mut third = Box::pin(pacing.turn());
        assert!(second.as_mut().now_or_never().is_none(), "it waits");
        assert!(
            third.as_mut().now_or_never().is_none(),
            "there is room for the one whose turn it is"
        );
        let refused = pacing.turn().await.unwrap_err();
        assert_eq!(refused.retry_after, Some(COME_AGAIN));
        drop(first);
        let turn = second.await.unwrap();
        drop(turn);
        drop(third.await.unwrap());
        assert!(pacing.turn().await.is_ok());
    }
}
