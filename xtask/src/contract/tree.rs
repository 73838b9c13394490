//! Reads a folder of `.proto` files into descriptors, or says exactly why it cannot

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::{DescriptorPool, DynamicMessage};

/// A compiled folder of `.proto` files.
pub struct Tree {
    /// Every file of the folder and every well-known file that it imports, by path from the folder.
    pub descriptors: FileDescriptorSet,
    /// The custom options of each element, as text: `prost_types` has no place for them.
    pub custom_options: BTreeMap<String, String>,
}

/// One reason why a folder cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file or folder, as given on the command line and below.
    pub file: String,
    /// From 1, where the parser knows it.
    pub line: Option<u32>,
    /// What is wrong, in one sentence.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.reason),
            None => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

/// Why a folder cannot be read; at least one problem, sorted.
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

/// How deep braces and brackets may nest. The parser recurses; real schemas stay below twenty.
const DEEPEST: usize = 100;

impl Tree {
    /// Compiles every `.proto` file below `root`; imports are paths from `root`, or well-known files.
    ///
    /// # Errors
    /// Everything that makes the folder unreadable: a file that cannot be opened or parsed, a missing import, a symbol that
    /// is defined twice, an edition instead of a syntax, or no `.proto` file at all.
    pub fn read(root: &Path) -> Result<Self, Unreadable> {
        let mut problems = BTreeSet::new();
        let mut files = Vec::new();
        match std::fs::metadata(root) {
            Ok(found) if found.is_dir() => walk(root, &mut Vec::new(), &mut files, &mut problems),
            Ok(_) => {
                problems.insert(problem(root, "is not a folder"));
            }
            Err(error) => {
                problems.insert(problem(root, error));
            }
        }
        if files.is_empty() && problems.is_empty() {
            problems.insert(problem(root, "holds no .proto file"));
        }
        let mut sources = BTreeMap::new();
        for path in &files {
            match source(root, path) {
                Ok((name, text)) => {
                    sources.insert(name, text);
                }
                Err(found) => {
                    problems.insert(found);
                }
            }
        }
        if !problems.is_empty() {
            return Err(Unreadable {
                problems: problems.into_iter().collect(),
            });
        }
        compile(root, sources)
    }

    /// Gives both trees the well-known files of either.
    ///
    /// Whether a tree carries `google/protobuf/*.proto` itself, imports it or does not need it is no difference between
    /// schemas; what such a file says is.
    pub fn complete_well_known(&mut self, other: &mut Self) {
        let google = GoogleFileResolver::new();
        let missing = |here: &Self, there: &Self| -> Vec<_> {
            let has = |name: &str| here.descriptors.file.iter().any(|file| file.name() == name);
            there
                .descriptors
                .file
                .iter()
                .filter(|file| !has(file.name()))
                .filter_map(|file| google.open_file(file.name()).ok())
                .map(|file| file.file_descriptor_proto().clone())
                .collect()
        };
        let (for_self, for_other) = (missing(self, other), missing(other, self));
        self.descriptors.file.extend(for_self);
        other.descriptors.file.extend(for_other);
    }
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

/// The name of a file from `root` and its text without a byte order mark, if the compiler may see it.
fn source(root: &Path, path: &Path) -> Result<(String, String), Problem> {
    let mut name = String::new();
    for part in path.strip_prefix(root).unwrap_or(path) {
        let part = part
            .to_str()
            .ok_or_else(|| problem(path, "has a name that is not valid UTF-8"))?;
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(part);
    }
    let bytes = std::fs::read(path).map_err(|error| problem(path, error))?;
    let mut text = String::from_utf8(bytes).map_err(|_| problem(path, "is not valid UTF-8"))?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    // The parser recurses, and reports an edition as a mere syntax error.
    match objection_to(&text) {
        None => Ok((name, text)),
        Some((line, reason)) => Err(Problem {
            file: path.display().to_string(),
            line: Some(line),
            reason,
        }),
    }
}

/// The line and the reason why a source must not reach the compiler.
fn objection_to(text: &str) -> Option<(u32, String)> {
    let mut line = 1_u32;
    let mut depth = 0_usize;
    let mut first_word = true;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => line = line.saturating_add(1),
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => {
                let mut before = ' ';
                rest.next();
                for c in rest.by_ref() {
                    line = line.saturating_add(u32::from(c == '\n'));
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            '"' | '\'' => {
                while let Some(inside) = rest.next_if(|c| *c != '\n') {
                    if inside == c {
                        break;
                    }
                    if inside == '\\' {
                        rest.next_if(|c| *c != '\n');
                    }
                }
            }
            '{' | '[' | '<' | '(' => {
                depth += 1;
                if depth > DEEPEST {
                    return Some((line, format!("is nested more than {DEEPEST} levels deep")));
                }
            }
            '}' | ']' | '>' | ')' => depth = depth.saturating_sub(1),
            c if first_word && c.is_ascii_alphabetic() => {
                first_word = false;
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                if word == "edition" {
                    let reason = "editions are not supported; write the file in proto2 or proto3";
                    return Some((line, reason.into()));
                }
            }
            _ => {}
        }
    }
    None
}

/// The files of a tree by name, read once.
struct Sources(BTreeMap<String, String>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn compile(root: &Path, sources: BTreeMap<String, String>) -> Result<Tree, Unreadable> {
    let names: Vec<_> = sources.keys().cloned().collect();
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(sources));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    let mut problems = BTreeSet::new();
    for name in &names {
        if let Err(error) = compiler.open_file(name) {
            problems.insert(locate(root, &error));
        }
    }
    if !problems.is_empty() {
        return Err(Unreadable {
            problems: problems.into_iter().collect(),
        });
    }
    Ok(Tree {
        descriptors: compiler.file_descriptor_set(),
        custom_options: custom_options(&compiler.descriptor_pool()),
    })
}

/// Takes file and line out of a compiler error, whose `Debug` form is `file:line:column: reason`.
fn locate(root: &Path, error: &protox::Error) -> Problem {
    let text = format!("{error:?}");
    let (file, rest) = match error.file() {
        Some(file) => (
            root.join(file).display().to_string(),
            text.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')),
        ),
        None => (root.display().to_string(), None),
    };
    let line = rest
        .and_then(|rest| rest.split(':').next())
        .and_then(|line| line.parse().ok());
    let mut reason = error.to_string();
    if error.is_file_not_found() {
        reason.push_str(" (imports are resolved from the folder that was given)");
    }
    if let Some(source) = std::error::Error::source(error) {
        reason.push_str(&format!(": {source}"));
    }
    Problem { file, line, reason }
}

/// The extensions among the options of every element, by full name (files by path).
fn custom_options(pool: &DescriptorPool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut note = |element: String, options: DynamicMessage| {
        let mut values: Vec<_> = options
            .extensions()
            .map(|(extension, value)| format!("({}) = {value}", extension.full_name()))
            .collect();
        values.sort();
        if !values.is_empty() {
            found.insert(element, values.join(", "));
        }
    };
    for file in pool.files() {
        note(file.name().to_owned(), file.options());
    }
    for message in pool.all_messages() {
        note(message.full_name().to_owned(), message.options());
        for field in message.fields() {
            note(field.full_name().to_owned(), field.options());
        }
        for oneof in message.oneofs() {
            note(oneof.full_name().to_owned(), oneof.options());
        }
    }
    for declared in pool.all_enums() {
        note(declared.full_name().to_owned(), declared.options());
        for value in declared.values() {
            let element = format!("{}.{}", declared.full_name(), value.name());
            note(element, value.options());
        }
    }
    for service in pool.services() {
        note(service.full_name().to_owned(), service.options());
        for rpc in service.methods() {
            note(rpc.full_name().to_owned(), rpc.options());
        }
    }
    for extension in pool.all_extensions() {
        note(extension.full_name().to_owned(), extension.options());
    }
    found
}
