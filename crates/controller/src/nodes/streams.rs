//! The sessions of one node's streams

use futures_util::future::{FutureExt as _, select_all};
use prexorcloud_protocol::{
    Close, ControllerEvent, ControllerSession, Session as _, node::controller::StreamId,
};
use prexorcloud_transport::{Peer, SessionHandle};

use super::view::SessionView;

/// Events taken from a session at once; between two batches, orders get their turn
const BATCH: usize = 64;

/// One stream, from its handshake to its end
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) session: SessionHandle<ControllerSession>,
    pub(super) peer: Peer,
    /// What others will see of the session once it counts
    pub(super) view: Option<SessionView>,
}

/// The streams whose end the machine has not heard of; it keeps few at a time
#[derive(Default)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    pub(super) fn push(&mut self, session: SessionHandle<ControllerSession>, peer: Peer) {
        let id = session.with(|session, _| session.stream());
        self.0.push(Stream {
            id,
            session,
            peer,
            view: None,
        });
    }

    pub(super) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.0.iter_mut().find(|stream| stream.id == id)
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        self.0.retain(|stream| stream.id != id);
    }

    pub(super) fn close_all(&self, close: &Close) {
        for stream in &self.0 {
            stream
                .session
                .with(|session, _| session.close_with(close.clone()));
        }
    }

    /// What every other stream has said until now
    pub(super) fn drain_others(&self, id: StreamId) -> Vec<(StreamId, ControllerEvent)> {
        let others = self.0.iter().filter(|stream| stream.id != id);
        let said = |stream: &Stream| {
            stream.session.with(|session, _| {
                std::iter::from_fn(|| session.poll_event())
                    .map(|event| (stream.id, event))
                    .collect::<Vec<_>>()
            })
        };
        others.flat_map(said).collect()
    }

    /// The next events of whichever stream has some; none of a stream that will never have any. Cancel safe.
    pub(super) async fn next_events(&self, into: &mut Vec<ControllerEvent>) -> StreamId {
        if let [only] = self.0.as_slice() {
            only.session.next_events(into, BATCH).await;
            return only.id;
        }
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let each = self.0.iter().map(|stream| {
            async {
                // One at a time: what a future has taken when another one is first would be lost.
                let event = stream.session.next_event().await;
                (stream.id, event)
            }
            .boxed()
        });
        let ((id, event), _, _) = select_all(each).await;
        into.extend(event);
        id
    }
}
