//! Reads folders of `.proto` files and compiles them, or says exactly why it cannot

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use prexorcloud_compat::schema::{Problem, Source, Tree};

/// Why a folder cannot be read; at least one problem, sorted. Each names its file as given on the command line and below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Every problem that was found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreadable {}

fn problem(path: &Path, reason: impl fmt::Display) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: None,
        reason: reason.to_string(),
    }
}

/// Compiles every `.proto` file below `root`; imports are paths from `root`, or from the first of `includes` that has them.
///
/// # Errors
/// Everything that makes the folder unreadable: a file that cannot be opened or compiled, a missing import, an include path
/// that is no folder, or no `.proto` file at all.
pub fn read(root: &Path, includes: &[PathBuf]) -> Result<Tree, Unreadable> {
    let mut problems = BTreeSet::new();
    let mut paths = Vec::new();
    for folder in includes.iter().map(PathBuf::as_path).chain([root]) {
        match std::fs::metadata(folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                problems.insert(problem(folder, "is not a folder"));
            }
            Err(error) => {
                problems.insert(problem(folder, error));
            }
        }
    }
    if root.is_dir() {
        walk(root, &mut Vec::new(), &mut paths, &mut problems);
    }
    if paths.is_empty() && problems.is_empty() {
        problems.insert(problem(root, "holds no .proto file"));
    }
    let mut files = BTreeMap::new();
    // Where the files are that the compiler knows by name.
    let places = RefCell::new(BTreeMap::new());
    for path in paths {
        match name_of(root, &path) {
            Some(name) => {
                files.insert(name.clone(), source(&path));
                places.borrow_mut().insert(name, path);
            }
            None => {
                problems.insert(problem(&path, "has a name that is not valid UTF-8"));
            }
        }
    }
    let compiled = Tree::compile(files, |name| {
        let path = included(includes, name)?;
        let source = source(&path);
        places.borrow_mut().insert(name.to_owned(), path);
        Some(source)
    });
    let found = match compiled {
        Ok(tree) if problems.is_empty() => return Ok(tree),
        Ok(_) => Vec::new(),
        Err(found) => found,
    };
    let places = places.into_inner();
    problems.extend(found.into_iter().map(|problem| {
        let place = places.get(&problem.file).cloned();
        let file = place.unwrap_or_else(|| root.join(&problem.file));
        let mut reason = problem.reason;
        if reason.starts_with("import ") && reason.ends_with(" not found") {
            reason
                .push_str(" (imports are resolved from the folder that was given, and from each --include)");
        }
        Problem {
            file: file.display().to_string(),
            reason,
            ..problem
        }
    }));
    Err(Unreadable {
        problems: problems.into_iter().collect(),
    })
}

/// The file that an import means, if there is one below an include path. Never one elsewhere.
fn included(includes: &[PathBuf], name: &str) -> Option<PathBuf> {
    let inside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    includes
        .iter()
        .filter(|_| inside)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn source(path: &Path) -> Source {
    std::fs::read(path).map_err(|error| error.to_string())
}

/// The name of a file as others import it: its path from `root`.
fn name_of(root: &Path, path: &Path) -> Option<String> {
    let mut name = String::new();
    for part in path.strip_prefix(root).unwrap_or(path) {
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(part.to_str()?);
    }
    Some(name)
}

/// Collects `.proto` files; follows links, but not back into a folder that is being walked.
fn walk(
    folder: &Path,
    ancestors: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
    problems: &mut BTreeSet<Problem>,
) {
    let real = match folder.canonicalize() {
        Ok(real) => real,
        Err(error) => {
            problems.insert(problem(folder, error));
            return;
        }
    };
    if ancestors.contains(&real) {
        return;
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            problems.insert(problem(folder, error));
            return;
        }
    };
    ancestors.push(real);
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                problems.insert(problem(folder, error));
                continue;
            }
        };
        let is_proto = path.extension().is_some_and(|extension| extension == "proto");
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => walk(&path, ancestors, files, problems),
            Ok(_) if is_proto => files.push(path),
            Ok(_) => {}
            Err(error) if is_proto => {
                problems.insert(problem(&path, error));
            }
            // A dangling link that is no .proto file does not matter.
            Err(_) => {}
        }
    }
    ancestors.pop();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_import_means_a_file_below_the_include_path_only() {
        let dir = tempfile::tempdir().unwrap();
        let (include, outside) = (dir.path().join("lib"), dir.path().join("outside.proto"));
        std::fs::create_dir(&include).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::write(include.join("inside.proto"), "").unwrap();
        let found = |name: &str| included(std::slice::from_ref(&include), name);
        assert_eq!(found("inside.proto"), Some(include.join("inside.proto")));
        assert_eq!(found("../outside.proto"), None);
        assert_eq!(found(&outside.display().to_string()), None);
    }
}
