//! Tasks that wait for something to change under a lock

use std::task::Waker;

/// The wakers of waiting futures, each under a ticket that the future gives back when it is dropped
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    entries: Vec<(u64, Waker)>,
    issued: u64,
}

impl Waiters {
    /// Registers `waker`; a future that waits again passes its earlier ticket.
    pub(crate) fn register(&mut self, ticket: Option<u64>, waker: &Waker) -> u64 {
        if let Some(ticket) = ticket
            && let Some((_, entry)) = self.entries.iter_mut().find(|(id, _)| *id == ticket)
        {
            entry.clone_from(waker);
            return ticket;
        }
        self.issued += 1;
        let ticket = ticket.unwrap_or(self.issued);
        self.entries.push((ticket, waker.clone()));
        ticket
    }

    pub(crate) fn forget(&mut self, ticket: u64) {
        self.entries.retain(|(id, _)| *id != ticket);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Moves all wakers to `into`, to be woken after the lock is released.
    pub(crate) fn take(&mut self, into: &mut Wakes) {
        for (_, waker) in self.entries.drain(..) {
            match &mut into.waiter {
                empty @ None => *empty = Some(waker),
                Some(_) => into.others.push(waker),
            }
        }
    }
}

/// Wakers collected under a lock; dropping them wakes nobody, [`fire`](Self::fire) does
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Wakes {
    pub(crate) writer: Option<Waker>,
    pub(crate) reader: Option<Waker>,
    /// Nearly always the only one, and then nothing is allocated.
    waiter: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakes {
    pub(crate) fn fire(self) {
        for waker in self
            .waiter
            .into_iter()
            .chain(self.others)
            .chain(self.writer)
            .chain(self.reader)
        {
            waker.wake();
        }
    }
}
