//! Reads fields: their types, and what their absence means

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

use super::{Part, Reader, is_map_entry, qualified, resolved};
use crate::schema::model::{Cardinality, Field, Origin, Syntax};
use crate::schema::namesakes::Namesakes;

/// A nested message that stands for `map<K, V>`.
pub(super) struct MapEntry {
    kind: String,
    pub(super) used: bool,
}

/// Every well-formed map entry by full name, found before the fields that refer to them.
pub(super) fn map_entries(
    set: &prost_types::FileDescriptorSet,
    names: &Namesakes,
) -> HashMap<String, MapEntry> {
    let mut entries = HashMap::new();
    for file in &set.file {
        for (name, message) in messages(file.package(), &file.message_type) {
            if !is_map_entry(message) {
                continue;
            }
            let kind = |field| bare_kind(file.name(), names, field);
            let kinds = match message.field.as_slice() {
                [key, value] if key.number() == 1 && value.number() == 2 => kind(key).zip(kind(value)),
                _ => None,
            };
            if let Some((key, value)) = kinds {
                let kind = format!("map<{key}, {value}>");
                entries.insert(names.element(file.name(), &name), MapEntry { kind, used: false });
            }
        }
    }
    entries
}

/// Every message of a file by full name, at any depth.
fn messages<'a>(
    package: &str,
    top: &'a [DescriptorProto],
) -> impl Iterator<Item = (String, &'a DescriptorProto)> {
    let mut pending: Vec<_> = top
        .iter()
        .map(|message| (qualified(package, message.name()), message))
        .collect();
    std::iter::from_fn(move || {
        let (name, message) = pending.pop()?;
        let nested = message.nested_type.iter();
        pending.extend(nested.map(|nested| (qualified(&name, nested.name()), nested)));
        Some((name, message))
    })
}

/// The values of every enum in the order of their declaration, also of those that are imported.
pub(super) fn enum_numbers<'a>(part: &Part<'a>, names: &Namesakes) -> HashMap<String, Vec<(&'a str, i32)>> {
    let mut enums = HashMap::new();
    let imports = part.imports.into_iter().flat_map(|set| &set.file);
    for file in imports.chain(&part.files.file) {
        let mut add = |scope: &str, declared: &'a EnumDescriptorProto| {
            let name = names.element(file.name(), &qualified(scope, declared.name()));
            let values = declared.value.iter();
            enums.insert(name, values.map(|value| (value.name(), value.number())).collect());
        };
        for declared in &file.enum_type {
            add(file.package(), declared);
        }
        for (scope, message) in messages(file.package(), &file.message_type) {
            for declared in &message.enum_type {
                add(&scope, declared);
            }
        }
    }
    enums
}

/// The type of a field without its label; `None` if the descriptor does not say.
fn bare_kind(file: &str, names: &Namesakes, field: &FieldDescriptorProto) -> Option<String> {
    let kind = Type::try_from(field.r#type?).ok()?;
    let named = |word: &str| {
        let name = field.type_name.as_deref()?;
        Some(format!("{word} {}", names.reference(file, resolved(name))))
    };
    match kind {
        Type::Message => named("message"),
        Type::Enum => named("enum"),
        Type::Group => named("group"),
        scalar => Some(scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    }
}

/// The JSON name that the compiler derives: `log_tail` becomes `logTail`.
fn derived_json_name(name: &str) -> String {
    let mut json = String::with_capacity(name.len());
    let mut capital = false;
    for c in name.chars() {
        if c == '_' {
            capital = true;
        } else if capital {
            json.push(c.to_ascii_uppercase());
            capital = false;
        } else {
            json.push(c);
        }
    }
    json
}

/// A declared default in the one form that every notation of it has; `None` if it is the implicit one.
fn declared_default(kind: &str, text: &str) -> Option<String> {
    // Minus zero is not what an absent field means.
    let float = |value: f64, shown: String| (value != 0.0 || value.is_sign_negative()).then_some(shown);
    match kind {
        "string" | "bytes" => (!text.is_empty()).then(|| text.to_owned()),
        "bool" => (text != "false").then(|| text.to_owned()),
        "double" => match text.parse::<f64>() {
            Ok(value) => float(value, value.to_string()),
            Err(_) => Some(text.to_owned()),
        },
        "float" => match text.parse::<f32>() {
            Ok(value) => float(value.into(), value.to_string()),
            Err(_) => Some(text.to_owned()),
        },
        "int32" | "int64" | "uint32" | "uint64" | "sint32" | "sint64" | "fixed32" | "fixed64"
        | "sfixed32" | "sfixed64" => match text.parse::<i128>() {
            Ok(0) => None,
            Ok(number) => Some(number.to_string()),
            Err(_) => Some(text.to_owned()),
        },
        _ => Some(text.to_owned()),
    }
}

/// Whether several values may share one key on the wire.
fn is_packable(kind: &str) -> bool {
    !matches!(kind, "string" | "bytes" | "")
        && !["message ", "group ", "map<"]
            .iter()
            .any(|word| kind.starts_with(word))
}

impl Reader<'_> {
    pub(super) fn field(
        &mut self,
        origin: &Origin,
        scope: &str,
        field: &FieldDescriptorProto,
    ) -> Option<Field> {
        let name = field.name();
        if name.is_empty() {
            self.invalid(scope, "has a field without a name");
            return None;
        }
        let element = qualified(scope, name);
        let number = field.number();
        if number < 1 {
            self.invalid(&element, "has no valid number");
        }
        let cardinality = match field.label.map(Label::try_from) {
            Some(Ok(Label::Repeated)) => Cardinality::Repeated,
            Some(Ok(Label::Required)) => Cardinality::Required,
            Some(Ok(Label::Optional)) | None => Cardinality::Singular,
            Some(Err(_)) => {
                self.invalid(&element, "has an unknown label");
                Cardinality::Singular
            }
        };
        let mut kind = bare_kind(&origin.file, self.names, field).unwrap_or_else(|| {
            self.invalid(&element, "has no valid type");
            String::new()
        });
        let type_name = field
            .type_name
            .as_deref()
            .map(|name| self.names.reference(&origin.file, resolved(name)));
        let entry = type_name
            .as_ref()
            .filter(|_| cardinality == Cardinality::Repeated)
            .and_then(|name| self.map_entries.get_mut(name));
        if let Some(entry) = entry {
            entry.used = true;
            kind.clone_from(&entry.kind);
        }
        let optional = match origin.syntax {
            Syntax::Proto2 => cardinality == Cardinality::Singular,
            Syntax::Proto3 | Syntax::Unknown => field.proto3_optional(),
        };
        let mut default = field
            .default_value
            .as_deref()
            .and_then(|text| declared_default(&kind, text));
        let mut default_number = None;
        // In proto3 an absent enum is always 0.
        if kind.starts_with("enum ")
            && cardinality != Cardinality::Repeated
            && origin.syntax != Syntax::Proto3
        {
            let values = type_name.and_then(|name| self.enums.get(&name));
            let values = values.map_or(&[][..], Vec::as_slice);
            let first = values.first().map(|(_, number)| *number);
            default_number = match &default {
                Some(label) => values
                    .iter()
                    .find(|(name, _)| name == label)
                    .map(|(_, number)| *number),
                None => first,
            };
            default = default.filter(|_| default_number.is_none() || default_number != first);
        }
        let mut options = self.options(&element, field.options.as_ref());
        let declared = options.known.packed.take();
        let implied = match origin.syntax {
            _ if cardinality != Cardinality::Repeated || !is_packable(&kind) => None,
            Syntax::Proto2 => Some(false),
            Syntax::Proto3 => Some(true),
            Syntax::Unknown => None,
        };
        let mut field = Field {
            name: name.to_owned(),
            number,
            kind,
            cardinality,
            optional,
            oneof: None,
            json_name: field.json_name.clone().unwrap_or_else(|| derived_json_name(name)),
            default,
            default_number,
            packed: declared.filter(|_| declared != implied),
            sends_packed: declared.or(implied),
            options,
        };
        field.optional &= !field.is_message();
        Some(field)
    }
}
