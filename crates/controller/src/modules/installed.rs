//! What is installed, as the tasks of the nodes see it
//!
//! It is read from the store whenever the modules change there. Whoever asked for a change sees it before the answer; and where that caller has
//! gone away in the middle, or does not know whether the change was committed, nodes are told of it all the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use prexorcloud_content::module::Manifest;
use prexorcloud_protocol::modules::Wanted;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{ModuleArtifact, ModuleRecord, Modules, dependencies, record::ModuleSetRecord};
use crate::store::{self, Query, Record as _, Revision, StoreError, Stored};

/// The pause before a storage that failed is asked again
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is installed, by id
pub(crate) type Installed = Arc<BTreeMap<String, Entry>>;

/// An installed module
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) current: ModuleArtifact,
    pub(crate) manifest: Manifest,
    pub(crate) unmet: Vec<String>,
    /// The versions that one can go back to, the newest upload first
    pub(crate) former: Vec<String>,
}

/// What nodes are to have
pub(crate) fn wanted(installed: &Installed) -> Vec<Wanted> {
    let for_daemons = installed.values().filter(|entry| entry.manifest.is_for_daemons());
    let wanted = for_daemons.filter_map(|entry| {
        Some(Wanted {
            module: entry.manifest.id.parse().ok()?,
            version: entry.current.version.clone(),
            sha256: entry.current.sha256.clone(),
        })
    });
    wanted.collect()
}

impl Modules {
    pub(super) async fn load_all(
        &self,
    ) -> Result<(BTreeMap<String, Manifest>, Vec<ModuleRecord>), StoreError> {
        let (records, _) = store::load_all::<ModuleRecord>(&*self.store).await?;
        let (mut manifests, mut all) = (BTreeMap::new(), Vec::new());
        for Stored { record, .. } in records {
            let text = record.current.as_ref().map(|current| current.manifest.as_str());
            match Manifest::parse(text.unwrap_or_default()) {
                Ok(manifest) => drop(manifests.insert(record.id.clone(), manifest)),
                Err(error) => tracing::error!(module = record.id, %error, "a recorded module is ignored"),
            }
            all.push(record);
        }
        Ok((manifests, all))
    }

    /// Tells the nodes' tasks what is installed
    pub(super) async fn publish(&self) -> Result<(), StoreError> {
        let _turn = self.publishing.lock().await;
        let (manifests, records) = self.load_all().await?;
        let entries = records.into_iter().filter_map(|record| {
            let manifest = manifests.get(&record.id)?.clone();
            let unmet = dependencies::unmet(&manifest, &manifests);
            let current = record.current?;
            let former = record.former.into_iter().map(|former| former.version);
            let entry = Entry {
                current,
                manifest,
                unmet,
                former: former.collect(),
            };
            Some((record.id, entry))
        });
        self.installed.send_replace(Arc::new(entries.collect()));
        Ok(())
    }

    /// The same after a change that was committed; where it cannot be read now, [`follow`](Self::follow) does it later
    pub(super) async fn publish_soon(&self) {
        if let Err(error) = self.publish().await {
            tracing::warn!(%error, "the modules cannot be read for now; nodes are told of the change as soon as they can be");
        }
    }

    /// Shows every change until `stopping`, also one whose caller did not wait for it or was told that it may have failed
    pub(crate) async fn follow(self, stopping: CancellationToken) {
        let until = stopping.clone();
        let following = async {
            loop {
                let from = self.position().await;
                let mut changes = self.store.watch(ModuleSetRecord::PREFIX, from);
                self.publish_at_last().await;
                while let Some(Ok(_)) = changes.next().await {
                    self.publish_at_last().await;
                }
                // It fell behind, or the storage failed.
                sleep(ASKED_AGAIN_AFTER).await;
            }
        };
        tokio::select! {
            () = until.cancelled() => {}
            () = following => {}
        }
    }

    async fn position(&self) -> Revision {
        loop {
            match self
                .store
                .list(Query::prefix(ModuleSetRecord::PREFIX).limit(1))
                .await
            {
                Ok(listing) => return listing.revision,
                Err(error) => tracing::warn!(%error, "the modules cannot be read for now"),
            }
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    async fn publish_at_last(&self) {
        while let Err(error) = self.publish().await {
            tracing::warn!(%error, "the modules cannot be read for now; nodes are told of their change later");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{
        content::{Content, FolderBlobs},
        store::{SqliteOptions, SqliteStore, Store as _, Txn},
    };

    #[tokio::test]
    async fn a_change_of_which_nobody_heard_that_it_was_committed_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("controller.db");
        let store = Arc::new(SqliteStore::open(&file, &SqliteOptions::default()).unwrap());
        let blobs = FolderBlobs::open(&folder.path().join("content")).unwrap();
        let content = Arc::new(Content::new(Arc::new(blobs)));
        let modules = Modules::none(store.clone(), content);
        let mut shown = modules.watch();
        let stopping = CancellationToken::new();
        let following = tokio::spawn(modules.follow(stopping.clone()));

        let module = ModuleRecord {
            id: "stats".to_owned(),
            current: Some(ModuleArtifact {
                version: "1.0.0".to_owned(),
                manifest:
                    "id: stats\nversion: 1.0.0\nhosts: [daemon]\nbackend: {daemon: {entrypoint: a.B}}\n"
                        .to_owned(),
                ..ModuleArtifact::default()
            }),
            former: Vec::new(),
        };
        let changed = |at| ModuleSetRecord { changed_at_ms: at };
        let install = Txn::new().put_record(&module).put_record(&changed(1));
        assert!(store.txn(install).await.unwrap().committed().is_some());
        let has = |installed: &Installed| installed.contains_key("stats");
        shown.wait_for(has).await.unwrap();

        let uninstall = Txn::new().delete(module.key()).put_record(&changed(2));
        assert!(store.txn(uninstall).await.unwrap().committed().is_some());
        shown.wait_for(|installed| !has(installed)).await.unwrap();
        stopping.cancel();
        following.await.unwrap();
        store.close().await.unwrap();
    }
}
