//! Judges the tracked files: what may not stand in them, how long they get, what has to be there

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// Tracked files by path from the root, with `/`; those that are no text are left out.
pub type Files = BTreeMap<String, String>;

/// More lines than this hold more than one noun.
const LONGEST: usize = 700;

/// What the sources of the clockless crates must not contain. Split here, so that this file may be searched too.
const NO_CLOCK: &[&str] = &[
    concat!("tok", "io"),
    concat!("Instant::", "now"),
    concat!("SystemTime::", "now"),
];

/// The crates without a clock.
const CLOCKLESS: &[&str] = &["crates/compat", "crates/protocol"];

/// Marks of unfinished work, searched in code.
const UNFINISHED: &[&str] = &[
    concat!("#[ig", "nore"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
];

/// Places that exist on one machine only, searched in every file where no name stands directly before them.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// Hosts of package registries: a clone must build with whatever mirror its machine is set up for.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("debian", ".org"),
    concat!("maven", ".org"),
    concat!("maven.apache", ".org"),
];

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// The paths of what git tracks, and what it would track; without git, of every file.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ])
        .output();
    match output {
        Ok(output) if output.status.success() && root.join(".git").exists() => Ok(output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()),
        _ => below(root),
    }
}

/// Reads the files of [`names`].
pub fn tracked(root: &Path) -> Result<Files> {
    let mut files = Files::new();
    for name in names(root)? {
        let path = root.join(&name);
        // A deleted file may still be in the index.
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(name, text);
        }
    }
    Ok(files)
}

/// The paths of every file, but for what is built and what git keeps.
pub fn below(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with(".git") {
                    pending.push(path);
                }
            } else if let Ok(name) = path.strip_prefix(root) {
                names.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(names)
}

fn is_code(name: &str) -> bool {
    [".rs", ".proto", ".toml", ".py", ".java", ".sh", ".yml", ".yaml"]
        .iter()
        .any(|end| name.ends_with(end))
        || name.starts_with(".ci/")
}

fn is_generated(name: &str) -> bool {
    name.contains("/src/gen/") || name == "Cargo.lock"
}

/// Every violation, as `path:line: sentence`.
pub fn check(files: &Files) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, text) in files {
        if is_generated(name) {
            continue;
        }
        let clockless = CLOCKLESS
            .iter()
            .any(|krate| name.starts_with(&format!("{krate}/src/")));
        for (index, line) in text.lines().enumerate() {
            let mut found = |sentence: String| bad.push(format!("{name}:{}: {sentence}", index + 1));
            if clockless {
                for word in NO_CLOCK.iter().filter(|word| line.contains(**word)) {
                    found(format!("{word} in a crate without clock and runtime"));
                }
            }
            if is_code(name) {
                for mark in UNFINISHED.iter().filter(|mark| has_word(line, mark)) {
                    found(format!("{mark} is unfinished work: finish it or file an issue"));
                }
            }
            if let Some(path) = included(line).filter(|path| leaves_crate(name, path)) {
                found(format!(
                    "{path} is outside of the crate, so its package would not build"
                ));
            }
            for place in PLACES.iter().filter(|place| has_place(line, place)) {
                found(format!("{place} is a path of one machine"));
            }
            for host in REGISTRIES.iter().filter(|host| line.contains(**host)) {
                found(format!("{host} is the host of a package registry"));
            }
        }
        let lines = text.lines().count();
        if name.ends_with(".rs") && lines > LONGEST && !name.contains("/tests/") {
            bad.push(format!(
                "{name}: {lines} lines, more than {LONGEST}: split it by noun"
            ));
        }
        let stem = name.rsplit('/').next().and_then(|file| file.strip_suffix(".rs"));
        let folder = name
            .strip_suffix("/mod.rs")
            .and_then(|path| path.rsplit('/').next());
        for module in [stem, folder].into_iter().flatten() {
            if EMPTY_NAMES.contains(&module) {
                bad.push(format!("{name}: {module} says nothing about what is in it"));
            }
        }
    }
    bad.extend(missing(files));
    bad.extend(let_chains(files));
    bad
}

/// The first Rust with `if let .. && ..`, which clippy does not hold against a lower `rust-version`.
const LET_CHAINS: (u32, u32) = (1, 88);

/// Let chains in crates that promise to build with a Rust that has none.
fn let_chains(files: &Files) -> Vec<String> {
    let mut bad = Vec::new();
    for (manifest, text) in files {
        let Some(krate) = manifest.strip_suffix("Cargo.toml") else {
            continue;
        };
        let promised = text
            .lines()
            .find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))
            .and_then(|version| version.split_once('.'))
            .and_then(|(major, rest)| {
                let minor = rest.split('.').next()?;
                Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
            });
        if promised.is_none_or(|promised| promised >= LET_CHAINS) {
            continue;
        }
        let sources = files
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("{krate}src/")) && name.ends_with(".rs"));
        for (name, text) in sources {
            let mut in_condition = false;
            for (index, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                in_condition |= ["if let ", "while let "].iter().any(|start| code.contains(start));
                if in_condition && code.contains("&& ") && !code.contains("|") {
                    bad.push(format!(
                        "{name}:{}: a let chain needs Rust {}.{}, which {manifest} does not ask for",
                        index + 1,
                        LET_CHAINS.0,
                        LET_CHAINS.1
                    ));
                }
                if code.trim_end().ends_with('{') {
                    in_condition = false;
                }
            }
        }
    }
    bad
}

/// A mark as a word of its own, where it begins or ends with a letter.
fn has_word(line: &str, mark: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(mark).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + mark.len()..).and_then(|text| text.chars().next());
        let part_of_a_word = letter(mark.chars().next()) && letter(before)
            || letter(mark.chars().next_back()) && letter(after);
        !part_of_a_word
    })
}

/// The path of an `include!`, `include_str!` or `include_bytes!` on this line.
fn included(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("include")?;
    let rest = ["!(\"", "_str!(\"", "_bytes!(\""]
        .iter()
        .find_map(|call| rest.strip_prefix(call))?;
    rest.split_once('"').map(|(path, _)| path)
}

/// Whether a path, from a file of a published crate, leads out of that crate.
fn leaves_crate(file: &str, path: &str) -> bool {
    let Some(inside) = file.strip_prefix("crates/") else {
        return false;
    };
    // Folders between the crate's own folder and the file.
    let mut depth = inside.matches('/').count().saturating_sub(1);
    for step in path.split('/') {
        match step {
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            "." | "" => {}
            _ => depth += 1,
        }
    }
    false
}

/// A path from the root of the file system, not the end of a longer one.
fn has_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~$})/".contains(c))
    })
}

/// What has to be there and is not.
fn missing(files: &Files) -> Vec<String> {
    let mut bad = Vec::new();
    for krate in CLOCKLESS {
        let name = format!("{krate}/clippy.toml");
        let text = files.get(&name).map_or("", String::as_str);
        for method in ["std::time::Instant::now", "std::time::SystemTime::now"] {
            if !text
                .lines()
                .any(|line| line.contains(method) && line.contains("reason"))
            {
                bad.push(format!(
                    "{name}: disallowed-methods must ban {method}, with a reason"
                ));
            }
        }
    }
    for (name, text) in files {
        let Some(rest) = name.strip_prefix("crates/") else {
            continue;
        };
        if let Some(krate) = rest.strip_suffix("/src/lib.rs")
            && !krate.contains('/')
            && !text.contains("#![warn(missing_docs)]")
        {
            bad.push(format!("{name}: a library says #![warn(missing_docs)]"));
        }
        if let Some(krate) = rest.strip_suffix("/Cargo.toml")
            && !krate.contains('/')
            && !text.contains("[lints]\nworkspace = true")
        {
            bad.push(format!("{name}: a crate takes the lints of the workspace"));
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANS: &str = "disallowed-methods = [
        { path = \"std::time::Instant::now\", reason = \"time is an argument\" },
        { path = \"std::time::SystemTime::now\", reason = \"time is an argument\" },
    ]";

    fn clean() -> Files {
        let mut files = Files::new();
        for krate in CLOCKLESS {
            files.insert(format!("{krate}/clippy.toml"), BANS.into());
            files.insert(
                format!("{krate}/src/lib.rs"),
                "//! Decides\n#![warn(missing_docs)]\n".into(),
            );
            files.insert(
                format!("{krate}/Cargo.toml"),
                "[lints]\nworkspace = true\n".into(),
            );
        }
        files
    }

    fn with(name: &str, text: &str) -> Vec<String> {
        let mut files = clean();
        files.insert(name.into(), text.into());
        check(&files)
    }

    #[test]
    fn a_clean_tree_is_clean() {
        assert_eq!(check(&clean()), Vec::<String>::new());
        let fine = "// a network/work/ of paths, mastodons, debian.example\nlet x = \"tests/work/\";\n";
        assert_eq!(with("crates/daemon/src/path.rs", fine), Vec::<String>::new());
    }

    #[test]
    fn a_clock_or_a_runtime_in_a_machine_is_found() {
        for krate in CLOCKLESS {
            for word in NO_CLOCK {
                let name = format!("{krate}/src/ledger.rs");
                let bad = with(&name, &format!("fn f() {{\n    {word}();\n}}\n"));
                assert_eq!(bad.len(), 1, "{bad:?}");
                assert!(bad[0].starts_with(&format!("{name}:2: {word}")), "{bad:?}");
                // Elsewhere they are everyday words.
                assert_eq!(with("crates/daemon/src/run.rs", word), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        for mark in UNFINISHED {
            let bad = with("crates/daemon/src/run.rs", &format!("// {mark} later\n"));
            assert_eq!(bad.len(), 1, "{mark}: {bad:?}");
            assert_eq!(with("notes.md", &format!("{mark}\n")), Vec::<String>::new());
        }
    }

    #[test]
    fn places_of_one_machine_and_registries_are_found_in_any_file() {
        for place in PLACES {
            let bad = with("README.md", &format!("see {place}notes\n"));
            assert_eq!(bad.len(), 1, "{bad:?}");
        }
        for host in REGISTRIES {
            let bad = with(
                ".ci/run",
                &format!("pip install --index-url https://{host}/simple x\n"),
            );
            assert_eq!(bad.len(), 1, "{host}: {bad:?}");
            assert_eq!(with("Cargo.lock", host), Vec::<String>::new());
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        let long = "// line\n".repeat(LONGEST + 1);
        assert_eq!(with("crates/daemon/src/run.rs", &long).len(), 1);
        assert_eq!(with("crates/daemon/tests/run.rs", &long), Vec::<String>::new());
        assert_eq!(with("crates/proto/src/gen/x.rs", &long), Vec::<String>::new());
    }

    #[test]
    fn an_include_from_outside_of_the_crate_is_found() {
        for (path, outside) in [
            ("../README.md", false),
            ("../../README.md", true),
            ("gen/a.rs", false),
            ("gen/../../Cargo.toml", false),
            ("gen/../../../Cargo.toml", true),
        ] {
            for call in ["include", "include_str", "include_bytes"] {
                let bad = with("crates/daemon/src/run.rs", &format!("{call}!(\"{path}\")\n"));
                assert_eq!(!bad.is_empty(), outside, "{call} {path}: {bad:?}");
            }
            let bad = with("xtask/src/run.rs", &format!("include_str!(\"{path}\")\n"));
            assert_eq!(bad, Vec::<String>::new());
        }
    }

    #[test]
    fn a_let_chain_below_its_rust_is_found() {
        let chain =
            "fn f() {\n    if let Some(a) = g()\n        && a > 1\n    {\n    }\n    if b && c {\n    }\n}\n";
        for (promised, count) in [("1.85", 1), ("1.88", 0), ("1.95.0", 0)] {
            let mut files = clean();
            files.insert(
                "crates/x/Cargo.toml".into(),
                format!("rust-version = \"{promised}\"\n\n[lints]\nworkspace = true\n"),
            );
            files.insert("crates/x/src/run.rs".into(), chain.into());
            assert_eq!(check(&files).len(), count, "{promised}");
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        for name in ["crates/daemon/src/utils.rs", "crates/daemon/src/helpers/mod.rs"] {
            assert_eq!(with(name, "").len(), 1, "{name}");
        }
    }

    #[test]
    fn missing_habits_are_found() {
        for krate in CLOCKLESS {
            let mut files = clean();
            files.remove(&format!("{krate}/clippy.toml"));
            assert_eq!(check(&files).len(), 2);
            files.insert(
                format!("{krate}/clippy.toml"),
                BANS.replace("SystemTime::now", "SystemTime::then"),
            );
            assert_eq!(check(&files).len(), 1);
        }
        assert_eq!(with("crates/daemon/src/lib.rs", "//! Runs\n").len(), 1);
        assert_eq!(with("crates/daemon/Cargo.toml", "[package]\n").len(), 1);
    }
}
