//! What entries may not do to each other

use std::collections::{BTreeMap, HashMap};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::link::BadLink;
use crate::manifest::{Entry, Kind, Manifest};
use crate::path::{BadPath, EntryPath};

/// Why content is refused, as a sentence for whoever made it
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A path that is none
    #[error("{path:?} cannot be taken: {why}")]
    Path {
        /// As far as it can be shown
        path: String,
        /// The rule that it breaks
        why: BadPath,
    },
    /// A path beyond the limits
    #[error("{path:?} cannot be taken: a path has at most {bytes} bytes and {depth} names")]
    LongPath {
        /// The path
        path: EntryPath,
        /// [`Limits::path_bytes`]
        bytes: usize,
        /// [`Limits::path_depth`]
        depth: usize,
    },
    /// A link that is refused
    #[error("the link {path:?} to {target:?} cannot be taken: {why}")]
    Link {
        /// Where it stands
        path: EntryPath,
        /// What it says
        target: String,
        /// The rule that it breaks
        why: BadLink,
    },
    /// Something that is neither file nor folder nor symbolic link
    #[error("{path:?} is {what}; only files, folders and symbolic links are taken")]
    Special {
        /// Where it stands
        path: EntryPath,
        /// What it is
        what: &'static str,
    },
    /// The same path twice
    #[error("{path:?} is there twice")]
    Duplicate {
        /// The path
        path: EntryPath,
    },
    /// Two paths that are one where case does not count
    #[error("{path:?} and {other:?} differ only in case, and would be one file on some systems; rename one")]
    CaseCollision {
        /// The later one
        path: EntryPath,
        /// The earlier one
        other: EntryPath,
    },
    /// An entry below something that is no folder
    #[error("{path:?} cannot be taken: {parent:?} is {what} and not a folder")]
    NotInFolder {
        /// The entry
        path: EntryPath,
        /// What it would be in
        parent: EntryPath,
        /// What that is
        what: &'static str,
    },
    /// Too many entries
    #[error("there are more than {limit} files and folders, which is the limit")]
    TooManyEntries {
        /// [`Limits::entries`]
        limit: usize,
    },
    /// A file that is too large
    #[error("{path:?} has {size} bytes, and {limit} are the limit for one file")]
    FileTooLarge {
        /// The file
        path: EntryPath,
        /// Its size
        size: u64,
        /// [`Limits::entry_bytes`]
        limit: u64,
    },
    /// Too much altogether
    #[error("there are more than {limit} bytes in all files together, which is the limit")]
    TooLarge {
        /// [`Limits::total_bytes`]
        limit: u64,
    },
    /// More bytes come out of an archive than its size explains
    #[error("more than {ratio} bytes come out of each byte of the archive, which is the limit")]
    Bomb {
        /// [`Limits::ratio`]
        ratio: u64,
    },
}

/// Entries that are taken one after the other, each judged against those before it
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    limits: &'a Limits,
    entries: BTreeMap<EntryPath, Node>,
    folded: HashMap<String, EntryPath>,
    bytes: u64,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    /// A folder that was only seen as part of a path
    implied: bool,
}

/// What taking an entry came to
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    New,
    /// A folder that stood in the path of an earlier entry
    AlreadyImplied,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            folded: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes an entry. Folders in its path that are not known become so, and are handed to `implied` from the root on.
    pub(crate) fn take<E: From<Refusal>>(
        &mut self,
        path: &EntryPath,
        kind: Kind,
        mut implied: impl FnMut(&EntryPath) -> Result<(), E>,
    ) -> Result<Taken, E> {
        let limits = self.limits;
        if path.as_str().len() > limits.path_bytes || path.depth() > limits.path_depth {
            return Err(Refusal::LongPath {
                path: path.clone(),
                bytes: limits.path_bytes,
                depth: limits.path_depth,
            }
            .into());
        }
        match &kind {
            Kind::Directory => {}
            Kind::File(blob) => {
                if blob.size > limits.entry_bytes {
                    return Err(Refusal::FileTooLarge {
                        path: path.clone(),
                        size: blob.size,
                        limit: limits.entry_bytes,
                    }
                    .into());
                }
                self.bytes = self.bytes.saturating_add(blob.size);
                if self.bytes > limits.total_bytes {
                    return Err(Refusal::TooLarge {
                        limit: limits.total_bytes,
                    }
                    .into());
                }
            }
            Kind::Link(target) => {
                let refused = |why| Refusal::Link {
                    path: path.clone(),
                    target: target.to_string(),
                    why,
                };
                if target.as_str().len() > limits.path_bytes {
                    return Err(refused(BadLink::Long(limits.path_bytes)).into());
                }
                target.check_at(path).map_err(refused)?;
            }
        }
        if let Some(there) = self.entries.get_mut(path) {
            if there.implied && kind == Kind::Directory {
                there.implied = false;
                return Ok(Taken::AlreadyImplied);
            }
            return Err(Refusal::Duplicate { path: path.clone() }.into());
        }
        for (end, _) in path.as_str().match_indices('/') {
            let above = &path.as_str()[..end];
            match self.entries.get(above) {
                Some(Node {
                    kind: Kind::Directory,
                    ..
                }) => {}
                Some(node) => {
                    return Err(Refusal::NotInFolder {
                        path: path.clone(),
                        what: node.kind.name(),
                        parent: path.above(end),
                    }
                    .into());
                }
                None => {
                    let above = path.above(end);
                    self.insert(&above, Kind::Directory, true)?;
                    implied(&above)?;
                }
            }
        }
        self.insert(path, kind, false)?;
        Ok(Taken::New)
    }

    fn insert(&mut self, path: &EntryPath, kind: Kind, implied: bool) -> Result<(), Refusal> {
        if self.entries.len() >= self.limits.entries {
            return Err(Refusal::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        // Parents are judged before their children, so the whole path collides exactly when its last name does.
        if let Some(other) = self.folded.insert(path.as_str().to_lowercase(), path.clone()) {
            return Err(Refusal::CaseCollision {
                path: path.clone(),
                other,
            });
        }
        self.entries.insert(path.clone(), Node { kind, implied });
        Ok(())
    }

    /// Fills in what a file turned out to be.
    pub(crate) fn set_digest(&mut self, path: &EntryPath, sha256: Digest) {
        if let Some(Node {
            kind: Kind::File(blob),
            ..
        }) = self.entries.get_mut(path)
        {
            blob.sha256 = sha256;
        }
    }

    pub(crate) fn finish(self) -> Manifest {
        Manifest::from_sorted(
            self.entries
                .into_iter()
                .map(|(path, node)| Entry {
                    path,
                    kind: node.kind,
                })
                .collect(),
        )
    }
}
