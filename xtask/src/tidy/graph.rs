//! Judges the dependency graph: layers, forbidden crates, one TLS library, lowest Rust versions

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::semver::Version;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::cargo;

/// What a crate must not reach through its normal dependencies with every feature, and why.
const UNREACHABLE: &[(&str, &[&str], &str)] = &[
    (
        "prexorcloud-protocol",
        &[
            "tokio",
            "tonic",
            "mio",
            "hyper",
            "h2",
            "rustls",
            "async-std",
            "smol",
        ],
        "the state machines know no clock, no socket and no runtime",
    ),
    (
        "prexorcloud-compat",
        &[
            "tokio",
            "tonic",
            "mio",
            "hyper",
            "h2",
            "rustls",
            "async-std",
            "smol",
        ],
        "the compatibility layer decides and does nothing else",
    ),
    (
        "prexorcloud-security",
        &["tonic", "prexorcloud-proto"],
        "certificates and tokens know no gRPC",
    ),
    (
        "prexorcloud-content",
        &["tokio", "tonic", "mio", "hyper", "rustls", "prexorcloud-proto"],
        "folders and archives know no socket and no runtime",
    ),
    (
        "prexorctl",
        &["tonic", "prexorcloud-proto"],
        "the command line tool knows no gRPC",
    ),
];

/// Which crates of the workspace a crate may depend on directly. What is missing here may depend on none.
const LAYERS: &[(&str, &[&str])] = &[
    ("prexorcloud-proto", &[]),
    ("prexorcloud-compat", &["prexorcloud-proto"]),
    (
        "prexorcloud-protocol",
        &["prexorcloud-proto", "prexorcloud-compat"],
    ),
    ("prexorcloud-security", &[]),
    ("prexorcloud-content", &[]),
    ("prexorcloud-logs", &["prexorcloud-protocol"]),
    (
        "prexorcloud-transport",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-security",
        ],
    ),
    (
        "prexorcloud-controller",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-logs",
            "prexorcloud-content",
            "prexorcloud-security",
            "prexorcloud-transport",
        ],
    ),
    (
        "prexorcloud-daemon",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-logs",
            "prexorcloud-content",
            "prexorcloud-security",
            "prexorcloud-transport",
        ],
    ),
    (
        "prexorcloud",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-logs",
            "prexorcloud-content",
            "prexorcloud-security",
            "prexorcloud-transport",
            "prexorcloud-controller",
            "prexorcloud-daemon",
            "prexorctl",
        ],
    ),
    ("prexorctl", &["prexorcloud-content", "prexorcloud-security"]),
    (
        "prexorcloud-testkit",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-transport",
        ],
    ),
    (
        "prexorcloud-bench",
        &[
            "prexorcloud-proto",
            "prexorcloud-compat",
            "prexorcloud-protocol",
            "prexorcloud-logs",
            "prexorcloud-content",
            "prexorcloud-security",
            "prexorcloud-transport",
            "prexorcloud-controller",
            "prexorcloud-daemon",
        ],
    ),
    ("xtask", &["prexorcloud-compat"]),
];

/// A crate that only dev-dependencies may name.
const TEST_ONLY: &str = "prexorcloud-testkit";

/// The first Rust with edition 2024.
const EDITION: Version = Version::new(1, 85, 0);

/// Runs every check of this module on the workspace at `root`.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(vec!["--all-features".into()])
        .exec()
        .context("cannot describe the workspace")?;
    let members: BTreeSet<_> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let mut bad = layers(&direct_dependencies(&metadata));
    let mut reached = BTreeMap::new();
    for member in &members {
        let found = tree(root, &["--package", member, "--edges", "normal"])?;
        reached.insert(
            member.clone(),
            found.into_iter().filter(|(name, _)| name != member).collect(),
        );
    }
    bad.extend(unreachable(&reached));
    bad.extend(tls(&tree(root, &["--workspace", "--edges", "normal,build,dev"])?));
    bad.extend(rust_versions(&metadata, &reached));
    Ok(bad)
}

/// The workspace crates that each workspace crate names as normal or build dependency.
fn direct_dependencies(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata.workspace_packages();
    let is_member = |name: &str| packages.iter().any(|package| package.name.as_str() == name);
    packages
        .iter()
        .map(|package| {
            let named = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .filter(|dependency| is_member(&dependency.name))
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), named)
        })
        .collect()
}

/// Judges who names whom.
pub fn layers(direct: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, dependencies) in direct {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| layer == name) else {
            bad.push(format!(
                "crate {name} has no place in the layers: add it to LAYERS in xtask/src/tidy/graph.rs"
            ));
            continue;
        };
        for dependency in dependencies {
            if dependency == TEST_ONLY {
                bad.push(format!(
                    "{name} depends on {TEST_ONLY}, which is for dev-dependencies only"
                ));
            } else if !allowed.contains(&dependency.as_str()) {
                let allowed = if allowed.is_empty() {
                    "none".into()
                } else {
                    allowed.join(", ")
                };
                bad.push(format!(
                    "{name} depends on {dependency}, against the layers of ARCHITECTURE.md (it may depend on: {allowed})"
                ));
            }
        }
    }
    bad
}

/// Everything that Cargo would build with all features of the selected packages, on any platform: name and version.
///
/// `cargo metadata` would not do: it unifies features over the workspace, where somebody does want tonic, and lists
/// packages that no feature asks for.
fn tree(root: &Path, selection: &[&str]) -> Result<BTreeSet<(String, Version)>> {
    let output = cargo(root)
        .args([
            "tree",
            "--all-features",
            "--target",
            "all",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(selection)
        .output()
        .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse_tree(&String::from_utf8_lossy(&output.stdout))
}

/// Reads lines such as `tokio v1.54.1` and `prexorcloud-proto v0.1.0 (/somewhere) (*)`.
fn parse_tree(text: &str) -> Result<BTreeSet<(String, Version)>> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            bail!("cargo tree printed an unexpected line: {line}");
        };
        let version = version
            .strip_prefix('v')
            .and_then(|version| Version::parse(version).ok())
            .with_context(|| format!("cargo tree printed an unexpected line: {line}"))?;
        found.insert((name.to_owned(), version));
    }
    Ok(found)
}

/// Judges what the crates reach against the list above.
pub fn unreachable(reached: &BTreeMap<String, BTreeSet<(String, Version)>>) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, forbidden, reason) in UNREACHABLE {
        let Some(found) = reached.get(*name) else {
            bad.push(format!(
                "crate {name} does not exist, but xtask/src/tidy/graph.rs guards it"
            ));
            continue;
        };
        for (dependency, version) in found {
            if forbidden.contains(&dependency.as_str()) {
                bad.push(format!(
                    "{name} reaches {dependency} {version}: {reason} (`cargo tree -p {name} --all-features -e normal -i \
                     {dependency}` shows how)"
                ));
            }
        }
    }
    bad
}

/// Judges the TLS libraries: two providers in one process end in a panic at run time.
pub fn tls(packages: &BTreeSet<(String, Version)>) -> Vec<String> {
    let mut bad = Vec::new();
    for banned in ["ring", "openssl", "openssl-sys", "native-tls"] {
        for (_, version) in packages.iter().filter(|(name, _)| name == banned) {
            bad.push(format!(
                "{banned} {version} is in the dependency graph; aws-lc-rs is the only provider (`cargo tree --workspace \
                 --all-features --target all -i {banned}` shows who wants it)"
            ));
        }
    }
    let rustls: Vec<_> = packages
        .iter()
        .filter(|(name, _)| name == "rustls")
        .map(|(_, version)| version.to_string())
        .collect();
    if rustls.len() > 1 {
        bad.push(format!(
            "{} versions of rustls: {}",
            rustls.len(),
            rustls.join(", ")
        ));
    }
    bad
}

fn rust_versions(
    metadata: &Metadata,
    reached: &BTreeMap<String, BTreeSet<(String, Version)>>,
) -> Vec<String> {
    let wanted: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            let key = (package.name.to_string(), package.version.clone());
            package.rust_version.clone().map(|version| (key, version))
        })
        .collect();
    let mut bad = Vec::new();
    for package in metadata.workspace_packages() {
        // Tools that are not published promise nothing.
        if package.publish.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let name = package.name.to_string();
        let found = reached.get(&name).cloned().unwrap_or_default();
        bad.extend(rust_version(
            &name,
            package.rust_version.as_ref(),
            &found,
            &wanted,
        ));
    }
    bad
}

/// Judges one promise: the lowest Rust that edition and dependencies allow, no more and no less.
pub fn rust_version(
    name: &str,
    promised: Option<&Version>,
    reached: &BTreeSet<(String, Version)>,
    wanted: &BTreeMap<(String, Version), Version>,
) -> Option<String> {
    let mut lowest = EDITION;
    let mut because = "edition 2024".to_owned();
    for key in reached {
        if let Some(version) = wanted.get(key)
            && (version.major, version.minor) > (lowest.major, lowest.minor)
        {
            lowest = version.clone();
            because = format!("{} {}", key.0, key.1);
        }
    }
    let expected = format!("{}.{}", lowest.major, lowest.minor);
    let Some(promised) = promised else {
        return Some(format!(
            "{name} has no rust-version: write rust-version = \"{expected}\" ({because})"
        ));
    };
    ((promised.major, promised.minor) != (lowest.major, lowest.minor)).then(|| {
        format!(
            "{name} has rust-version {}.{}: write rust-version = \"{expected}\" ({because})",
            promised.major, promised.minor
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(packages: &[(&str, &str)]) -> BTreeSet<(String, Version)> {
        packages
            .iter()
            .map(|(name, version)| ((*name).to_owned(), Version::parse(version).unwrap()))
            .collect()
    }

    fn guarded() -> BTreeMap<String, BTreeSet<(String, Version)>> {
        UNREACHABLE
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), BTreeSet::new()))
            .collect()
    }

    #[test]
    fn a_runtime_below_a_machine_is_found() {
        assert_eq!(unreachable(&guarded()), Vec::<String>::new());
        for (name, forbidden, _) in UNREACHABLE {
            for dependency in *forbidden {
                let mut reached = guarded();
                reached.insert(
                    (*name).to_owned(),
                    set(&[(dependency, "1.0.0"), ("bytes", "1.0.0")]),
                );
                let bad = unreachable(&reached);
                assert_eq!(bad.len(), 1, "{bad:?}");
                assert!(
                    bad[0].starts_with(&format!("{name} reaches {dependency} 1.0.0")),
                    "{bad:?}"
                );
            }
        }
    }

    #[test]
    fn a_guard_over_nothing_is_found() {
        assert_eq!(unreachable(&BTreeMap::new()).len(), UNREACHABLE.len());
    }

    #[test]
    fn an_arrow_against_the_layers_is_found() {
        let direct =
            |name: &str, on: &str| BTreeMap::from([(name.to_owned(), BTreeSet::from([on.to_owned()]))]);
        for (name, on) in [
            ("prexorcloud-proto", "prexorcloud-compat"),
            ("prexorcloud-compat", "prexorcloud-protocol"),
            ("prexorcloud-protocol", "prexorcloud-transport"),
            ("prexorcloud-security", "prexorcloud-proto"),
            ("prexorcloud-controller", "prexorcloud-daemon"),
            ("prexorctl", "prexorcloud-proto"),
            ("prexorcloud", "prexorcloud-testkit"),
            ("prexorcloud-unheard-of", "prexorcloud-proto"),
        ] {
            assert_eq!(layers(&direct(name, on)).len(), 1, "{name} -> {on}");
        }
        for (name, allowed) in LAYERS {
            for on in *allowed {
                assert_eq!(layers(&direct(name, on)), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn a_second_tls_library_is_found() {
        let good = [("rustls", "0.23.46"), ("aws-lc-rs", "1.19.0")];
        assert_eq!(tls(&set(&good)), Vec::<String>::new());
        for second in [
            ("ring", "0.17.14"),
            ("rustls", "0.22.0"),
            ("openssl-sys", "0.9.0"),
        ] {
            assert_eq!(tls(&set(&[good[0], good[1], second])).len(), 1, "{second:?}");
        }
    }

    #[test]
    fn a_rust_version_is_as_low_as_the_dependencies_allow() {
        let reached = set(&[("prost", "0.14.4"), ("tonic", "0.14.9")]);
        let wanted = BTreeMap::from([
            (
                ("prost".to_owned(), Version::new(0, 14, 4)),
                Version::new(1, 85, 0),
            ),
            (
                ("tonic".to_owned(), Version::new(0, 14, 9)),
                Version::new(1, 88, 0),
            ),
            (
                ("other".to_owned(), Version::new(1, 0, 0)),
                Version::new(1, 95, 0),
            ),
        ]);
        let judge = |promised: Option<Version>| rust_version("x", promised.as_ref(), &reached, &wanted);
        assert_eq!(judge(Some(Version::new(1, 88, 0))), None);
        for wrong in [None, Some(Version::new(1, 85, 0)), Some(Version::new(1, 95, 0))] {
            let bad = judge(wrong).unwrap();
            assert!(
                bad.contains("write rust-version = \"1.88\" (tonic 0.14.9)"),
                "{bad}"
            );
        }
        assert_eq!(
            rust_version("y", Some(&Version::new(1, 85, 0)), &BTreeSet::new(), &wanted),
            None
        );
    }

    #[test]
    fn the_output_of_cargo_tree_is_understood() {
        let text = "a v0.1.0 (/somewhere/a)\nbytes v1.12.1\nb-macros v2.0.0-pre.1 (proc-macro)\nbytes v1.12.1 (*)\n\n";
        let found = parse_tree(text).unwrap();
        assert_eq!(
            found,
            set(&[("a", "0.1.0"), ("bytes", "1.12.1"), ("b-macros", "2.0.0-pre.1")])
        );
        assert!(parse_tree("[build-dependencies]\n").is_err());
    }
}
