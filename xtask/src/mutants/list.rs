//! The committed list: which change goes where, and which tests must notice it
//!
//! A folder of TOML files, one per area, each a sequence of `[[mutant]]` tables. The texts to find are exact, so a list
//! can fall behind the sources; [`faults`] says where it has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::workspace::Workspace;

/// One change of behaviour
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What is wrong with it, in words: `pong-of-an-older-ping-counts`.
    pub name: String,
    /// The file it is planted in, from the root of the repository.
    pub file: String,
    /// The text that gives way; it stands in the file exactly once.
    pub find: String,
    /// What stands there instead.
    pub replace: String,
    /// The tests that notice, the likeliest first.
    pub tests: Vec<Target>,
    /// Why no test can notice, for a change that is none.
    pub equivalent: Option<String>,
}

/// Tests as the list names them: `heartbeat`, `heartbeat::wrong_pongs`, `lib::reconnect`, `prexorcloud-transport/codec`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    /// The package, if it is not the one that the mutant's file belongs to.
    pub package: Option<String>,
    /// A file or folder below `tests`, or `lib` for the tests inside of the library.
    pub name: String,
    /// Only tests with this in their name.
    pub filter: Option<String>,
}

/// The name that stands for the tests inside of a library.
pub const LIB: &str = "lib";

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (target, filter) = match text.split_once("::") {
            Some((target, filter)) => (target, Some(filter)),
            None => (text.as_str(), None),
        };
        let (package, name) = match target.split_once('/') {
            Some((package, name)) => (Some(package), name),
            None => (None, target),
        };
        if name.is_empty() || package.is_some_and(str::is_empty) || filter.is_some_and(str::is_empty) {
            return Err(format!(
                "{text:?} names no tests; write target, target::filter or package/target::filter"
            ));
        }
        Ok(Self {
            package: package.map(str::to_owned),
            name: name.to_owned(),
            filter: filter.map(str::to_owned),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(package) = &self.package {
            write!(f, "{package}/")?;
        }
        f.write_str(&self.name)?;
        match &self.filter {
            Some(filter) => write!(f, "::{filter}"),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    mutant: Vec<Mutant>,
}

/// Reads one file of the list.
///
/// # Errors
/// If it is not TOML, or a table lacks a key or has one too many.
pub fn parse(text: &str) -> Result<Vec<Mutant>> {
    Ok(toml::from_str::<Document>(text)?.mutant)
}

/// Reads every `.toml` file in `folder`, in the order of their names.
///
/// # Errors
/// If there is none, or one cannot be read; the error names it.
pub fn read(folder: &Path) -> Result<Vec<Mutant>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "there is no list in {}", folder.display());
    paths.sort();
    let mut mutants = Vec::new();
    for path in paths {
        let name = path.display();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        mutants.extend(parse(&text).with_context(|| format!("{name} is no list of mutants"))?);
    }
    Ok(mutants)
}

/// What is wrong with the list, as sentences by the position of the mutant.
pub fn faults(mutants: &[Mutant], root: &Path, workspace: &Workspace) -> BTreeMap<usize, String> {
    let mut faults = BTreeMap::new();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut texts: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let text = texts
            .entry(&mutant.file)
            .or_insert_with(|| std::fs::read_to_string(root.join(&mutant.file)).ok());
        let again = names.insert(&mutant.name, index).is_some();
        let fault = if again {
            Some("another mutant has the same name".to_owned())
        } else {
            fault(mutant, text.as_deref(), workspace)
        };
        if let Some(fault) = fault {
            faults.insert(index, fault);
        }
    }
    faults
}

fn fault(mutant: &Mutant, text: Option<&str>, workspace: &Workspace) -> Option<String> {
    let file = &mutant.file;
    if !is_in_words(&mutant.name) {
        return Some("a name is words of a-z and 0-9 with hyphens between them".to_owned());
    }
    let Some(text) = text else {
        return Some(format!("there is no file {file}"));
    };
    if mutant.find.is_empty() || mutant.find == mutant.replace {
        return Some("it changes nothing".to_owned());
    }
    match text.matches(&mutant.find).count() {
        0 => return Some(format!("what it replaces does not stand in {file} (any more)")),
        1 => {}
        count => {
            return Some(format!(
                "what it replaces stands in {file} {count} times, not once"
            ));
        }
    }
    if mutant
        .equivalent
        .as_ref()
        .is_some_and(|reason| reason.trim().is_empty())
    {
        return Some("an equivalent mutant says why it is one".to_owned());
    }
    if mutant.tests.is_empty() {
        return Some("it names no tests".to_owned());
    }
    mutant
        .tests
        .iter()
        .find_map(|target| workspace.resolve(file, target).err())
}

fn is_in_words(name: &str) -> bool {
    name.contains('-')
        && name.split('-').all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
}

/// Chooses `count` of the mutants at these positions by lot, and keeps their order
///
/// The lot of a mutant depends on its name and the seed alone, so a longer list seldom changes the choice.
pub fn sample(mutants: &[Mutant], positions: &[usize], count: usize, seed: u64) -> Vec<usize> {
    let lot = |position: &usize| {
        let name = mutants.get(*position).map_or("", |mutant| mutant.name.as_str());
        Sha256::digest(format!("{seed} {name}")).to_vec()
    };
    let mut chosen = positions.to_vec();
    chosen.sort_by_cached_key(lot);
    chosen.truncate(count);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "
        [[mutant]]
        name = 'one-too-many'
        file = 'src/lib.rs'
        find = 'a < b'
        replace = 'a <= b'
        tests = ['behaviour']
    ";

    fn named(name: &str) -> Mutant {
        let mut mutants = parse(ENTRY).unwrap();
        let mut mutant = mutants.remove(0);
        mutant.name = name.to_owned();
        mutant
    }

    #[test]
    fn an_entry_is_read_and_texts_may_have_several_lines() {
        let text = format!(
            "{ENTRY}\n[[mutant]]\nname = 'two-lines'\nfile = 'f'\nfind = '''\nif a {{\n    b();\n'''\n\
             replace = '''\nif !a {{\n    b();\n'''\ntests = ['lib::x::y', 'other/t']\nequivalent = 'why'\n"
        );
        let mutants = parse(&text).unwrap();
        assert_eq!(mutants.len(), 2);
        assert_eq!(mutants[0].equivalent, None);
        assert_eq!(
            mutants[1].find, "if a {\n    b();\n",
            "the line break after ''' is not part of it"
        );
        let targets: Vec<_> = mutants[1].tests.iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["lib::x::y", "other/t"]);
        assert_eq!(mutants[1].tests[0].filter.as_deref(), Some("x::y"));
        assert_eq!(mutants[1].tests[1].package.as_deref(), Some("other"));
    }

    #[test]
    fn an_entry_that_lacks_or_misspells_a_key_is_an_error() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error(&ENTRY.replace("find =", "# ")).contains("missing field `find`"));
        assert!(error(&ENTRY.replace("tests =", "test =")).contains("unknown field `test`"));
        assert!(error(&ENTRY.replace("'behaviour'", "'::x'")).contains("names no tests"));
        assert!(error(&ENTRY.replace("[[mutant]]", "[[mutants]]")).contains("unknown field `mutants`"));
        assert!(error("mutant = 'x").contains("TOML parse error"));
    }

    #[test]
    fn a_folder_without_a_list_and_a_broken_file_are_errors_that_name_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            read(folder.path())
                .unwrap_err()
                .to_string()
                .starts_with("there is no list in ")
        );
        std::fs::write(folder.path().join("b.toml"), ENTRY).unwrap();
        std::fs::write(folder.path().join("readme.md"), "no list").unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 1);
        std::fs::write(folder.path().join("a.toml"), "x").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("a.toml is no list of mutants"), "{error}");
    }

    #[test]
    fn whatever_is_wrong_with_an_entry_is_said() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("src")).unwrap();
        std::fs::write(root.path().join("src/lib.rs"), "a < b; c < d; c < d;").unwrap();
        let workspace = Workspace::of_one("tiny", &["behaviour"]);
        let said = |change: &dyn Fn(&mut Mutant)| {
            let mut mutant = named("one-too-many");
            change(&mut mutant);
            faults(&[mutant], root.path(), &workspace)
                .remove(&0)
                .unwrap_or_default()
        };
        assert_eq!(said(&|_| {}), "");
        assert_eq!(
            said(&|mutant| mutant.find = "c < d".into()),
            "what it replaces stands in src/lib.rs 2 times, not once"
        );
        assert_eq!(
            said(&|mutant| mutant.find = "e".into()),
            "what it replaces does not stand in src/lib.rs (any more)"
        );
        assert_eq!(
            said(&|mutant| mutant.replace = "a < b".into()),
            "it changes nothing"
        );
        assert_eq!(
            said(&|mutant| mutant.file = "src/gone.rs".into()),
            "there is no file src/gone.rs"
        );
        assert_eq!(said(&|mutant| mutant.tests.clear()), "it names no tests");
        assert_eq!(
            said(&|mutant| mutant.equivalent = Some(" ".into())),
            "an equivalent mutant says why it is one"
        );
        assert_eq!(
            said(&|mutant| mutant.tests[0].name = "gone".into()),
            "package tiny has no tests gone; it has behaviour, lib"
        );
        assert_eq!(
            said(&|mutant| mutant.tests[0].package = Some("other".into())),
            "there is no package other"
        );
        for name in ["word", "Two-words", "two--words", "two-words-", "two_words-x"] {
            assert!(
                said(&|mutant| mutant.name = name.into()).starts_with("a name is words"),
                "{name}"
            );
        }
        let twice = faults(
            &[named("a-b"), named("a-c"), named("a-b")],
            root.path(),
            &workspace,
        );
        assert_eq!(
            twice,
            BTreeMap::from([(2, "another mutant has the same name".to_owned())])
        );
    }

    #[test]
    fn a_sample_depends_on_seed_and_names_alone() {
        let names: Vec<_> = (0..50).map(|index| named(&format!("mutant-{index}"))).collect();
        let all: Vec<_> = (0..names.len()).collect();
        let chosen = |mutants: &[Mutant], seed| -> Vec<String> {
            let all: Vec<_> = (0..mutants.len()).collect();
            sample(mutants, &all, 5, seed)
                .into_iter()
                .map(|index| mutants[index].name.clone())
                .collect()
        };
        let first = chosen(&names, 1);
        assert_eq!(first.len(), 5);
        assert_eq!(first, chosen(&names, 1));
        assert_ne!(first, chosen(&names, 2));
        let mut backwards = names.clone();
        backwards.reverse();
        let mut same = chosen(&backwards, 1);
        same.reverse();
        assert_eq!(first, same, "the order of the list does not matter");
        assert_eq!(sample(&names, &all, 99, 1), all);
        assert_eq!(sample(&names, &[3, 4], 1, 1).len(), 1);
    }
}
