//! The two halves of one stream: [`Outbound`] is pulled by HTTP/2, [`Driver`] reads and keeps the timers
//!
//! ```text
//!             poll_transmit                       handle_message, handle_timeout
//! HTTP/2 <--- Outbound <---- Cell { session } <---- Driver <--- Incoming <--- HTTP/2
//!                               ^       |
//!                        with() |       v next_event()
//!                              application
//! ```
//!
//! `Outbound` is the single writer: it takes a message when HTTP/2 has room for one, so a slow peer fills the
//! session's outbox, which has bounds and a policy, and no channel in between. The driver never waits for a write: whatever
//! it does to the session, it only wakes the writer.

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use prexorcloud_protocol::{Close, Code, Received, Session};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use crate::codec::{BATCH_BYTES, Envelope, Frame, NotAnEnvelope};
use crate::handle::{
    DRAIN_LIMIT, SHORTEST_TIMER, SessionHandle, Shared, StreamEnd, Visitor, WriterState, now,
};
use crate::waiters::Wakes;

/// Messages taken from the session in one visit.
const WRITE_BATCH: usize = 64;
/// Messages given to the session in one visit.
const READ_BATCH: usize = 32;
/// Bytes of messages read before the session gets them.
const READ_BATCH_BYTES: usize = 256 * 1024;
/// Visits that the driver makes before it lets other tasks run.
const TURNS: usize = 16;
/// Buffers above this many messages are given back when the stream falls idle.
const IDLE_MESSAGES: usize = 4;

/// How long the reason for a reset may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which end of the call this is: it decides how a stream can be ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ends its half and waits for the server's status.
    Client,
    /// Ends the call with a status.
    Server,
}

/// Attaches a stream to a session: the session is connected, the older stream (if any) is over.
pub(crate) fn attach<S>(
    handle: &SessionHandle<S>,
    role: Role,
    incoming: Incoming<S::Incoming>,
) -> (Outbound<S>, Driver<S>, oneshot::Receiver<()>)
where
    S: Session,
{
    let mut wakes = Wakes::default();
    let generation = {
        let mut cell = handle.0.lock();
        let now = now();
        if cell.attached {
            cell.detach(
                now,
                StreamEnd::Disconnected("a newer stream took over"),
                &mut wakes,
            );
        }
        cell.generation += 1;
        cell.attached = true;
        cell.writer_state = WriterState::Writing;
        cell.farewell = None;
        cell.session.handle_connected(now);
        cell.settle(Visitor::Application, &mut wakes);
        cell.generation
    };
    wakes.fire();
    handle.0.counters.opened(1);
    let (written, is_written) = oneshot::channel();
    let outbound = Outbound {
        shared: Arc::clone(&handle.0),
        generation,
        role,
        batch: VecDeque::new(),
        finished: false,
        written: Some(written),
    };
    let driver = Driver {
        shared: Arc::clone(&handle.0),
        generation,
        role,
        incoming,
        inbox: Vec::new(),
        inbox_bytes: 0,
        timer: Box::pin(tokio::time::sleep_until(now().into())),
        timer_at: None,
        drain_until: None,
        ended: None,
        over: false,
    };
    (outbound, driver, is_written)
}

/// The messages of a session, pulled by HTTP/2 when it has room
pub(crate) struct Outbound<S: Session> {
    shared: Arc<Shared<S>>,
    generation: u64,
    role: Role,
    batch: VecDeque<S::Outgoing>,
    finished: bool,
    /// Told when HTTP/2 has taken everything, the end included; dropped unused if it lost interest before.
    written: Option<oneshot::Sender<()>>,
}

impl<S: Session> Unpin for Outbound<S> {}

impl<S: Session> Outbound<S>
where
    S::Outgoing: Envelope,
{
    /// Takes what is ready from the session, or parks.
    fn refill(&mut self, context: &Context<'_>) -> Poll<Option<Result<S::Outgoing, Status>>> {
        let mut wakes = Wakes::default();
        let result = {
            let mut cell = self.shared.lock();
            if cell.generation != self.generation {
                self.finished = true;
                match cell.farewell.take() {
                    Some(status) if self.role == Role::Server => Poll::Ready(Some(Err(status))),
                    _ => Poll::Ready(None),
                }
            } else {
                let mut bytes = 0;
                while self.batch.len() < WRITE_BATCH && bytes < BATCH_BYTES {
                    let Some(message) = cell.next.take().or_else(|| cell.session.poll_transmit()) else {
                        break;
                    };
                    bytes += message.encoded_len();
                    self.batch.push_back(message);
                }
                match self.batch.pop_front() {
                    Some(message) => {
                        self.shared.counters.messages_out(1 + self.batch.len() as u64);
                        cell.settle(Visitor::Writer, &mut wakes);
                        Poll::Ready(Some(Ok(message)))
                    }
                    None => match cell.session.close() {
                        Some(close) => {
                            let status = status_of(close).filter(|_| self.role == Role::Server);
                            self.finished = true;
                            cell.writer_state = WriterState::Finished;
                            cell.settle(Visitor::Writer, &mut wakes);
                            Poll::Ready(status.map(Err))
                        }
                        None => {
                            cell.writer = Some(context.waker().clone());
                            Poll::Pending
                        }
                    },
                }
            }
        };
        wakes.fire();
        if result.is_pending() && self.batch.capacity() > IDLE_MESSAGES {
            self.batch.shrink_to(IDLE_MESSAGES);
        }
        result
    }
}

/// The same for a client, which has no status to end its half with
pub(crate) struct ClientOutbound<S: Session>(pub(crate) Outbound<S>);

impl<S: Session> Stream for ClientOutbound<S>
where
    S::Outgoing: Envelope,
{
    type Item = S::Outgoing;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Outgoing>> {
        Pin::new(&mut self.0)
            .poll_next(context)
            .map(|message| message.and_then(Result::ok))
    }
}

impl<S: Session> Stream for Outbound<S>
where
    S::Outgoing: Envelope,
{
    type Item = Result<S::Outgoing, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(None);
        }
        let message = match this.batch.pop_front() {
            Some(message) => message,
            None => match ready!(this.refill(context)) {
                Some(Ok(message)) => message,
                end => return Poll::Ready(end),
            },
        };
        Poll::Ready(Some(Ok(message)))
    }
}

impl<S: Session> Drop for Outbound<S> {
    fn drop(&mut self) {
        if let (true, Some(written)) = (self.finished, self.written.take()) {
            // Nobody need be interested.
            let _ = written.send(());
        }
        let mut wakes = Wakes::default();
        {
            let mut cell = self.shared.lock();
            if cell.generation == self.generation && cell.writer_state == WriterState::Writing {
                cell.writer = None;
                cell.writer_state = WriterState::Gone;
                cell.settle(Visitor::Writer, &mut wakes);
            }
        }
        wakes.fire();
    }
}

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
            self.drain_until.get_or_insert(now + LAST_WORDS);
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
        while self.inbox.len() < READ_BATCH && bytes < READ_BATCH_BYTES {
            match self.incoming.poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.bytes;
                    unknown += u64::from(frame.received.unknown_variant.is_some());
                    self.inbox.push(frame.received);
                }
                Poll::Ready(Some(Err(status))) => {
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

/// Where a status comes from that ended the incoming half
enum Origin {
    /// The connection, with the innermost cause.
    Connection(String),
    /// Sent by the peer.
    Peer,
    /// Made here, because of what the peer sent.
    Bytes,
}

/// tonic reports all three in one type; its own messages about framing are told apart by how they begin
fn origin(status: &Status) -> Origin {
    if let Some(source) = status.source() {
        return match source.downcast_ref::<NotAnEnvelope>() {
            Some(_) => Origin::Bytes,
            None => Origin::Connection(innermost(source)),
        };
    }
    match status.message() {
        "Unexpected EOF decoding stream." => {
            Origin::Connection("the stream was cut off inside a message".into())
        }
        message if message.starts_with("protocol error: missing grpc-status") => {
            Origin::Connection("the peer reset the stream without a status".into())
        }
        message
            if message.starts_with("protocol error: received message with")
                || message.starts_with("Error, decoded message length too large") =>
        {
            Origin::Bytes
        }
        _ => Origin::Peer,
    }
}

/// The text of the last error of the chain, which is the one that says what happened.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The status that ends a stream for the reason `close`; `None` is OK.
pub(crate) fn status_of(close: &Close) -> Option<Status> {
    let code = match close.code {
        Code::Ok => return None,
        Code::Cancelled => tonic::Code::Cancelled,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Aborted => tonic::Code::Aborted,
        Code::Unavailable => tonic::Code::Unavailable,
    };
    Some(Status::new(code, close.message.clone()))
}
