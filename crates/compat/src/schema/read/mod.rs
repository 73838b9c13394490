//! Reads a `FileDescriptorSet` into a [`Schema`]
//!
//! Nothing is trusted: a missing name, a duplicate or an index out of range becomes an entry of `invalid`, never a panic
//! and never a silent omission. Nested types are walked with a list, not by recursion, so depth costs no stack.

mod field;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MessageOptions, ServiceDescriptorProto,
};

use self::field::{MapEntry, enum_numbers, map_entries};
use super::model::{
    Enum, Extension, Field, File, Message, Options, Origin, Rpc, Schema, Service, Syntax, Value,
};
use super::namesakes::Namesakes;
use super::numbers::Numbers;
use super::options::Defaults;
use super::tree::custom::CustomOptions;

/// What is read as one schema: files, and what is known about them.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) files: &'a FileDescriptorSet,
    /// What they import, which explains them and is not read.
    pub(super) imports: Option<&'a FileDescriptorSet>,
    /// By file; `None` where they did not survive.
    pub(super) custom: Option<&'a BTreeMap<String, CustomOptions>>,
}

impl<'a> Part<'a> {
    pub(super) const fn of(files: &'a FileDescriptorSet) -> Self {
        Self {
            files,
            imports: None,
            custom: None,
        }
    }

    pub(super) fn custom_options(&self, file: &str) -> Option<&'a CustomOptions> {
        self.custom?.get(file)
    }

    /// Two versions whose elements have the same names where they correspond.
    pub(super) fn read_both(old: Self, new: Self) -> (Schema, Schema) {
        let (old_names, new_names) = Namesakes::between(&old, &new);
        (old.read(&old_names), new.read(&new_names))
    }

    pub(super) fn read_alone(self) -> Schema {
        self.read(&Namesakes::of(&self))
    }

    fn read(self, names: &Namesakes) -> Schema {
        let mut reader = Reader {
            schema: Schema::default(),
            symbols: BTreeSet::new(),
            map_entries: map_entries(self.files, names),
            enums: enum_numbers(&self, names),
            names,
            custom: None,
        };
        for file in &self.files.file {
            reader.custom = self.custom_options(file.name());
            reader.file(file);
        }
        for name in &names.clashes {
            reader.invalid(name, "is defined more than once");
        }
        for (name, entry) in &reader.map_entries {
            if !entry.used {
                reader.schema.invalid.push((
                    name.clone(),
                    "is marked as a map entry and belongs to no map field".into(),
                ));
            }
        }
        reader.schema.invalid.sort();
        reader.schema.invalid.dedup();
        reader.schema
    }
}

/// Stands in findings for a name that is missing.
const UNNAMED: &str = "(unnamed)";

struct Reader<'a> {
    schema: Schema,
    symbols: BTreeSet<String>,
    map_entries: HashMap<String, MapEntry>,
    enums: HashMap<String, Vec<(&'a str, i32)>>,
    names: &'a Namesakes,
    /// Of the file that is being read.
    custom: Option<&'a CustomOptions>,
}

pub(super) fn qualified(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

/// The full name without the leading dot that marks it as resolved.
pub(super) fn resolved(type_name: &str) -> &str {
    type_name.strip_prefix('.').unwrap_or(type_name)
}

/// Whether a message holds the options of some kind of element.
fn is_options(name: &str) -> bool {
    name.strip_prefix("google.protobuf.")
        .and_then(|name| name.strip_suffix("Options"))
        .is_some_and(|element| {
            [
                "File",
                "Message",
                "Field",
                "Oneof",
                "ExtensionRange",
                "Enum",
                "EnumValue",
                "Service",
                "Method",
            ]
            .contains(&element)
        })
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(MessageOptions::map_entry)
}

impl Reader<'_> {
    fn invalid(&mut self, element: &str, reason: impl Into<String>) {
        let element = if element.is_empty() { UNNAMED } else { element };
        self.schema.invalid.push((element.to_owned(), reason.into()));
    }

    /// The options without those that say nothing, and with those that the descriptor has no place for.
    fn options<T: Defaults>(&self, element: &str, options: Option<&T>) -> Options<T> {
        let mut known = options.cloned().unwrap_or_default();
        known.drop_defaults();
        Options {
            known,
            custom: self.custom.and_then(|custom| custom.get(element)).cloned(),
        }
    }

    /// Claims a full name; `false` if it is missing or taken.
    fn claim(&mut self, file: &str, full_name: &str, name: &str) -> bool {
        if name.is_empty() {
            self.invalid(full_name, "contains an element without a name");
            return false;
        }
        if self.symbols.insert(self.names.element(file, full_name)) {
            return true;
        }
        self.invalid(full_name, "is defined more than once");
        false
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        let name = match file.name() {
            "" => {
                self.invalid("", "a file has no name");
                UNNAMED
            }
            name => name,
        };
        let syntax = match file.syntax() {
            "" | "proto2" => Syntax::Proto2,
            "proto3" => Syntax::Proto3,
            _ => Syntax::Unknown,
        };
        let is = |list: &[i32], index: usize| list.iter().any(|i| usize::try_from(*i) == Ok(index));
        let imports = file
            .dependency
            .iter()
            .enumerate()
            .map(|(index, import)| {
                let public = if is(&file.public_dependency, index) {
                    "public "
                } else {
                    ""
                };
                let weak = if is(&file.weak_dependency, index) {
                    "weak "
                } else {
                    ""
                };
                format!("{public}{weak}{import}")
            })
            .collect();
        let entry = File {
            package: file.package().to_owned(),
            syntax,
            imports,
            options: self.options("", file.options.as_ref()),
        };
        if self.schema.files.insert(name.to_owned(), entry).is_some() {
            self.invalid(name, "the file appears more than once");
        }

        let origin = Origin {
            file: name.to_owned(),
            syntax,
            parent: None,
        };
        let package = file.package();
        let is_own = |declared: &str| !self.names.is_twin(name, &qualified(package, declared));
        for declared in file.enum_type.iter().filter(|declared| is_own(declared.name())) {
            self.enumeration(&origin, package, declared);
        }
        for service in file.service.iter().filter(|declared| is_own(declared.name())) {
            self.service(&origin, package, service);
        }
        for extension in file.extension.iter().filter(|declared| is_own(declared.name())) {
            self.extension(&origin, package, extension);
        }
        let mut pending: Vec<_> = file
            .message_type
            .iter()
            .filter(|message| is_own(message.name()))
            .map(|message| (package.to_owned(), origin.clone(), message))
            .collect();
        while let Some((scope, origin, message)) = pending.pop() {
            let full_name = qualified(&scope, message.name());
            if is_map_entry(message) {
                if !self
                    .map_entries
                    .contains_key(&self.names.element(name, &full_name))
                {
                    self.invalid(&full_name, "is marked as a map entry and is none");
                }
                continue;
            }
            let inside = Origin {
                parent: Some(self.names.element(name, &full_name)),
                ..origin.clone()
            };
            self.message(origin, &full_name, message);
            for declared in &message.enum_type {
                self.enumeration(&inside, &full_name, declared);
            }
            for extension in &message.extension {
                self.extension(&inside, &full_name, extension);
            }
            for nested in &message.nested_type {
                pending.push((full_name.clone(), inside.clone(), nested));
            }
        }
    }

    fn message(&mut self, origin: Origin, full_name: &str, message: &DescriptorProto) {
        if !self.claim(&origin.file, full_name, message.name()) {
            return;
        }
        // A oneof whose members all carry `optional` is how descriptors spell that keyword.
        let is_synthetic = |index: usize| {
            let mut members = message
                .field
                .iter()
                .filter(|field| field.oneof_index.and_then(|i| usize::try_from(i).ok()) == Some(index))
                .peekable();
            members.peek().is_some() && members.all(FieldDescriptorProto::proto3_optional)
        };
        let mut oneofs = BTreeMap::new();
        let mut oneof_names = Vec::new();
        for (index, oneof) in message.oneof_decl.iter().enumerate() {
            let name = (!is_synthetic(index)).then(|| oneof.name().to_owned());
            if let Some(name) = &name {
                if name.is_empty() {
                    self.invalid(full_name, "has a oneof without a name");
                }
                let options = self.options(&qualified(full_name, name), oneof.options.as_ref());
                if oneofs.insert(name.clone(), options).is_some() {
                    self.invalid(full_name, format!("has two oneofs named {name}"));
                }
            }
            oneof_names.push(name);
        }

        let mut fields = BTreeMap::new();
        let mut names = BTreeSet::new();
        for declared in &message.field {
            let Some(mut field) = self.field(&origin, full_name, declared) else {
                continue;
            };
            if let Some(index) = declared.oneof_index {
                match usize::try_from(index)
                    .ok()
                    .and_then(|index| oneof_names.get(index))
                {
                    Some(name) => field.oneof.clone_from(name),
                    None => self.invalid(
                        full_name,
                        format!(
                            "field {} belongs to oneof {index}, which is not declared",
                            field.name
                        ),
                    ),
                }
            }
            field.optional &= field.oneof.is_none();
            if !names.insert(field.name.clone()) {
                self.invalid(full_name, format!("has two fields named {}", field.name));
                continue;
            }
            match fields.entry(field.number) {
                Entry::Vacant(entry) => {
                    entry.insert(field);
                }
                Entry::Occupied(entry) => self.invalid(
                    full_name,
                    format!(
                        "uses number {} for {} and {}",
                        field.number,
                        entry.get().name,
                        field.name
                    ),
                ),
            }
        }

        let mut ranges = Vec::new();
        for range in &message.reserved_range {
            ranges.push((i64::from(range.start()), i64::from(range.end())));
        }
        let reserved = self.ranges(full_name, "reserved", &ranges);
        ranges.clear();
        for range in &message.extension_range {
            ranges.push((i64::from(range.start()), i64::from(range.end())));
        }
        let extension_ranges = self.ranges(full_name, "extension", &ranges);

        let mut options = self.options(full_name, message.options.as_ref());
        options.known.map_entry = None;
        let message_set = options.known.message_set_wire_format.take().unwrap_or(false);
        self.schema.messages.insert(
            self.names.element(&origin.file, full_name),
            Message {
                origin,
                fields,
                oneofs,
                reserved,
                reserved_names: message.reserved_name.iter().cloned().collect(),
                extension_ranges,
                message_set,
                options,
            },
        );
    }

    /// Half-open ranges as a set, with a complaint about each that holds no number.
    fn ranges(&mut self, full_name: &str, what: &str, ranges: &[(i64, i64)]) -> Numbers {
        for (start, end) in ranges {
            if start >= end {
                self.invalid(
                    full_name,
                    format!("has an empty {what} range from {start} to {end}"),
                );
            }
        }
        Numbers::from_ranges(ranges.iter().copied())
    }

    fn extension(&mut self, origin: &Origin, scope: &str, declared: &FieldDescriptorProto) {
        let Some(field) = self.field(origin, scope, declared) else {
            return;
        };
        let full_name = qualified(scope, &field.name);
        if declared.extendee().is_empty() {
            self.invalid(&full_name, "extends nothing");
        }
        if self.claim(&origin.file, &full_name, &field.name) {
            let names = self.names;
            let extensions = if is_options(resolved(declared.extendee())) {
                &mut self.schema.custom_options
            } else {
                &mut self.schema.extensions
            };
            extensions.insert(
                names.element(&origin.file, &full_name),
                Extension {
                    origin: origin.clone(),
                    extendee: names.reference(&origin.file, resolved(declared.extendee())),
                    // Extensions are either there or not, whatever stands before them.
                    field: Field {
                        optional: false,
                        ..field
                    },
                },
            );
        }
    }

    fn enumeration(&mut self, origin: &Origin, scope: &str, declared: &EnumDescriptorProto) {
        let full_name = qualified(scope, declared.name());
        if !self.claim(&origin.file, &full_name, declared.name()) {
            return;
        }
        let mut values = BTreeMap::new();
        for value in &declared.value {
            if value.name().is_empty() || value.number.is_none() {
                self.invalid(&full_name, "has a value without a name or number");
            }
            let entry = Value {
                number: value.number(),
                options: self.options(&qualified(&full_name, value.name()), value.options.as_ref()),
            };
            if values.insert(value.name().to_owned(), entry).is_some() {
                self.invalid(&full_name, format!("has two values named {}", value.name()));
            }
        }
        // Unlike in messages, the end of an enum's range belongs to it.
        let ranges: Vec<_> = declared
            .reserved_range
            .iter()
            .map(|range| (i64::from(range.start()), i64::from(range.end()) + 1))
            .collect();
        let reserved = self.ranges(&full_name, "reserved", &ranges);
        let options = self.options(&full_name, declared.options.as_ref());
        self.schema.enums.insert(
            self.names.element(&origin.file, &full_name),
            Enum {
                origin: origin.clone(),
                first: declared.value.first().map(|value| value.number()),
                values,
                reserved,
                reserved_names: declared.reserved_name.iter().cloned().collect(),
                options,
            },
        );
    }

    fn service(&mut self, origin: &Origin, scope: &str, declared: &ServiceDescriptorProto) {
        let full_name = qualified(scope, declared.name());
        if !self.claim(&origin.file, &full_name, declared.name()) {
            return;
        }
        let mut rpcs = BTreeMap::new();
        for method in &declared.method {
            if method.name().is_empty() || method.input_type().is_empty() || method.output_type().is_empty() {
                self.invalid(&full_name, "has an rpc without a name, request or response");
            }
            let element = qualified(&full_name, method.name());
            let mut options = self.options(&element, method.options.as_ref());
            let refer = |name| self.names.reference(&origin.file, resolved(name));
            let rpc = Rpc {
                request: refer(method.input_type()),
                response: refer(method.output_type()),
                client_streaming: method.client_streaming(),
                server_streaming: method.server_streaming(),
                idempotency: options
                    .known
                    .idempotency_level
                    .take()
                    .filter(|level| *level != i32::from(IdempotencyLevel::IdempotencyUnknown)),
                options,
            };
            if rpcs.insert(method.name().to_owned(), rpc).is_some() {
                self.invalid(&full_name, format!("has two rpcs named {}", method.name()));
            }
        }
        let options = self.options(&full_name, declared.options.as_ref());
        self.schema.services.insert(
            self.names.element(&origin.file, &full_name),
            Service {
                origin: origin.clone(),
                rpcs,
                options,
            },
        );
    }
}
