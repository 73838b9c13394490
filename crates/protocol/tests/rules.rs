//! The pages below `docs/` against the tree: each link leads somewhere, each rule stands where its page says, and once
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Text and target of each link to a file.
fn links(page: &str) -> Vec<(&str, &str)> {
    page.split("](")
        .zip(page.split("](").skip(1))
        .filter_map(|(before, after)| {
            let text = &before[before.rfind('[')? + 1..];
            let target = &after[..after.find(')')?];
            (!target.starts_with('#') && !target.contains("://")).then_some((text, target))
        })
        .collect()
}

/// How often `item` is defined in a source: as a constant, a function, a type, or a variant.
fn definitions(source: &str, item: &str) -> usize {
    const BEFORE: [&str; 8] = [
        "pub ",
        "pub(crate) ",
        "pub(super) ",
        "const ",
        "static ",
        "fn ",
        "struct ",
        "enum ",
    ];
    // Nothing stands before the name of a variant.
    let variant = item.starts_with(char::is_uppercase) && item.contains(char::is_lowercase);
    let shipped = source.split("#[cfg(test)]").next().unwrap_or_default();
    shipped
        .lines()
        .filter(|line| {
            let line = line.trim_start();
            let mut rest = line;
            while let Some(shorter) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
                rest = shorter;
            }
            let whole = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            (variant || rest.len() < line.len()) && rest.strip_prefix(item).is_some_and(whole)
        })
        .count()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn links_of_the_pages_lead_to_files() {
    let docs = root().join("docs");
    let mut pages = vec![root().join("ARCHITECTURE.md")];
    pages.extend(
        std::fs::read_dir(&docs)
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    for page in pages {
        for (_, target) in links(&read(&page)) {
            let file = target.split('#').next().unwrap();
            let path = page.parent().unwrap().join(file);
            assert!(path.exists(), "{}: {target} does not exist", page.display());
        }
    }
    assert!(
        links(&read(&root().join("ARCHITECTURE.md")))
            .iter()
            .any(|(_, target)| *target == "docs/rules.md"),
        "ARCHITECTURE.md leads to the rules"
    );
}

#[test]
fn ten_rules_stand_where_their_page_says() {
    let page = read(&root().join("docs/rules.md"));
    let rules: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert_eq!(rules.len(), 10);
    for rule in rules {
        let [(item, target)] = links(rule)[..] else {
            panic!("one place for each rule: {rule}");
        };
        let item = item.trim_matches('`');
        let source = read(&root().join("docs").join(target));
        assert_eq!(definitions(&source, item), 1, "{item} in {target}");
    }
}

#[test]
fn the_tests_that_the_parity_page_names_are_where_it_says() {
    let page = read(&root().join("docs/java-parity.md"));
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let mut named = 0;
    for row in rows.filter(|row| !row.ends_with("| Shown by |")) {
        let tests = links(row);
        assert!(!tests.is_empty(), "no test for {row}");
        for (test, target) in tests {
            let test = test.trim_matches('`');
            let source = read(&root().join("docs").join(target));
            let ways = [
                format!("fn {test}("),
                format!("def {test}("),
                format!("\"{test}\""),
            ];
            assert!(ways.iter().any(|way| source.contains(way)), "{test} in {target}");
            named += 1;
        }
    }
    assert!(named >= 40, "{named} tests are named");
}

#[test]
fn a_number_of_the_rules_is_written_once() {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut paths);
    }
    let page = read(&root().join("docs/rules.md"));
    let constants: Vec<_> = links(&page)
        .into_iter()
        .map(|(item, _)| item.trim_matches('`'))
        .filter(|item| item.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert_eq!(constants.len(), 4, "{constants:?}");
    let limit = "100 * 1024 * 1024";
    let mut limits = 0;
    for item in constants {
        let places: Vec<_> = paths
            .iter()
            .filter(|path| {
                let source = read(path);
                let mine = source
                    .lines()
                    .any(|line| line.contains(&format!("const {item}: ")));
                limits += usize::from(mine && source.contains(limit));
                mine
            })
            .collect();
        assert_eq!(places.len(), 1, "{item}: {places:?}");
    }
    assert_eq!(limits, 1, "{limit} stands beside its constant");
}
