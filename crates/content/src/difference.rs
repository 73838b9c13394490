//! What one manifest has and another has not

use serde::Serialize;

use crate::manifest::{Kind, Manifest};
use crate::path::EntryPath;

/// How an entry differs between two manifests
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// Only the later one has it
    Added,
    /// Only the earlier one has it
    Removed,
    /// Both have it, and it is not the same
    Changed,
}

/// An entry that differs
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing<'a> {
    /// Where it is
    pub path: &'a EntryPath,
    /// How it differs
    pub difference: Difference,
    /// What it was; `None` if it was added
    pub before: Option<&'a Kind>,
    /// What it is; `None` if it was removed
    pub after: Option<&'a Kind>,
}

impl Manifest {
    /// The entries that differ between this one and a `later` one, sorted by path
    #[must_use]
    pub fn difference<'a>(&'a self, later: &'a Self) -> Vec<Differing<'a>> {
        let (mut before, mut after) = (
            self.entries().iter().peekable(),
            later.entries().iter().peekable(),
        );
        let mut differing = Vec::new();
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.path.cmp(&new.path),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return differing,
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            let Some(path) = new.or(old).map(|entry| &entry.path) else {
                return differing;
            };
            let (was, is) = (old.map(|entry| &entry.kind), new.map(|entry| &entry.kind));
            let difference = match (was, is) {
                (None, _) => Difference::Added,
                (_, None) => Difference::Removed,
                (Some(was), Some(is)) if was == is => continue,
                _ => Difference::Changed,
            };
            differing.push(Differing {
                path,
                difference,
                before: was,
                after: is,
            });
        }
    }
}
