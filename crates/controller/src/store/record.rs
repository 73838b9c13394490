//! Typed access: prost messages under the keys of their kind

use super::{Entry, Query, Revision, Store, StoreError};

/// A message that is stored under `PREFIX` followed by its id
pub trait Record: prost::Message + Default + Clone {
    /// The key prefix of the kind, with the trailing slash
    const PREFIX: &'static str;

    /// The part of the key after the prefix
    fn id(&self) -> String;

    /// The whole key
    fn key(&self) -> String {
        Self::key_of(&self.id())
    }

    /// The whole key of the record with this id
    fn key_of(id: &str) -> String {
        format!("{}{id}", Self::PREFIX)
    }
}

/// A record as read, with the revision that an update of it compares with
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<R> {
    /// The decoded message
    pub record: R,
    /// When it was last written
    pub revision: Revision,
}

impl<R: Record> Stored<R> {
    /// Reads an entry as an `R`
    ///
    /// # Errors
    /// [`StoreError::Undecodable`] when it is something else.
    pub fn decode(entry: Entry) -> Result<Self, StoreError> {
        match R::decode(entry.value) {
            Ok(record) => Ok(Self {
                record,
                revision: entry.revision,
            }),
            Err(error) => Err(StoreError::Undecodable {
                key: entry.key,
                detail: error.to_string(),
            }),
        }
    }
}

/// The record of kind `R` with this id, if it exists
///
/// # Errors
/// [`StoreError::Undecodable`] when the value is not an `R`, else what [`Store::get`] reports.
pub async fn load<R: Record>(store: &dyn Store, id: &str) -> Result<Option<Stored<R>>, StoreError> {
    match store.get(&R::key_of(id)).await? {
        Some(entry) => Stored::decode(entry).map(Some),
        None => Ok(None),
    }
}

/// Every record of kind `R` in key order, and the revision of the snapshot
///
/// # Errors
/// [`StoreError::Undecodable`] when one of the values is not an `R`, else what [`Store::list`] reports.
pub async fn load_all<R: Record>(store: &dyn Store) -> Result<(Vec<Stored<R>>, Revision), StoreError> {
    let listing = store.list(Query::prefix(R::PREFIX)).await?;
    let records = listing
        .entries
        .into_iter()
        .map(Stored::decode)
        .collect::<Result<_, _>>()?;
    Ok((records, listing.revision))
}
