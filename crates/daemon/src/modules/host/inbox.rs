//! Events on their way to the task of a host: in order, bounded, and each loss in its place
//!
//! A daemon that was away gets what it missed faster than a virtual machine starts, so there is room for as much as happens in minutes. What
//! comes beyond that is counted, and the count stands where the events would have been: behind those that came before.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Events that wait
const EVENTS: usize = 16 * 1024;

/// Bytes of their payloads; one event may stand above it
const BYTES: usize = 4 * 1024 * 1024;

/// An event for a module
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) event_type: String,
    pub(super) payload: Bytes,
    /// Its number; 0 for none
    pub(super) sequence: u64,
}

/// What is next
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// So many are missing here, at most
    pub(super) missed: u64,
    /// What comes after them, if it is there yet
    pub(super) event: Option<Event>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with how many are missing before it
    waiting: VecDeque<(u64, Event)>,
    bytes: usize,
    /// How many are missing behind all of them
    missed: u64,
    given: u64,
}

/// See the [module](self)
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    changed: Notify,
}

impl Inbox {
    /// Puts an event behind the others, or counts it where there is no room
    pub(super) fn put(&self, event: Event) {
        let mut queue = self.queue();
        let bytes = queue.bytes.saturating_add(event.payload.len());
        let has_room = queue.waiting.len() < EVENTS && (bytes <= BYTES || queue.waiting.is_empty());
        if !has_room {
            drop(queue);
            return self.lose(1);
        }
        queue.bytes = bytes;
        queue.given += 1;
        let missed = std::mem::take(&mut queue.missed);
        queue.waiting.push_back((missed, event));
        drop(queue);
        self.changed.notify_one();
    }

    /// So many will never come
    pub(super) fn lose(&self, events: u64) {
        if events == 0 {
            return;
        }
        let mut queue = self.queue();
        queue.given += u64::from(queue.missed == 0);
        queue.missed = queue.missed.saturating_add(events);
        drop(queue);
        self.changed.notify_one();
    }

    /// How many events and losses it was given so far
    pub(super) fn given(&self) -> u64 {
        self.queue().given
    }

    /// What is next; nothing is lost if this is dropped before it is ready
    pub(super) async fn next(&self) -> Given {
        loop {
            if let Some(given) = self.take() {
                return given;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Given> {
        let mut queue = self.queue();
        if let Some((missed, event)) = queue.waiting.pop_front() {
            queue.bytes -= event.payload.len();
            let event = Some(event);
            return Some(Given { missed, event });
        }
        let missed = std::mem::take(&mut queue.missed);
        (missed > 0).then_some(Given { missed, event: None })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// How much of what was given this is
    fn count_of(given: &Given) -> u64 {
        u64::from(given.missed > 0) + u64::from(given.event.is_some())
    }

    fn event(sequence: u64, bytes: usize) -> Event {
        Event {
            event_type: "a.B".to_owned(),
            payload: vec![b' '; bytes].into(),
            sequence,
        }
    }

    fn all(inbox: &Inbox) -> Vec<(u64, Option<u64>)> {
        let mut count = 0;
        let taken: Vec<_> = std::iter::from_fn(|| inbox.take())
            .inspect(|given| count += count_of(given))
            .map(|given| (given.missed, given.event.map(|event| event.sequence)))
            .collect();
        assert_eq!(count, inbox.given());
        taken
    }

    #[test]
    fn a_loss_stands_behind_what_came_before_it() {
        let inbox = Inbox::default();
        for sequence in 1..=EVENTS as u64 + 3 {
            inbox.put(event(sequence, 1));
        }
        let first = inbox.take().unwrap();
        assert_eq!((first.missed, first.event.unwrap().sequence), (0, 1));
        inbox.put(event(20_000, 1));
        inbox.lose(4);
        inbox.lose(0);
        let mut expected: Vec<_> = (2..=EVENTS as u64).map(|sequence| (0, Some(sequence))).collect();
        expected.extend([(3, Some(20_000)), (4, None)]);
        let mut count = 1;
        let taken = std::iter::from_fn(|| inbox.take()).inspect(|given| count += count_of(given));
        let taken: Vec<_> = taken
            .map(|given| (given.missed, given.event.map(|event| event.sequence)))
            .collect();
        assert_eq!(taken, expected);
        assert_eq!(count, inbox.given());
    }

    #[test]
    fn payloads_are_bounded_together_and_one_of_any_size_has_room() {
        let inbox = Inbox::default();
        for (sequence, bytes) in [(1, BYTES + 1), (2, 1)] {
            inbox.put(event(sequence, bytes));
        }
        assert_eq!(all(&inbox), [(0, Some(1)), (1, None)]);
        let inbox = Inbox::default();
        for sequence in 1..=3 {
            inbox.put(event(sequence, BYTES / 2));
        }
        assert_eq!(all(&inbox), [(0, Some(1)), (0, Some(2)), (1, None)]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_an_event_and_by_a_loss() {
        let inbox = Inbox::default();
        let put = async {
            tokio::task::yield_now().await;
            inbox.lose(2);
        };
        let (given, ()) = tokio::join!(inbox.next(), put);
        assert_eq!(
            given,
            Given {
                missed: 2,
                event: None
            }
        );
        let put = async {
            tokio::task::yield_now().await;
            inbox.put(event(7, 1));
        };
        let (given, ()) = tokio::join!(inbox.next(), put);
        assert_eq!(given.event, Some(event(7, 1)));
    }
}
