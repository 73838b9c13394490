//! What the names in a file mean
//!
//! A file sees what it declares itself, what it imports, and what those files import publicly; a package counts only if one
//! of these files is in it. Everything else in the tree is none of its business. The innermost scope is searched first, and
//! the first part of `a.b.C` decides where the rest is looked up.

use std::collections::HashMap;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, UninterpretedOption,
};

/// The options of an element that are not understood yet.
macro_rules! uninterpreted {
    ($element:expr) => {
        $element
            .options
            .as_mut()
            .map(|options| &mut options.uninterpreted_option)
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Package,
    Type,
    Service,
    Extension,
}

/// What a file declares, by full name.
pub(super) struct Symbols(HashMap<String, Kind>);

impl Symbols {
    pub(super) fn of(file: &FileDescriptorProto) -> Self {
        let mut symbols = Self(HashMap::new());
        let package = file.package();
        for (end, _) in package.match_indices('.').chain([(package.len(), "")]) {
            if let Some(prefix) = package.get(..end).filter(|prefix| !prefix.is_empty()) {
                symbols.0.insert(prefix.to_owned(), Kind::Package);
            }
        }
        symbols.level(package, &file.message_type, &file.enum_type, &file.extension);
        for service in &file.service {
            symbols.add(package, service.name(), Kind::Service);
        }
        symbols
    }

    fn add(&mut self, scope: &str, name: &str, kind: Kind) -> String {
        let full_name = inside(scope, name);
        self.0.insert(full_name.clone(), kind);
        full_name
    }

    fn level(
        &mut self,
        scope: &str,
        messages: &[DescriptorProto],
        enums: &[EnumDescriptorProto],
        extensions: &[FieldDescriptorProto],
    ) {
        for declared in enums {
            self.add(scope, declared.name(), Kind::Type);
        }
        for extension in extensions {
            self.add(scope, extension.name(), Kind::Extension);
        }
        for message in messages {
            let full_name = self.add(scope, message.name(), Kind::Type);
            self.level(
                &full_name,
                &message.nested_type,
                &message.enum_type,
                &message.extension,
            );
        }
    }
}

fn inside(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

/// A name that nothing visible answers to.
pub(super) struct Unresolved {
    /// Where it stands, as a path into the descriptor.
    pub(super) path: Vec<i32>,
    pub(super) name: String,
}

/// Replaces the names in one file by full ones that begin with a dot.
pub(super) struct Resolver<'a> {
    /// The file itself and what it can see.
    pub(super) visible: Vec<&'a Symbols>,
    pub(super) unresolved: Vec<Unresolved>,
    path: Vec<i32>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(visible: Vec<&'a Symbols>) -> Self {
        Self {
            visible,
            unresolved: Vec::new(),
            path: Vec::new(),
        }
    }

    fn kind_of(&self, name: &str) -> Option<Kind> {
        self.visible
            .iter()
            .find_map(|symbols| symbols.0.get(name).copied())
    }

    fn find(&self, scope: &str, name: &str, wanted: Kind) -> Option<String> {
        let (first, is_compound) = match name.split_once('.') {
            Some((first, _)) => (first, true),
            None => (name, false),
        };
        let mut scope = scope;
        loop {
            match self.kind_of(&inside(scope, first)) {
                Some(kind) if !is_compound && kind == wanted => return Some(inside(scope, name)),
                Some(kind) if is_compound && kind != Kind::Extension => {
                    let full_name = inside(scope, name);
                    return (self.kind_of(&full_name) == Some(wanted)).then_some(full_name);
                }
                _ if scope.is_empty() => return None,
                _ => scope = scope.rsplit_once('.').map_or("", |(parent, _)| parent),
            }
        }
    }

    fn resolve(&mut self, scope: &str, name: &mut String, wanted: Kind, tag: &[i32]) {
        let found = match name.strip_prefix('.') {
            Some(full_name) => (self.kind_of(full_name) == Some(wanted)).then(|| full_name.to_owned()),
            None => self.find(scope, name, wanted),
        };
        match found {
            Some(full_name) => *name = format!(".{full_name}"),
            None => self.unresolved.push(Unresolved {
                path: [&self.path, tag].concat(),
                name: name.clone(),
            }),
        }
    }

    fn options(&mut self, scope: &str, options: Option<&mut Vec<UninterpretedOption>>, tag: i32) {
        for (index, option) in options.into_iter().flatten().enumerate() {
            for part in option.name.iter_mut().filter(|part| part.is_extension) {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                self.resolve(scope, &mut part.name_part, Kind::Extension, &[tag, 999, index]);
            }
        }
    }

    /// Runs `step` on each element of a repeated field, with its path.
    fn each<T>(&mut self, tag: i32, list: &mut [T], mut step: impl FnMut(&mut Self, &mut T)) {
        for (index, element) in list.iter_mut().enumerate() {
            self.path.extend([tag, i32::try_from(index).unwrap_or(i32::MAX)]);
            step(self, element);
            self.path.truncate(self.path.len().saturating_sub(2));
        }
    }

    pub(super) fn file(&mut self, file: &mut FileDescriptorProto) {
        let package = file.package().to_owned();
        self.options(&package, uninterpreted!(file), 8);
        self.each(4, &mut file.message_type, |this, message| {
            this.message(&package, message);
        });
        self.each(5, &mut file.enum_type, |this, declared| {
            this.enumeration(&package, declared);
        });
        self.each(6, &mut file.service, |this, service| {
            let scope = inside(&package, service.name());
            this.options(&package, uninterpreted!(service), 3);
            this.each(2, &mut service.method, |this, method| {
                this.options(&scope, uninterpreted!(method), 4);
                for (name, tag) in [(&mut method.input_type, 2), (&mut method.output_type, 3)] {
                    if let Some(name) = name {
                        this.resolve(&scope, name, Kind::Type, &[tag]);
                    }
                }
            });
        });
        self.each(7, &mut file.extension, |this, extension| {
            this.field(&package, extension);
        });
    }

    fn message(&mut self, scope: &str, message: &mut DescriptorProto) {
        let inner = inside(scope, message.name());
        self.options(scope, uninterpreted!(message), 7);
        self.each(2, &mut message.field, |this, field| this.field(&inner, field));
        self.each(3, &mut message.nested_type, |this, nested| {
            this.message(&inner, nested);
        });
        self.each(4, &mut message.enum_type, |this, declared| {
            this.enumeration(&inner, declared);
        });
        self.each(5, &mut message.extension_range, |this, range| {
            this.options(&inner, uninterpreted!(range), 3);
        });
        self.each(6, &mut message.extension, |this, extension| {
            this.field(&inner, extension);
        });
        self.each(8, &mut message.oneof_decl, |this, oneof| {
            this.options(&inner, uninterpreted!(oneof), 2);
        });
    }

    fn field(&mut self, scope: &str, field: &mut FieldDescriptorProto) {
        self.options(scope, uninterpreted!(field), 8);
        if let Some(name) = &mut field.type_name {
            self.resolve(scope, name, Kind::Type, &[6]);
        }
        if let Some(name) = &mut field.extendee {
            self.resolve(scope, name, Kind::Type, &[2]);
        }
    }

    fn enumeration(&mut self, scope: &str, declared: &mut EnumDescriptorProto) {
        self.options(scope, uninterpreted!(declared), 3);
        let inner = inside(scope, declared.name());
        self.each(2, &mut declared.value, |this, value| {
            this.options(&inner, uninterpreted!(value), 3);
        });
    }
}
