//! Which console lines are known to have arrived at a controller
//!
//! What has arrived is told by the session, by instance and incarnation; the feeds that hand the lines over listen here. A
//! start whose id is used again already may still have lines on their way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prexorcloud_protocol::{Incarnation, InstanceId};
use tokio::sync::watch;

/// The feeds that wait for arrivals
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// More than one of a start only under controllers that do not tell starts apart.
    waiting: Mutex<Waiting>,
}

type Waiting = HashMap<(InstanceId, Incarnation), Vec<Weak<Awaited>>>;

impl Arrivals {
    /// Listens for what arrives of one start
    pub(super) fn listen(&self, instance: InstanceId, incarnation: Incarnation) -> Listener {
        let awaited = Arc::new(Awaited::default());
        let listener = Listener {
            arrived: awaited.arrived.subscribe(),
            awaited,
        };
        let mut waiting = self.lock();
        waiting.retain(|_, listeners| {
            listeners.retain(|listener| listener.strong_count() > 0);
            !listeners.is_empty()
        });
        waiting
            .entry((instance, incarnation))
            .or_default()
            .push(Arc::downgrade(&listener.awaited));
        listener
    }

    /// Every line up to `sequence` that was handed over has arrived
    pub(super) fn arrived(&self, instance: InstanceId, incarnation: Incarnation, sequence: u64) {
        let waiting = self.lock();
        let listeners = waiting.get(&(instance, incarnation)).into_iter().flatten();
        for awaited in listeners.filter_map(Weak::upgrade) {
            // What was never handed over cannot have arrived, whatever the peer says.
            let sequence = sequence.min(awaited.handed_over.load(Ordering::Acquire));
            awaited.arrived.send_if_modified(|arrived| {
                let is_news = sequence > *arrived;
                *arrived = sequence.max(*arrived);
                is_news
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Awaited {
    /// The highest number that was handed over
    handed_over: AtomicU64,
    /// The highest number that has arrived
    arrived: watch::Sender<u64>,
}

/// Hears what arrives of one start, for as long as it lives
#[derive(Debug)]
pub(super) struct Listener {
    awaited: Arc<Awaited>,
    arrived: watch::Receiver<u64>,
}

impl Listener {
    /// Lines up to this number are about to be handed over
    pub(super) fn handing_over(&self, sequence: u64) {
        self.awaited.handed_over.fetch_max(sequence, Ordering::AcqRel);
    }

    /// The highest number that has arrived; 0 before that
    pub(super) fn highest(&mut self) -> u64 {
        *self.arrived.borrow_and_update()
    }

    /// Waits until more has arrived since [`highest`](Self::highest) was asked; cancel safe
    pub(super) async fn more(&mut self) {
        // The sender lives in `self`.
        let _ = self.arrived.changed().await;
        self.arrived.mark_changed();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_what_was_handed_over_can_arrive() {
        let arrivals = Arrivals::default();
        let (instance, first) = ("lobby-1".parse().unwrap(), Incarnation::new(1));
        let mut listener = arrivals.listen(instance, first);
        arrivals.arrived(instance, first, u64::MAX);
        assert_eq!(listener.highest(), 0);
        listener.handing_over(20);
        arrivals.arrived(instance, Incarnation::new(2), 20);
        assert_eq!(listener.highest(), 0);
        arrivals.arrived(instance, first, 20);
        listener.handing_over(30);
        arrivals.arrived(instance, first, 15);
        assert_eq!(listener.highest(), 20);
        drop(listener);
        let _ = arrivals.listen(instance, Incarnation::new(3));
        assert!(!arrivals.lock().contains_key(&(instance, first)));
    }
}
