//! Envelopes to bytes and back, with a name for the variants that this build does not know
//!
//! A `oneof` variant from a newer peer decodes as an envelope without payload. The generated code cannot tell it from an
//! envelope that really is empty, but the codec still has the bytes: [`unknown_field`] names the field number, and
//! the session counts it, says so once, and keeps the stream. Fields beside the payload (epoch, traceparent) are decoded
//! as always.
//!
//! A payload that is larger than the contract allows, or has more elements, is not decoded: the session gets the verdict.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Buf;
use prexorcloud_proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::Received;
pub use prexorcloud_protocol::limits::MAX_MESSAGE_BYTES;
use prexorcloud_protocol::payload::{self, Kind};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

pub use crate::wire::unknown_field;
use crate::wire::{beside, judge};

/// What one stream allocates for its encoder and again for its decoder before the first message
///
/// Buffers grow with what passes through them. A controller holds one stream per node, mostly idle, so this is small.
const BUFFER_BYTES: usize = 4 * 1024;

/// As many encoded bytes are handed to HTTP/2 in one piece while more messages are ready.
pub(crate) const BATCH_BYTES: usize = 32 * 1024;

/// One of the two messages that travel on the stream of `DaemonService.Connect`
pub trait Envelope: prost::Message + Default + Send + Sync + 'static {
    /// True for a field number that this build knows, a variant or not.
    fn knows(field: u32) -> bool;

    /// The rows of the variants that this build knows.
    fn kinds() -> &'static [&'static Kind];

    /// True if the payload is a variant that this build knows.
    fn has_payload(&self) -> bool;
}

impl Envelope for DaemonMessage {
    fn knows(field: u32) -> bool {
        matches!(field, 1..=18 | 103..=106)
    }

    fn kinds() -> &'static [&'static Kind] {
        payload::DAEMON
    }

    fn has_payload(&self) -> bool {
        self.payload.is_some()
    }
}

impl Envelope for ControllerMessage {
    fn knows(field: u32) -> bool {
        matches!(field, 1..=18 | 100..=104)
    }

    fn kinds() -> &'static [&'static Kind] {
        payload::CONTROLLER
    }

    fn has_payload(&self) -> bool {
        self.payload.is_some()
    }
}

/// A decoded envelope with its size on the wire
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<M> {
    /// What the session gets.
    pub received: Received<M>,
    /// Encoded size in bytes, without the gRPC prefix.
    pub bytes: usize,
}

/// Bytes that are no message of the contract
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("not an envelope: {0}")]
pub struct NotAnEnvelope(pub prost::DecodeError);

/// The tonic codec of one end of the stream: sends `E`, receives `D`
pub struct EnvelopeCodec<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> EnvelopeCodec<E, D> {
    /// A codec; it holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Default for EnvelopeCodec<E, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E, D> Clone for EnvelopeCodec<E, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, D> Copy for EnvelopeCodec<E, D> {}

impl<E, D> fmt::Debug for EnvelopeCodec<E, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeCodec")
    }
}

impl<E: Envelope, D: Envelope> Codec for EnvelopeCodec<E, D> {
    type Encode = E;
    type Decode = Frame<D>;
    type Encoder = EnvelopeEncoder<E>;
    type Decoder = EnvelopeDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        EnvelopeEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        EnvelopeDecoder(PhantomData)
    }
}

/// The sending half of [`EnvelopeCodec`]
pub struct EnvelopeEncoder<E>(PhantomData<fn(E)>);

impl<E> fmt::Debug for EnvelopeEncoder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeEncoder")
    }
}

impl<E: Envelope> Encoder for EnvelopeEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A blob's buffer does not grow by doubling.
        dst.reserve(item.encoded_len());
        item.encode(dst)
            .map_err(|error| Status::internal(format!("cannot encode an envelope: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BATCH_BYTES)
    }
}

/// The receiving half of [`EnvelopeCodec`]
pub struct EnvelopeDecoder<D>(PhantomData<fn() -> D>);

impl<D> fmt::Debug for EnvelopeDecoder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeDecoder")
    }
}

impl<D: Envelope> Decoder for EnvelopeDecoder<D> {
    type Item = Frame<D>;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Frame<D>>, Status> {
        decode_or_status(src)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BATCH_BYTES)
    }
}

/// As [`decode`], with an error that ends the stream.
pub(crate) fn decode_or_status<D: Envelope>(src: &mut impl Buf) -> Result<Option<Frame<D>>, Status> {
    decode(src).map(Some).map_err(|error| {
        let mut status = Status::invalid_argument(error.to_string());
        status.set_source(Arc::new(error));
        status
    })
}

/// What may stand beside a payload that is refused.
const BESIDE_BYTES: usize = 1024;

/// Decodes one envelope, which is everything that `src` holds
///
/// A payload with more bytes or elements than its [row](Kind) allows is not decoded; the frame says
/// [why](Received::refused).
///
/// # Errors
/// [`NotAnEnvelope`] for anything that is not protobuf, or not of the types that the contract says.
pub fn decode<D: Envelope>(src: &mut impl Buf) -> Result<Frame<D>, NotAnEnvelope> {
    let bytes = src.remaining();
    // tonic hands over whole messages in one piece; a copy would only be made if that ever changed.
    let received = if src.chunk().len() == bytes {
        let received = look(src.chunk());
        match received {
            Some(received) => {
                src.advance(bytes);
                received?
            }
            None => decoded(unknown_field(src.chunk(), D::knows), D::decode(src))?,
        }
    } else {
        let whole = src.copy_to_bytes(bytes);
        match look(&whole) {
            Some(received) => received?,
            None => decoded(unknown_field(&whole, D::knows), D::decode(whole))?,
        }
    };
    Ok(Frame { received, bytes })
}

/// What is received instead of an envelope that is not to be decoded.
fn look<D: Envelope>(envelope: &[u8]) -> Option<Result<Received<D>, NotAnEnvelope>> {
    let refused = judge(envelope, D::kinds()).err()?;
    let is_payload = |field| D::kinds().iter().any(|kind| kind.number == field);
    let rest = D::decode(&beside(envelope, is_payload, BESIDE_BYTES)[..]).map_err(NotAnEnvelope);
    Some(rest.map(|message| Received {
        message,
        unknown_variant: None,
        refused: Some(refused),
    }))
}

fn decoded<D: Envelope>(
    unknown: Option<u32>,
    message: Result<D, prost::DecodeError>,
) -> Result<Received<D>, NotAnEnvelope> {
    let message = message.map_err(NotAnEnvelope)?;
    let unknown_variant = if message.has_payload() { None } else { unknown };
    Ok(Received {
        message,
        unknown_variant,
        refused: None,
    })
}
