//! What is secret in the order to start an instance, and how it is kept
//!
//! An order is kept for as long as it may have to be given again, and its environment holds passwords. In the records they
//! are sealed with a key that lies beside the authority's ([`SealingKey`]), so that a copy of the database alone gives none of
//! them away; once the instance has ended they are removed. They could not be left out: an order that no daemon has taken
//! yet is given again by the next controller.

use std::path::Path;

use prexorcloud_proto::StartInstance;
use prexorcloud_security::{
    NoRandomness,
    seal::{SealingKey, SealingKeyError},
};
use prost::Message as _;

use crate::{
    nodes::is_live,
    records::InstanceRecord,
    store::{self, Store, StoreError, Stored, Txn},
};

/// Name of the key's file in the authority's folder
const KEY_FILE: &str = "records.key";

/// The key of this authority's folder; blocks
pub(crate) fn key_of(authority: &Path) -> Result<SealingKey, SealingKeyError> {
    SealingKey::load_or_create(&authority.join(KEY_FILE))
}

/// Takes the secrets out of the order, and keeps them sealed
///
/// # Errors
/// [`NoRandomness`]; they are still in the order then.
pub(crate) fn seal(key: &SealingKey, record: &mut InstanceRecord) -> Result<(), NoRandomness> {
    let Some(start) = &mut record.start else {
        return Ok(());
    };
    let secrets = StartInstance {
        env: start.env.clone(),
        plugin_token: start.plugin_token.clone(),
        resolved_variables: start.resolved_variables.clone(),
        ..StartInstance::default()
    };
    record.sealed_secrets = key.seal(&context(start), &secrets.encode_to_vec())?;
    start.env.clear();
    start.plugin_token.clear();
    start.resolved_variables.clear();
    Ok(())
}

/// Puts the secrets back; says whether they could be read
///
/// A record of an earlier release has them in the open, and nothing sealed.
#[must_use]
pub(crate) fn open(key: &SealingKey, record: &mut InstanceRecord) -> bool {
    let Some(start) = record
        .start
        .as_mut()
        .filter(|_| !record.sealed_secrets.is_empty())
    else {
        return true;
    };
    let opened = key.open(&context(start), &record.sealed_secrets).ok();
    let Some(secrets) = opened.and_then(|bytes| StartInstance::decode(bytes.as_slice()).ok()) else {
        return false;
    };
    start.env = secrets.env;
    start.plugin_token = secrets.plugin_token;
    start.resolved_variables = secrets.resolved_variables;
    true
}

/// Removes them, sealed or not: nobody needs those of an instance that has ended
pub(crate) fn remove(record: &mut InstanceRecord) {
    record.sealed_secrets.clear();
    if let Some(start) = &mut record.start {
        start.env.clear();
        start.plugin_token.clear();
        start.resolved_variables.clear();
    }
}

/// Seals what an earlier release has recorded in the open, and removes what is of instances that have ended
///
/// # Errors
/// [`StoreError`] when the storage fails.
pub(crate) async fn seal_what_is_open(store: &dyn Store, key: &SealingKey) -> Result<(), StoreError> {
    for Stored { mut record, revision } in store::load_all::<InstanceRecord>(store).await?.0 {
        let is_open = |start: &StartInstance| !start.env.is_empty() || !start.plugin_token.is_empty();
        if !record.start.as_ref().is_some_and(is_open) {
            continue;
        }
        if is_live(&record) || record.lost {
            seal(key, &mut record).map_err(|error| StoreError::Io {
                detail: error.to_string(),
            })?;
        } else {
            remove(&mut record);
        }
        // Nobody else writes yet.
        let _ = store.txn(Txn::new().replace(revision, &record)).await?;
    }
    Ok(())
}

/// What is sealed is of one start of one instance
fn context(start: &StartInstance) -> Vec<u8> {
    format!("{}#{}", start.instance_id, start.incarnation).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_proto::InstanceState;

    use super::*;

    fn start() -> StartInstance {
        StartInstance {
            instance_id: "lobby-1".to_owned(),
            group: "lobby".to_owned(),
            incarnation: 3,
            env: [("DB_PASSWORD".to_owned(), "hunter2".to_owned())].into(),
            plugin_token: "token".to_owned(),
            ..StartInstance::default()
        }
    }

    #[test]
    fn an_order_is_the_same_after_its_secrets_were_sealed() {
        let key = SealingKey::generate().unwrap();
        let mut record = InstanceRecord {
            start: Some(start()),
            ..InstanceRecord::default()
        };
        seal(&key, &mut record).unwrap();
        let bytes = record.encode_to_vec();
        for secret in [&b"hunter2"[..], b"DB_PASSWORD", b"token"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        let mut elsewhere = record.clone();
        assert!(open(&key, &mut record));
        assert_eq!(record.start, Some(start()));
        assert!(!open(&SealingKey::generate().unwrap(), &mut elsewhere));
        remove(&mut record);
        assert!(record.sealed_secrets.is_empty() && record.start.unwrap().env.is_empty());
    }

    #[tokio::test]
    async fn what_an_earlier_release_recorded_in_the_open_is_sealed_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let options = store::SqliteOptions::default();
        let store = store::SqliteStore::open(folder.path().join("controller.db"), &options).unwrap();
        let key = SealingKey::generate().unwrap();
        for (id, state) in [("a", InstanceState::Running), ("b", InstanceState::Stopped)] {
            let record = InstanceRecord {
                instance_id: id.to_owned(),
                state: state.into(),
                start: Some(start()),
                ..InstanceRecord::default()
            };
            let _ = store.txn(Txn::new().create(&record)).await.unwrap();
        }
        seal_what_is_open(&store, &key).await.unwrap();
        for (id, is_kept) in [("a", true), ("b", false)] {
            let found = store::load::<InstanceRecord>(&store, id).await.unwrap().unwrap();
            let mut record = found.record;
            assert!(record.start.as_ref().unwrap().env.is_empty());
            assert!(open(&key, &mut record));
            assert_eq!(record.start == Some(start()), is_kept);
        }
    }

    #[test]
    fn a_record_of_an_earlier_release_is_read_as_it_is() {
        let mut record = InstanceRecord {
            start: Some(start()),
            ..InstanceRecord::default()
        };
        assert!(open(&SealingKey::generate().unwrap(), &mut record));
        assert_eq!(record.start, Some(start()));
    }
}
