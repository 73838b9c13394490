//! Templates: named folders in immutable versions, and which version counts
//!
//! What a version holds is content ([`crate::content`]); a record names it. Publishing moves one pointer in one transaction that compares with
//! what its maker has seen, so of two pushes at once one wins and the other is told, and nobody ever sees half of a version. Whoever starts an
//! instance takes the version that counts at that moment, by its digests, which stay what they are.

mod composition;
mod former;
mod mending;
mod record;
mod recorded;
pub mod variables;

use std::{collections::HashMap, sync::Arc};

use prexorcloud_content::{Digest, Kind, Limits, Manifest, PackError};
use prexorcloud_proto::{StartInstance, TemplateRef};
use prexorcloud_security::seal::SealingKey;

pub use self::{
    composition::{Composition, Layer, MAX_LAYERS},
    record::{TemplateRecord, TemplateVersionRecord, VariableRecord},
};
use crate::{
    audit,
    content::{ArchiveError, BlobError, Collected, Content, KEPT_UNREFERENCED, Referenced},
    events::Event,
    modules,
    nodes::is_live,
    records::InstanceRecord,
    store::{self, Expect, Query, Record as _, Revision, Store, StoreError, Stored, Txn, TxnOutcome},
    wall_clock::now_millis,
};

/// Most templates
pub const MAX_TEMPLATES: usize = 4096;

/// Versions that are kept of a template; the oldest that does not count goes first
pub const MAX_VERSIONS: usize = 100;

/// Largest manifest in bytes: 50,000 entries with long paths
pub const MAX_MANIFEST_BYTES: usize = 32 << 20;

/// Attempts to change a record that others change at the same time
const ATTEMPTS: usize = 16;

/// For what was judged when it was pushed
const KEPT: Limits = Limits {
    entries: usize::MAX,
    entry_bytes: u64::MAX,
    total_bytes: u64::MAX,
    ratio: u64::MAX,
    ratio_from_bytes: u64::MAX,
    path_bytes: usize::MAX,
    path_depth: usize::MAX,
};

/// Why something was not done to a template
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No such template
    #[error("no such template")]
    Unknown,
    /// No such version of it
    #[error("this template has no such version")]
    UnknownVersion,
    /// Its name is taken
    #[error("there is a template with this name")]
    Exists,
    /// What was given is not acceptable
    #[error("{0}")]
    Invalid(String),
    /// Somebody else was faster
    #[error("{0}")]
    Conflict(String),
    /// Blobs were not sent, or have gone
    #[error("{count} files of the manifest are not here; send those that the controller lacks first")]
    Missing {
        /// How many
        count: usize,
    },
    /// There is nothing to go back to
    #[error("there is no version before the one that counts")]
    NoPrevious,
    /// Content could not be kept or read
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It could not be recorded
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ArchiveError> for TemplateError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Blob(error) => error.into(),
            ArchiveError::Pack(PackError::Refused(refusal)) => Self::Invalid(refusal.to_string()),
            // The blob was removed, or is: whoever pushes again sends it.
            ArchiveError::Pack(PackError::Changed { .. }) => Self::Missing { count: 1 },
            ArchiveError::Pack(error) => BlobError::Io {
                detail: error.to_string(),
            }
            .into(),
        }
    }
}

/// What a push has to send
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Blobs that are not here, each once, with their sizes
    pub blobs: Vec<(Digest, u64)>,
    /// The version that counts now; `None` = nothing was pushed
    pub current: Option<TemplateVersionRecord>,
}

/// What publishing did
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The version that counts now
    pub version: TemplateVersionRecord,
    /// Whether that was so before
    pub unchanged: bool,
}

/// The templates of this controller
#[derive(Clone)]
pub struct Templates {
    store: Arc<dyn Store>,
    content: Arc<Content>,
    sealing: Arc<SealingKey>,
    limits: Arc<Limits>,
}

impl Templates {
    /// Over this store and these blobs; what is secret in defaults is sealed with `sealing`
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        content: Arc<Content>,
        sealing: Arc<SealingKey>,
        limits: Limits,
    ) -> Self {
        Self {
            store,
            content,
            sealing,
            limits: Arc::new(limits),
        }
    }

    /// Where their bytes are
    #[must_use]
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// How much a template may hold
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn load(&self, name: &str) -> Result<Stored<TemplateRecord>, TemplateError> {
        if !is_name(name) {
            return Err(TemplateError::Unknown);
        }
        store::load(&*self.store, name)
            .await?
            .ok_or(TemplateError::Unknown)
    }

    /// Every template, by name, with the version that counts
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn list(&self) -> Result<Vec<(TemplateRecord, Option<TemplateVersionRecord>)>, TemplateError> {
        let (templates, _) = store::load_all::<TemplateRecord>(&*self.store).await?;
        let mut listed = Vec::with_capacity(templates.len());
        for Stored { record, .. } in templates {
            let current = self.version(&record, record.current).await?;
            listed.push((record, current));
        }
        Ok(listed)
    }

    /// A template, with the version that counts
    ///
    /// # Errors
    /// [`TemplateError::Unknown`], or what the storage reported.
    pub async fn show(
        &self,
        name: &str,
    ) -> Result<(TemplateRecord, Option<TemplateVersionRecord>), TemplateError> {
        let record = self.load(name).await?.record;
        let current = self.version(&record, record.current).await?;
        Ok((record, current))
    }

    async fn version(
        &self,
        template: &TemplateRecord,
        number: u64,
    ) -> Result<Option<TemplateVersionRecord>, TemplateError> {
        if number == 0 {
            return Ok(None);
        }
        let id = TemplateVersionRecord::id_of(&template.name, number);
        Ok(store::load(&*self.store, &id).await?.map(|stored| stored.record))
    }

    /// The versions of a template, the newest first, and the number of the one that counts
    ///
    /// # Errors
    /// [`TemplateError::Unknown`], or what the storage reported.
    pub async fn versions(&self, name: &str) -> Result<(Vec<TemplateVersionRecord>, u64), TemplateError> {
        let template = self.load(name).await?.record;
        Ok((self.versions_of(name).await?, template.current))
    }

    async fn versions_of(&self, name: &str) -> Result<Vec<TemplateVersionRecord>, StoreError> {
        let query = Query::prefix(TemplateVersionRecord::prefix_of(name)).descending();
        let listing = self.store.list(query).await?;
        let decoded = listing.entries.into_iter().map(Stored::decode);
        decoded.map(|stored| Ok(stored?.record)).collect()
    }

    /// The newest version with this digest; `current` is the one that counts
    ///
    /// # Errors
    /// [`TemplateError::UnknownVersion`], [`TemplateError::Unknown`], or what the storage reported.
    pub async fn find_version(
        &self,
        name: &str,
        digest: &str,
    ) -> Result<TemplateVersionRecord, TemplateError> {
        let (versions, current) = self.versions(name).await?;
        let mut versions = versions.into_iter();
        let found = if digest == "current" {
            versions.find(|version| version.number == current)
        } else {
            versions.find(|version| version.manifest == digest)
        };
        found.ok_or(TemplateError::UnknownVersion)
    }

    /// Creates a template that holds nothing
    ///
    /// # Errors
    /// [`TemplateError::Invalid`], [`TemplateError::Exists`], or what the storage reported.
    pub async fn create(
        &self,
        actor: &str,
        name: &str,
        description: &str,
        platform: &str,
    ) -> Result<TemplateRecord, TemplateError> {
        if !is_name(name) {
            return Err(TemplateError::Invalid(
                "a template's name has 1 to 32 of a-z, 0-9, \"_\" and \"-\", and does not begin with \"-\""
                    .to_owned(),
            ));
        }
        check_texts(description, platform)?;
        if self.store.count(TemplateRecord::PREFIX).await? >= MAX_TEMPLATES {
            return Err(TemplateError::Invalid(format!(
                "there are {MAX_TEMPLATES} templates, which is the limit: delete some"
            )));
        }
        for _ in 0..ATTEMPTS {
            if self.store.get(&TemplateRecord::key_of(name)).await?.is_some() {
                return Err(TemplateError::Exists);
            }
            let now = now_millis();
            let mut record = TemplateRecord {
                name: name.to_owned(),
                description: description.to_owned(),
                platform: platform.to_owned(),
                created_at_ms: now,
                updated_at_ms: now,
                ..TemplateRecord::default()
            };
            let audit = audit::entry(actor, "template.create", name, "");
            let txn = self.recall_secrets(&mut record, Txn::new()).await?;
            let txn = txn.create(&record).put_record(&audit);
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(record);
            }
        }
        Err(changed_meanwhile())
    }

    /// Changes what `change` changes, however many others do so at the same time
    async fn change<T>(
        &self,
        actor: &str,
        action: &str,
        name: &str,
        mut change: impl FnMut(&mut TemplateRecord) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        for _ in 0..ATTEMPTS {
            let Stored { mut record, revision } = self.load(name).await?;
            let outcome = change(&mut record)?;
            record.updated_at_ms = now_millis();
            let audit = audit::entry(actor, action, name, "");
            let txn = Txn::new().replace(revision, &record).put_record(&audit);
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(outcome);
            }
        }
        Err(changed_meanwhile())
    }

    /// Changes what is said about a template; `None` stays
    ///
    /// # Errors
    /// [`TemplateError`].
    pub async fn describe(
        &self,
        actor: &str,
        name: &str,
        description: Option<&str>,
        platform: Option<&str>,
    ) -> Result<(), TemplateError> {
        check_texts(description.unwrap_or_default(), platform.unwrap_or_default())?;
        self.change(actor, "template.update", name, |record| {
            if let Some(description) = description {
                description.clone_into(&mut record.description);
            }
            if let Some(platform) = platform {
                platform.clone_into(&mut record.platform);
            }
            Ok(())
        })
        .await
    }

    /// Deletes a template with all its versions; what was started from it runs on
    ///
    /// # Errors
    /// [`TemplateError`].
    pub async fn delete(&self, actor: &str, name: &str) -> Result<(), TemplateError> {
        for _ in 0..ATTEMPTS {
            let Stored { record, revision } = self.load(name).await?;
            let versions = self.versions_of(name).await?;
            // A start that has one of them may still have to bring it to its node.
            self.content.renew(digests(&versions)).await?;
            let audit = audit::entry(actor, "template.delete", name, "");
            let txn = Txn::new()
                .expect(record.key(), Expect::At(revision))
                .delete(record.key())
                .put_record(&audit);
            let mut txn = self.remember_secrets(&record, txn).await?;
            for version in versions {
                txn = txn.delete(version.key());
            }
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(changed_meanwhile())
    }

    /// Reads a manifest that somebody sent, and says which of its blobs are not here
    ///
    /// Those that are here stay for at least [`KEPT_UNREFERENCED`].
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] with the rule or the limit that the manifest breaks.
    pub async fn lacking(&self, name: &str, manifest: &Manifest) -> Result<Lacking, TemplateError> {
        let (_, current) = self.show(name).await?;
        let blobs = self.missing(manifest).await?;
        Ok(Lacking { blobs, current })
    }

    /// Reads what claims to be a manifest
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] with the rule or the limit that it breaks.
    pub fn parse(&self, manifest: &[u8]) -> Result<Manifest, TemplateError> {
        Manifest::from_json(manifest, &self.limits).map_err(|error| TemplateError::Invalid(error.to_string()))
    }

    async fn missing(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, TemplateError> {
        let mut wanted = HashMap::new();
        for (path, blob) in manifest.files() {
            let size = *wanted.entry(blob.sha256).or_insert(blob.size);
            if size != blob.size {
                return Err(TemplateError::Invalid(format!(
                    "{path:?} has the digest of another file and another size"
                )));
            }
        }
        let there = self.content.renew(wanted.keys().copied().collect()).await?;
        let mut missing = Vec::new();
        for (name, size) in wanted {
            match there.get(&name) {
                None => missing.push((name, size)),
                Some(known) if *known == size => {}
                Some(known) => {
                    // Either the manifest is wrong, or what is here.
                    if self.content.is_whole(name).await? {
                        return Err(TemplateError::Invalid(format!(
                            "{name} has {known} bytes, and not {size} as the manifest says"
                        )));
                    }
                    tracing::error!(blob = %name, "a blob is damaged and was removed; the push that found it sends it again");
                    self.content.discard(name).await?;
                    missing.push((name, size));
                }
            }
        }
        missing.sort_unstable();
        Ok(missing)
    }

    /// Makes a manifest whose blobs are here the version that counts
    ///
    /// `base` is the digest of the version that counted when its maker looked; `None` = there was none.
    ///
    /// # Errors
    /// [`TemplateError::Conflict`] if another version counts by now, [`TemplateError::Missing`], [`TemplateError::Invalid`] if its archive would be
    /// refused by nodes. The version that counts stays the same then.
    pub async fn publish(
        &self,
        actor: &str,
        name: &str,
        manifest: Manifest,
        base: Option<Digest>,
    ) -> Result<Published, TemplateError> {
        let Stored { mut record, revision } = self.load(name).await?;
        let current = self.version(&record, record.current).await?;
        let counted = current.as_ref().map(|version| version.manifest.clone());
        if counted != base.map(|base| base.to_string()) {
            return Err(overtaken(counted.as_deref()));
        }
        let missing = self.missing(&manifest).await?;
        if !missing.is_empty() {
            return Err(TemplateError::Missing { count: missing.len() });
        }
        let json = manifest.to_json().map_err(BlobError::from)?;
        let digest = Digest::of(&json);
        if let Some(version) = current.filter(|version| version.manifest == digest.to_string()) {
            self.content
                .renew(digests(std::slice::from_ref(&version)))
                .await?;
            if self.is_whole(&version, &json).await? {
                return Ok(Published {
                    version,
                    unchanged: true,
                });
            }
        }
        let (size_bytes, files) = (manifest.total_bytes(), manifest.files().count() as u64);
        self.content.keep(json).await?;
        let (packed, content_hash) = self.content.archive(manifest, (*self.limits).clone()).await?;

        let old_hash = current_hash(&record, &self.versions_of(name).await?);
        let now = now_millis();
        record.last_number += 1;
        record.count(record.last_number);
        record.updated_at_ms = now;
        let version = TemplateVersionRecord {
            template: name.to_owned(),
            number: record.current,
            manifest: digest.to_string(),
            archive: packed.sha256.to_string(),
            archive_bytes: packed.bytes,
            size_bytes,
            files,
            created_at_ms: now,
            created_by: actor.to_owned(),
            content_hash: content_hash.map_or_else(String::new, |hash| hash.to_string()),
        };
        let audit = audit::entry(actor, "template.publish", name, &version.manifest);
        let mut txn = Txn::new()
            .replace(revision, &record)
            .create(&version)
            .put_record(&audit)
            .tell(&Event::TemplateUpdated {
                template_name: name.to_owned(),
                old_hash,
                new_hash: version.archive.clone(),
            });
        for old in self.versions_of(name).await?.iter().skip(MAX_VERSIONS - 1) {
            self.content.renew(digests(std::slice::from_ref(old))).await?;
            txn = txn.delete(old.key());
        }
        match self.store.txn(txn).await? {
            TxnOutcome::Committed { .. } => Ok(Published {
                version,
                unchanged: false,
            }),
            TxnOutcome::Conflict { .. } => {
                let (_, current) = self.show(name).await?;
                Err(overtaken(current.map(|version| version.manifest).as_deref()))
            }
        }
    }

    /// Lets an earlier version count again: the one with this digest, or the one that counted before
    ///
    /// The one that counted before is so much further back each time.
    ///
    /// # Errors
    /// [`TemplateError::UnknownVersion`], [`TemplateError::NoPrevious`] and the others.
    pub async fn rollback(
        &self,
        actor: &str,
        name: &str,
        digest: Option<&str>,
    ) -> Result<TemplateVersionRecord, TemplateError> {
        for _ in 0..ATTEMPTS {
            let Stored { mut record, revision } = self.load(name).await?;
            let versions = self.versions_of(name).await?;
            let old_hash = current_hash(&record, &versions);
            let found = match digest {
                Some(digest) => {
                    let mut versions = versions.into_iter();
                    let found = versions.find(|version| version.manifest == digest);
                    let found = found.ok_or(TemplateError::UnknownVersion)?;
                    record.count(found.number);
                    found
                }
                None => {
                    let before = std::iter::from_fn(|| record.former.pop());
                    let mut before =
                        before.filter_map(|number| versions.iter().find(|its| its.number == number));
                    let found = before.next().cloned().ok_or(TemplateError::NoPrevious)?;
                    drop(before);
                    record.current = found.number;
                    found
                }
            };
            record.updated_at_ms = now_millis();
            let audit = audit::entry(actor, "template.rollback", name, &found.manifest);
            let txn = Txn::new()
                .replace(revision, &record)
                .expect(found.key(), Expect::Present)
                .put_record(&audit)
                .tell(&Event::TemplateUpdated {
                    template_name: name.to_owned(),
                    old_hash,
                    new_hash: found.archive.clone(),
                });
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(found);
            }
        }
        Err(changed_meanwhile())
    }

    /// What a version holds
    ///
    /// # Errors
    /// [`BlobError::Io`] if its manifest is not what it was.
    pub async fn manifest(&self, version: &TemplateVersionRecord) -> Result<Manifest, TemplateError> {
        let damaged = || BlobError::Io {
            detail: format!(
                "the manifest {} is missing or damaged; push again",
                version.manifest
            ),
        };
        let name: Digest = version.manifest.parse().map_err(|_| damaged())?;
        let bytes = self.content.read(name, MAX_MANIFEST_BYTES as u64).await?;
        let bytes = bytes
            .filter(|bytes| Digest::of(bytes) == name)
            .ok_or_else(damaged)?;
        Ok(Manifest::from_json(&bytes, &KEPT).map_err(|_| damaged())?)
    }

    /// Removes the blobs that no version has and nobody needs
    ///
    /// # Errors
    /// [`TemplateError`]: in doubt nothing is removed.
    pub async fn collect(&self) -> Result<Collected, TemplateError> {
        self.collect_older_than(KEPT_UNREFERENCED).await
    }

    /// The same for another age than [`KEPT_UNREFERENCED`]
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    pub async fn collect_older_than(&self, age: std::time::Duration) -> Result<Collected, TemplateError> {
        let candidates = self.content.old(age).await?;
        if candidates.is_empty() {
            return Ok(Collected::default());
        }
        let (versions, _): (_, Revision) = store::load_all::<TemplateVersionRecord>(&*self.store).await?;
        let mut referenced = Referenced::new();
        referenced.extend(modules::referenced(&*self.store).await?);
        let (instances, _): (_, Revision) = store::load_all::<InstanceRecord>(&*self.store).await?;
        for Stored { record, .. } in instances {
            // A start may still have to be brought its versions, whatever became of them.
            if let Some(start) = record.start.as_ref().filter(|_| is_live(&record)) {
                let templates = layers(start).iter();
                referenced.extend(templates.filter_map(|template| template.hash.parse::<Digest>().ok()));
            }
        }
        for Stored { record, .. } in versions {
            referenced.extend(digests(std::slice::from_ref(&record)));
            let manifest = self.manifest(&record).await?;
            referenced.extend(manifest.entries().iter().filter_map(|entry| match &entry.kind {
                Kind::File(blob) => Some(blob.sha256),
                Kind::Directory | Kind::Link(_) => None,
            }));
        }
        Ok(self.content.collect(candidates, &referenced, age).await?)
    }
}

/// The templates that a start names
#[must_use]
pub fn layers(start: &StartInstance) -> &[TemplateRef] {
    match &start.composition_plan {
        Some(plan) => &plan.templates,
        None => &start.templates,
    }
}

/// The blobs that are a version's own
fn digests(versions: &[TemplateVersionRecord]) -> Vec<Digest> {
    let names = versions
        .iter()
        .flat_map(|version| [&version.manifest, &version.archive]);
    names.filter_map(|name| name.parse().ok()).collect()
}

fn overtaken(counts: Option<&str>) -> TemplateError {
    let counts = counts.map_or_else(
        || "nothing counts any more".to_owned(),
        |digest| format!("{digest} counts now"),
    );
    TemplateError::Conflict(format!(
        "somebody else changed this template meanwhile: {counts}. Nothing was published; look at the difference and push again"
    ))
}

fn changed_meanwhile() -> TemplateError {
    TemplateError::Conflict("this template is changed by many at once, try again".to_owned())
}

fn check_texts(description: &str, platform: &str) -> Result<(), TemplateError> {
    if description.len() > 1024 || platform.len() > 64 {
        return Err(TemplateError::Invalid(
            "a description has at most 1024 bytes, a platform 64".to_owned(),
        ));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let is_known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=32).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(is_known)
}
/// What daemons know the version as that counts; empty if there is none
fn current_hash(record: &TemplateRecord, versions: &[TemplateVersionRecord]) -> String {
    let current = versions.iter().find(|version| version.number == record.current);
    current.map_or_else(String::new, |version| version.archive.clone())
}
