//! Names of entries

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The path of an entry below its root: names with `/` between them
///
/// Each name is UTF-8 of 1 to 255 bytes, is neither `.` nor `..`, and has no control character and no backslash (Java peers take
/// one for a `/`). A path therefore never leads out of the folder that it is joined to, as long as no link is followed on the way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EntryPath(String);

/// Why a text is no [`EntryPath`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPath {
    /// It has no name in it, or two `/` in a row, or one at its end
    #[error("it has an empty name in it")]
    Empty,
    /// It begins with `/`
    #[error("it is an absolute path")]
    Absolute,
    /// It has a `.` or `..` in it
    #[error("it has \"{0}\" in it, and only plain names are taken")]
    Dots(&'static str),
    /// A name is longer than file systems take
    #[error("a name in it is longer than 255 bytes")]
    LongName,
    /// A control character or a backslash
    #[error("it has a control character or a backslash in it")]
    Character,
    /// Not UTF-8
    #[error("it is not UTF-8")]
    NotUtf8,
}

impl EntryPath {
    /// Checks a path as it stands in a manifest
    ///
    /// # Errors
    /// [`BadPath`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        check_names(text)?;
        Ok(Self(text.to_owned()))
    }

    /// Checks a path as archives have them, where `./` may stand before it and `/` behind it
    ///
    /// `None` is the root itself.
    pub(crate) fn from_archive(bytes: &[u8]) -> Result<Option<Self>, BadPath> {
        let text = std::str::from_utf8(bytes).map_err(|_| BadPath::NotUtf8)?;
        let mut text = text.strip_suffix('/').unwrap_or(text);
        while let Some(rest) = text.strip_prefix("./") {
            text = rest;
        }
        if text == "." {
            return Ok(None);
        }
        Self::parse(text).map(Some)
    }

    /// The path with `/` between its names
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root on
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// How many names it has
    #[must_use]
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// The folder that it is in, and its name there; the folder is `None` for the root
    #[must_use]
    pub fn split(&self) -> (Option<&str>, &str) {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => (Some(parent), name),
            None => (None, &self.0),
        }
    }

    /// The folder that it is in, unless that is the root
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.split().0.map(|parent| Self(parent.to_owned()))
    }

    /// The folder in its path that ends before the `/` at `end`.
    pub(crate) fn above(&self, end: usize) -> Self {
        Self(self.0[..end].to_owned())
    }

    pub(crate) fn join(parent: Option<&Self>, name: &str) -> Result<Self, BadPath> {
        if name.contains('/') {
            return Err(BadPath::Character);
        }
        match parent {
            Some(parent) => Self::parse(&format!("{parent}/{name}")),
            None => Self::parse(name),
        }
    }
}

/// The rule for names, which targets of links share.
pub(crate) fn check_names(text: &str) -> Result<(), BadPath> {
    if text.starts_with('/') {
        return Err(BadPath::Absolute);
    }
    for name in text.split('/') {
        match name {
            "" => return Err(BadPath::Empty),
            "." => return Err(BadPath::Dots(".")),
            ".." => return Err(BadPath::Dots("..")),
            _ if name.len() > 255 => return Err(BadPath::LongName),
            _ if name.chars().any(|c| c.is_control() || c == '\\') => {
                return Err(BadPath::Character);
            }
            _ => {}
        }
    }
    Ok(())
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Borrow<str> for EntryPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is no path of an entry: {error}")))
    }
}
