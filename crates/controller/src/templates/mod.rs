//! Templates: named folders in immutable versions, and which version counts
//!
//! What a version holds is content ([`crate::content`]); a record names it. Publishing moves one pointer in one transaction that compares with
//! what its maker has seen, so of two pushes at once one wins and the other is told, and nobody ever sees half of a version. Whoever starts an
//! instance takes the version that counts at that moment, by its digests, which stay what they are.

mod collection;
mod composition;
mod former;
mod manifests;
mod mending;
mod publishing;
mod record;
mod recorded;
pub mod variables;

use std::sync::Arc;

use prexorcloud_content::{Digest, Limits, PackError};
use prexorcloud_proto::{StartInstance, TemplateRef};
use prexorcloud_security::seal::SealingKey;

pub use self::{
    composition::{Composition, Layer, MAX_LAYERS},
    manifests::MAX_MANIFEST_BYTES,
    publishing::{Lacking, MAX_VERSIONS, Published},
    record::{TemplateRecord, TemplateVersionRecord, VariableRecord},
};
use manifests::Manifests;

use crate::{
    audit,
    content::{ArchiveError, BlobError, Content},
    store::{self, Expect, Query, Record as _, Store, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// Most templates
pub const MAX_TEMPLATES: usize = 4096;

/// Attempts to change a record that others change at the same time
const ATTEMPTS: usize = 16;

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
    /// Manifests are not what they were
    #[error(
        "the manifest of {versions} is missing or damaged, so nobody knows which files that has, and no bytes of templates are removed: push the same files again (prexorctl template pull may still bring them), or delete the template"
    )]
    Damaged {
        /// Which, for people
        versions: String,
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

/// The templates of this controller
#[derive(Clone)]
pub struct Templates {
    store: Arc<dyn Store>,
    content: Arc<Content>,
    sealing: Arc<SealingKey>,
    limits: Arc<Limits>,
    manifests: Arc<Manifests>,
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
            manifests: Arc::default(),
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
