//! Manifests of versions: read, written and looked at where millions of bytes of JSON keep nobody waiting
//!
//! What was seen of those that are damaged is remembered, for whoever asks how many there are.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prexorcloud_content::{Digest, Limits, Manifest};
use tokio::sync::Semaphore;

use super::{TemplateError, TemplateVersionRecord, Templates};
use crate::content::BlobError;

/// Largest manifest in bytes: 50,000 entries with long paths
pub const MAX_MANIFEST_BYTES: usize = 32 << 20;

/// Manifests that are worked at at once: each keeps a processor busy, and is a few times its size in memory
const AT_ONCE: usize = 4;

/// For what was judged when it was pushed
pub(super) const KEPT: Limits = Limits {
    entries: usize::MAX,
    entry_bytes: u64::MAX,
    total_bytes: u64::MAX,
    ratio: u64::MAX,
    ratio_from_bytes: u64::MAX,
    path_bytes: usize::MAX,
    path_depth: usize::MAX,
};

/// Turns of those who work at manifests, and which of them are damaged as far as somebody has looked
pub(super) struct Manifests {
    turns: Arc<Semaphore>,
    damaged: Mutex<HashSet<Digest>>,
}

impl Default for Manifests {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            damaged: Mutex::default(),
        }
    }
}

impl Manifests {
    /// Does something that takes long where that harms nobody
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlobError> {
        // Never closed. The turn lasts as long as the work, whoever still waits for it.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let worked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        worked.await.map_err(|_| BlobError::Io {
            detail: "its worker ended".to_owned(),
        })
    }

    /// Remembers what was seen of one
    pub(super) fn note(&self, name: Digest, is_whole: bool) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        match is_whole {
            true => damaged.remove(&name),
            false => damaged.insert(name),
        };
    }

    /// Forgets those that no version has
    pub(super) fn retain(&self, named: &HashSet<Digest>) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.retain(|name| named.contains(name));
    }
}

impl Templates {
    /// Reads what claims to be a manifest
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] with the rule or the limit that it breaks.
    pub fn parse(&self, manifest: &[u8]) -> Result<Manifest, TemplateError> {
        Manifest::from_json(manifest, &self.limits).map_err(|error| TemplateError::Invalid(error.to_string()))
    }

    /// A manifest with its form and its digest
    pub(crate) async fn written(
        &self,
        manifest: Manifest,
    ) -> Result<(Manifest, Vec<u8>, Digest), TemplateError> {
        let write = move || {
            let json = manifest.to_json()?;
            let digest = Digest::of(&json);
            Ok((manifest, json, digest))
        };
        let written: std::io::Result<_> = self.manifests.work(write).await?;
        Ok(written.map_err(BlobError::from)?)
    }

    /// What a version holds
    ///
    /// # Errors
    /// [`TemplateError::Damaged`] if its manifest is not what it was.
    pub async fn manifest(&self, version: &TemplateVersionRecord) -> Result<Manifest, TemplateError> {
        let damaged = || TemplateError::Damaged {
            versions: version.title(),
        };
        let name: Digest = version.manifest.parse().map_err(|_| damaged())?;
        let bytes = self.content.read(name, MAX_MANIFEST_BYTES as u64).await?;
        let read = move || Manifest::from_json(&bytes?, &KEPT).ok();
        let manifest = self.manifests.work(read).await?;
        self.manifests.note(name, manifest.is_some());
        manifest.ok_or_else(damaged)
    }

    /// The manifests of these versions that are not what they were, as a look at each shows now
    ///
    /// # Errors
    /// [`BlobError::Io`] if the storage fails otherwise.
    pub async fn damaged(
        &self,
        versions: &[TemplateVersionRecord],
    ) -> Result<HashSet<String>, TemplateError> {
        let mut damaged = HashSet::new();
        for version in versions {
            let is_whole = match version.manifest.parse() {
                Ok(name) => {
                    let is_whole = self.content.is_whole(name).await?;
                    self.manifests.note(name, is_whole);
                    is_whole
                }
                Err(_) => false,
            };
            if !is_whole {
                damaged.insert(version.manifest.clone());
            }
        }
        Ok(damaged)
    }

    /// How many manifests of versions are damaged, as far as somebody has looked: whoever lists versions, starts one or collects
    #[must_use]
    pub fn damaged_count(&self) -> usize {
        let damaged = self.manifests.damaged.lock();
        damaged.unwrap_or_else(PoisonError::into_inner).len()
    }
}
