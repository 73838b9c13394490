//! The streams of one node on the controller's side, around its machine
//!
//! A [`ControllerNode`] names streams by number; here are the sessions behind the numbers. What they say comes out in the
//! order that the machine needs, and what it wants said goes in.

use std::fmt;
use std::future::pending;

use futures_util::future::{FutureExt as _, select_all};
use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork, StreamId};
use prexorcloud_protocol::session::controller::ControllerOutcome;
use prexorcloud_protocol::{Close, ControllerEvent, ControllerSession, Session as _};

use crate::handle::SessionHandle;

/// Events taken from a session at once; between two batches the rest of the application gets its turn.
const BATCH: usize = 64;

/// One stream of a node, and what the application keeps beside it
#[derive(Debug)]
pub struct NodeStream<T> {
    /// Its number.
    pub id: StreamId,
    /// Its session.
    pub session: SessionHandle<ControllerSession>,
    /// What the application keeps beside it, for instance the [`Peer`](crate::Peer).
    pub data: T,
}

/// The streams of one node that are not over
///
/// The loop around a node's machine:
///
/// ```no_run
/// use std::time::Instant;
///
/// use prexorcloud_transport::protocol::node::controller::{ControllerNode, ControllerWork};
/// use prexorcloud_transport::protocol::{ControllerSession, NodeId};
/// use prexorcloud_transport::{NodeStreams, SessionHandle, due};
/// use tokio::sync::mpsc;
///
/// # async fn example(
/// #     node: NodeId,
/// #     mut attached: mpsc::Receiver<SessionHandle<ControllerSession>>,
/// #     do_it: fn(&mut ControllerNode, ControllerWork),
/// # ) {
/// let mut machine = ControllerNode::new(node);
/// let mut streams = NodeStreams::default();
/// let mut events = Vec::new();
/// loop {
///     // Whatever happened: what the machine wants done, in its order; what is for a stream is done here.
///     while let Some(work) = machine.poll_work() {
///         if let Some(work) = streams.hand(work) {
///             do_it(&mut machine, work);
///         }
///     }
///     streams.feed(&mut machine);
///     let deadline = machine.poll_timeout();
///     tokio::select! {
///         Some(session) = attached.recv() => drop(streams.push(session, ())),
///         () = streams.next_events(&mut events) => {
///             for (stream, event) in events.drain(..) {
///                 // What the machine gives back is news for the application.
///                 machine.handle_event(Instant::now(), stream, event);
///             }
///         }
///         () = due(deadline) => machine.handle_timeout(Instant::now()),
///     }
/// }
/// # }
/// ```
pub struct NodeStreams<T = ()> {
    streams: Vec<NodeStream<T>>,
    batch: Vec<ControllerEvent>,
}

impl<T> Default for NodeStreams<T> {
    fn default() -> Self {
        Self {
            streams: Vec::new(),
            batch: Vec::new(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for NodeStreams<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.streams).finish()
    }
}

impl<T> NodeStreams<T> {
    /// Adds a stream, with what the application keeps beside it, and gives its number
    ///
    /// It stays until its [`Closed`](ControllerEvent::Closed) has come out of [`next_events`](Self::next_events). The machine
    /// turns away whoever comes while two others wait, so there are few.
    pub fn push(&mut self, session: SessionHandle<ControllerSession>, data: T) -> StreamId {
        let id = session.with(|session, _| session.stream());
        self.streams.push(NodeStream { id, session, data });
        id
    }

    /// The stream of this number, if it is not over.
    #[must_use]
    pub fn get(&self, id: StreamId) -> Option<&NodeStream<T>> {
        self.streams.iter().find(|stream| stream.id == id)
    }

    /// As [`get`](Self::get), to change what is kept beside it.
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut NodeStream<T>> {
        self.streams.iter_mut().find(|stream| stream.id == id)
    }

    /// Does the work that is for a stream, and gives back what is the application's
    ///
    /// Work for a stream that is over is dropped: the machine hears of the end, or has heard.
    #[must_use = "work that is given back is for the application"]
    pub fn hand(&self, work: ControllerWork) -> Option<ControllerWork> {
        let Some(id) = work.stream() else {
            return Some(work);
        };
        let stream = self.get(id)?;
        stream.session.with(|session, now| work.hand_to(now, session))
    }

    /// Lets the current stream take what it has room for; do this when the machine's work is done.
    pub fn feed(&self, node: &mut ControllerNode) {
        let current = node.current_stream();
        if let Some(stream) = current.and_then(|id| self.get(id)) {
            stream.session.with(|session, _| node.feed(session));
        }
    }

    /// Ends every stream in order, when the controller stops.
    pub fn close_all(&self, close: &Close) {
        for stream in &self.streams {
            stream
                .session
                .with(|session, _| session.close_with(close.clone()));
        }
    }

    /// Waits until a stream has something to say, and appends it to `into`
    ///
    /// What the others have said until then comes before a stream's [`Established`](ControllerEvent::Established), because
    /// the machine listens to nobody else from there on. A stream is over, and is forgotten here, with its
    /// [`Closed`](ControllerEvent::Closed). Waits for ever while there is no stream. Cancel safe.
    pub async fn next_events(&mut self, into: &mut Vec<(StreamId, ControllerEvent)>) {
        let id = match self.streams.as_slice() {
            [] => return pending().await,
            [only] => {
                only.session.next_events(&mut self.batch, BATCH).await;
                only.id
            }
            several => {
                let each = several.iter().map(|stream| {
                    // One at a time: what a future has taken when another one is first would be lost.
                    let (id, event) = (stream.id, stream.session.next_event());
                    async move { (id, event.await) }.boxed()
                });
                let ((id, event), _, _) = select_all(each).await;
                self.batch.extend(event);
                // Who was asked first is asked last, or one that never stops would keep the others from their turn.
                if let Some(place) = self.streams.iter().position(|stream| stream.id == id) {
                    let said = self.streams.remove(place);
                    self.streams.push(said);
                }
                id
            }
        };
        let begun = into.len();
        if self.batch.is_empty() {
            // Nothing will ever come, so its end is not among what it said.
            into.push((id, ControllerEvent::Closed(ControllerOutcome::StreamEnded)));
        }
        for event in self.batch.drain(..) {
            if matches!(event, ControllerEvent::Established) {
                for other in self.streams.iter().filter(|other| other.id != id) {
                    other.session.with(|session, _| {
                        into.extend(
                            std::iter::from_fn(|| session.poll_event()).map(|event| (other.id, event)),
                        );
                    });
                }
            }
            into.push((id, event));
        }
        for (id, event) in into.iter().skip(begun) {
            if matches!(event, ControllerEvent::Closed(_)) {
                self.streams.retain(|stream| stream.id != *id);
            }
        }
    }
}
