//! Which version counts: publishing a new one, and going back to an earlier one

use std::collections::HashMap;

use prexorcloud_content::{Digest, Manifest};

use super::{
    ATTEMPTS, TemplateError, TemplateRecord, TemplateVersionRecord, Templates, changed_meanwhile, digests,
};
use crate::{
    audit,
    events::Event,
    store::{Expect, Record as _, Stored, Txn, TxnOutcome},
    wall_clock::now_millis,
};

/// Versions that are kept of a template; the oldest that does not count goes first
pub const MAX_VERSIONS: usize = 100;

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

impl Templates {
    /// Reads a manifest that somebody sent, and says which of its blobs are not here
    ///
    /// Those that are here stay for at least [`KEPT_UNREFERENCED`](crate::content::KEPT_UNREFERENCED).
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] with the rule or the limit that the manifest breaks.
    pub async fn lacking(&self, name: &str, manifest: &Manifest) -> Result<Lacking, TemplateError> {
        let (_, current) = self.show(name).await?;
        let blobs = self.missing(manifest).await?;
        Ok(Lacking { blobs, current })
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
        let (manifest, json, digest) = self.written(manifest).await?;
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
            // A file that was found damaged is gone now, and whoever pushes sends it again.
            let missing = self.missing(&manifest).await?;
            if !missing.is_empty() {
                return Err(TemplateError::Missing { count: missing.len() });
            }
        }
        let (size_bytes, files) = (manifest.total_bytes(), manifest.files().count() as u64);
        self.content.keep(json.into()).await?;
        self.manifests.note(digest, true);
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

/// What daemons know the version as that counts; empty if there is none
fn current_hash(record: &TemplateRecord, versions: &[TemplateVersionRecord]) -> String {
    let current = versions.iter().find(|version| version.number == record.current);
    current.map_or_else(String::new, |version| version.archive.clone())
}
