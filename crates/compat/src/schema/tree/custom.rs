//! Custom options as text, because `prost_types` has no place for them

use std::collections::BTreeMap;

use protox::prost_reflect::{
    DynamicMessage, EnumDescriptor, ExtensionDescriptor, FileDescriptor, MessageDescriptor,
};

/// The custom options of each element by full name; those of a file under the empty name.
pub(in crate::schema) type CustomOptions = BTreeMap<String, String>;

pub(super) fn custom_options(file: &FileDescriptor) -> CustomOptions {
    let mut found = CustomOptions::new();
    note(&mut found, "", &file.options());
    for message in file.messages() {
        of_message(&mut found, &message);
    }
    for declared in file.enums() {
        of_enum(&mut found, &declared);
    }
    for extension in file.extensions() {
        of_extension(&mut found, &extension);
    }
    for service in file.services() {
        note(&mut found, service.full_name(), &service.options());
        for rpc in service.methods() {
            note(&mut found, rpc.full_name(), &rpc.options());
        }
    }
    found
}

fn note(found: &mut CustomOptions, element: &str, options: &DynamicMessage) {
    let mut values: Vec<_> = options
        .extensions()
        .map(|(extension, value)| format!("({}) = {value}", extension.full_name()))
        .collect();
    values.sort();
    if !values.is_empty() {
        found.insert(element.to_owned(), values.join(", "));
    }
}

fn of_message(found: &mut CustomOptions, message: &MessageDescriptor) {
    note(found, message.full_name(), &message.options());
    for field in message.fields() {
        note(found, field.full_name(), &field.options());
    }
    for oneof in message.oneofs() {
        note(found, oneof.full_name(), &oneof.options());
    }
    for nested in message.child_messages() {
        of_message(found, &nested);
    }
    for declared in message.child_enums() {
        of_enum(found, &declared);
    }
    for extension in message.child_extensions() {
        of_extension(found, &extension);
    }
}

fn of_enum(found: &mut CustomOptions, declared: &EnumDescriptor) {
    note(found, declared.full_name(), &declared.options());
    for value in declared.values() {
        // A value's own full name lacks the enum.
        let element = format!("{}.{}", declared.full_name(), value.name());
        note(found, &element, &value.options());
    }
}

fn of_extension(found: &mut CustomOptions, extension: &ExtensionDescriptor) {
    note(found, extension.full_name(), &extension.options());
}
