//! Builds each library alone: without features, with each one, and with all
//!
//! Inside the workspace a crate sees the features that its neighbours switch on in shared dependencies; on its own it must
//! do with what it asks for.

use anyhow::{Context as _, Result};
use cargo_metadata::{MetadataCommand, Package, TargetKind};

use super::{Context, Outcome};

fn run_all(ci: &Context, combinations: &[(String, Vec<String>)]) -> Result<Outcome> {
    let mut failed = Vec::new();
    for (krate, flags) in combinations {
        let mut command = ci.command(&["clippy", "--quiet", "--lib", "--package", krate]);
        command.args(flags).args(["--", "-D", "warnings"]);
        if !matches!(super::run(&mut command)?, Outcome::Passed) {
            failed.push(format!("{krate} {}", flags.join(" ")));
        }
    }
    Ok(match failed.as_slice() {
        [] => Outcome::Passed,
        names => Outcome::Failed(names.join("; ")),
    })
}

pub(super) fn run(ci: &Context) -> Result<Outcome> {
    let metadata = MetadataCommand::new()
        .manifest_path(ci.root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot describe the workspace")?;
    let mut all = Vec::new();
    for package in metadata.workspace_packages() {
        let is_library = package
            .targets
            .iter()
            .any(|target| target.kind.contains(&TargetKind::Lib));
        // Tools that are not published are only built as part of the workspace.
        let is_published = package
            .publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty());
        if is_library && is_published {
            all.extend(combinations(package));
        }
    }
    run_all(ci, &all)
}

/// The crate's name with the flags of each combination worth building.
fn combinations(package: &Package) -> Vec<(String, Vec<String>)> {
    let name = package.name.to_string();
    let mut features: Vec<_> = package
        .features
        .keys()
        .filter(|feature| *feature != "default")
        .collect();
    features.sort();
    let none = vec!["--no-default-features".to_owned()];
    let mut flags = vec![none.clone()];
    for feature in &features {
        let mut one = none.clone();
        one.extend(["--features".to_owned(), (*feature).clone()]);
        flags.push(one);
    }
    if features.len() > 1 {
        flags.push(vec!["--all-features".to_owned()]);
    }
    flags.into_iter().map(|flags| (name.clone(), flags)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compat_crate_is_built_with_and_without_its_feature() {
        let metadata = MetadataCommand::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .no_deps()
            .exec()
            .unwrap();
        let flags = |name: &str| -> Vec<String> {
            let packages = metadata.workspace_packages();
            let package = packages
                .iter()
                .find(|package| package.name.as_str() == name)
                .unwrap();
            combinations(package)
                .into_iter()
                .map(|(_, flags)| flags.join(" "))
                .collect()
        };
        assert_eq!(
            flags("prexorcloud-compat"),
            ["--no-default-features", "--no-default-features --features schema"]
        );
        assert_eq!(
            flags("prexorcloud-proto"),
            [
                "--no-default-features",
                "--no-default-features --features client",
                "--no-default-features --features descriptor",
                "--no-default-features --features server",
                "--all-features"
            ]
        );
    }
}
