//! Files without what does not matter for a purpose

use prost_types::field_descriptor_proto::Type;
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldOptions, FileDescriptorProto, MessageOptions,
    SourceCodeInfo,
};

/// A compiled file as its importers need it: its types and extensions, and of the options only those that say what these are.
pub(super) fn lean(file: &FileDescriptorProto) -> FileDescriptorProto {
    let mut lean = file.clone();
    lean.options = None;
    lean.service.clear();
    for extension in &mut lean.extension {
        extension.options = None;
    }
    each_enum(&mut lean, |declared| {
        let aliases = declared.options.take().and_then(|options| options.allow_alias);
        declared.options = aliases.map(|allow_alias| EnumOptions {
            allow_alias: Some(allow_alias),
            ..Default::default()
        });
    });
    each_message(&mut lean, |message| {
        message.options = message.options.take().map(|options| MessageOptions {
            map_entry: options.map_entry,
            message_set_wire_format: options.message_set_wire_format,
            ..Default::default()
        });
        for extension in &mut message.extension {
            extension.options = None;
        }
        for field in &mut message.field {
            let packed = field.options.take().and_then(|options| options.packed);
            field.options = packed.map(|packed| FieldOptions {
                packed: Some(packed),
                ..Default::default()
            });
        }
    });
    lean
}

/// A parsed file without everything that refers to something, so that it can be judged by itself.
pub(super) fn without_references(file: &FileDescriptorProto) -> FileDescriptorProto {
    let mut alone = file.clone();
    alone.dependency.clear();
    alone.public_dependency.clear();
    alone.weak_dependency.clear();
    alone.options = None;
    alone.extension.clear();
    for service in &mut alone.service {
        service.options = None;
        service.method.clear();
    }
    each_enum(&mut alone, |declared| {
        let aliases = may_alias(declared);
        declared.options = aliases.then(|| EnumOptions {
            allow_alias: Some(true),
            ..Default::default()
        });
    });
    each_message(&mut alone, |message| {
        let is_entry = message.options.as_ref().is_some_and(MessageOptions::map_entry);
        message.options = is_entry.then(|| MessageOptions {
            map_entry: Some(true),
            ..Default::default()
        });
        message.extension.clear();
        for field in &mut message.field {
            field.options = None;
            if field.type_name.take().is_some() {
                field.r#type = Some(Type::Int32.into());
                field.default_value = None;
            }
        }
    });
    alone
}

/// Each message and enum of a file as a file of its own, so that what is wrong with one does not hide what is wrong with
/// another.
pub(super) fn each_alone(file: &FileDescriptorProto) -> Vec<FileDescriptorProto> {
    let file = without_references(file);
    let frame = |tag: i32, index: usize| FileDescriptorProto {
        name: file.name.clone(),
        package: file.package.clone(),
        syntax: file.syntax.clone(),
        source_code_info: file.source_code_info.as_ref().map(|info| SourceCodeInfo {
            location: positions(&info.location, tag, index),
        }),
        ..Default::default()
    };
    let messages = file.message_type.iter().enumerate();
    let messages = messages.map(|(index, message)| FileDescriptorProto {
        message_type: vec![message.clone()],
        ..frame(4, index)
    });
    let enums = file.enum_type.iter().enumerate();
    let enums = enums.map(|(index, declared)| FileDescriptorProto {
        enum_type: vec![declared.clone()],
        ..frame(5, index)
    });
    messages.chain(enums).collect()
}

/// The positions in the element at `tag` and `index`, as of the first one.
fn positions(all: &[Location], tag: i32, index: usize) -> Vec<Location> {
    let inside = all.iter().filter_map(|position| {
        let rest = match position.path.as_slice() {
            [t, i, rest @ ..] if *t == tag && usize::try_from(*i) == Ok(index) => rest,
            _ => return None,
        };
        Some(Location {
            path: [&[tag, 0], rest].concat(),
            span: position.span.clone(),
            ..Default::default()
        })
    });
    inside.collect()
}

/// Whether `allow_alias = true` is written in an enum, interpreted or not.
fn may_alias(declared: &EnumDescriptorProto) -> bool {
    declared.options.as_ref().is_some_and(|options| {
        options.allow_alias()
            || options.uninterpreted_option.iter().any(|option| {
                let is_meant = matches!(option.name.as_slice(),
                    [part] if part.name_part == "allow_alias" && !part.is_extension);
                is_meant && option.identifier_value() == "true"
            })
    })
}

/// Runs `change` on every message of a file, after dropping options that are never needed.
fn each_message(file: &mut FileDescriptorProto, mut change: impl FnMut(&mut DescriptorProto)) {
    let mut pending: Vec<_> = file.message_type.iter_mut().collect();
    while let Some(message) = pending.pop() {
        for oneof in &mut message.oneof_decl {
            oneof.options = None;
        }
        for range in &mut message.extension_range {
            range.options = None;
        }
        change(message);
        pending.extend(message.nested_type.iter_mut());
    }
}

/// Runs `change` on every enum of a file, after dropping options that are never needed.
fn each_enum(file: &mut FileDescriptorProto, mut change: impl FnMut(&mut EnumDescriptorProto)) {
    let mut change = |declared: &mut EnumDescriptorProto| {
        for value in &mut declared.value {
            value.options = None;
        }
        change(declared);
    };
    file.enum_type.iter_mut().for_each(&mut change);
    each_message(file, |message| {
        message.enum_type.iter_mut().for_each(&mut change);
    });
}
