//! Which bytes of templates may go: those that no version has and no start needs

use std::{collections::HashSet, time::Duration};

use prexorcloud_content::Digest;

use super::{TemplateError, TemplateVersionRecord, Templates, digests, layers};
use crate::{
    content::{Collected, KEPT_UNREFERENCED, Referenced},
    groups::DeploymentRecord,
    modules,
    nodes::is_live,
    records::InstanceRecord,
    store::{self, Revision, Stored},
};

/// Versions with a damaged manifest that an error names; the list of versions shows all
const NAMED: usize = 8;

impl Templates {
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
    pub async fn collect_older_than(&self, age: Duration) -> Result<Collected, TemplateError> {
        let candidates = self.content.old(age).await?;
        if candidates.is_empty() {
            return Ok(Collected::default());
        }
        let (versions, _): (_, Revision) = store::load_all::<TemplateVersionRecord>(&*self.store).await?;
        let mut versions: Vec<TemplateVersionRecord> =
            versions.into_iter().map(|version| version.record).collect();
        let (deployments, _): (_, Revision) = store::load_all::<DeploymentRecord>(&*self.store).await?;
        // What a deployment has pinned is started again after a rollback, whatever became of the template.
        let pinned = deployments
            .into_iter()
            .flat_map(|deployment| deployment.record.layers);
        let mut known: HashSet<String> = versions.iter().map(|version| version.manifest.clone()).collect();
        let gone = pinned.filter_map(|layer| layer.version);
        versions.extend(gone.filter(|version| known.insert(version.manifest.clone())));
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
        let own: HashSet<Digest> = versions
            .iter()
            .filter_map(|version| version.manifest.parse().ok())
            .collect();
        self.manifests.retain(&own);
        let mut damaged = Vec::new();
        for record in versions {
            referenced.extend(digests(std::slice::from_ref(&record)));
            match self.manifest(&record).await {
                Ok(manifest) => referenced.extend(manifest.files().map(|(_, blob)| blob.sha256)),
                Err(TemplateError::Damaged { .. } | TemplateError::Blob(_)) => damaged.push(record),
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            return Err(TemplateError::Damaged {
                versions: named(&damaged),
            });
        }
        Ok(self.content.collect(candidates, &referenced, age).await?)
    }
}

/// The first of them, for people
fn named(damaged: &[TemplateVersionRecord]) -> String {
    let mut named: Vec<String> = damaged
        .iter()
        .take(NAMED)
        .map(TemplateVersionRecord::title)
        .collect();
    if let Some(more) = damaged.len().checked_sub(NAMED).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}
