//! A schema as the classifier sees it: every element by full name, without comments, order or formatting

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{
    EnumOptions, EnumValueOptions, FieldOptions, FileOptions, MessageOptions, MethodOptions, OneofOptions,
    ServiceOptions,
};

use super::numbers::Numbers;

/// The options of an element, without those that say no more than their absence.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Options<T> {
    pub(super) known: T,
    /// As text, where they are known at all.
    pub(super) custom: Option<String>,
}

/// The dialect of a file, which decides presence, packing and what happens to unknown enum values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Proto2,
    Proto3,
    /// Something newer. A finding says so, and nothing is judged by it.
    Unknown,
}

impl Syntax {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Proto2 => "proto2",
            Self::Proto3 => "proto3",
            Self::Unknown => "an unsupported syntax",
        }
    }
}

/// Where a top-level element or what is nested in it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) syntax: Syntax,
    /// The full name of the enclosing message.
    pub(super) parent: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub(super) package: String,
    pub(super) syntax: Syntax,
    /// Each import with `public `, `weak ` or nothing before it.
    pub(super) imports: BTreeSet<String>,
    pub(super) options: Options<FileOptions>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) origin: Origin,
    /// By number.
    pub(super) fields: BTreeMap<i32, Field>,
    /// Real oneofs only, without those that stand for `optional`.
    pub(super) oneofs: BTreeMap<String, Options<OneofOptions>>,
    pub(super) reserved: Numbers,
    pub(super) reserved_names: BTreeSet<String>,
    pub(super) extension_ranges: Numbers,
    pub(super) message_set: bool,
    pub(super) options: Options<MessageOptions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cardinality {
    Singular,
    Required,
    Repeated,
}

impl Cardinality {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Singular => "singular",
            Self::Required => "required",
            Self::Repeated => "repeated",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) number: i32,
    /// `int32`, `message a.B`, `enum a.B`, `group a.B` or `map<string, message a.B>`.
    pub(super) kind: String,
    pub(super) cardinality: Cardinality,
    /// Whether the keyword `optional` stands before it and makes a difference.
    pub(super) optional: bool,
    pub(super) oneof: Option<String>,
    /// As declared, or else as derived from the name.
    pub(super) json_name: String,
    /// As declared, unless it is the default without a declaration.
    pub(super) default: Option<String>,
    /// The number of the enum value that an absent field means, where it is known and could be another than 0.
    pub(super) default_number: Option<i32>,
    /// As declared, unless it is the form without a declaration.
    pub(super) packed: Option<bool>,
    /// The form in which values are sent, where there is a choice.
    pub(super) sends_packed: Option<bool>,
    /// Without `packed`.
    pub(super) options: Options<FieldOptions>,
}

impl Field {
    /// Messages and groups are either there or not, whatever stands before them.
    pub(super) fn is_message(&self) -> bool {
        self.kind.starts_with("message ") || self.kind.starts_with("group ")
    }

    /// `repeated int32`, as it would stand before the name.
    pub(super) fn described(&self) -> String {
        match self.cardinality {
            Cardinality::Required => format!("required {}", self.kind),
            Cardinality::Repeated if !self.kind.starts_with("map<") => format!("repeated {}", self.kind),
            Cardinality::Singular | Cardinality::Repeated => self.kind.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Extension {
    pub(super) origin: Origin,
    pub(super) extendee: String,
    pub(super) field: Field,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Enum {
    pub(super) origin: Origin,
    pub(super) values: BTreeMap<String, Value>,
    /// The number that is declared first: in proto2 the meaning of an absent field.
    pub(super) first: Option<i32>,
    pub(super) reserved: Numbers,
    pub(super) reserved_names: BTreeSet<String>,
    pub(super) options: Options<EnumOptions>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) number: i32,
    pub(super) options: Options<EnumValueOptions>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    pub(super) origin: Origin,
    pub(super) rpcs: BTreeMap<String, Rpc>,
    pub(super) options: Options<ServiceOptions>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rpc {
    pub(super) request: String,
    pub(super) response: String,
    pub(super) client_streaming: bool,
    pub(super) server_streaming: bool,
    /// What callers may rely on when they call again, if anything.
    pub(super) idempotency: Option<i32>,
    /// Without `idempotency_level`.
    pub(super) options: Options<MethodOptions>,
}

/// Everything in a `FileDescriptorSet`, by full name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Schema {
    pub(super) files: BTreeMap<String, File>,
    pub(super) messages: BTreeMap<String, Message>,
    pub(super) enums: BTreeMap<String, Enum>,
    pub(super) services: BTreeMap<String, Service>,
    /// Without those of `google.protobuf.*Options`.
    pub(super) extensions: BTreeMap<String, Extension>,
    /// The extensions of `google.protobuf.*Options`, which never meet a peer.
    pub(super) custom_options: BTreeMap<String, Extension>,
    /// What no compiler would have let through: element and reason.
    pub(super) invalid: Vec<(String, String)>,
}
