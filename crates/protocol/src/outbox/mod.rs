//! Decides what leaves next, and what is given up when the peer is slow
//!
//! One outbox feeds the single writer of a stream. Messages wait in four classes:
//!
//! | Class | Holds | Leaves | When its bound is reached |
//! |---|---|---|---|
//! | [`Class::Control`] | acknowledgements, status, ping and pong, commands | first | [`Overflow`]: the session ends the stream as a slow peer |
//! | [`Class::Report`] | crash reports, module state, cache status | second | [`Overflow`]: the caller keeps the message |
//! | [`Class::Bulk`] | template and module blobs, file replies | in turn with best effort | [`Overflow`]: the caller keeps the message |
//! | [`Class::BestEffort`] | console lines, log records, events | in turn with bulk | the oldest is shed, and a gap record says how many |
//!
//! Bounds are in messages and in bytes, per class. A gap record takes the place of what was shed: it leaves before
//! everything that still waits in its class, so a reader sees where lines are missing and how many.

mod envelope;

use std::collections::VecDeque;

/// How a message is treated while it waits, in the order in which the classes leave
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Keeps the session correct; never shed, always first. If it does not fit, the peer is given up as too slow.
    Control,
    /// Must arrive, but not before control. What does not fit is refused with [`Overflow`]: keep it.
    Report,
    /// Large; must not stand before control or reports. What does not fit is refused with [`Overflow`]: keep it.
    Bulk,
    /// May be shed, visibly: the oldest goes, and a record says how many went.
    BestEffort,
}

impl Class {
    const COUNT: usize = 4;

    const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Report => 1,
            Self::Bulk => 2,
            Self::BestEffort => 3,
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Report => "report",
            Self::Bulk => "bulk",
            Self::BestEffort => "best-effort",
        })
    }
}

/// A message that an [`Outbox`] can hold
pub trait Outgoing: Sized {
    /// The class it waits in.
    fn class(&self) -> Class;

    /// Its encoded length in bytes.
    fn wire_len(&self) -> usize;

    /// Whether a gap in the stream of `self` is also a gap in the stream of `other` (lines of one console, say).
    fn same_stream(&self, other: &Self) -> bool;

    /// What is kept of a shed message to name the gap later: everything but its text.
    fn into_marker(self) -> Self;

    /// The record that stands for `shed` messages, the last of which left this marker.
    fn into_gap_record(self, shed: u64) -> Self;
}

/// The bound of one class
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The most messages that may wait.
    pub messages: usize,
    /// The most bytes that may wait, as encoded. A message larger than this is still taken when nothing else waits.
    pub bytes: usize,
}

/// How much may wait in each class
///
/// [`Class`] says what happens at a bound: best effort sheds its oldest, report and bulk refuse, control ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bound of [`Class::Control`]. 2048 messages, 8 MiB.
    pub control: Bound,
    /// Bound of [`Class::Report`]. 2048 messages, 32 MiB.
    pub report: Bound,
    /// Bound of [`Class::Bulk`]. 2048 messages, 256 MiB.
    pub bulk: Bound,
    /// Bound of [`Class::BestEffort`]. 2048 messages, 4 MiB.
    pub best_effort: Bound,
}

impl Default for Bounds {
    /// 2048 messages in each class; 8 MiB of control, 32 MiB of reports, 256 MiB of bulk, 4 MiB of best effort.
    fn default() -> Self {
        let mib = |count: usize| Bound {
            messages: 2_048,
            bytes: count * 1024 * 1024,
        };
        Self {
            control: mib(8),
            report: mib(32),
            bulk: mib(256),
            best_effort: mib(4),
        }
    }
}

impl Bounds {
    const fn of(&self, class: Class) -> Bound {
        match class {
            Class::Control => self.control,
            Class::Report => self.report,
            Class::Bulk => self.bulk,
            Class::BestEffort => self.best_effort,
        }
    }
}

/// A class is full; the message was not taken
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} {class} messages ({bytes} bytes) wait already; the peer reads too slowly")]
pub struct Overflow {
    /// The class that is full.
    pub class: Class,
    /// How many messages wait in it.
    pub waiting: usize,
    /// How many bytes wait in it.
    pub bytes: usize,
}

#[derive(Clone, Debug)]
struct Queue<M> {
    waiting: VecDeque<(M, usize)>,
    bytes: usize,
}

impl<M> Queue<M> {
    const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    fn has_room(&self, bound: Bound, len: usize) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < bound.messages && self.bytes.saturating_add(len) <= bound.bytes)
    }

    fn push(&mut self, message: M, len: usize) {
        self.waiting.push_back((message, len));
        self.bytes = self.bytes.saturating_add(len);
    }

    fn pop(&mut self) -> Option<M> {
        let (message, len) = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(len);
        Some(message)
    }
}

#[derive(Clone, Debug)]
struct Gap<M> {
    marker: M,
    shed: u64,
}

/// The most consoles that can have a gap at the same time; sheds beyond that are only counted in [`Outbox::shed`].
const MAX_GAPS: usize = 4_096;

/// The messages that wait for the writer of one stream
#[derive(Clone, Debug)]
pub struct Outbox<M> {
    bounds: Bounds,
    queues: [Queue<M>; Class::COUNT],
    gaps: Vec<Gap<M>>,
    shed: u64,
    bulk_had_its_turn: bool,
}

impl<M: Outgoing> Outbox<M> {
    /// An empty outbox.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            queues: [Queue::new(), Queue::new(), Queue::new(), Queue::new()],
            gaps: Vec::new(),
            shed: 0,
            bulk_had_its_turn: false,
        }
    }

    fn queue(&mut self, class: Class) -> &mut Queue<M> {
        let [control, report, bulk, best_effort] = &mut self.queues;
        match class {
            Class::Control => control,
            Class::Report => report,
            Class::Bulk => bulk,
            Class::BestEffort => best_effort,
        }
    }

    /// Takes a message in; best effort makes room for itself by shedding the oldest.
    ///
    /// # Errors
    /// [`Overflow`] if the class is full and must not shed. The message is dropped; check
    /// [`has_room`](Self::has_room) first to keep it.
    pub fn push(&mut self, message: M) -> Result<(), Overflow> {
        let (class, len) = (message.class(), message.wire_len());
        let bound = self.bounds.of(class);
        if !self.queue(class).has_room(bound, len) {
            if class != Class::BestEffort {
                let queue = self.queue(class);
                return Err(Overflow {
                    class,
                    waiting: queue.waiting.len(),
                    bytes: queue.bytes,
                });
            }
            self.make_room(bound, len);
        }
        self.queue(class).push(message, len);
        Ok(())
    }

    /// Sheds the oldest eighth, and more if `len` bytes still do not fit: one gap record per eighth, not per message.
    fn make_room(&mut self, bound: Bound, len: usize) {
        let low = Bound {
            messages: bound.messages - bound.messages / 8,
            bytes: bound.bytes - bound.bytes / 8,
        };
        while !self.queue(Class::BestEffort).has_room(low, len) {
            self.shed_oldest();
        }
    }

    fn shed_oldest(&mut self) {
        let Some(oldest) = self.queue(Class::BestEffort).pop() else {
            return;
        };
        self.shed += 1;
        if let Some(gap) = self.gaps.iter_mut().find(|gap| gap.marker.same_stream(&oldest)) {
            gap.shed += 1;
            gap.marker = oldest.into_marker();
        } else if self.gaps.len() < MAX_GAPS {
            self.gaps.push(Gap {
                marker: oldest.into_marker(),
                shed: 1,
            });
        }
    }

    /// The next message for the writer, in the order of the classes.
    #[must_use]
    pub fn pop(&mut self) -> Option<M> {
        if let Some(message) = self.queue(Class::Control).pop() {
            return Some(message);
        }
        if let Some(message) = self.queue(Class::Report).pop() {
            return Some(message);
        }
        if !self.bulk_had_its_turn
            && let Some(message) = self.queue(Class::Bulk).pop()
        {
            self.bulk_had_its_turn = true;
            return Some(message);
        }
        self.bulk_had_its_turn = false;
        self.pop_best_effort().or_else(|| self.queue(Class::Bulk).pop())
    }

    fn pop_best_effort(&mut self) -> Option<M> {
        // Whatever was shed stood at the front of the queue, so its record precedes everything that still waits.
        if let Some(Gap { marker, shed }) = self.gaps.pop() {
            return Some(marker.into_gap_record(shed));
        }
        self.queue(Class::BestEffort).pop()
    }

    /// Whether a message of this class and encoded length would be taken without an error and without shedding
    ///
    /// A producer that can wait (one that reads lines from a file, say) waits until this holds and loses nothing.
    #[must_use]
    pub fn has_room(&self, class: Class, len: usize) -> bool {
        self.queues[class.index()].has_room(self.bounds.of(class), len)
    }

    /// How many messages wait in a class; gap records are not counted.
    #[must_use]
    pub fn len(&self, class: Class) -> usize {
        self.queues[class.index()].waiting.len()
    }

    /// Whether nothing waits at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.queues.iter().all(|queue| queue.waiting.is_empty())
    }

    /// How many best-effort messages have been shed since creation.
    #[must_use]
    pub const fn shed(&self) -> u64 {
        self.shed
    }

    /// Drops best effort that is not wanted any more, and the gap records for it; what goes does not count as shed.
    pub fn discard(&mut self, mut is_unwanted: impl FnMut(&M) -> bool) {
        let queue = self.queue(Class::BestEffort);
        queue.waiting.retain(|(message, _)| !is_unwanted(message));
        queue.bytes = queue.waiting.iter().map(|(_, len)| len).sum();
        self.gaps.retain(|gap| !is_unwanted(&gap.marker));
    }

    /// Drops what belongs to the stream that ended (control, reports, bulk) and keeps best effort for the next one.
    pub fn clear_stream(&mut self) {
        for class in [Class::Control, Class::Report, Class::Bulk] {
            *self.queue(class) = Queue::new();
        }
        self.bulk_had_its_turn = false;
    }
}
