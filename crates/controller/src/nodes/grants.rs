//! What each node was told to fetch
//!
//! A node's certificate opens `ArtifactService` for what the node was told to fetch, for as long as that can take, and for
//! nothing else. It is in memory only: after a restart of the controller a daemon asks for its templates again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prexorcloud_content::Digest;
use prexorcloud_proto::{ArtifactKind, TemplateRef};
use prexorcloud_protocol::NodeId;

use crate::content::Pin;

/// What one node may be told at a time; the oldest falls out, and its daemon asks again
const MOST: usize = 256;

/// Templates that one node may be told to have in time: those of a few orders
const MOST_WARMED: usize = 1024;

/// How long a node may take until it begins to fetch, or begins again
const LIFE: Duration = Duration::from_secs(3600);

/// Calls of one node at a time; a daemon makes four
const CALLS: usize = 8;

/// The artifacts that nodes may fetch
#[derive(Default)]
pub(crate) struct Grants {
    nodes: Mutex<HashMap<NodeId, Granted>>,
}

#[derive(Default)]
struct Granted {
    /// The oldest first
    artifacts: Vec<Grant>,
    /// What it was told to have before a start needs it, the oldest first
    warmed: Vec<Warmed>,
    calls: usize,
}

struct Warmed {
    name: String,
    hash: String,
    until: Instant,
}

struct Grant {
    kind: ArtifactKind,
    name: String,
    digest: Digest,
    until: Instant,
    /// It stays as long as somebody may come for it
    _pin: Pin,
}

/// Why a node may not fetch
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotGranted {
    /// It was not told to
    Unknown,
    /// It fetches enough at once
    Busy,
}

/// A call of a node that is under way
pub(crate) struct Fetching {
    grants: Arc<Grants>,
    node: NodeId,
}

impl Grants {
    /// Lets a node fetch this
    pub(crate) fn grant(
        &self,
        now: Instant,
        node: NodeId,
        (kind, name): (ArtifactKind, &str),
        digest: Digest,
        pin: Pin,
    ) {
        let mut nodes = self.nodes();
        let artifacts = &mut nodes.entry(node).or_default().artifacts;
        let is_it = |grant: &Grant| grant.kind == kind && grant.digest == digest && grant.name == name;
        artifacts.retain(|grant| grant.until > now && !is_it(grant));
        if artifacts.len() >= MOST {
            artifacts.remove(0);
        }
        artifacts.push(Grant {
            kind,
            name: name.to_owned(),
            digest,
            until: now + LIFE,
            _pin: pin,
        });
    }

    /// Lets a node ask for these
    pub(crate) fn warm(&self, now: Instant, node: NodeId, templates: &[TemplateRef]) {
        let mut nodes = self.nodes();
        let warmed = &mut nodes.entry(node).or_default().warmed;
        for TemplateRef { name, hash, .. } in templates {
            warmed.retain(|warmed| warmed.until > now && !(warmed.name == *name && warmed.hash == *hash));
            if warmed.len() >= MOST_WARMED {
                warmed.remove(0);
            }
            warmed.push(Warmed {
                name: name.clone(),
                hash: hash.clone(),
                until: now + LIFE,
            });
        }
    }

    /// The hashes under which a node may ask for a template that no start of it names
    pub(crate) fn warmed(&self, now: Instant, node: NodeId, name: &str) -> Vec<String> {
        let nodes = self.nodes();
        let warmed = nodes.get(&node).into_iter().flat_map(|granted| &granted.warmed);
        let of_it = warmed.filter(|warmed| warmed.name == name && warmed.until > now);
        of_it.map(|warmed| warmed.hash.clone()).collect()
    }

    /// Begins a call, if the node was told to fetch this
    pub(crate) fn begin(
        self: &Arc<Self>,
        now: Instant,
        node: NodeId,
        (kind, name): (ArtifactKind, &str),
        digest: Digest,
    ) -> Result<Fetching, NotGranted> {
        let mut nodes = self.nodes();
        let granted = nodes.get_mut(&node).ok_or(NotGranted::Unknown)?;
        let is_it = |grant: &&mut Grant| {
            grant.kind == kind && grant.digest == digest && grant.name == name && grant.until > now
        };
        let grant = granted
            .artifacts
            .iter_mut()
            .find(is_it)
            .ok_or(NotGranted::Unknown)?;
        if granted.calls >= CALLS {
            return Err(NotGranted::Busy);
        }
        granted.calls += 1;
        grant.until = now + LIFE;
        Ok(Fetching {
            grants: Arc::clone(self),
            node,
        })
    }

    /// Lets go of what nobody came for
    pub(crate) fn prune(&self, now: Instant) {
        self.nodes().retain(|_, granted| {
            granted.artifacts.retain(|grant| grant.until > now);
            granted.warmed.retain(|warmed| warmed.until > now);
            granted.calls > 0 || !granted.artifacts.is_empty() || !granted.warmed.is_empty()
        });
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Granted>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(granted) = self.grants.nodes().get_mut(&self.node) {
            granted.calls = granted.calls.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use ArtifactKind::Template;

    use super::*;
    use crate::content::{Content, FolderBlobs};

    #[test]
    fn a_node_may_fetch_what_it_was_told_to_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let content = Arc::new(Content::new(Arc::new(FolderBlobs::open(folder.path()).unwrap())));
        let grants = Arc::new(Grants::default());
        let (now, digest) = (Instant::now(), Digest::of(b"archive"));
        let [node, other]: [NodeId; 2] = ["node-1", "node-2"].map(|node| node.parse().unwrap());
        grants.grant(now, node, (Template, "base"), digest, content.pin(digest));
        let begin =
            |now, node, name, digest| grants.begin(now, node, (Template, name), digest).map(drop).err();
        assert_eq!(begin(now, node, "base", digest), None);
        for (now, node, name, digest) in [
            (now, other, "base", digest),
            (now, node, "other", digest),
            (now, node, "base", Digest::of(b"another")),
            (now + 2 * LIFE, node, "base", digest),
        ] {
            assert_eq!(
                begin(now, node, name, digest),
                Some(NotGranted::Unknown),
                "{node} {name}"
            );
        }
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                grants
                    .begin(now, node, (Template, "base"), digest)
                    .unwrap_or_else(|error| panic!("{error:?}"))
            })
            .collect();
        assert_eq!(begin(now, node, "base", digest), Some(NotGranted::Busy));
        drop(calls);
        assert_eq!(begin(now, node, "base", digest), None);
        grants.prune(now + 2 * LIFE);
        assert!(grants.nodes().is_empty());
    }

    #[test]
    fn what_one_node_may_fetch_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let content = Arc::new(Content::new(Arc::new(FolderBlobs::open(folder.path()).unwrap())));
        let grants = Arc::new(Grants::default());
        let (now, node) = (Instant::now(), "node-1".parse().unwrap());
        let digest = |number: usize| Digest::of(number.to_string().as_bytes());
        for number in (0..=MOST).chain([MOST]) {
            grants.grant(
                now,
                node,
                (Template, "base"),
                digest(number),
                content.pin(digest(number)),
            );
        }
        assert_eq!(grants.nodes().get(&node).unwrap().artifacts.len(), MOST);
        let is_granted = |number| {
            grants
                .begin(now, node, (Template, "base"), digest(number))
                .is_ok()
        };
        assert!(!is_granted(0) && is_granted(1) && is_granted(MOST));
    }

    #[test]
    fn a_node_may_ask_for_a_while_for_what_it_was_told_to_have_in_time() {
        let grants = Grants::default();
        let now = Instant::now();
        let [node, other]: [NodeId; 2] = ["node-1", "node-2"].map(|node| node.parse().unwrap());
        let version = |number: usize| TemplateRef {
            name: "base".to_owned(),
            hash: number.to_string(),
        };
        grants.warm(now, node, &[version(1), version(2), version(1)]);
        assert_eq!(grants.warmed(now, node, "base"), ["2", "1"]);
        assert!(grants.warmed(now, node, "other").is_empty());
        assert!(grants.warmed(now, other, "base").is_empty());
        assert!(grants.warmed(now + LIFE, node, "base").is_empty());
        let many: Vec<_> = (0..=MOST_WARMED).map(version).collect();
        grants.warm(now, node, &many);
        assert_eq!(grants.warmed(now, node, "base").len(), MOST_WARMED);
        grants.prune(now + LIFE);
        assert!(grants.nodes().is_empty());
    }
}
