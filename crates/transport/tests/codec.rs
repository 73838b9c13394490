//! The envelope codec against arbitrary bytes, generated messages and bytes recorded once
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use bytes::Bytes;
use prexorcloud_proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, FILE_DESCRIPTOR_SET, Ping, controller_message,
    daemon_message,
};
use prexorcloud_transport::codec::{Envelope, NotAnEnvelope, decode, unknown_field};
use proptest::prelude::*;
use prost::Message as _;

/// A field as it can stand on the wire, known to the contract or not
#[derive(Clone, Debug)]
enum Field {
    Varint(u32, u64),
    Fixed64(u32, u64),
    Bytes(u32, Vec<u8>),
    Group(u32, Vec<Field>),
    Fixed32(u32, u32),
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

impl Field {
    fn number(&self) -> u32 {
        match self {
            Self::Varint(number, _)
            | Self::Fixed64(number, _)
            | Self::Bytes(number, _)
            | Self::Group(number, _)
            | Self::Fixed32(number, _) => *number,
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let key =
            |wire_type: u64, into: &mut Vec<u8>| varint(u64::from(self.number()) << 3 | wire_type, into);
        match self {
            Self::Varint(_, value) => {
                key(0, into);
                varint(*value, into);
            }
            Self::Fixed64(_, value) => {
                key(1, into);
                into.extend(value.to_le_bytes());
            }
            Self::Bytes(_, value) => {
                key(2, into);
                varint(value.len() as u64, into);
                into.extend(value);
            }
            Self::Group(_, fields) => {
                key(3, into);
                fields.iter().for_each(|field| field.encode(into));
                key(4, into);
            }
            Self::Fixed32(_, value) => {
                key(5, into);
                into.extend(value.to_le_bytes());
            }
        }
    }
}

fn field() -> impl Strategy<Value = Field> {
    let number = prop_oneof![1..=20u32, 95..=105u32, 1..=536_870_911u32];
    let leaf = prop_oneof![
        (number.clone(), any::<u64>()).prop_map(|(number, value)| Field::Varint(number, value)),
        (number.clone(), any::<u64>()).prop_map(|(number, value)| Field::Fixed64(number, value)),
        (number.clone(), prop::collection::vec(any::<u8>(), 0..24))
            .prop_map(|(number, value)| Field::Bytes(number, value)),
        (number.clone(), any::<u32>()).prop_map(|(number, value)| Field::Fixed32(number, value)),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        (number.clone(), prop::collection::vec(inner, 0..4))
            .prop_map(|(number, fields)| Field::Group(number, fields))
    })
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields.iter().for_each(|field| field.encode(&mut bytes));
    bytes
}

/// What the scan must answer, from the structure instead of the bytes.
fn expected(fields: &[Field], knows: fn(u32) -> bool) -> Option<u32> {
    let unknown: Vec<_> = fields.iter().filter(|field| !knows(field.number())).collect();
    let message = unknown.iter().find(|field| matches!(field, Field::Bytes(..)));
    message.or(unknown.first()).map(|field| field.number())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let daemon = decode::<DaemonMessage>(&mut Bytes::from(bytes.clone()));
        let controller = decode::<ControllerMessage>(&mut Bytes::from(bytes.clone()));
        if let Ok(frame) = daemon {
            prop_assert!(frame.received.message.payload.is_none() || frame.received.unknown_variant.is_none());
            prop_assert_eq!(frame.bytes, bytes.len());
        }
        if let Ok(frame) = controller {
            prop_assert!(frame.received.message.payload.is_none() || frame.received.unknown_variant.is_none());
        }
    }

    #[test]
    fn the_scan_finds_exactly_the_unknown_field_of_the_top_level(fields in prop::collection::vec(field(), 0..12)) {
        let bytes = encode(&fields);
        prop_assert_eq!(unknown_field(&bytes, DaemonMessage::knows), expected(&fields, DaemonMessage::knows));
        prop_assert_eq!(unknown_field(&bytes, ControllerMessage::knows), expected(&fields, ControllerMessage::knows));
    }

    #[test]
    fn fields_of_unknown_numbers_always_decode_to_an_empty_envelope(
        fields in prop::collection::vec(field(), 0..12),
        epoch in 1..u64::MAX,
    ) {
        let mut fields: Vec<_> = fields.into_iter().filter(|field| !ControllerMessage::knows(field.number())).collect();
        let unknown = expected(&fields, ControllerMessage::knows);
        fields.insert(fields.len() / 2, Field::Varint(18, epoch));
        let frame = decode::<ControllerMessage>(&mut Bytes::from(encode(&fields))).unwrap();
        prop_assert_eq!(frame.received.unknown_variant, unknown);
        prop_assert_eq!(frame.received.message.payload, None);
        prop_assert_eq!(frame.received.message.epoch, epoch, "fields beside the payload are honoured");
    }

    #[test]
    fn messages_cut_short_or_damaged_are_errors_or_messages(
        line in ".{0,40}",
        cut in 0..60usize,
        damage in any::<u8>(),
        at in 0..60usize,
    ) {
        let message = DaemonMessage {
            payload: Some(daemon_message::Payload::ConsoleOutput(ConsoleOutput { line, ..Default::default() })),
        };
        let mut bytes = message.encode_to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= damage;
        }
        bytes.truncate(cut);
        let result: Result<_, NotAnEnvelope> = decode::<DaemonMessage>(&mut Bytes::from(bytes));
        if let Err(error) = result {
            prop_assert!(error.to_string().starts_with("not an envelope"));
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(sequence in any::<i64>(), epoch in any::<u64>(), traceparent in ".{0,60}") {
        let payload = Some(controller_message::Payload::Ping(Ping { sequence, answered: 0 }));
        let message = ControllerMessage { payload, epoch, traceparent };
        let frame = decode::<ControllerMessage>(&mut Bytes::from(message.encode_to_vec())).unwrap();
        prop_assert_eq!(frame.received.message, message);
        prop_assert_eq!(frame.received.unknown_variant, None);
    }
}

/// Bytes of a newer controller, recorded once: variant 199 (a message with one string), traceparent and epoch.
const NEWER_CONTROLLER: &[u8] = &[
    0x8a, 0x01, 0x02, b't', b'p', // traceparent = "tp"
    0x90, 0x01, 0x2a, // epoch = 42
    0xba, 0x0c, 0x05, 0x0a, 0x03, b'n', b'e', b'w', // 199: { 1: "new" }
];

/// A ping, recorded once.
const PING: &[u8] = &[0x2a, 0x02, 0x08, 0x07, 0x90, 0x01, 0x03];

#[test]
fn golden_bytes_keep_their_meaning() {
    let frame = decode::<ControllerMessage>(&mut Bytes::from_static(NEWER_CONTROLLER)).unwrap();
    assert_eq!(frame.received.unknown_variant, Some(199));
    let message = frame.received.message;
    assert_eq!(
        (message.payload, message.traceparent.as_str(), message.epoch),
        (None, "tp", 42)
    );

    let frame = decode::<ControllerMessage>(&mut Bytes::from_static(PING)).unwrap();
    let ping = controller_message::Payload::Ping(Ping {
        sequence: 7,
        answered: 0,
    });
    assert_eq!(
        frame.received.message,
        ControllerMessage {
            payload: Some(ping),
            epoch: 3,
            ..Default::default()
        }
    );
    assert_eq!(frame.received.message.encode_to_vec(), PING);

    let empty = decode::<DaemonMessage>(&mut Bytes::new()).unwrap();
    assert_eq!(
        (empty.received.unknown_variant, empty.bytes),
        (None, 0),
        "an empty envelope has no unknown variant"
    );
}

#[test]
fn a_variant_after_an_unknown_one_is_taken() {
    let mut bytes = NEWER_CONTROLLER.to_vec();
    bytes.extend(PING);
    let frame = decode::<ControllerMessage>(&mut Bytes::from(bytes)).unwrap();
    assert!(matches!(
        frame.received.message.payload,
        Some(controller_message::Payload::Ping(_))
    ));
    assert_eq!(frame.received.unknown_variant, None);
}

#[test]
fn messages_in_several_pieces_decode_alike() {
    use bytes::Buf as _;
    let (front, back) = NEWER_CONTROLLER.split_at(9);
    let frame = decode::<ControllerMessage>(&mut front.chain(back)).unwrap();
    assert_eq!(frame.received.unknown_variant, Some(199));
}

#[test]
fn the_known_fields_are_those_of_the_contract() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let fields = |name: &str| -> Vec<i32> {
        let message = set
            .file
            .iter()
            .flat_map(|file| &file.message_type)
            .find(|message| message.name() == name);
        message
            .unwrap()
            .field
            .iter()
            .map(|field| field.number())
            .collect()
    };
    let (daemon, controller) = (fields("DaemonMessage"), fields("ControllerMessage"));
    assert!(daemon.len() > 10 && controller.len() > 10);
    for number in 0..2000 {
        assert_eq!(
            DaemonMessage::knows(number as u32),
            daemon.contains(&number),
            "DaemonMessage field {number}"
        );
        assert_eq!(
            ControllerMessage::knows(number as u32),
            controller.contains(&number),
            "ControllerMessage field {number}"
        );
    }
}
