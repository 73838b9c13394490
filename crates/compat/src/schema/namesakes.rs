//! Tells apart what several files declare under one name
//!
//! Files that do not meet in the imports of any file may declare the same names. As long as they all say the same under a
//! name, it is one element. Otherwise each of them is an element of its own, whose name carries its file:
//! `pkg.Message (a.proto)`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

use super::read::{Part, qualified, resolved};

/// Something that stands directly in a file.
#[derive(Clone, Copy, PartialEq)]
enum Declared<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
    Service(&'a ServiceDescriptorProto),
    Extension(&'a FieldDescriptorProto),
}

/// The same element is declared, in the same dialect and with the same custom options.
#[derive(PartialEq)]
struct Declaration<'a> {
    declared: Declared<'a>,
    syntax: &'a str,
    custom: Vec<(&'a str, &'a str)>,
}

impl Declaration<'_> {
    /// The full names of the types that it refers to.
    fn references(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut pending = Vec::new();
        match self.declared {
            Declared::Message(message) => pending.push(message),
            Declared::Extension(field) => names.extend(of_field(field)),
            Declared::Service(service) => {
                names.extend(
                    service
                        .method
                        .iter()
                        .flat_map(|rpc| [rpc.input_type(), rpc.output_type()]),
                );
            }
            Declared::Enum(_) => {}
        }
        while let Some(message) = pending.pop() {
            names.extend(message.field.iter().chain(&message.extension).flat_map(of_field));
            pending.extend(&message.nested_type);
        }
        names.into_iter().map(resolved).collect()
    }
}

fn of_field(field: &FieldDescriptorProto) -> [&str; 2] {
    [field.type_name(), field.extendee()]
}

/// Who declares each name, by file.
type Declarations<'a> = HashMap<String, BTreeMap<&'a str, Declaration<'a>>>;

fn declared(file: &FileDescriptorProto) -> impl Iterator<Item = (String, Declared<'_>)> {
    let package = file.package();
    let messages = file.message_type.iter().map(|m| (m.name(), Declared::Message(m)));
    let enums = file.enum_type.iter().map(|e| (e.name(), Declared::Enum(e)));
    let services = file.service.iter().map(|s| (s.name(), Declared::Service(s)));
    let extensions = file.extension.iter().map(|e| (e.name(), Declared::Extension(e)));
    messages
        .chain(enums)
        .chain(services)
        .chain(extensions)
        .map(move |(name, declared)| (qualified(package, name), declared))
}

/// The names that more than one file declares.
fn shared<'a>(part: &Part<'a>) -> Declarations<'a> {
    let mut first: HashMap<String, &str> = HashMap::new();
    let mut several = BTreeSet::new();
    for file in &part.files.file {
        for (name, _) in declared(file) {
            match first.get(&name) {
                Some(other) if *other != file.name() => {
                    several.insert(name);
                }
                Some(_) => {}
                None => {
                    first.insert(name, file.name());
                }
            }
        }
    }
    only(part, &several)
}

/// The declarations of some names.
fn only<'a>(part: &Part<'a>, names: &BTreeSet<String>) -> Declarations<'a> {
    let mut found = Declarations::new();
    if names.is_empty() {
        return found;
    }
    for file in &part.files.file {
        for (name, declared) in declared(file) {
            if !names.contains(&name) {
                continue;
            }
            let custom = part
                .custom_options(file.name())
                .into_iter()
                .flatten()
                .filter(|(element, _)| {
                    element
                        .strip_prefix(name.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                })
                .map(|(element, value)| (element.as_str(), value.as_str()))
                .collect();
            let declaration = Declaration {
                declared,
                syntax: file.syntax(),
                custom,
            };
            found.entry(name).or_default().insert(file.name(), declaration);
        }
    }
    found
}

/// What a name is called in one version of a schema, and in which files it counts.
#[derive(Default)]
pub(super) struct Namesakes {
    /// For each name that needs it: the file that declares it, and the file that its label names.
    labels: HashMap<String, BTreeMap<String, String>>,
    /// For each name that several files declare alike: the one that is read.
    owners: HashMap<String, String>,
    /// The names that two files declare which meet in the imports of a third one, or of each other.
    pub(super) clashes: BTreeSet<String>,
    /// What each file imports, directly or not. Only filled if a name is not unique.
    closures: HashMap<String, BTreeSet<String>>,
}

impl Namesakes {
    pub(super) fn of(part: &Part<'_>) -> Self {
        Self::between(part, part).0
    }

    /// Names for two versions, such that what corresponds has the same one.
    pub(super) fn between(old: &Part<'_>, new: &Part<'_>) -> (Self, Self) {
        let (mut old_side, mut new_side) = (Self::default(), Self::default());
        let (shared_old, shared_new) = (shared(old), shared(new));
        let names: BTreeSet<_> = shared_old.keys().chain(shared_new.keys()).cloned().collect();
        if names.is_empty() {
            return (old_side, new_side);
        }
        let (all_old, all_new) = (only(old, &names), only(new, &names));
        old_side.closures = closures(old);
        new_side.closures = closures(new);
        old_side.note_clashes(&shared_old);
        new_side.note_clashes(&shared_new);

        let differing = differing(&names, [&all_old, &all_new]);
        let none = BTreeMap::new();
        for name in names {
            let before = all_old.get(&name).unwrap_or(&none);
            let after = all_new.get(&name).unwrap_or(&none);
            let common = before.keys().find(|file| after.contains_key(*file)).copied();
            if !differing.contains(&name) {
                for (side, files) in [(&mut old_side, before), (&mut new_side, after)] {
                    if let Some(owner) = common.or(files.keys().next().copied()) {
                        side.owners.insert(name.clone(), owner.to_owned());
                    }
                }
                continue;
            }
            let went: Vec<_> = before.keys().filter(|file| !after.contains_key(*file)).collect();
            let came: Vec<_> = after.keys().filter(|file| !before.contains_key(*file)).collect();
            let label = |file: &str| match (went.as_slice(), came.as_slice()) {
                // The one that went and the one that came are the same, moved.
                ([from], [to]) if **to == file => (**from).to_owned(),
                _ => file.to_owned(),
            };
            let own = |files: &BTreeMap<&str, _>| -> BTreeMap<_, _> {
                files
                    .keys()
                    .map(|file| ((*file).to_owned(), (*file).to_owned()))
                    .collect()
            };
            let after = after.keys().map(|file| ((*file).to_owned(), label(file)));
            new_side.labels.insert(name.clone(), after.collect());
            old_side.labels.insert(name, own(before));
        }
        (old_side, new_side)
    }

    fn note_clashes(&mut self, shared: &Declarations<'_>) {
        for (name, files) in shared {
            let meet = self.closures.iter().any(|(file, closure)| {
                let sees = |other: &&&str| **other == file || closure.contains(**other);
                files.keys().filter(sees).count() > 1
            });
            if meet {
                self.clashes.insert(name.clone());
            }
        }
    }

    /// Whether another file speaks for what this file declares under a name.
    pub(super) fn is_twin(&self, file: &str, name: &str) -> bool {
        self.owners.get(name).is_some_and(|owner| owner != file)
    }

    /// What an element that a file declares is called.
    pub(super) fn element(&self, file: &str, name: &str) -> String {
        self.labelled(name, |files| files.get(file))
    }

    /// What a file calls an element that it declares or imports.
    pub(super) fn reference(&self, file: &str, name: &str) -> String {
        self.labelled(name, |files| {
            let closure = self.closures.get(file);
            let is_seen =
                |other: &str| other == file || closure.is_some_and(|closure| closure.contains(other));
            files
                .iter()
                .find(|(other, _)| is_seen(other))
                .map(|(_, label)| label)
        })
    }

    fn labelled<'a>(
        &'a self,
        name: &str,
        choose: impl Fn(&'a BTreeMap<String, String>) -> Option<&'a String>,
    ) -> String {
        if !self.labels.is_empty() {
            for (end, _) in name.match_indices('.').chain([(name.len(), "")]) {
                let (head, tail) = name.split_at(end);
                if let Some(label) = self.labels.get(head).and_then(&choose) {
                    return format!("{head} ({label}){tail}");
                }
            }
        }
        name.to_owned()
    }
}

fn of<'a, 'b>(
    sides: [&'a Declarations<'b>; 2],
    name: &str,
) -> impl Iterator<Item = &'a BTreeMap<&'b str, Declaration<'b>>> {
    sides.map(|side| side.get(name)).into_iter().flatten()
}

/// The names under which not every file says the same, on either side.
fn differing(names: &BTreeSet<String>, sides: [&Declarations<'_>; 2]) -> BTreeSet<String> {
    let mut differing: BTreeSet<String> = names
        .iter()
        .filter(|name| {
            of(sides, name).any(|files| {
                let mut all = files.values();
                all.next().is_some_and(|first| !all.all(|other| other == first))
            })
        })
        .cloned()
        .collect();
    // What looks the same and refers to what differs is not the same.
    loop {
        let refers = |name: &String| {
            of(sides, name)
                .flat_map(BTreeMap::values)
                .flat_map(Declaration::references)
                .any(|reference| {
                    let ends = reference.match_indices('.').map(|(end, _)| end);
                    ends.chain([reference.len()])
                        .filter_map(|end| reference.get(..end))
                        .any(|prefix| differing.contains(prefix))
                })
        };
        let more: Vec<_> = names
            .iter()
            .filter(|name| !differing.contains(*name) && refers(name))
            .cloned()
            .collect();
        if more.is_empty() {
            return differing;
        }
        differing.extend(more);
    }
}

fn closures(part: &Part<'_>) -> HashMap<String, BTreeSet<String>> {
    let files = || {
        part.files
            .file
            .iter()
            .chain(part.imports.into_iter().flat_map(|set| &set.file))
    };
    let imports: HashMap<_, _> = files().map(|file| (file.name(), &file.dependency)).collect();
    let mut closures = HashMap::new();
    for file in files() {
        let mut closure = BTreeSet::new();
        let mut pending: Vec<_> = file.dependency.iter().collect();
        while let Some(name) = pending.pop() {
            if closure.insert(name.clone()) {
                pending.extend(imports.get(name.as_str()).copied().into_iter().flatten());
            }
        }
        closures.insert(file.name().to_owned(), closure);
    }
    closures
}
