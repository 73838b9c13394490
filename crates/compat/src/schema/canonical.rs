//! A schema as text, and the numbers that vanished from it

use std::fmt::Write as _;

use prost_types::FileDescriptorSet;

use super::model::{Field, Origin, Syntax};
use super::read::Part;

/// Everything that a peer can notice about a schema, one element a line, sorted
///
/// Two schemas have the same text exactly if [`classify`](super::classify) finds nothing between them but moved types
/// and changes of files, imports and options that no peer can see. Its digest therefore names a contract.
#[must_use]
pub fn canonical_text(set: &FileDescriptorSet) -> String {
    let schema = Part::of(set).read_alone();
    let mut lines = Vec::new();
    for (name, message) in &schema.messages {
        let set = if message.message_set { " message_set" } else { "" };
        lines.push(format!("message {name} {}{set}", dialect(&message.origin)));
        for field in message.fields.values() {
            lines.push(format!("field {name}.{} {}", field.name, shape(field)));
        }
        for oneof in message.oneofs.keys() {
            lines.push(format!("oneof {name}.{oneof}"));
        }
        if !message.extension_ranges.is_empty() {
            lines.push(format!("extensions {name} {}", message.extension_ranges));
        }
        if !message.reserved.is_empty() {
            lines.push(format!("reserved {name} {}", message.reserved));
        }
        for reserved in &message.reserved_names {
            lines.push(format!("reserved {name} {reserved:?}"));
        }
    }
    for (name, declared) in &schema.enums {
        let first = match (declared.origin.syntax, declared.first) {
            (Syntax::Proto2, Some(number)) => format!(" first {number}"),
            _ => String::new(),
        };
        lines.push(format!("enum {name} {}{first}", dialect(&declared.origin)));
        for (label, value) in &declared.values {
            lines.push(format!("value {name}.{label} {}", value.number));
        }
        if !declared.reserved.is_empty() {
            lines.push(format!("reserved {name} {}", declared.reserved));
        }
        for reserved in &declared.reserved_names {
            lines.push(format!("reserved {name} {reserved:?}"));
        }
    }
    for (name, service) in &schema.services {
        lines.push(format!("service {name}"));
        for (label, rpc) in &service.rpcs {
            let stream = |streams: bool| if streams { "stream " } else { "" };
            let idempotency = rpc
                .idempotency
                .map(|level| format!(" idempotency {level}"))
                .unwrap_or_default();
            lines.push(format!(
                "rpc {name}.{label} ({}{}) ({}{}){idempotency}",
                stream(rpc.client_streaming),
                rpc.request,
                stream(rpc.server_streaming),
                rpc.response
            ));
        }
    }
    for (name, extension) in &schema.extensions {
        lines.push(format!(
            "extension {name} of {} {}",
            extension.extendee,
            shape(&extension.field)
        ));
    }
    lines.sort();
    lines.dedup();
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn dialect(origin: &Origin) -> &'static str {
    origin.syntax.as_str()
}

fn shape(field: &Field) -> String {
    let mut text = format!("{} {} {}", field.number, field.cardinality.as_str(), field.kind);
    if field.optional {
        text.push_str(" optional");
    }
    // Writing into a String cannot fail.
    if let Some(oneof) = &field.oneof {
        let _ = write!(text, " oneof {oneof}");
    }
    let _ = write!(text, " json {:?}", field.json_name);
    match (&field.default, field.default_number) {
        // One number may have several names.
        (Some(_), Some(number)) => {
            let _ = write!(text, " default {number}");
        }
        (Some(default), None) => {
            let _ = write!(text, " default {default:?}");
        }
        (None, _) => {}
    }
    if let Some(packed) = field.packed {
        let _ = write!(text, " packed {packed}");
    }
    text
}

/// A number that an old schema used and a new one neither uses nor reserves
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// The full name of the message or enum
    pub element: String,
    /// The name of the field or enum value in the old schema
    pub name: String,
    /// The field or enum number
    pub number: i32,
}

/// The numbers that vanished without being reserved, in messages and enums that exist on both sides
///
/// A breaking change that leaves such a number behind invites its reuse with another meaning.
#[must_use]
pub fn vanished_numbers(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<Vanished> {
    let (old, new) = Part::read_both(Part::of(old), Part::of(new));
    let mut vanished = Vec::new();
    for (element, message) in &old.messages {
        let Some(kept) = new.messages.get(element) else {
            continue;
        };
        for (number, field) in &message.fields {
            if !kept.fields.contains_key(number) && !kept.reserved.contains((*number).into()) {
                vanished.push(Vanished {
                    element: element.clone(),
                    name: field.name.clone(),
                    number: *number,
                });
            }
        }
    }
    for (element, declared) in &old.enums {
        let Some(kept) = new.enums.get(element) else {
            continue;
        };
        for (name, value) in &declared.values {
            let number = value.number;
            let is_used = kept.values.values().any(|value| value.number == number);
            if !is_used && !kept.reserved.contains(number.into()) {
                vanished.push(Vanished {
                    element: element.clone(),
                    name: name.clone(),
                    number,
                });
            }
        }
    }
    vanished
}
