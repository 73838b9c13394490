//! What was a SECRET in templates that are gone
//!
//! A value of a SECRET may still stand in a group, or in the record of a server, when its template is deleted. Another template of
//! that name would quote it, if it did not know that the key was a SECRET.

use super::{TemplateError, TemplateRecord, Templates, record::FormerSecretsRecord, recorded::secret_keys};
use crate::{
    store::{self, Expect, Record as _, Txn},
    wall_clock::now_millis,
};

/// Deleted templates whose keys are remembered; of more, those that were deleted first are forgotten
pub(super) const MAX_REMEMBERED: usize = 1024;

impl Templates {
    /// Gives a template that is created what one of its name had as a SECRET, and the transaction that takes it from there
    pub(super) async fn recall_secrets(
        &self,
        created: &mut TemplateRecord,
        txn: Txn,
    ) -> Result<Txn, TemplateError> {
        let key = FormerSecretsRecord::key_of(&created.name);
        let former = store::load::<FormerSecretsRecord>(&*self.store, &created.name).await?;
        Ok(match former {
            Some(former) => {
                created.secret_keys = former.record.keys;
                txn.expect(&key, Expect::At(former.revision)).delete(key)
            }
            None => txn.expect(key, Expect::Absent),
        })
    }

    /// Keeps what a template that is deleted had as a SECRET
    pub(super) async fn remember_secrets(
        &self,
        deleted: &TemplateRecord,
        mut txn: Txn,
    ) -> Result<Txn, TemplateError> {
        let keys = secret_keys(deleted);
        if keys.is_empty() {
            return Ok(txn);
        }
        let (former, _) = store::load_all::<FormerSecretsRecord>(&*self.store).await?;
        let mut former: Vec<FormerSecretsRecord> = former.into_iter().map(|stored| stored.record).collect();
        former.sort_by_key(|record| record.deleted_at_ms);
        let too_many = (former.len() + 1).saturating_sub(MAX_REMEMBERED);
        for forgotten in former.iter().take(too_many) {
            tracing::warn!(
                template = forgotten.template,
                "more than {MAX_REMEMBERED} templates with secrets were deleted: which keys of this one were a SECRET is forgotten"
            );
            txn = txn.delete(forgotten.key());
        }
        Ok(txn.put_record(&FormerSecretsRecord {
            template: deleted.name.clone(),
            keys: keys.into_iter().collect(),
            deleted_at_ms: now_millis(),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use prexorcloud_content::Limits;
    use prexorcloud_security::seal::SealingKey;

    use super::*;
    use crate::{
        content::{Content, FolderBlobs},
        store::{SqliteOptions, SqliteStore, Store},
    };

    #[tokio::test]
    async fn the_memory_is_bounded_and_the_oldest_of_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(folder.path().join("db"), &SqliteOptions::default()).unwrap());
        let blobs = FolderBlobs::open(&folder.path().join("content")).unwrap();
        let key = Arc::new(SealingKey::generate().unwrap());
        let content = Arc::new(Content::new(Arc::new(blobs)));
        let templates = Templates::new(Arc::clone(&store), content, key, Limits::default());
        let mut txn = Txn::new();
        for number in 0..MAX_REMEMBERED {
            txn = txn.put_record(&FormerSecretsRecord {
                template: format!("t{number}"),
                keys: vec!["PW".to_owned()],
                deleted_at_ms: i64::try_from(number).unwrap(),
            });
        }
        assert!(store.txn(txn).await.unwrap().committed().is_some());
        let deleted = TemplateRecord {
            name: "last".to_owned(),
            secret_keys: vec!["PW".to_owned()],
            ..TemplateRecord::default()
        };
        let txn = templates.remember_secrets(&deleted, Txn::new()).await.unwrap();
        assert!(store.txn(txn).await.unwrap().committed().is_some());
        let kept = store::load_all::<FormerSecretsRecord>(&*store).await.unwrap().0;
        assert_eq!(kept.len(), MAX_REMEMBERED);
        for (name, is_kept) in [("t0", false), ("t1", true), ("last", true)] {
            let kept = store::load::<FormerSecretsRecord>(&*store, name).await.unwrap();
            assert_eq!(kept.is_some(), is_kept, "{name}");
        }
    }
}
