//! Encoded messages, walked without decoding them
//!
//! A decoder turns a few bytes into an entry that takes a hundred times as many in memory, so what a message holds is judged
//! before it is decoded. The walk allocates nothing, and looks inside of a field only where a list may be.

use prexorcloud_protocol::Refused;
use prexorcloud_protocol::payload::Kind;

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

/// Judges the payloads of an envelope by the rows of its direction
///
/// A payload may come in several pieces, which a decoder merges, so what counts is their sum. Stops at the first byte
/// that is not protobuf; the decoder is the judge of that.
///
/// # Errors
/// [`Refused`] names the payload that exceeds its row.
pub(crate) fn judge(mut envelope: &[u8], kinds: &[&'static Kind]) -> Result<(), Refused> {
    let (mut size, mut elements) = (0, 0);
    while let Some((field, value)) = take_field(&mut envelope) {
        let kind = kinds.iter().find(|kind| kind.number == field);
        let (Some(kind), Some(payload)) = (kind, value) else {
            continue;
        };
        size += payload.len();
        let refused = |invalid| Refused {
            name: kind.name,
            invalid,
        };
        // Too many bytes need not be walked.
        kind.judge(size, elements).map_err(refused)?;
        elements += count(payload, kind.nested);
        kind.judge(size, elements).map_err(refused)?;
    }
    Ok(())
}

/// The fields of a message as they stand on the wire, with those inside of its fields `nested`.
fn count(mut message: &[u8], nested: &[u32]) -> usize {
    let mut count = 0;
    while let Some((field, value)) = take_field(&mut message) {
        count += 1;
        if let Some(inner) = value.filter(|_| nested.contains(&field)) {
            count += self::count(inner, &[]);
        }
    }
    count
}

/// An envelope without its payloads: what stands beside them, as far as it fits into `room` bytes.
pub(crate) fn beside(mut envelope: &[u8], is_payload: impl Fn(u32) -> bool, room: usize) -> Vec<u8> {
    let mut rest = Vec::new();
    loop {
        let before = envelope;
        let Some((field, _)) = take_field(&mut envelope) else {
            return rest;
        };
        let taken = before.len() - envelope.len();
        if !is_payload(field) && rest.len() + taken <= room {
            rest.extend_from_slice(before.get(..taken).unwrap_or_default());
        }
    }
}

/// The field number that a message begins with; `Err(())` if more bytes are needed to know.
pub(crate) fn first_field(mut message: &[u8]) -> Result<Option<u32>, ()> {
    let is_cut = message.len() < 5 && message.iter().all(|byte| *byte >= 0x80);
    match take_key(&mut message) {
        Some((field, _)) => Ok(Some(field)),
        None if is_cut => Err(()),
        None => Ok(None),
    }
}

/// The next field, with its content where it is length-delimited; `None` at the end, and before what is not protobuf.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let (field, wire_type) = take_key(bytes)?;
    if wire_type != LENGTH_DELIMITED {
        skip_value(bytes, field, wire_type)?;
        return Some((field, None));
    }
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let content = bytes.get(..length)?;
    *bytes = bytes.get(length..)?;
    Some((field, Some(content)))
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
    use prexorcloud_proto::ControllerMessage;
    use prexorcloud_protocol::payload;
    use prexorcloud_protocol::validate::Fault;

    use super::*;
    use crate::codec::Envelope as _;

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

    /// `content` as field `number`, whose key has one byte.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    }

    fn fault(envelope: &[u8]) -> Option<(&'static str, Fault)> {
        let refused = judge(envelope, payload::DAEMON).err()?;
        Some((refused.name, refused.invalid.fault))
    }

    #[test]
    fn a_payload_is_judged_by_its_bytes_and_by_its_elements() {
        for kind in payload::DAEMON.iter().filter(|kind| kind.number < 16) {
            let number = kind.number as u8;
            // One field of a payload, empty and of a number that nobody uses.
            let many = field(15, &[]).repeat(kind.max_elements);
            if many.len() <= kind.max_bytes {
                assert_eq!(fault(&field(number, &many)), None, "{}", kind.name);
                let more = field(15, &[]).repeat(kind.max_elements + 1);
                let limit = kind.max_elements;
                if more.len() <= kind.max_bytes {
                    assert_eq!(
                        fault(&field(number, &more)),
                        Some((kind.name, Fault::TooMany { limit }))
                    );
                }
            }
            let limit = kind.max_bytes;
            let large = field(number, &vec![0; limit + 1]);
            assert_eq!(fault(&large), Some((kind.name, Fault::TooLarge { limit })));
        }
    }

    #[test]
    fn a_payload_in_pieces_is_judged_as_one() {
        let piece = field(8, &field(1, &[]).repeat(7000));
        assert_eq!(fault(&piece), None);
        let limit = 3 * 4096 + 64;
        assert_eq!(
            fault(&piece.repeat(2)),
            Some(("CacheStatus", Fault::TooMany { limit }))
        );
        let mixed = [piece, field(6, &[])].concat();
        assert_eq!(fault(&mixed), Some(("Pong", Fault::TooLarge { limit: 1024 })));
    }

    #[test]
    fn the_lists_of_a_plan_count_as_those_of_the_start() {
        let plan = |steps| field(5, &[]).repeat(steps);
        // Field 24 of a start, as a key of two bytes.
        let start = |steps| {
            let plan = field(0, &plan(steps));
            field(2, &[&[0xc2, 0x01], &plan[1..]].concat())
        };
        assert_eq!(judge(&start(16_000), payload::CONTROLLER), Ok(()));
        assert!(judge(&start(17_000), payload::CONTROLLER).is_err());
    }

    #[test]
    fn what_stands_beside_a_payload_is_kept_while_it_is_small() {
        let epoch = [0x90, 0x01, 0x05];
        let envelope = [&field(2, &[1; 300])[..], &epoch, &[0x8a, 0x01, 0x02, b't', b'p']].concat();
        let is_payload = |field| field == 2;
        assert_eq!(
            beside(&envelope, is_payload, 100),
            [&epoch[..], &[0x8a, 0x01, 0x02, b't', b'p']].concat()
        );
        assert_eq!(beside(&envelope, is_payload, 4), epoch);
    }

    #[test]
    fn the_first_field_is_known_as_soon_as_its_key_is_there() {
        assert_eq!(first_field(&[]), Err(()));
        assert_eq!(first_field(&[0xba]), Err(()));
        assert_eq!(first_field(&[0xba, 0x0c]), Ok(Some(199)));
        assert_eq!(first_field(&[0x0a]), Ok(Some(1)));
        assert_eq!(first_field(&[0xff; 5]), Ok(None));
        assert_eq!(first_field(&[0]), Ok(None));
    }
}
