//! Sections of a manifest, read one field at a time, so that what is left over is known

use super::Version;
use super::manifest::ManifestError;
use super::yaml::Value;

/// Bytes of the longest id; it is a safe name of the protocol, too
pub(super) const MAX_ID: usize = 64;

/// Bytes of the longest name of a class, or of another text
pub(super) const MAX_TEXT: usize = 512;

pub(super) type Read<T> = Result<T, ManifestError>;

pub(super) fn wrong<T>(path: impl Into<String>, detail: impl Into<String>) -> Read<T> {
    Err(ManifestError {
        path: path.into(),
        detail: detail.into(),
    })
}

/// A section of the manifest, and where it stands
pub(super) struct Section<'a> {
    at: String,
    entries: &'a [(String, Value)],
}

impl<'a> Section<'a> {
    pub(super) fn of(at: &str, value: &'a Value) -> Read<Self> {
        match value {
            Value::Section(entries) => Ok(Self {
                at: at.to_owned(),
                entries,
            }),
            _ => wrong(at, "it has to be a section"),
        }
    }

    pub(super) fn path(&self, name: &str) -> String {
        match self.at.as_str() {
            "" => name.to_owned(),
            at => format!("{at}.{name}"),
        }
    }

    pub(super) fn only(&self, known: &[&str]) -> Read<()> {
        let unknown = self
            .entries
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()));
        match unknown {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().take(MAX_ID).collect();
                wrong(
                    self.path(&shown.escape_debug().to_string()),
                    "there is no such field",
                )
            }
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        let (_, value) = self.entries.iter().find(|(known, _)| known == name)?;
        Some(value).filter(|value| **value != Value::Null)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(super) fn section(&self, name: &str) -> Read<Option<Self>> {
        self.value(name)
            .map(|value| Self::of(&self.path(name), value))
            .transpose()
    }

    pub(super) fn list(&self, name: &str) -> Read<Option<Vec<(String, &'a Value)>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::List(items)) => {
                let path = |at: usize| format!("{}[{at}]", self.path(name));
                Ok(Some(
                    items
                        .iter()
                        .enumerate()
                        .map(|(at, item)| (path(at), item))
                        .collect(),
                ))
            }
            Some(_) => wrong(self.path(name), "it has to be a list"),
        }
    }

    pub(super) fn text(&self, name: &str) -> Read<Option<&'a str>> {
        self.value(name)
            .map(|value| text(&self.path(name), value))
            .transpose()
    }

    pub(super) fn required(&self, name: &str) -> Read<&'a str> {
        self.text(name)?
            .map_or_else(|| wrong(self.path(name), "it is required"), Ok)
    }

    pub(super) fn id(&self, name: &str) -> Read<String> {
        let id = self.required(name)?;
        if is_id(id) {
            Ok(id.to_owned())
        } else {
            wrong(
                self.path(name),
                format!("it is not [a-z][a-z0-9-]* of at most {MAX_ID} characters"),
            )
        }
    }

    pub(super) fn version(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<Version, super::BadVersion>,
    ) -> Read<Version> {
        read(self.required(name)?).or_else(|bad| wrong(self.path(name), bad.to_string()))
    }

    pub(super) fn class(&self, name: &str) -> Read<String> {
        let class = self.required(name)?;
        let is_part = |part: &str| {
            let mut letters = part.chars();
            let is_first = |letter: char| letter.is_alphabetic() || matches!(letter, '_' | '$');
            letters.next().is_some_and(is_first)
                && letters.all(|letter| is_first(letter) || letter.is_numeric())
        };
        if class.split('.').all(is_part) {
            Ok(class.to_owned())
        } else {
            wrong(self.path(name), "it is not the name of a class")
        }
    }

    pub(super) fn integer(&self, name: &str) -> Read<Option<u64>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Scalar { text, is_plain: true }) => match super::version::number(text) {
                Some(number) => Ok(Some(number)),
                None => wrong(self.path(name), "it has to be a whole number"),
            },
            Some(_) => wrong(self.path(name), "it has to be a whole number"),
        }
    }

    /// False where nothing is said
    pub(super) fn boolean(&self, name: &str) -> Read<bool> {
        match self.value(name) {
            None => Ok(false),
            Some(Value::Scalar { text, is_plain: true }) if text == "true" => Ok(true),
            Some(Value::Scalar { text, is_plain: true }) if text == "false" => Ok(false),
            Some(_) => wrong(self.path(name), "it has to be true or false"),
        }
    }
}

pub(super) fn text<'a>(path: &str, value: &'a Value) -> Read<&'a str> {
    match value {
        Value::Scalar { text, .. } if text.len() > MAX_TEXT => {
            wrong(path, format!("it is longer than {MAX_TEXT} bytes"))
        }
        Value::Scalar { text, .. } if text.trim().is_empty() || text.chars().any(char::is_control) => {
            wrong(path, "it is blank, or has characters that cannot be seen")
        }
        Value::Scalar { text, .. } => Ok(text),
        _ => wrong(path, "it has to be a text"),
    }
}

pub(super) fn is_id(id: &str) -> bool {
    id.len() <= MAX_ID
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
