//! One direction of a stream
//!
//! Messages stay in order, as gRPC keeps them. A link delays them (latency, jitter, bandwidth), takes no more than a
//! window of bytes at a time, so that a slow reader fills the writer's outbox, and can be [stalled](Link::stall) or
//! [cut](Link::cut).

use std::collections::VecDeque;
use std::time::Duration;

use crate::rng::Rng;

/// How a link treats what it carries
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// The least time from one side to the other.
    pub latency: Duration,
    /// What may be added to the latency, at random.
    pub jitter: Duration,
    /// How many bytes may be on their way; a message of any size is taken when nothing else is.
    pub window: usize,
    /// How many bytes pass per second; 0 for no limit.
    pub bytes_per_second: u64,
}

impl Default for Quality {
    /// 5 ms and up to 5 ms more, a window of 64 KiB, no limit of bandwidth.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(5),
            jitter: Duration::from_millis(5),
            window: 64 * 1024,
            bytes_per_second: 0,
        }
    }
}

#[derive(Clone, Debug)]
struct InFlight<M> {
    due: Duration,
    bytes: usize,
    message: M,
}

/// One direction of a stream
#[derive(Clone, Debug)]
pub struct Link<M> {
    quality: Quality,
    in_flight: VecDeque<InFlight<M>>,
    bytes: usize,
    last_due: Duration,
    stalled: bool,
    cut: bool,
}

impl<M> Link<M> {
    /// A link with nothing on its way.
    #[must_use]
    pub const fn new(quality: Quality) -> Self {
        Self {
            quality,
            in_flight: VecDeque::new(),
            bytes: 0,
            last_due: Duration::ZERO,
            stalled: false,
            cut: false,
        }
    }

    /// Changes how messages are treated from now on.
    pub const fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
    }

    /// Whether the window takes another message.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.bytes < self.quality.window
    }

    /// How many messages are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Puts a message on its way. On a cut link it fills the window and never arrives.
    pub fn send(&mut self, now: Duration, rng: &mut Rng, message: M, bytes: usize) {
        self.bytes += bytes;
        if self.cut {
            return;
        }
        let Quality {
            latency,
            jitter,
            bytes_per_second,
            ..
        } = self.quality;
        let transfer = (bytes as u64)
            .saturating_mul(1_000)
            .checked_div(bytes_per_second)
            .unwrap_or(0);
        let due = now + rng.between(latency, latency + jitter);
        self.last_due = due.max(self.last_due) + Duration::from_millis(transfer);
        self.in_flight.push_back(InFlight {
            due: self.last_due,
            bytes,
            message,
        });
    }

    /// When the next message arrives; `None` while nothing does.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.stalled {
            None
        } else {
            self.in_flight.front().map(|first| first.due)
        }
    }

    /// The message that has arrived by now.
    pub fn receive(&mut self, now: Duration) -> Option<M> {
        if self.next_due().is_none_or(|due| due > now) {
            return None;
        }
        let InFlight { bytes, message, .. } = self.in_flight.pop_front()?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(message)
    }

    /// Whether what was sent while the link was narrow will take a while yet.
    #[must_use]
    pub fn is_backed_up(&self, now: Duration) -> bool {
        let first = self.in_flight.front();
        first.is_some_and(|first| first.due > now + Duration::from_secs(1))
    }

    /// Holds everything back, or lets it go again; nothing is lost.
    pub const fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Whether everything is held back.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Loses what is on its way except the first `keep` messages, and everything that is sent from now on.
    pub fn cut(&mut self, keep: usize) {
        self.in_flight.truncate(keep);
        self.cut = true;
    }

    /// Whether the link has been cut.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Puts the last message on its way in front of the one before it, as a peer that answers out of turn would.
    pub fn swap_last(&mut self) {
        let len = self.in_flight.len();
        if len >= 2 {
            let due = |link: &Self, at: usize| link.in_flight.get(at).map(|entry| entry.due);
            let (first, second) = (due(self, len - 2), due(self, len - 1));
            self.in_flight.swap(len - 2, len - 1);
            for (at, due) in [(len - 2, first), (len - 1, second)] {
                if let (Some(entry), Some(due)) = (self.in_flight.get_mut(at), due) {
                    entry.due = due;
                }
            }
        }
    }
}
