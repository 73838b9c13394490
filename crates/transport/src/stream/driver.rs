//! The incoming half, and the timers

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream as _;
use futures_util::future::BoxFuture;
use prexorcloud_protocol::{Received, Session};
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use super::ending::{Origin, origin, retry_after, status_of};
use super::{IDLE_MESSAGES, Role};
use crate::codec::Frame;
use crate::handle::{DRAIN_LIMIT, SHORTEST_TIMER, Shared, StreamEnd, Visitor, WriterState, now};
use crate::waiters::Wakes;

/// Messages given to the session in one visit.
const BATCH: usize = 32;
/// Bytes of messages read before the session gets them.
const BATCH_BYTES: usize = 256 * 1024;
/// Visits that the driver makes before it lets other tasks run.
const TURNS: usize = 16;
/// How long the reason for a reset may take to arrive.
const RESET_REASON: Duration = Duration::from_secs(1);

/// Where the messages of the peer come from
pub(crate) enum Incoming<M> {
    /// The call was made and the response's headers are awaited. A Java controller sends them with its first message.
    Opening(BoxFuture<'static, Result<Streaming<Frame<M>>, Status>>),
    /// The stream is open.
    Open(Box<Streaming<Frame<M>>>),
}

impl<M> Incoming<M> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<M>, Status>>> {
        loop {
            match self {
                Self::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(streaming) => *self = Self::Open(Box::new(streaming)),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                Self::Open(streaming) => return Pin::new(&mut **streaming).poll_next(context),
            }
        }
    }
}

/// Reads one stream and keeps the timers of its session; completes when the stream is over
///
/// Dropping it ends the stream too.
pub(crate) struct Driver<S: Session> {
    shared: Arc<Shared<S>>,
    generation: u64,
    role: Role,
    incoming: Incoming<S::Incoming>,
    inbox: Vec<Received<S::Incoming>>,
    inbox_bytes: usize,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    drain_until: Option<Instant>,
    /// The incoming half is over; the session hears of it after the messages before it.
    ended: Option<(StreamEnd, Option<Status>)>,
    /// When the peer wants to be asked again, if it said so at its end.
    retry_after: Option<Duration>,
    over: bool,
}

impl<S: Session> Unpin for Driver<S> {}

/// What the driver does after a visit to the session
enum Next {
    Read,
    /// The application has enough to do; only timers go on.
    Wait,
    Over(StreamEnd),
}

impl<S: Session> Driver<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        generation: u64,
        role: Role,
        incoming: Incoming<S::Incoming>,
    ) -> Self {
        Self {
            shared,
            generation,
            role,
            incoming,
            inbox: Vec::new(),
            inbox_bytes: 0,
            timer: Box::pin(tokio::time::sleep_until(now().into())),
            timer_at: None,
            drain_until: None,
            ended: None,
            retry_after: None,
            over: false,
        }
    }

    /// Gives the session what is due, and learns what to wait for.
    fn visit(&mut self, context: &Context<'_>) -> Next {
        let mut wakes = Wakes::default();
        let next = self.visit_locked(context, &mut wakes);
        wakes.fire();
        next
    }

    fn visit_locked(&mut self, context: &Context<'_>, wakes: &mut Wakes) -> Next {
        let mut cell = self.shared.lock();
        let now = now();
        if cell.generation != self.generation {
            self.over = true;
            return Next::Over(StreamEnd::Disconnected("a newer stream took over"));
        }
        let due = cell
            .session
            .poll_timeout()
            .is_some_and(|deadline| deadline.at <= now);
        if due {
            cell.session.handle_timeout(now);
        }
        for received in self.inbox.drain(..) {
            cell.session.handle_message(now, received);
        }
        cell.pending_bytes = cell
            .pending_bytes
            .saturating_add(std::mem::take(&mut self.inbox_bytes));

        let close = cell.session.close().cloned();
        if close.is_some() {
            self.drain_until.get_or_insert(now + DRAIN_LIMIT);
        } else if cell.writer_state == WriterState::Gone {
            // Whoever reset the stream has usually said why; that is still to be read.
            self.drain_until.get_or_insert(now + RESET_REASON);
        }
        let overdue = self.drain_until.is_some_and(|limit| limit <= now);
        let written = match cell.writer_state {
            WriterState::Writing => false,
            // A client that has finished its half waits for the status of the server.
            WriterState::Finished => self.role == Role::Server,
            WriterState::Gone => true,
        };
        let end = match (cell.disconnect, close, self.ended.take()) {
            (Some(reason), ..) => Some((StreamEnd::Disconnected(reason), Some(Status::unavailable(reason)))),
            (None, Some(close), ended) if ended.is_some() || written || overdue => {
                let farewell = status_of(&close);
                Some((StreamEnd::Closed(close), farewell))
            }
            (None, None, Some(ended)) => Some(ended),
            (None, None, None) if overdue => {
                Some((StreamEnd::Lost("the peer reset the stream".into()), None))
            }
            (None, ..) => None,
        };
        if let Some((end, farewell)) = end {
            self.over = true;
            cell.farewell = farewell;
            cell.retry_after = self.retry_after;
            cell.detach(now, end.clone(), wakes);
            return Next::Over(end);
        }

        let earliest = if due { now + SHORTEST_TIMER } else { now };
        cell.armed = cell.session.poll_timeout().map(|deadline| deadline.at);
        self.timer_at = cell
            .armed
            .map(|at| at.max(earliest))
            .into_iter()
            .chain(self.drain_until)
            .min();
        cell.congested = cell.is_congested();
        let next = if cell.congested { Next::Wait } else { Next::Read };
        match &mut cell.reader {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        cell.settle(Visitor::Reader, wakes);
        next
    }

    /// True if the timer has expired.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        let Some(at) = self.timer_at else { return false };
        let at = tokio::time::Instant::from_std(at);
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
        self.timer.as_mut().poll(context).is_ready()
    }

    /// Reads what is there. True if there was anything, the end included.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let mut bytes = 0;
        let mut unknown = 0;
        while self.inbox.len() < BATCH && bytes < BATCH_BYTES {
            match self.incoming.poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.bytes;
                    unknown += u64::from(frame.received.unknown_variant.is_some());
                    self.inbox.push(frame.received);
                }
                Poll::Ready(Some(Err(status))) => {
                    self.retry_after = retry_after(&status);
                    self.ended = Some(self.judge(status));
                    break;
                }
                Poll::Ready(None) => {
                    self.ended = Some((StreamEnd::PeerFinished, None));
                    break;
                }
                Poll::Pending => break,
            }
        }
        if !self.inbox.is_empty() {
            self.shared.counters.messages_in(self.inbox.len() as u64);
            if unknown > 0 {
                self.shared.counters.unknown_variants(unknown);
            }
            self.inbox_bytes = bytes;
        } else if self.inbox.capacity() > IDLE_MESSAGES {
            self.inbox.shrink_to(IDLE_MESSAGES);
        }
        !self.inbox.is_empty() || self.ended.is_some()
    }

    /// Whose fault an error of the incoming half is, and what a server answers.
    fn judge(&self, status: Status) -> (StreamEnd, Option<Status>) {
        match origin(&status) {
            Origin::Connection(cause) => (StreamEnd::Lost(cause), None),
            Origin::Peer => {
                let (code, message) = (status.code(), status.message().to_owned());
                (StreamEnd::PeerStatus { code, message }, None)
            }
            Origin::Bytes => {
                self.shared.counters.malformed(1);
                let (code, message) = (status.code(), status.message().to_owned());
                (StreamEnd::Malformed { code, message }, Some(status))
            }
        }
    }
}

impl<S: Session> Future for Driver<S> {
    type Output = StreamEnd;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<StreamEnd> {
        let this = self.get_mut();
        for _ in 0..TURNS {
            let reading = match this.visit(context) {
                Next::Over(end) => return Poll::Ready(end),
                Next::Read => true,
                Next::Wait => false,
            };
            let news = this.poll_timer(context) || (reading && this.read(context));
            if !news {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Session> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.counters.closed(1);
        if self.over {
            return;
        }
        let mut wakes = Wakes::default();
        {
            let mut cell = self.shared.lock();
            if cell.generation == self.generation {
                let reason = "the task that drove the stream was dropped";
                cell.farewell = Some(Status::unavailable(reason));
                cell.detach(now(), StreamEnd::Disconnected(reason), &mut wakes);
            }
        }
        wakes.fire();
    }
}
