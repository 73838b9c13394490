//! Where links may lead

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::path::{BadPath, EntryPath, check_names};

/// What a symbolic link says: `..` any number of times, then names
///
/// `..` stands at the beginning only. A link stands in a real folder, so the `..` lead to a real folder above it, and everything
/// after them goes down, through further links of which the same is true. With no more `..` than there are folders above the link, none leads
/// out of its root, whatever else comes to stand beside it later: neither resolving nor a second template can change that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LinkTarget(String);

/// Why a link is refused
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLink {
    /// More `..` than folders above the link, or an absolute target
    #[error("it leads out of the folder")]
    LeadsOut,
    /// `..` behind a name: where that leads depends on what the name is
    #[error("its target has \"..\" behind a name; write the target without that detour")]
    Detour,
    /// A target that names nothing, or has unusable names
    #[error("its target is unusable: {0}")]
    Target(BadPath),
    /// Longer than the limit for paths
    #[error("its target is longer than {0} bytes")]
    Long(usize),
}

impl LinkTarget {
    /// Checks what a link says, wherever it stands
    ///
    /// # Errors
    /// [`BadLink`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, BadLink> {
        if text.starts_with('/') {
            return Err(BadLink::LeadsOut);
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut rest = Some(text);
        while let Some(after) = rest.and_then(|rest| rest.strip_prefix("../")) {
            rest = Some(after);
        }
        if rest == Some("..") {
            rest = None;
        }
        if let Some(names) = rest {
            check_names(names).map_err(|bad| match bad {
                BadPath::Dots("..") => BadLink::Detour,
                BadPath::Absolute => BadLink::Target(BadPath::Empty),
                other => BadLink::Target(other),
            })?;
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadLink> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| BadLink::Target(BadPath::NotUtf8))?)
    }

    /// What the link says
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a link at `path` stays below the root with it
    pub(crate) fn check_at(&self, path: &EntryPath) -> Result<(), BadLink> {
        let upwards = self.0.split('/').take_while(|name| *name == "..").count();
        if upwards < path.depth() {
            Ok(())
        } else {
            Err(BadLink::LeadsOut)
        }
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for LinkTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .map_err(|error| serde::de::Error::custom(format!("a link to {text:?} is refused: {error}")))
    }
}
