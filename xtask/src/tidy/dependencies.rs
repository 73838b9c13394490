//! Judges the manifests: every dependency has somebody who uses it
//!
//! The workspace names each dependency once, and a member takes it from there; a crate names it in its sources. What no
//! longer has a user costs every build, and tells a reader that the crate does something that it does not.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::sources::Files;

/// Every dependency without a user, of the workspace and of each of its members.
pub fn check(files: &Files) -> Vec<String> {
    let mut bad = Vec::new();
    let mut taken = BTreeSet::new();
    let mut offered = Vec::new();
    for (name, text) in files {
        let Some(folder) = name.strip_suffix("Cargo.toml") else {
            continue;
        };
        let manifest: Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                bad.push(format!("{name}: {}", error.message()));
                continue;
            }
        };
        if folder.is_empty() {
            offered = keys(&manifest, &["workspace", "dependencies"]);
        } else if !manifest.contains_key("workspace") {
            for dependency in dependencies(&manifest) {
                if dependency.inherited {
                    taken.insert(dependency.name.clone());
                }
                if !names(files, folder, &dependency) {
                    let place = if dependency.development {
                        "no test"
                    } else {
                        "src/ never"
                    };
                    bad.push(format!(
                        "{name}: {place} names {}: drop the dependency",
                        dependency.name
                    ));
                }
            }
        }
    }
    for name in offered.iter().filter(|name| !taken.contains(*name)) {
        bad.push(format!(
            "Cargo.toml: no crate takes {name} from the workspace: drop it"
        ));
    }
    bad
}

/// An entry of a table of dependencies.
struct Dependency {
    /// The name in the manifest, which is that in the source but for its hyphens.
    name: String,
    inherited: bool,
    development: bool,
}

/// All dependencies of a manifest, those of single platforms included.
fn dependencies(manifest: &Table) -> Vec<Dependency> {
    let platforms = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::values)
        .filter_map(Value::as_table);
    let mut found = Vec::new();
    for table in [manifest].into_iter().chain(platforms) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(kind).and_then(Value::as_table).into_iter().flatten();
            found.extend(entries.map(|(name, entry)| Dependency {
                name: name.clone(),
                inherited: entry.get("workspace").and_then(Value::as_bool) == Some(true),
                development: kind == "dev-dependencies",
            }));
        }
    }
    found
}

/// The keys of a table within tables.
fn keys(manifest: &Table, path: &[&str]) -> Vec<String> {
    let mut table = Some(manifest);
    for step in path {
        table = table.and_then(|table| table.get(*step)?.as_table());
    }
    table.into_iter().flat_map(Table::keys).cloned().collect()
}

/// Whether a source of the crate in `folder` names the dependency: any source for a development dependency, examples in
/// comments included, and the code of the crate itself for the others.
fn names(files: &Files, folder: &str, dependency: &Dependency) -> bool {
    let name = dependency.name.replace('-', "_");
    let sources = files.iter().filter(|(path, _)| {
        path.ends_with(".rs")
            && path
                .strip_prefix(folder)
                .is_some_and(|path| dependency.development || path.starts_with("src/") || path == "build.rs")
    });
    sources
        .flat_map(|(_, text)| text.lines())
        .filter(|line| dependency.development || !line.trim_start().starts_with("//"))
        .any(|line| is_named(line, &name))
}

/// Whether a line uses a crate: `name::`, `use name;` or `use name as`.
fn is_named(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + name.len()..).unwrap_or_default();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && ["::", ";", " as "].iter().any(|end| after.starts_with(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(manifest: &str, sources: &[(&str, &str)]) -> Files {
        let workspace = "[workspace.dependencies]\nserde-json = \"1\"\n";
        let mut files = Files::from([
            ("Cargo.toml".into(), workspace.into()),
            ("crates/daemon/Cargo.toml".into(), manifest.into()),
            (
                "fuzz/Cargo.toml".into(),
                "[workspace]\n[dependencies]\narbitrary = \"1\"\n".into(),
            ),
        ]);
        for (name, text) in sources {
            files.insert(format!("crates/daemon/{name}"), (*text).into());
        }
        files
    }

    const TAKES: &str = "[dependencies]\nserde-json.workspace = true\n";

    #[test]
    fn a_dependency_of_the_workspace_that_nobody_takes_is_found() {
        let wanted = ["Cargo.toml: no crate takes serde-json from the workspace: drop it"];
        assert_eq!(check(&tree("", &[])), wanted);
        let own = "[dependencies]\nserde-json = \"1\"\n";
        assert_eq!(
            check(&tree(own, &[("src/lib.rs", "use serde_json::Value;\n")])),
            wanted
        );
    }

    #[test]
    fn a_dependency_that_no_source_names_is_found() {
        let wanted = ["crates/daemon/Cargo.toml: src/ never names serde-json: drop the dependency"];
        for unused in [
            "",
            "// serde_json::Value would be too much\n",
            "let my_serde_json::X = serde_jsonl::Y;\n",
        ] {
            assert_eq!(check(&tree(TAKES, &[("src/lib.rs", unused)])), wanted, "{unused}");
        }
        let in_a_test = [("tests/config.rs", "use serde_json::Value;\n")];
        assert_eq!(check(&tree(TAKES, &in_a_test)), wanted);
        for used in [
            "use serde_json::Value;\n",
            "use serde_json as json;\n",
            "use serde_json;\n",
        ] {
            assert_eq!(
                check(&tree(TAKES, &[("src/lib.rs", used)])),
                Vec::<String>::new(),
                "{used}"
            );
        }
    }

    #[test]
    fn a_development_dependency_may_stand_in_any_source() {
        let manifest = "[target.'cfg(unix)'.dev-dependencies]\nserde-json.workspace = true\n";
        for place in ["src/lib.rs", "tests/config.rs", "examples/hunt.rs"] {
            let example = [(place, "//! use serde_json::Value;\n")];
            assert_eq!(check(&tree(manifest, &example)), Vec::<String>::new(), "{place}");
        }
        assert_eq!(
            check(&tree(manifest, &[])),
            ["crates/daemon/Cargo.toml: no test names serde-json: drop the dependency"]
        );
    }

    #[test]
    fn an_unreadable_manifest_is_found() {
        assert_eq!(check(&tree("[dependencies\n", &[])).len(), 2);
    }
}
