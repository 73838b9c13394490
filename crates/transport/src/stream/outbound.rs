//! The outgoing half: what HTTP/2 pulls

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use prexorcloud_protocol::Session;
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::Status;

use super::ending::status_of;
use super::{IDLE_MESSAGES, Role};
use crate::codec::{BATCH_BYTES, Envelope};
use crate::handle::{Shared, Visitor, WriterState};
use crate::waiters::Wakes;

/// Messages taken from the session in one visit.
const BATCH: usize = 64;

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

impl<S: Session> Outbound<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        generation: u64,
        role: Role,
        written: oneshot::Sender<()>,
    ) -> Self {
        Self {
            shared,
            generation,
            role,
            batch: VecDeque::new(),
            finished: false,
            written: Some(written),
        }
    }
}

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
                while self.batch.len() < BATCH && bytes < BATCH_BYTES {
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
