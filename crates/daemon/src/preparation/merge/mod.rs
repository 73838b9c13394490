//! What becomes of a file that two templates bring, or that is there already
//!
//! ```text
//! .yml .yaml .toml .json .properties     sections are merged, what the newer file says wins
//! .txt .cfg .conf .ini .list             lines that are not there yet are added
//! everything else                        the newer file
//! ```
//!
//! The structured ones are edited and not written anew: what the newer file does not change keeps its bytes, comments, order,
//! line ends, byte order mark and encoding. The result is read again and has to hold exactly what merging the values of both
//! files gives. Where it does not, or where one of them is no tree of sections, the newer file takes its place as it is: it
//! is what somebody wrote as a whole and saw working, whereas values written out anew would lose what nobody can give back, and a
//! guess would be a configuration that nobody wrote. Only a newer file that its format does not allow at all, which no server would
//! read, is left out. Whoever prepares the instance is told by a note.

pub(super) mod json;
mod lines;
mod properties;
#[cfg(test)]
mod tests;
mod text;
pub(super) mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use prexorcloud_security::files::without_mark;

use text::Text;

/// Larger files are no configuration and are replaced
pub(super) const MAX_FILE: u64 = 8 * 1024 * 1024;

/// A file made of two
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) bytes: Vec<u8>,
    /// Why it is not both files in one, if it is not
    pub(super) note: Option<String>,
}

/// Whether a file of this name is merged, and not replaced
pub(super) fn is_merged(name: &str) -> bool {
    Kind::of(name).is_some()
}

/// Puts `overlay` over `base`, both files of this name
pub(super) fn merge(name: &str, base: &[u8], overlay: &[u8]) -> Merged {
    let replaced = |note: Option<String>| Merged {
        bytes: overlay.to_vec(),
        note,
    };
    // What most files of a static instance are from the second start on.
    if base == overlay {
        return replaced(None);
    }
    let Some(kind) = Kind::of(name) else {
        return replaced(None);
    };
    if base.len().max(overlay.len()) as u64 > MAX_FILE {
        return replaced(Some(format!(
            "it is larger than {MAX_FILE} bytes and was replaced as a whole"
        )));
    }
    let Kind::Sections(format) = kind else {
        return Merged {
            bytes: lines::append(base, overlay),
            note: None,
        };
    };
    match format.merge(base, overlay) {
        Ok(bytes) => Merged { bytes, note: None },
        Err(Problem::Overlay(problem)) => Merged {
            bytes: base.to_vec(),
            note: Some(format!(
                "the file to merge into it cannot be read and is left out: {problem}"
            )),
        },
        Err(Problem::Base(problem)) => replaced(Some(format!(
            "the former file cannot be read and was replaced: {problem}"
        ))),
        Err(Problem::Edit(problem)) => replaced(Some(format!(
            "the files cannot be merged exactly, and the newer one was taken: {problem}"
        ))),
    }
}

/// Whether a text is of the format that the name of its file says; `None` if that has no rules that a text could break
pub(super) fn is_readable(name: &str, text: &str) -> Option<bool> {
    let text = without_mark(text);
    match Kind::of(name)? {
        Kind::Lines | Kind::Sections(Format::Properties) => None,
        Kind::Sections(Format::Toml) => Some(toml::values(text).is_ok()),
        Kind::Sections(format) => Some(!format.is_malformed(text)),
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Sections(Format),
    Lines,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        Some(if ends(&[".yml", ".yaml"]) {
            Self::Sections(Format::Yaml)
        } else if ends(&[".toml"]) {
            Self::Sections(Format::Toml)
        } else if ends(&[".json"]) {
            Self::Sections(Format::Json)
        } else if ends(&[".properties"]) {
            Self::Sections(Format::Properties)
        } else if ends(&[".txt", ".cfg", ".conf", ".ini", ".list"]) {
            Self::Lines
        } else {
            return None;
        })
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Format {
    Yaml,
    Toml,
    Json,
    Properties,
}

/// Whose fault it is that two files are not merged
#[derive(Debug)]
enum Problem {
    Base(String),
    Overlay(String),
    Edit(String),
}

impl Format {
    fn merge(self, base: &[u8], overlay: &[u8]) -> Result<Vec<u8>, Problem> {
        let newer = Text::read(overlay);
        let wanted =
            self.values(&newer.content)
                .map_err(|problem| match self.is_malformed(&newer.content) {
                    true => Problem::Overlay(problem),
                    false => Problem::Edit(problem),
                })?;
        let former = Text::read(base);
        let values = self.values(&former.content).map_err(Problem::Base)?;
        let wanted = values.overlaid(&wanted);
        if wanted == values {
            return Ok(base.to_vec());
        }
        let edited = self
            .edit(&former.content, &newer.content)
            .map_err(Problem::Edit)?;
        let bytes = former
            .write(&edited, newer.charset, self == Self::Properties)
            .map_err(Problem::Edit)?;
        // What was written, and not what was meant to be.
        match self.values(&Text::read(&bytes).content) {
            Ok(values) if values == wanted => Ok(bytes),
            Ok(_) => Err(Problem::Edit("its values would not be those of both".to_owned())),
            Err(problem) => Err(Problem::Edit(problem)),
        }
    }

    fn values(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Yaml => yaml::values(text),
            Self::Toml => toml::values(text),
            Self::Json => json::values(text),
            Self::Properties => properties::values(text),
        }
    }

    /// Whether a text that is no tree of sections here is not of this format at all
    fn is_malformed(self, text: &str) -> bool {
        match self {
            Self::Yaml => crate::yaml::is_malformed(text),
            Self::Json => serde_json::from_str::<serde::de::IgnoredAny>(text).is_err(),
            Self::Toml | Self::Properties => true,
        }
    }

    fn edit(self, base: &str, overlay: &str) -> Result<String, String> {
        match self {
            Self::Yaml => yaml::edit(base, overlay),
            Self::Toml => toml::edit(base, overlay),
            Self::Json => json::edit(base, overlay),
            Self::Properties => properties::edit(base, overlay),
        }
    }
}

/// What a file says, without how it says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Section(BTreeMap<String, Value>),
    List(Vec<Value>),
    /// Equal exactly when the value is the same thing to its reader
    Other(String),
}

impl Value {
    /// Sections of both, and of everything else what `newer` says
    fn overlaid(&self, newer: &Self) -> Self {
        match (self, newer) {
            (Self::Section(base), Self::Section(overlay)) => {
                let mut merged = base.clone();
                for (key, value) in overlay {
                    let value = match base.get(key) {
                        Some(former) => former.overlaid(value),
                        None => value.clone(),
                    };
                    merged.insert(key.clone(), value);
                }
                Self::Section(merged)
            }
            _ => newer.clone(),
        }
    }
}

/// A piece of text in the place of another
#[derive(Clone, Debug)]
struct Edit {
    bytes: Range<usize>,
    text: String,
}

/// Makes all edits, of which none may overlap; of two at one place the first comes first
fn apply(text: &str, mut edits: Vec<Edit>) -> Result<String, String> {
    edits.sort_by_key(|edit| edit.bytes.start);
    let mut edited = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for edit in edits {
        let kept = text
            .get(at..edit.bytes.start)
            .filter(|_| edit.bytes.start <= edit.bytes.end);
        edited.push_str(kept.ok_or("its places overlap")?);
        edited.push_str(&edit.text);
        at = edit.bytes.end;
    }
    edited.push_str(text.get(at..).ok_or("a place lies outside of it")?);
    Ok(edited)
}

/// The end of the line that `at` is in, its line end included
fn line_end(text: &str, at: usize) -> usize {
    match text.get(at..).and_then(|rest| rest.find('\n')) {
        Some(length) => at + length + 1,
        None => text.len(),
    }
}

/// The start of the line that `at` is in
fn line_start(text: &str, at: usize) -> usize {
    text.get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |end| end + 1)
}
