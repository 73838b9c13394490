//! Compiles a tree of `.proto` sources, and compares two of them

mod compile;
pub(super) mod custom;
mod order;
mod outline;
mod problem;
mod scope;
mod screen;
mod sources;

use std::collections::BTreeMap;

use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::file::{FileResolver as _, GoogleFileResolver};

pub use self::problem::Problem;

use self::compile::{Compiled, compile};
use self::sources::Sources;
use super::read::Part;
use super::{Report, compare};

/// The bytes of a file, or the reason why there are none
pub type Source = Result<Vec<u8>, String>;

/// A tree of `.proto` files, compiled
///
/// Each file is compiled in a pool of its own with what it imports, directly or not. Files that have nothing to do with each
/// other may declare the same names, and a name never changes its meaning because of a file that is not imported.
///
/// ```
/// use std::collections::BTreeMap;
/// use prexorcloud_compat::schema::{Tree, SchemaChange, classify_trees};
///
/// # fn main() -> Result<(), Vec<prexorcloud_compat::schema::Problem>> {
/// let compile = |text: &str| {
///     let tree = BTreeMap::from([("shop/order.proto".to_owned(), Ok(text.as_bytes().to_vec()))]);
///     Tree::compile(tree, |name| match name {
///         "money.proto" => Some(Ok(b"syntax = 'proto3'; message Money {}".to_vec())),
///         _ => None,
///     })
/// };
/// let old = compile("syntax = 'proto3'; import 'money.proto'; message Order { Money total = 1; }")?;
/// let new = compile("syntax = 'proto3'; import 'money.proto'; message Order { Money sum = 1; }")?;
/// assert_eq!(classify_trees(&old, &new).verdict(), SchemaChange::Breaking);
///
/// let problems = compile("syntax = 'proto3';\nimport 'price.proto';").err().unwrap_or_default();
/// assert_eq!(problems[0].to_string(), "shop/order.proto:2: import 'price.proto' not found");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    files: Half,
    imports: Half,
}

/// Compiled files, either those of the tree or those that they import.
#[derive(Clone, Debug, Default)]
struct Half {
    set: FileDescriptorSet,
    custom: BTreeMap<String, custom::CustomOptions>,
}

impl Half {
    fn push(&mut self, file: FileDescriptorProto, custom: custom::CustomOptions) {
        self.custom.insert(file.name().to_owned(), custom);
        self.set.file.push(file);
    }

    fn get(&self, name: &str) -> Option<&FileDescriptorProto> {
        self.set.file.iter().find(|file| file.name() == name)
    }
}

impl Tree {
    /// Compiles files by name, which is how they import each other
    ///
    /// What the tree lacks is asked of `import`, once for each name; the files that come with every protobuf compiler
    /// (`google/protobuf/*.proto`) need not be there. Imported files are not compared.
    ///
    /// # Errors
    /// Every problem of every file, sorted. What follows from a problem of another file is not repeated.
    pub fn compile(
        files: BTreeMap<String, Source>,
        import: impl FnMut(&str) -> Option<Source>,
    ) -> Result<Self, Vec<Problem>> {
        let mut sources = Sources::read(files, import);
        let compiled = compile(&mut sources);
        if !sources.problems.is_empty() {
            return Err(sources.problems.into_iter().collect());
        }
        let (mut files, mut imports) = (Half::default(), Half::default());
        for (name, Compiled { proto, custom, .. }) in compiled {
            let half = if sources.imports.contains(&name) {
                &mut imports
            } else {
                &mut files
            };
            half.push(proto, custom);
        }
        Ok(Self { files, imports })
    }

    /// The files of the tree, without those that it only imports
    #[must_use]
    pub fn descriptors(&self) -> &FileDescriptorSet {
        &self.files.set
    }

    /// The files of this tree, and those of the other one that this one imports or that come with every compiler.
    ///
    /// Whether a tree carries such a file itself is no difference between schemas; what the file says is.
    fn completed(&self, other: &Self) -> Half {
        let google = GoogleFileResolver::new();
        let mut files = self.files.clone();
        for name in other.files.set.file.iter().map(FileDescriptorProto::name) {
            if files.get(name).is_some() {
                continue;
            }
            if let Some(imported) = self.imports.get(name) {
                let custom = self.imports.custom.get(name).cloned().unwrap_or_default();
                files.push(imported.clone(), custom);
            } else if let Ok(well_known) = google.open_file(name) {
                files.push(
                    well_known.file_descriptor_proto().clone(),
                    custom::CustomOptions::new(),
                );
            }
        }
        files
    }
}

/// Compares two trees and reports every difference between their own files, custom options included
#[must_use]
pub fn classify_trees(old: &Tree, new: &Tree) -> Report {
    let (old_files, new_files) = (old.completed(new), new.completed(old));
    compare(
        Part {
            files: &old_files.set,
            imports: Some(&old.imports.set),
            custom: Some(&old_files.custom),
        },
        Part {
            files: &new_files.set,
            imports: Some(&new.imports.set),
            custom: Some(&new_files.custom),
        },
    )
}
