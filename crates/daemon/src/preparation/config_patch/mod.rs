//! Single values in a server's own configuration files
//!
//! A patch replaces the bytes of one value, or adds one line, and leaves every other byte as it is. The file is read before
//! and after: if anything but that value would be different to the server, or it is not clear which value is meant, the
//! patch is refused and the file stays.

pub(super) mod entry;
pub(super) mod properties;
mod toml;
mod yaml;

use std::io;

use prexorcloud_proto::{ConfigPatch, ConfigPatchOp};
use prexorcloud_security::files::without_mark;

use super::PreparationError;
use super::inside::{Inside, InsideError};
use entry::Entry;

/// Larger files are no configuration
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Stands for the trimmed content of `forwarding.secret` in the workspace
const FORWARDING_SECRET: &str = "%FORWARDING_SECRET%";

/// Applies the patches in order
///
/// A patch for a file that does not exist is passed over with a warning, as the server has not written it yet; one that
/// leads out of the workspace, or that this daemon cannot carry out exactly, is an error.
pub(super) fn apply(inside: &Inside, patches: &[ConfigPatch]) -> Result<(), PreparationError> {
    for patch in patches {
        if patch.file.trim().is_empty() || patch.key.is_empty() {
            continue;
        }
        carry_out(inside, patch).map_err(|problem| PreparationError::ConfigPatch {
            file: patch.file.clone(),
            is_transient: matches!(problem, Problem::Io(_)),
            problem: problem.to_string(),
        })?;
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Io(io::Error),
}

impl From<InsideError> for Problem {
    fn from(error: InsideError) -> Self {
        match error {
            InsideError::Io(error) => Self::Io(error),
            refused => Self::Refused(refused.to_string()),
        }
    }
}

fn refused(problem: impl Into<String>) -> Problem {
    Problem::Refused(problem.into())
}

fn carry_out(inside: &Inside, patch: &ConfigPatch) -> Result<(), Problem> {
    let path = inside.resolve(&patch.file)?;
    let op = ConfigPatchOp::try_from(patch.op)
        .map_err(|_| refused(format!("operation {} is not known here", patch.op)))?;
    let is_set = match op {
        ConfigPatchOp::Regex => {
            return Err(refused(
                "regular expressions are not supported by this daemon yet",
            ));
        }
        ConfigPatchOp::Set => true,
        ConfigPatchOp::Replace => false,
    };
    let Some(bytes) = inside.read(&path, MAX_FILE)? else {
        tracing::warn!(
            file = patch.file,
            "config patch passed over: there is no such file"
        );
        return Ok(());
    };
    let Some(value) = value(inside, &patch.value)? else {
        tracing::warn!(
            file = patch.file,
            "config patch passed over: forwarding.secret is missing"
        );
        return Ok(());
    };
    if value.contains(['\n', '\r']) || patch.key.contains(['\n', '\r']) {
        return Err(refused("key and value must be one line"));
    }
    let format = Format::of(&patch.file)
        .ok_or_else(|| refused("this daemon edits .properties, .toml, .yml and .yaml files only"))?;
    let text = String::from_utf8(bytes).map_err(|_| refused("it is not UTF-8 text"))?;
    match format.edit(&text, &patch.key, &value, is_set).map_err(refused)? {
        Some(patched) if patched != text => {
            inside.replace(&path, patched.as_bytes())?;
        }
        Some(_) => {}
        None => tracing::warn!(
            file = patch.file,
            key = patch.key,
            "config patch passed over: there is no such key"
        ),
    }
    Ok(())
}

/// The value with the secret in it; `None` if the secret is missing
fn value(inside: &Inside, value: &str) -> Result<Option<String>, Problem> {
    const FILE: &str = "forwarding.secret";
    if !value.contains(FORWARDING_SECRET) {
        return Ok(Some(value.to_owned()));
    }
    let of_secret = |error: InsideError| match Problem::from(error) {
        Problem::Refused(problem) => refused(format!("{FILE}: {problem}")),
        io => io,
    };
    let path = inside.resolve(FILE).map_err(of_secret)?;
    let Some(bytes) = inside.read(&path, MAX_FILE).map_err(of_secret)? else {
        return Ok(None);
    };
    let secret = String::from_utf8(bytes).map_err(|_| refused(format!("{FILE}: it is not UTF-8 text")))?;
    let secret = without_mark(&secret).trim();
    Ok((!secret.is_empty()).then(|| value.replace(FORWARDING_SECRET, secret)))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Format {
    Properties,
    Toml,
    Yaml,
}

impl Format {
    fn of(file: &str) -> Option<Self> {
        let name = file.to_lowercase();
        if name.ends_with(".properties") {
            Some(Self::Properties)
        } else if name.ends_with(".toml") {
            Some(Self::Toml)
        } else if name.ends_with(".yml") || name.ends_with(".yaml") {
            Some(Self::Yaml)
        } else {
            None
        }
    }

    /// The text with the value in it; `None` if there is no such key and none may be added
    fn edit(self, text: &str, key: &str, value: &str, is_set: bool) -> Result<Option<String>, String> {
        let body = without_mark(text);
        let mark = text.len() - body.len();
        if mark > 0 && self == Self::Properties {
            return Err(
                "it begins with a byte order mark, which servers take for part of the first key".to_owned(),
            );
        }
        let before = self.entries(body)?;
        let (at, new, path) = match self.find(&before, key)? {
            Some(entry) => {
                if let Some(obstacle) = entry.obstacle {
                    return Err(format!(
                        "line {}: {key} cannot be replaced: {obstacle}",
                        entry.line
                    ));
                }
                let new = format!("{}{}", entry.joint, self.rendered(value));
                (entry.bytes.clone(), new, entry.path.clone())
            }
            // A dotted key names sections of YAML, which may not be there either.
            None if is_set && !(self == Self::Yaml && key.contains('.')) => {
                let (at, line) = self.addition(body, &before, key, value);
                (at..at, line, Vec::new())
            }
            None => return Ok(None),
        };
        let mut patched = text.to_owned();
        let range = at.start + mark..at.end + mark;
        if patched.get(range.clone()).is_none() {
            return Err(format!("the place of {key} is not clear"));
        }
        patched.replace_range(range, &new);
        let after = self.entries(without_mark(&patched));
        match after.map(|after| self.is_exact(&before, &after, &path, key, value)) {
            Ok(true) => Ok(Some(patched)),
            _ => Err(format!("{key} cannot be changed without changing more than that")),
        }
    }

    fn entries(self, text: &str) -> Result<Vec<Entry>, String> {
        match self {
            Self::Properties => properties::entries(text),
            Self::Toml => toml::entries(text),
            Self::Yaml => yaml::entries(text),
        }
    }

    fn rendered(self, value: &str) -> String {
        match self {
            Self::Properties => properties::rendered(value),
            Self::Toml => toml::rendered(value),
            Self::Yaml => yaml::rendered(value),
        }
    }

    /// The value that `key` means: the one with exactly that path, else the only one of that name in any section
    fn find<'e>(self, entries: &'e [Entry], key: &str) -> Result<Option<&'e Entry>, String> {
        let sections: Vec<&str> = key.split('.').collect();
        let with_path = |path: &[&str]| -> Vec<&'e Entry> {
            let found = entries.iter().filter(|entry| entry.path == path);
            found.collect()
        };
        let mut found = with_path(&[key]);
        if found.is_empty() && self != Self::Properties {
            found = with_path(&sections);
            if found.is_empty() && sections.len() == 1 {
                let named = entries
                    .iter()
                    .filter(|entry| entry.path.last().is_some_and(|name| name == key));
                found = named.collect();
            }
        }
        match found.as_slice() {
            [] => Ok(None),
            [entry] => {
                // A section that is there twice is read in different ways.
                let parents = (1..entry.path.len()).filter_map(|length| entry.path.get(..length));
                for parent in parents {
                    if entries.iter().filter(|other| other.path == parent).count() > 1 {
                        return Err(format!("{} is there twice", parent.join(".")));
                    }
                }
                Ok(Some(entry))
            }
            several => {
                let lines: Vec<String> = several.iter().map(|entry| entry.line.to_string()).collect();
                Err(format!(
                    "{key} is there {} times, in lines {}",
                    several.len(),
                    lines.join(", ")
                ))
            }
        }
    }

    /// Where a new line goes, and the line with its ends
    fn addition(self, text: &str, entries: &[Entry], key: &str, value: &str) -> (usize, String) {
        let end = match text.find('\n') {
            Some(at) if text.get(..at).is_some_and(|line| line.ends_with('\r')) => "\r\n",
            _ => "\n",
        };
        let line = match self {
            Self::Properties => properties::line(key, value),
            Self::Toml => toml::line(key, value),
            Self::Yaml => yaml::line(key, value),
        };
        let at = if self == Self::Toml
            && entries
                .iter()
                .any(|entry| entry.path.len() > 1 || entry.obstacle.is_some())
        {
            // Before the first section, or it would be part of the last one.
            let own = entries
                .iter()
                .filter(|entry| entry.path.len() == 1 && entry.obstacle.is_none());
            let last = own.map(|entry| entry.bytes.end).max().unwrap_or(0);
            let rest = text.get(last..).unwrap_or_default();
            match (last, rest.find('\n')) {
                (0, _) => 0,
                (_, Some(at)) => last + at + 1,
                (_, None) => text.len(),
            }
        } else {
            text.len()
        };
        let before = text.get(..at).unwrap_or_default();
        if before.is_empty() || before.ends_with('\n') {
            (at, format!("{line}{end}"))
        } else {
            (at, format!("{end}{line}{end}"))
        }
    }

    /// Whether the one value is what was wanted, and everything else is what it was
    fn is_exact(self, before: &[Entry], after: &[Entry], path: &[String], key: &str, value: &str) -> bool {
        let others = |entries: &[Entry], path: &[String]| {
            let mut others: Vec<(Vec<String>, String)> = entries
                .iter()
                .filter(|entry| entry.path != path)
                .map(|entry| (entry.path.clone(), entry.seal.clone()))
                .collect();
            others.sort();
            others
        };
        // A line that was added has the path that the file gives it.
        let added = || {
            let mut new = after.iter().filter(|entry| {
                entry.path.last().is_some_and(|name| name == key) || entry.path.join(".") == key
            });
            new.find(|entry| before.iter().all(|former| former.path != entry.path))
                .map(|entry| entry.path.clone())
        };
        let Some(path) = (if path.is_empty() {
            added()
        } else {
            Some(path.to_vec())
        }) else {
            return false;
        };
        let mut target = after.iter().filter(|entry| entry.path == path);
        let is_there = match (target.next(), target.next()) {
            (Some(entry), None) => match self {
                Self::Properties => properties::meaning(value).as_ref() == Some(&entry.value),
                Self::Toml | Self::Yaml => entry.value.eq_ignore_ascii_case(value),
            },
            _ => false,
        };
        // Sections that a dotted key brings with it.
        let new_sections = |entry: &&Entry| {
            entry.seal != "{}"
                || before.iter().any(|former| former.path == entry.path)
                || !path.starts_with(&entry.path)
        };
        let kept: Vec<Entry> = after.iter().filter(new_sections).cloned().collect();
        is_there && others(before, &path) == others(&kept, &path)
    }
}

#[cfg(test)]
mod tests;
