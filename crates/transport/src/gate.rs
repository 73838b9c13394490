//! What a peer sends, judged before it is buffered
//!
//! A decoder gets a message when all of it is in memory, so whatever it decides comes too late for that memory. The gate
//! stands before it and reads the frames of gRPC as they arrive: the length of a message, and the number of its first field,
//! which says what the message is. One that is too large for that is thrown away as it comes, and a verdict takes its
//! place. One that is large at all waits until the process has room for it: [`DecodingBudget`].
//!
//! ```text
//! HTTP/2 ──▶ Gate ──▶ tonic's buffer ──▶ GatedDecoder ──▶ session
//!             └── one verdict per message ──▶┘
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame as BodyFrame};
use prexorcloud_protocol::limits::{MAX_MESSAGE_BYTES, UNKNOWN_BYTES};
use prexorcloud_protocol::payload::Kind;
use prexorcloud_protocol::{Received, Refused};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};

use crate::codec::{Envelope, EnvelopeCodec, EnvelopeDecoder, EnvelopeEncoder, Frame, decode_or_status};
use crate::wire::first_field;

/// What all messages together may take that have begun to arrive and are not decoded, as far as they are large.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// A message of at most so many bytes is never made to wait: what HTTP/2 holds for a stream bounds it.
const SMALL: usize = 16 * 1024;

/// How long a large message waits for room.
const WAIT: Duration = Duration::from_secs(30);

/// How long a large message may take to arrive once it has room, while this side does read.
const ARRIVAL: Duration = Duration::from_secs(60);

/// What an envelope has beside its payload: a key and a length.
const ENVELOPE: usize = 16;

/// The prefix of a message in gRPC: a flag and a length.
const PREFIX: usize = 5;

/// The longest key of a field.
const KEY: usize = 5;

/// The memory of a process for messages that arrive, over all streams
///
/// First come, first served. A peer has room for one large message at a time, however many streams it opens.
#[derive(Clone, Debug)]
pub(crate) struct DecodingBudget {
    kibibytes: Arc<Semaphore>,
    total: usize,
}

impl Default for DecodingBudget {
    fn default() -> Self {
        Self::of(BUDGET_BYTES)
    }
}

impl DecodingBudget {
    pub(crate) fn of(bytes: usize) -> Self {
        let total = bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS);
        Self {
            kibibytes: Arc::new(Semaphore::new(total)),
            total,
        }
    }

    /// Waits for room; `None` if there is none in time.
    async fn room(self, turn: Arc<Semaphore>, bytes: usize) -> Option<Room> {
        let wanted = u32::try_from(bytes.div_ceil(1024).min(self.total)).unwrap_or(u32::MAX);
        let room = async {
            let turn = turn.acquire_owned().await.ok()?;
            let bytes = self.kibibytes.acquire_many_owned(wanted).await.ok()?;
            Some(Room(turn, bytes))
        };
        timeout(WAIT, room).await.ok().flatten()
    }
}

/// Room for one message; given back when it is dropped
struct Room(
    #[expect(dead_code, reason = "held")] OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held")] OwnedSemaphorePermit,
);

/// What the decoder learns about a message
enum Verdict {
    /// Decode it.
    Pass,
    /// In its place comes an empty message. tonic's buffer would keep this size for as long as the stream lives.
    Whole(Bytes, Room),
    /// As above, and it is not decoded.
    Refused(Refused),
    /// As above, and nobody knows what it was.
    Unknown(u32),
}

type Verdicts = Arc<Mutex<VecDeque<Verdict>>>;

fn lock(verdicts: &Verdicts) -> MutexGuard<'_, VecDeque<Verdict>> {
    verdicts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A gate before `body`, and the codec that belongs to it.
///
/// `turn` is the peer's: it has one permit, for one large message at a time.
pub(crate) fn gate<B, E, D: Envelope>(
    body: B,
    budget: DecodingBudget,
    turn: Arc<Semaphore>,
) -> (Gate<B>, GatedCodec<E, D>) {
    let verdicts = Verdicts::default();
    let gate = Gate {
        body,
        budget,
        turn,
        kinds: D::kinds(),
        verdicts: Arc::clone(&verdicts),
        is_first: true,
        pending: BytesMut::new(),
        state: State::Prefix,
        ended: false,
    };
    (gate, GatedCodec(verdicts, PhantomData))
}

enum State {
    /// The beginning of a message is awaited.
    Prefix,
    /// The message waits for room, with what has arrived of it.
    Waiting(BoxFuture<'static, Option<Room>>, usize),
    /// So many bytes belong to a message that is let through.
    Passing(usize),
    /// A large message, as far as it has arrived.
    Collecting(Box<Large>),
    /// So many bytes belong to a message that is thrown away.
    Discarding(usize),
}

/// A large message that arrives
struct Large {
    bytes: BytesMut,
    length: usize,
    room: Room,
    until: Pin<Box<Sleep>>,
}

/// The body of a stream, as far as it may be decoded
pub(crate) struct Gate<B> {
    body: B,
    budget: DecodingBudget,
    turn: Arc<Semaphore>,
    kinds: &'static [&'static Kind],
    verdicts: Verdicts,
    is_first: bool,
    /// What has arrived and is not judged.
    pending: BytesMut,
    state: State,
    ended: bool,
}

/// What is to be done with a message, by its length and its first field
enum Judgement {
    Pass,
    Refuse(Refused),
    Unknown(u32),
}

impl<B> Gate<B> {
    fn judge(&self, length: usize, field: Option<u32>) -> Judgement {
        // What is no protobuf is for the decoder to say, if it is not too much of it.
        let Some(field) = field else {
            return match length > UNKNOWN_BYTES {
                true => Judgement::Unknown(0),
                false => Judgement::Pass,
            };
        };
        // Before anything is known of the peer's session, there is room for what begins it.
        let first = self
            .kinds
            .first()
            .filter(|first| self.is_first && length > first.max_bytes);
        match self.kinds.iter().find(|kind| kind.number == field) {
            Some(kind) => match kind.judge(length.saturating_sub(ENVELOPE), 0) {
                Err(invalid) => Judgement::Refuse(Refused {
                    name: kind.name,
                    invalid,
                }),
                Ok(()) => match first.map(|first| first.judge(length, 0)) {
                    Some(Err(invalid)) => Judgement::Refuse(Refused {
                        name: kind.name,
                        invalid,
                    }),
                    _ => Judgement::Pass,
                },
            },
            None if length > UNKNOWN_BYTES => Judgement::Unknown(field),
            None => Judgement::Pass,
        }
    }

    fn tell(&self, verdict: Verdict) {
        lock(&self.verdicts).push_back(verdict);
    }

    /// Moves what may pass from `pending` to `through`; true if it could go on.
    fn step(&mut self, through: &mut BytesMut, context: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        match &mut self.state {
            State::Prefix => {
                let Some((length, after)) = prefix(&self.pending) else {
                    return Poll::Ready(Ok(false));
                };
                if length > MAX_MESSAGE_BYTES || self.pending.first() != Some(&0) {
                    // The decoder refuses it by its prefix alone.
                    self.tell(Verdict::Pass);
                    self.state = State::Passing(PREFIX + length);
                    return Poll::Ready(Ok(true));
                }
                let key = after.get(..after.len().min(length).min(KEY)).unwrap_or_default();
                let field = match first_field(key) {
                    Ok(field) => field,
                    Err(()) if key.len() < length => return Poll::Ready(Ok(false)),
                    Err(()) => None,
                };
                let judgement = self.judge(length, field);
                self.is_first = false;
                let verdict = match judgement {
                    Judgement::Pass if length > SMALL => {
                        let room = self.budget.clone().room(Arc::clone(&self.turn), length);
                        self.state = State::Waiting(room.boxed(), length);
                        return Poll::Ready(Ok(true));
                    }
                    Judgement::Pass => {
                        self.tell(Verdict::Pass);
                        self.state = State::Passing(PREFIX + length);
                        return Poll::Ready(Ok(true));
                    }
                    Judgement::Refuse(refused) => Verdict::Refused(refused),
                    Judgement::Unknown(field) => Verdict::Unknown(field),
                };
                self.tell(verdict);
                // An empty message in its place, for which the decoder asks.
                through.put_slice(&[0; PREFIX]);
                self.state = State::Discarding(PREFIX + length);
                Poll::Ready(Ok(true))
            }
            State::Waiting(room, length) => {
                let length = *length;
                match ready!(room.poll_unpin(context)) {
                    Some(room) => {
                        self.pending.advance(PREFIX);
                        self.state = State::Collecting(Box::new(Large {
                            bytes: BytesMut::with_capacity(length),
                            length,
                            room,
                            until: Box::pin(sleep(ARRIVAL)),
                        }));
                        Poll::Ready(Ok(true))
                    }
                    None => Poll::Ready(Err(busy(length))),
                }
            }
            State::Passing(left) => {
                let moved = (*left).min(self.pending.len());
                through.unsplit(self.pending.split_to(moved));
                *left -= moved;
                if *left > 0 {
                    return Poll::Ready(Ok(false));
                }
                self.state = State::Prefix;
                Poll::Ready(Ok(true))
            }
            State::Collecting(large) => {
                let missing = large.length - large.bytes.len();
                let arrived = self.pending.split_to(missing.min(self.pending.len()));
                large.bytes.extend_from_slice(&arrived);
                if large.bytes.len() < large.length {
                    return Poll::Ready(Ok(false));
                }
                if let State::Collecting(large) = std::mem::replace(&mut self.state, State::Prefix) {
                    self.tell(Verdict::Whole(large.bytes.freeze(), large.room));
                }
                through.put_slice(&[0; PREFIX]);
                Poll::Ready(Ok(true))
            }
            State::Discarding(left) => {
                let moved = (*left).min(self.pending.len());
                self.pending.advance(moved);
                *left -= moved;
                if *left > 0 {
                    return Poll::Ready(Ok(false));
                }
                self.state = State::Prefix;
                Poll::Ready(Ok(true))
            }
        }
    }
}

/// The length that a prefix announces, and what has arrived behind it.
fn prefix(pending: &[u8]) -> Option<(usize, &[u8])> {
    let (prefix, after) = pending.split_first_chunk::<PREFIX>()?;
    let [_, length @ ..] = *prefix;
    Some((usize::try_from(u32::from_be_bytes(length)).ok()?, after))
}

fn busy(bytes: usize) -> Status {
    Status::unavailable(format!(
        "this side had no room for a message of {bytes} bytes within {} s; come again later",
        WAIT.as_secs()
    ))
}

fn too_slow() -> Status {
    Status::deadline_exceeded(format!(
        "a message was announced, and had not arrived {} s later",
        ARRIVAL.as_secs()
    ))
}

impl<B> Body for Gate<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut through = BytesMut::new();
        loop {
            loop {
                match this.step(&mut through, context) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => break,
                    Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(made_here(status)))),
                    Poll::Pending if through.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            if !through.is_empty() {
                return Poll::Ready(Some(Ok(BodyFrame::data(through.freeze()))));
            }
            if this.ended {
                // A message that was cut off is for the decoder to name.
                let mut rest = std::mem::take(&mut this.pending);
                if matches!(this.state, State::Collecting(_)) && rest.is_empty() {
                    this.state = State::Prefix;
                    rest.put_u8(0);
                }
                return Poll::Ready((!rest.is_empty()).then(|| Ok(BodyFrame::data(rest.freeze()))));
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match data.try_into_mut() {
                        Ok(data) if this.pending.is_empty() => this.pending = data,
                        Ok(data) => this.pending.extend_from_slice(&data),
                        Err(data) => this.pending.extend_from_slice(&data),
                    },
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => {
                    if let State::Collecting(large) = &mut this.state
                        && large.until.as_mut().poll(context).is_ready()
                    {
                        return Poll::Ready(Some(Err(made_here(too_slow()))));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && matches!(self.state, State::Prefix) && self.body.is_end_stream()
    }
}

/// A status that is not the peer's
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct MadeHere(String);

fn made_here(mut status: Status) -> Box<dyn std::error::Error + Send + Sync> {
    let message = status.message().to_owned();
    status.set_source(Arc::new(MadeHere(message)));
    status.into()
}

/// [`EnvelopeCodec`] behind a [`Gate`]
pub(crate) struct GatedCodec<E, D>(Verdicts, PhantomData<fn(E) -> D>);

impl<E: Envelope, D: Envelope> Codec for GatedCodec<E, D> {
    type Encode = E;
    type Decode = Frame<D>;
    type Encoder = EnvelopeEncoder<E>;
    type Decoder = GatedDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        EnvelopeCodec::<E, D>::new().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        GatedDecoder {
            verdicts: Arc::clone(&self.0),
            inner: EnvelopeCodec::<E, D>::new().decoder(),
        }
    }
}

/// The receiving half of [`GatedCodec`]
pub(crate) struct GatedDecoder<D> {
    verdicts: Verdicts,
    inner: EnvelopeDecoder<D>,
}

impl<D: Envelope> Decoder for GatedDecoder<D> {
    type Item = Frame<D>;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Frame<D>>, Status> {
        let verdict = lock(&self.verdicts).pop_front();
        let (unknown_variant, refused) = match verdict {
            Some(Verdict::Pass) | None => return self.inner.decode(src),
            Some(Verdict::Whole(mut message, _room)) => return decode_or_status(&mut message),
            Some(Verdict::Refused(refused)) => (None, Some(refused)),
            Some(Verdict::Unknown(field)) => (Some(field), None),
        };
        Ok(Some(Frame {
            received: Received {
                message: D::default(),
                unknown_variant,
                refused,
            },
            bytes: 0,
        }))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

impl<D> fmt::Debug for GatedDecoder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedDecoder")
    }
}
