//! Envelopes to bytes and back, with a name for the variants that this build does not know
//!
//! A `oneof` variant from a newer peer decodes as an envelope without payload. The generated code cannot tell it from an
//! envelope that really is empty, but the codec still has the bytes: [`unknown_field`] names the field number, and
//! the session counts it, says so once, and keeps the stream. Fields beside the payload (epoch, traceparent) are decoded
//! as always.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Buf;
use prexorcloud_proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::Received;
pub use prexorcloud_protocol::limits::MAX_MESSAGE_BYTES;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

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

    /// True if the payload is a variant that this build knows.
    fn has_payload(&self) -> bool;
}

impl Envelope for DaemonMessage {
    fn knows(field: u32) -> bool {
        matches!(field, 1..=18 | 103)
    }

    fn has_payload(&self) -> bool {
        self.payload.is_some()
    }
}

impl Envelope for ControllerMessage {
    fn knows(field: u32) -> bool {
        matches!(field, 1..=18 | 100..=102)
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
        decode(src).map(Some).map_err(|error| {
            let mut status = Status::invalid_argument(error.to_string());
            status.set_source(Arc::new(error));
            status
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BATCH_BYTES)
    }
}

/// Decodes one envelope, which is everything that `src` holds.
///
/// # Errors
/// [`NotAnEnvelope`] for anything that is not protobuf, or not of the types that the contract says.
pub fn decode<D: Envelope>(src: &mut impl Buf) -> Result<Frame<D>, NotAnEnvelope> {
    let bytes = src.remaining();
    // tonic hands over whole messages in one piece; a copy would only be made if that ever changed.
    let (unknown, message) = if src.chunk().len() == bytes {
        (unknown_field(src.chunk(), D::knows), D::decode(src))
    } else {
        let whole = src.copy_to_bytes(bytes);
        (unknown_field(&whole, D::knows), D::decode(whole))
    };
    let message = message.map_err(NotAnEnvelope)?;
    let unknown_variant = if message.has_payload() { None } else { unknown };
    Ok(Frame {
        received: Received {
            message,
            unknown_variant,
        },
        bytes,
    })
}

/// The field number of an encoded message that `knows` does not accept, if there is one
///
/// A variant is a message, so the first length-delimited field wins over the first of any other type. Only the top
/// level is looked at: the content of a field is skipped, not read. Returns what was found before the first byte that is
/// not protobuf; the decoder is the judge of that.
#[must_use]
pub fn unknown_field(mut bytes: &[u8], knows: impl Fn(u32) -> bool) -> Option<u32> {
    let mut other = None;
    while !bytes.is_empty() {
        let Some((field, wire_type)) = take_key(&mut bytes) else {
            break;
        };
        if !knows(field) {
            if wire_type == LENGTH_DELIMITED {
                return Some(field);
            }
            other = other.or(Some(field));
        }
        if skip_value(&mut bytes, field, wire_type).is_none() {
            break;
        }
    }
    other
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;
const FIXED32: u64 = 5;

/// Groups may nest this deep, as in prost.
const MAX_DEPTH: usize = 100;

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = bytes.get(index + 1..)?;
            return Some(value);
        }
    }
    None
}

fn take_key(bytes: &mut &[u8]) -> Option<(u32, u64)> {
    let key = u32::try_from(take_varint(bytes)?).ok()?;
    match key >> 3 {
        0 => None,
        field => Some((field, u64::from(key & 7))),
    }
}

fn skip(bytes: &mut &[u8], count: usize) -> Option<()> {
    *bytes = bytes.get(count..)?;
    Some(())
}

fn skip_value(bytes: &mut &[u8], field: u32, wire_type: u64) -> Option<()> {
    let mut open = Vec::new();
    let mut current = (field, wire_type);
    loop {
        match current.1 {
            VARINT => take_varint(bytes).map(drop)?,
            FIXED64 => skip(bytes, 8)?,
            FIXED32 => skip(bytes, 4)?,
            LENGTH_DELIMITED => {
                let length = usize::try_from(take_varint(bytes)?).ok()?;
                skip(bytes, length)?;
            }
            START_GROUP if open.len() < MAX_DEPTH => open.push(current.0),
            END_GROUP if open.pop()? == current.0 => {}
            _ => return None,
        }
        if open.is_empty() {
            return Some(());
        }
        current = take_key(bytes)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(field: u32) -> bool {
        ControllerMessage::knows(field)
    }

    #[test]
    fn every_wire_type_is_named() {
        assert_eq!(unknown_field(&[0xf8, 0x06, 0x01], knows), Some(111), "varint");
        assert_eq!(
            unknown_field(&[0xf9, 0x06, 0, 0, 0, 0, 0, 0, 0, 0], knows),
            Some(111),
            "fixed64"
        );
        assert_eq!(
            unknown_field(&[0xfa, 0x06, 0x02, 0xff, 0xff], knows),
            Some(111),
            "length-delimited"
        );
        assert_eq!(
            unknown_field(&[0xfb, 0x06, 0x08, 0x01, 0xfc, 0x06], knows),
            Some(111),
            "group"
        );
        assert_eq!(
            unknown_field(&[0xfd, 0x06, 0, 0, 0, 0], knows),
            Some(111),
            "fixed32"
        );
    }

    #[test]
    fn known_fields_are_skipped_whatever_they_hold() {
        // Field 1 holds the bytes of an unknown field 111; it is content, not a field of the envelope.
        assert_eq!(unknown_field(&[0x0a, 0x03, 0xf8, 0x06, 0x01], knows), None);
        // epoch = 5, then variant 111.
        assert_eq!(
            unknown_field(&[0x90, 0x01, 0x05, 0xfa, 0x06, 0x00], knows),
            Some(111)
        );
        // A group in a known field.
        assert_eq!(unknown_field(&[0x0b, 0xf8, 0x06, 0x01, 0x0c], knows), None);
    }

    #[test]
    fn a_message_wins_over_a_scalar() {
        // 111 as varint, 112 as message.
        assert_eq!(
            unknown_field(&[0xf8, 0x06, 0x01, 0x82, 0x07, 0x00], knows),
            Some(112)
        );
    }

    #[test]
    fn damage_ends_the_search() {
        for damaged in [
            &[0x00][..],
            &[0x07, 0x01],
            &[0x0a, 0x05, 0x00],
            &[0x0b, 0x14],
            &[0x0c],
            &[0xff; 12],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        ] {
            assert_eq!(unknown_field(damaged, knows), None, "{damaged:x?}");
        }
        assert_eq!(unknown_field(&[0x0b; 200], knows), None, "groups nested too deep");
        // What follows looks like variant 111.
        for damaged in [
            &[0x0b, 0x14, 0xf8, 0x06, 0x01][..],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xf8, 0x06, 0x01,
            ],
        ] {
            assert_eq!(unknown_field(damaged, knows), None, "{damaged:x?}");
        }
    }
}
