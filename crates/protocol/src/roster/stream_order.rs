//! Which of two streams of one node is newer

use prexorcloud_proto::Handshake;

use crate::node::controller::StreamId;

/// What tells the streams of one node apart, and in which order they were opened
///
/// A daemon of this repository names its process and counts its streams, so their order is a fact that both sides can
/// see. Streams of different processes, and of peers that say nothing (the Java daemon), go by the order in which this
/// controller accepted them: the handshake of one may be handled long after that of a later one.
///
/// ```
/// use prexorcloud_protocol::proto::Handshake;
/// use prexorcloud_protocol::roster::StreamOrder;
///
/// let of = |boot_id: &str, stream_ordinal, accepted| {
///     let handshake = Handshake { boot_id: boot_id.into(), stream_ordinal, ..Default::default() };
///     StreamOrder::of(&handshake, accepted)
/// };
/// // The daemon dialled the second one later, whichever came through the network first.
/// assert!(of("a", 1, 8).is_older_than(&of("a", 2, 7)));
/// assert!(of("", 0, 7).is_older_than(&of("", 0, 8)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOrder {
    /// The daemon's process, if it says.
    boot_id: String,
    /// The position among the streams of that process, from 1; 0 if it does not say.
    ordinal: u64,
    /// The position among the streams that this controller accepted.
    accepted: u64,
}

impl StreamOrder {
    /// The place of a stream that was accepted as the `accepted`th and began with `handshake`.
    #[must_use]
    pub fn of(handshake: &Handshake, accepted: u64) -> Self {
        Self {
            boot_id: handshake.boot_id.clone(),
            ordinal: handshake.stream_ordinal,
            accepted,
        }
    }

    /// The position among the streams that this controller accepted.
    #[must_use]
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The stream itself.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        StreamId::new(self.accepted)
    }

    /// Whether both streams come from the same process of the daemon; `None` if one of them does not say.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> Option<bool> {
        (!self.boot_id.is_empty() && !other.boot_id.is_empty()).then(|| self.boot_id == other.boot_id)
    }

    /// Whether this stream was opened before `other`, so that it must not take its place.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        let counted = self.ordinal > 0 && other.ordinal > 0;
        if counted && self.is_same_process(other) == Some(true) {
            self.ordinal < other.ordinal
        } else {
            self.accepted < other.accepted
        }
    }
}
