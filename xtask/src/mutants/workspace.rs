//! Which packages there are, what tests they have, and where Cargo builds

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::{MetadataCommand, TargetKind};

use super::list::{LIB, Target};

/// The packages of a workspace
pub struct Workspace {
    packages: BTreeMap<String, Package>,
    /// Where Cargo puts what it builds.
    pub target: PathBuf,
}

struct Package {
    /// Its folder from the root with a slash at the end; empty for the root itself.
    folder: String,
    tests: BTreeSet<String>,
}

/// Tests that exist, ready to be handed to Cargo
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tests {
    /// The package they are in.
    pub package: String,
    /// The test target, or [`LIB`].
    pub name: String,
    /// Only tests with this in their name.
    pub filter: Option<String>,
}

impl Workspace {
    /// Asks Cargo about the workspace at `root`.
    ///
    /// # Errors
    /// If Cargo cannot describe it.
    pub fn describe(root: &Path) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cannot describe the workspace")?;
        let mut packages = BTreeMap::new();
        for package in metadata.workspace_packages() {
            let folder = package
                .manifest_path
                .parent()
                .and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok())
                .map_or_else(String::new, ToString::to_string);
            let tests = package
                .targets
                .iter()
                .filter_map(|target| match target.kind.first() {
                    Some(TargetKind::Test) => Some(target.name.clone()),
                    Some(TargetKind::Lib) => Some(LIB.to_owned()),
                    _ => None,
                })
                .collect();
            let folder = if folder.is_empty() { folder } else { folder + "/" };
            packages.insert(package.name.to_string(), Package { folder, tests });
        }
        Ok(Self {
            packages,
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// The package that a file belongs to: the one with the longest folder that the file is in.
    pub fn owner(&self, file: &str) -> Option<&str> {
        self.packages
            .iter()
            .filter(|(_, package)| file.starts_with(&package.folder))
            .max_by_key(|(_, package)| package.folder.len())
            .map(|(name, _)| name.as_str())
    }

    /// Finds the tests that an entry for `file` names.
    ///
    /// # Errors
    /// A sentence that says what does not exist.
    pub fn resolve(&self, file: &str, target: &Target) -> Result<Tests, String> {
        let name = match target.package.as_deref() {
            Some(package) => package,
            None => self
                .owner(file)
                .ok_or_else(|| format!("{file} is in no package"))?,
        };
        let package = self
            .packages
            .get(name)
            .ok_or_else(|| format!("there is no package {name}"))?;
        if !package.tests.contains(&target.name) {
            let all: Vec<_> = package.tests.iter().map(String::as_str).collect();
            return Err(format!(
                "package {name} has no tests {}; it has {}",
                target.name,
                all.join(", ")
            ));
        }
        Ok(Tests {
            package: name.to_owned(),
            name: target.name.clone(),
            filter: target.filter.clone(),
        })
    }

    /// A workspace of one package at its root.
    #[cfg(test)]
    pub(super) fn of_one(name: &str, tests: &[&str]) -> Self {
        let tests = tests.iter().copied().chain([LIB]).map(str::to_owned).collect();
        let package = Package {
            folder: String::new(),
            tests,
        };
        Self {
            packages: BTreeMap::from([(name.to_owned(), package)]),
            target: PathBuf::new(),
        }
    }
}

impl std::fmt::Display for Tests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.package, self.name)?;
        match &self.filter {
            Some(filter) => write!(f, "::{filter}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_innermost_package() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace::describe(&root).unwrap();
        assert_eq!(
            workspace.owner("crates/protocol/src/fence.rs"),
            Some("prexorcloud-protocol")
        );
        assert_eq!(
            workspace.owner("crates/proto/src/lib.rs"),
            Some("prexorcloud-proto"),
            "not the one whose name begins alike"
        );
        assert_eq!(workspace.owner("demo/src/Demo.java"), None);
        let lib = Target::try_from("xtask/lib::mutants".to_owned()).unwrap();
        let tests = workspace.resolve("crates/protocol/src/fence.rs", &lib).unwrap();
        assert_eq!(tests.to_string(), "xtask/lib::mutants");
    }
}
