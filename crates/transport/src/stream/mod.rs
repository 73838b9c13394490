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

mod driver;
mod ending;
mod outbound;

use std::sync::Arc;

use prexorcloud_protocol::Session;
use tokio::sync::oneshot;

pub(crate) use self::driver::{Driver, Incoming};
pub(crate) use self::ending::{innermost, status_of};
pub(crate) use self::outbound::{ClientOutbound, Outbound};
use crate::handle::{SessionHandle, StreamEnd, Visitor, WriterState, now};
use crate::waiters::Wakes;

/// Buffers above this many messages are given back when the stream falls idle.
const IDLE_MESSAGES: usize = 4;

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
    let outbound = Outbound::new(Arc::clone(&handle.0), generation, role, written);
    let driver = Driver::new(Arc::clone(&handle.0), generation, role, incoming);
    (outbound, driver, is_written)
}
