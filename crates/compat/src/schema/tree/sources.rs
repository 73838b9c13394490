//! Collects the files of a tree and everything that they import, parsed but not yet understood

use std::collections::{BTreeMap, BTreeSet};

use prost_types::FileDescriptorProto;
use protox::file::{File, FileResolver as _, GoogleFileResolver};

use super::Source;
use super::problem::{Problem, line_at, line_of, problems};
use super::screen::objection_to;

/// A file that could be parsed.
pub(super) struct Parsed {
    pub(super) text: String,
    /// With positions, and with names as they are written.
    pub(super) proto: FileDescriptorProto,
}

/// Every file that a tree consists of or imports.
pub(super) struct Sources {
    /// By name; `None` for what is missing or cannot be parsed.
    pub(super) files: BTreeMap<String, Option<Parsed>>,
    /// Which of them are imported only.
    pub(super) imports: BTreeSet<String>,
    pub(super) problems: BTreeSet<Problem>,
}

impl Sources {
    pub(super) fn read(
        tree: BTreeMap<String, Source>,
        mut import: impl FnMut(&str) -> Option<Source>,
    ) -> Self {
        let google = GoogleFileResolver::new();
        let mut sources = Self {
            files: BTreeMap::new(),
            imports: BTreeSet::new(),
            problems: BTreeSet::new(),
        };
        let own: BTreeSet<_> = tree.keys().cloned().collect();
        let mut pending = Vec::new();
        for (name, source) in tree {
            let parsed = sources.parse(&name, source);
            pending.extend(parsed.as_ref().map(|_| name.clone()));
            sources.files.insert(name, parsed);
        }
        while let Some(name) = pending.pop() {
            for (index, dependency) in sources.dependencies(&name).into_iter().enumerate() {
                let parsed = if own.contains(&dependency) || sources.imports.contains(&dependency) {
                    None
                } else if let Ok(file) = google.open_file(&dependency) {
                    Some(Some(Parsed {
                        text: String::new(),
                        proto: file.file_descriptor_proto().clone(),
                    }))
                } else {
                    import(&dependency).map(|source| sources.parse(&dependency, source))
                };
                if let Some(parsed) = parsed {
                    pending.extend(parsed.as_ref().map(|_| dependency.clone()));
                    sources.imports.insert(dependency.clone());
                    sources.files.insert(dependency, parsed);
                } else if !sources.files.contains_key(&dependency) {
                    sources.blame_import(&name, index, format!("import '{dependency}' not found"));
                }
            }
        }
        sources
    }

    fn dependencies(&mut self, name: &str) -> Vec<String> {
        let Some(Some(parsed)) = self.files.get(name) else {
            return Vec::new();
        };
        let dependencies = parsed.proto.dependency.clone();
        let mut seen = BTreeSet::new();
        for (index, dependency) in dependencies.iter().enumerate() {
            if !seen.insert(dependency) {
                self.blame_import(name, index, format!("import '{dependency}' was listed twice"));
            }
        }
        dependencies
    }

    /// Adds a problem at the line of an import statement.
    pub(super) fn blame_import(&mut self, name: &str, index: usize, reason: String) {
        let proto = self.files.get(name).and_then(|file| Some(&file.as_ref()?.proto));
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        self.problems.insert(Problem {
            file: name.to_owned(),
            line: proto.and_then(|proto| line_of(proto, &[3, index])),
            reason,
        });
    }

    fn parse(&mut self, name: &str, source: Source) -> Option<Parsed> {
        let (line, reason) = match text_of(source) {
            Ok(text) => match objection_to(&text) {
                Some((line, reason)) => (Some(line), reason),
                None => match File::from_source(name, &text) {
                    Ok(file) => {
                        return Some(Parsed {
                            text,
                            proto: file.into(),
                        });
                    }
                    Err(error) => {
                        self.problems.extend(problems(name, &text, &error));
                        return None;
                    }
                },
            },
            Err(blame) => blame,
        };
        self.problems.insert(Problem {
            file: name.to_owned(),
            line,
            reason,
        });
        None
    }
}

/// The text without a byte order mark.
fn text_of(source: Source) -> Result<String, (Option<u32>, String)> {
    let bytes = source.map_err(|reason| (None, reason))?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let line = line_at(error.as_bytes(), error.utf8_error().valid_up_to());
        (Some(line), "is not valid UTF-8".to_owned())
    })?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}
