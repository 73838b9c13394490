//! One session, shared by its stream and by the application
//!
//! A session is sans-I/O: it sits behind a mutex, and whoever holds the lock gives it a fact or takes work from it. Nobody
//! holds the lock across an await, so [`SessionHandle::with`] never waits for the network. After each visit the
//! handle works out who has something to do now (the writer of the stream, its reader, a consumer of events) and only
//! those are woken.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use prexorcloud_protocol::{Close, Session};
use tonic::Status;

use crate::counters::{StreamCounters, StreamCounts};
use crate::waiters::{Waiters, Wakes};

/// The reader of a stream stops while more events than this wait for the application.
pub const MAX_PENDING_EVENTS: usize = 1024;

/// The reader of a stream stops while messages of more than this many bytes wait as events.
///
/// One message may exceed it; the count starts again when the application has taken every event.
pub const MAX_PENDING_BYTES: usize = 16 * 1024 * 1024;

/// A session that wants its stream ended gets this long to have its last messages written.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A timer that was just served is not set to an earlier moment than this from now.
pub(crate) const SHORTEST_TIMER: Duration = Duration::from_millis(1);

/// Why a stream ended
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The session on this side wanted it.
    #[error("closed by this side ({0})")]
    Closed(Close),
    /// The peer finished its half in order.
    #[error("the peer ended the stream")]
    PeerFinished,
    /// The peer ended the stream with a status that is not OK.
    #[error("the peer ended the stream: {code:?}: {message}")]
    PeerStatus {
        /// The gRPC status code.
        code: tonic::Code,
        /// The peer's sentence.
        message: String,
    },
    /// The peer sent bytes that are no envelope, or an envelope longer than [`MAX_MESSAGE_BYTES`](crate::codec::MAX_MESSAGE_BYTES).
    #[error("the peer sent what is no envelope: {message}")]
    Malformed {
        /// The status that the peer gets where it still can.
        code: tonic::Code,
        /// What was wrong.
        message: String,
    },
    /// The connection broke, or the peer reset the stream.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The application ended it with [`SessionHandle::disconnect`], or dropped what drove it.
    #[error("ended by the application: {0}")]
    Disconnected(&'static str),
}

/// A session with everything that its stream and the application need to find each other
pub(crate) struct Cell<S: Session> {
    pub(crate) session: S,
    /// A message that was pulled for a parked writer, to learn whether there is one.
    pub(crate) next: Option<S::Outgoing>,
    /// Counts streams; a stream whose number is not this one is over.
    pub(crate) generation: u64,
    pub(crate) attached: bool,
    pub(crate) writer: Option<Waker>,
    pub(crate) writer_state: WriterState,
    pub(crate) reader: Option<Waker>,
    /// The moment for which the reader has set its timer.
    pub(crate) armed: Option<Instant>,
    /// The reader waits for the application to take events.
    pub(crate) congested: bool,
    /// Encoded bytes of the messages that were read since the event queue was last empty.
    pub(crate) pending_bytes: usize,
    /// Set by [`SessionHandle::disconnect`].
    pub(crate) disconnect: Option<&'static str>,
    /// The status that the writer ends an ended stream with, where the peer can still get one.
    pub(crate) farewell: Option<Status>,
    last_end: Option<StreamEnd>,
    /// When the peer that ended the last stream wants to be asked again, if it said.
    pub(crate) retry_after: Option<Duration>,
    retired: bool,
    consumers: Waiters,
    observers: Waiters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriterState {
    Writing,
    /// Everything was handed over, the last thing being the end of the stream.
    Finished,
    /// HTTP/2 dropped the stream.
    Gone,
}

impl<S: Session> Cell<S> {
    /// Works out who has something to do after the session changed.
    pub(crate) fn settle(&mut self, by: Visitor, wakes: &mut Wakes) {
        let closing = self.session.close().is_some();
        if self.writer.is_some() {
            if self.next.is_none() {
                self.next = self.session.poll_transmit();
            }
            if self.next.is_some() || closing {
                wakes.writer = self.writer.take();
            }
        }
        if by != Visitor::Reader && self.reader.is_some() {
            let deadline = self.session.poll_timeout().map(|deadline| deadline.at);
            let sooner = deadline.is_some_and(|at| self.armed.is_none_or(|armed| at < armed));
            let relieved = self.congested && !self.is_congested();
            if sooner
                || relieved
                || closing
                || self.disconnect.is_some()
                || self.writer_state != WriterState::Writing
            {
                wakes.reader = self.reader.take();
            }
        }
        if !self.consumers.is_empty() && (self.retired || self.session.events_pending() > 0) {
            self.consumers.take(wakes);
        }
        if by != Visitor::Observer && !self.observers.is_empty() {
            self.observers.take(wakes);
        }
    }

    pub(crate) fn is_congested(&mut self) -> bool {
        match self.session.events_pending() {
            0 => {
                self.pending_bytes = 0;
                false
            }
            pending => pending > MAX_PENDING_EVENTS || self.pending_bytes > MAX_PENDING_BYTES,
        }
    }

    /// Ends the present stream; the session hears of it exactly once.
    pub(crate) fn detach(&mut self, now: Instant, end: StreamEnd, wakes: &mut Wakes) {
        self.attached = false;
        self.generation += 1;
        self.next = None;
        self.reader = None;
        self.armed = None;
        self.congested = false;
        self.pending_bytes = 0;
        self.disconnect = None;
        wakes.writer = self.writer.take();
        self.session.handle_disconnected(now);
        self.last_end = Some(end);
        self.settle(Visitor::Reader, wakes);
    }
}

/// Who visited the session; nobody wakes itself
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visitor {
    Application,
    /// Looked at the session and is not content; it may have changed it all the same.
    Observer,
    Reader,
    Writer,
}

pub(crate) struct Shared<S: Session> {
    cell: Mutex<Cell<S>>,
    pub(crate) counters: StreamCounters,
}

impl<S: Session> Shared<S> {
    /// A panic of an application's closure must not take the stream along.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Cell<S>> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of this crate: the one that tokio's timers use, so that a test may pause both
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A session that any number of callers share with the stream that drives it
///
/// Clones are the same session.
pub struct SessionHandle<S: Session>(pub(crate) Arc<Shared<S>>);

impl<S: Session> Clone for SessionHandle<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Session> fmt::Debug for SessionHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl<S: Session> SessionHandle<S> {
    /// Puts a session behind a handle. No stream is attached yet.
    #[must_use]
    pub fn new(session: S) -> Self {
        Self::with_counters(session, StreamCounters::default())
    }

    pub(crate) fn with_counters(session: S, counters: StreamCounters) -> Self {
        Self(Arc::new(Shared {
            cell: Mutex::new(Cell {
                session,
                next: None,
                generation: 0,
                attached: false,
                writer: None,
                writer_state: WriterState::Writing,
                reader: None,
                armed: None,
                congested: false,
                pending_bytes: 0,
                disconnect: None,
                farewell: None,
                last_end: None,
                retry_after: None,
                retired: false,
                consumers: Waiters::default(),
                observers: Waiters::default(),
            }),
            counters,
        }))
    }

    /// Visits the session
    ///
    /// The closure runs under the lock that the stream needs too, so it should be short. What it caused (a message to
    /// write, an event, an earlier deadline, the wish to close) is seen to before this returns.
    pub fn with<R>(&self, visit: impl FnOnce(&mut S, Instant) -> R) -> R {
        let mut wakes = Wakes::default();
        let result = {
            let mut cell = self.0.lock();
            let result = visit(&mut cell.session, now());
            cell.settle(Visitor::Application, &mut wakes);
            result
        };
        wakes.fire();
        result
    }

    /// The next event of the session, in order
    ///
    /// Cancel safe. `None` means that the session is retired and every event was taken: nothing will ever come.
    pub async fn next_event(&self) -> Option<S::Event> {
        self.wait(Kind::Consumer, |cell| match cell.session.poll_event() {
            Some(event) => Some(Some(event)),
            None if cell.retired => Some(None),
            None => None,
        })
        .await
    }

    /// Appends up to `max` events to `into` and waits only for the first
    ///
    /// Returns how many; 0 means what `None` means in [`next_event`](Self::next_event). Cancel safe.
    pub async fn next_events(&self, into: &mut Vec<S::Event>, max: usize) -> usize {
        let max = max.max(1);
        self.wait(Kind::Consumer, |cell| {
            let before = into.len();
            while into.len() - before < max
                && let Some(event) = cell.session.poll_event()
            {
                into.push(event);
            }
            match into.len() - before {
                0 if !cell.retired => None,
                count => Some(count),
            }
        })
        .await
    }

    /// Waits until `visit` returns something
    ///
    /// It is asked now, and again after every change of the session: a message read, messages handed to the wire, an
    /// event taken, another visit, the end of a stream. This is how a producer waits for room in the outbox. Cancel safe.
    /// `None` if the session is retired first.
    pub async fn wait_for<R>(&self, mut visit: impl FnMut(&mut S, Instant) -> Option<R>) -> Option<R> {
        self.wait(Kind::Observer, |cell| match visit(&mut cell.session, now()) {
            Some(result) => Some(Some(result)),
            None if cell.retired => Some(None),
            None => None,
        })
        .await
    }

    async fn wait<R>(&self, kind: Kind, mut check: impl FnMut(&mut Cell<S>) -> Option<R>) -> R {
        let mut waiting = Waiting {
            shared: &self.0,
            kind,
            ticket: None,
        };
        poll_fn(|context| {
            let mut wakes = Wakes::default();
            let result = {
                let mut cell = waiting.shared.lock();
                let result = check(&mut cell);
                match (&result, kind) {
                    (Some(_), _) => cell.settle(Visitor::Application, &mut wakes),
                    (None, Kind::Observer) => cell.settle(Visitor::Observer, &mut wakes),
                    (None, Kind::Consumer) => {}
                }
                if result.is_none() {
                    let waiters = kind.of(&mut cell);
                    waiting.ticket = Some(waiters.register(waiting.ticket, context.waker()));
                }
                result
            };
            wakes.fire();
            result.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// True while a stream is attached.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.lock().attached
    }

    /// Ends the present stream at once, without writing what waits; does nothing where there is none
    ///
    /// To end a stream in order, tell the session to close.
    pub fn disconnect(&self, reason: &'static str) {
        let mut wakes = Wakes::default();
        {
            let mut cell = self.0.lock();
            if cell.attached {
                cell.disconnect = Some(reason);
                cell.settle(Visitor::Application, &mut wakes);
            }
        }
        wakes.fire();
    }

    /// Why the last stream ended. For a controller's session this is final once the handle is retired.
    #[must_use]
    pub fn last_end(&self) -> Option<StreamEnd> {
        self.0.lock().last_end.clone()
    }

    /// When the peer that ended the last stream wants to be asked again, if it said.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.lock().retry_after
    }

    /// Counts of what passed through the streams of this handle, or of the service that made it.
    #[must_use]
    pub fn counts(&self) -> StreamCounts {
        self.0.counters.snapshot()
    }

    /// The connection knows better why the stream ended than the stream did.
    pub(crate) fn correct_last_end(&self, end: StreamEnd) {
        self.0.lock().last_end = Some(end);
    }

    /// No stream will follow: waiting futures end once the events are taken.
    pub(crate) fn retire(&self) {
        let mut wakes = Wakes::default();
        {
            let mut cell = self.0.lock();
            cell.retired = true;
            cell.settle(Visitor::Application, &mut wakes);
        }
        wakes.fire();
    }

    /// Keeps the timers of a session going while no stream does
    ///
    /// Completes only when the session is retired; drop it when a stream takes over.
    pub(crate) async fn tend(&self) {
        loop {
            let deadline = self.with(|session, now| {
                if session.poll_timeout().is_some_and(|deadline| deadline.at <= now) {
                    session.handle_timeout(now);
                }
                // A deadline that stays in the past must not keep a core busy.
                let earliest = now + SHORTEST_TIMER;
                session
                    .poll_timeout()
                    .map(|deadline| (deadline.at, deadline.at.max(earliest)))
            });
            let changed = self.wait_for(|session, _| {
                (session.poll_timeout().map(|deadline| deadline.at) != deadline.map(|(at, _)| at))
                    .then_some(())
            });
            let retired = match deadline {
                None => changed.await.is_none(),
                Some((_, wake_at)) => tokio::select! {
                    changed = changed => changed.is_none(),
                    () = tokio::time::sleep_until(wake_at.into()) => false,
                },
            };
            if retired {
                return;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Consumer,
    Observer,
}

impl Kind {
    fn of<S: Session>(self, cell: &mut Cell<S>) -> &mut Waiters {
        match self {
            Self::Consumer => &mut cell.consumers,
            Self::Observer => &mut cell.observers,
        }
    }
}

/// Takes the waker back when a waiting future is dropped
struct Waiting<'a, S: Session> {
    shared: &'a Shared<S>,
    kind: Kind,
    ticket: Option<u64>,
}

impl<S: Session> Drop for Waiting<'_, S> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.kind.of(&mut self.shared.lock()).forget(ticket);
        }
    }
}
