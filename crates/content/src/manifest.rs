//! What a folder holds, as one value

use std::io;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::link::LinkTarget;
use crate::path::EntryPath;
use crate::tree::{Refusal, Tree};

/// What a folder holds: its entries, sorted by path, each folder before what is in it
///
/// Two manifests are equal exactly when the folders are; [`digest`](Self::digest) names one. Nothing else counts: neither times nor
/// owners nor modes beyond "may be executed". Its form is JSON with the fields in a fixed order and without spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// A path and what is there
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is
    pub path: EntryPath,
    /// What it is
    #[serde(flatten)]
    pub kind: Kind,
}

/// What an entry is
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// A folder; one that has something in it is listed too
    Directory,
    /// A file
    File(Blob),
    /// A symbolic link that stays inside
    #[serde(with = "link_fields")]
    Link(LinkTarget),
}

/// The bytes of a file, by name
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Whether its owner may execute it
    #[serde(default, skip_serializing_if = "is_false")]
    pub executable: bool,
    /// How many bytes it has
    pub size: u64,
    /// Their SHA-256
    pub sha256: Digest,
}

/// Why bytes are no manifest
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the JSON of one
    #[error("this is no manifest: {0}")]
    Malformed(serde_json::Error),
    /// Its entries break a rule
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A folder in the path of an entry is not listed
    #[error("{0:?} is not listed, although something in it is")]
    FolderNotListed(EntryPath),
    /// The order of entries is part of the form
    #[error("{0:?} stands behind an entry that is greater; entries are sorted by the bytes of their paths")]
    NotSorted(EntryPath),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    entries: Vec<Entry>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// A link has its target in a field of its own, since a text has none to stand beside `kind`.
mod link_fields {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::LinkTarget;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        target: LinkTarget,
    }

    pub(super) fn serialize<S: Serializer>(target: &LinkTarget, serializer: S) -> Result<S::Ok, S::Error> {
        Fields {
            target: target.clone(),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LinkTarget, D::Error> {
        Fields::deserialize(deserializer).map(|fields| fields.target)
    }
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Directory => "a folder",
            Self::File(_) => "a file",
            Self::Link(_) => "a link",
        }
    }
}

impl Manifest {
    pub(crate) fn from_sorted(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Reads what [`to_json`](Self::to_json) wrote, and trusts nothing in it
    ///
    /// The size of `bytes` is the caller's to bound.
    ///
    /// # Errors
    /// [`ManifestError`] if it is something else, breaks a rule or exceeds a limit.
    pub fn from_json(bytes: &[u8], limits: &Limits) -> Result<Self, ManifestError> {
        let unchecked: Unchecked = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        let mut tree = Tree::new(limits);
        let mut last: Option<&EntryPath> = None;
        for entry in &unchecked.entries {
            if last.is_some_and(|last| *last > entry.path) {
                return Err(ManifestError::NotSorted(entry.path.clone()));
            }
            last = Some(&entry.path);
            tree.take(&entry.path, entry.kind.clone(), |folder| {
                Err(ManifestError::FolderNotListed(folder.clone()))
            })?;
        }
        Ok(tree.finish())
    }

    /// Its one form in bytes
    ///
    /// # Errors
    /// None that these types can cause; the signature is that of the writer behind it.
    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The name of this content: SHA-256 of [`to_json`](Self::to_json)
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn digest(&self) -> io::Result<Digest> {
        Ok(Digest::of(&self.to_json()?))
    }

    /// The entries, sorted by the bytes of their paths
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is at `path`
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Kind> {
        self.entries
            .binary_search_by(|entry| entry.path.as_str().cmp(path))
            .ok()
            .map(|at| &self.entries[at].kind)
    }

    /// The files among the entries
    pub fn files(&self) -> impl Iterator<Item = (&EntryPath, &Blob)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File(blob) => Some((&entry.path, blob)),
            Kind::Directory | Kind::Link(_) => None,
        })
    }

    /// Bytes of all files together
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files()
            .fold(0, |sum, (_, blob)| sum.saturating_add(blob.size))
    }
}
