//! The catalog: which jar a version of a platform is
//!
//! It is empty until somebody fills it, and nothing is ever fetched to fill it. A group that names a platform and no jar is started with
//! the jar of its version, or of the recommended one where it names none.

use std::sync::Arc;

use prexorcloud_proto::ConfigFormat;

use crate::{
    audit,
    nodes::{check_jar, check_sha256},
    store::{self, Query, Record, Store, StoreError, Stored, Txn},
};

/// Most entries
const MAX_ENTRIES: usize = 4096;

/// Attempts to change entries that others change at the same time
const ATTEMPTS: usize = 8;

/// A version of a platform
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CatalogRecord {
    /// In upper case
    #[prost(string, tag = "1")]
    pub platform: String,
    /// Its version
    #[prost(string, tag = "2")]
    pub version: String,
    /// `SERVER` or `PROXY`
    #[prost(string, tag = "3")]
    pub category: String,
    /// The family of its configuration files; empty = by the name of the platform
    #[prost(string, tag = "4")]
    pub config_format: String,
    /// An http(s) URL, or a path on the nodes
    #[prost(string, tag = "5")]
    pub download_url: String,
    /// 64 hexadecimal digits, or empty
    #[prost(string, tag = "6")]
    pub sha256: String,
    /// Groups that name no version get this one
    #[prost(bool, tag = "7")]
    pub recommended: bool,
}

impl Record for CatalogRecord {
    const PREFIX: &'static str = "catalog/";

    fn id(&self) -> String {
        id(&self.platform, &self.version)
    }
}

impl CatalogRecord {
    pub(crate) fn is_proxy(&self) -> bool {
        self.category == "PROXY"
    }

    /// The family of its configuration files, if it says so
    pub(crate) fn format(&self) -> Option<ConfigFormat> {
        ConfigFormat::from_str_name(&format!("CONFIG_FORMAT_{}", self.config_format))
            .or_else(|| ConfigFormat::from_str_name(&self.config_format))
            .filter(|format| *format != ConfigFormat::Unspecified)
    }
}

fn id(platform: &str, version: &str) -> String {
    format!("{}/{version}", platform.to_ascii_uppercase())
}

/// Why the catalog was not changed
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error("the catalog has no version {version} of {platform}; see prexorctl catalog list")]
    Unknown { platform: String, version: String },
    #[error("{0}")]
    Invalid(String),
    #[error("the catalog is changed by many at once, try again")]
    Contended,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known of platforms
#[derive(Clone)]
pub(crate) struct Catalog {
    store: Arc<dyn Store>,
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// A page of the entries, by platform and version, and how many there are
    pub(crate) async fn page(
        &self,
        skipped: usize,
        size: usize,
    ) -> Result<(Vec<CatalogRecord>, usize), StoreError> {
        let total = self.store.count(CatalogRecord::PREFIX).await?;
        let page = Query::prefix(CatalogRecord::PREFIX).skip(skipped).limit(size);
        let entries = self.store.list(page).await?.entries.into_iter();
        let records = entries.map(|entry| Ok(Stored::<CatalogRecord>::decode(entry)?.record));
        Ok((records.collect::<Result<_, StoreError>>()?, total))
    }

    /// Adds an entry, or replaces it; it stays recommended if it was
    pub(crate) async fn put(
        &self,
        actor: &str,
        mut record: CatalogRecord,
    ) -> Result<CatalogRecord, CatalogError> {
        record.platform = record.platform.to_ascii_uppercase();
        check(&record)?;
        let known = self.find(&record.platform, &record.version).await?;
        if known.is_none() && self.store.count(CatalogRecord::PREFIX).await? >= MAX_ENTRIES {
            return Err(CatalogError::Invalid(format!(
                "the catalog has {MAX_ENTRIES} entries, which is the limit: remove some"
            )));
        }
        let txn = match &known {
            Some(known) => {
                record.recommended = known.record.recommended;
                Txn::new().replace(known.revision, &record)
            }
            None => Txn::new().create(&record),
        };
        self.commit(actor, "catalog.add", &record, txn).await?;
        Ok(record)
    }

    /// Changes an entry; what is empty stays as it is
    pub(crate) async fn change(
        &self,
        actor: &str,
        platform: &str,
        version: &str,
        change: CatalogRecord,
    ) -> Result<CatalogRecord, CatalogError> {
        let Stored { record, revision } = self.require(platform, version).await?;
        let or = |new: String, old: &String| if new.is_empty() { old.clone() } else { new };
        let changed = CatalogRecord {
            platform: record.platform.clone(),
            version: or(change.version, &record.version),
            category: or(change.category, &record.category),
            config_format: or(change.config_format, &record.config_format),
            download_url: or(change.download_url, &record.download_url),
            sha256: or(change.sha256, &record.sha256),
            recommended: record.recommended,
        };
        check(&changed)?;
        let txn = match changed.version == record.version {
            true => Txn::new().replace(revision, &changed),
            false => Txn::new()
                .expect(record.key(), store::Expect::At(revision))
                .delete(record.key())
                .create(&changed),
        };
        self.commit(actor, "catalog.update", &changed, txn).await?;
        Ok(changed)
    }

    /// Makes an entry the one of its platform that groups get which name no version
    pub(crate) async fn recommend(
        &self,
        actor: &str,
        platform: &str,
        version: &str,
    ) -> Result<(), CatalogError> {
        for _ in 0..ATTEMPTS {
            let chosen = self.require(platform, version).await?.record;
            let mut txn = Txn::new().put_record(&audit::entry(actor, "catalog.recommend", &chosen.id(), ""));
            for Stored { record, revision } in self.of_platform(platform).await? {
                let recommended = record.version == chosen.version;
                if record.recommended != recommended {
                    let changed = CatalogRecord {
                        recommended,
                        ..record
                    };
                    txn = txn.replace(revision, &changed);
                }
            }
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(CatalogError::Contended)
    }

    /// Removes an entry, if there is such
    pub(crate) async fn remove(
        &self,
        actor: &str,
        platform: &str,
        version: &str,
    ) -> Result<(), CatalogError> {
        let id = id(platform, version);
        let txn = Txn::new()
            .delete(CatalogRecord::key_of(&id))
            .put_record(&audit::entry(actor, "catalog.remove", &id, ""));
        // An unconditional delete cannot conflict.
        let _ = self.store.txn(txn).await?;
        Ok(())
    }

    /// What a group with this platform is started with: its version, or the recommended one if it names none
    pub(crate) async fn resolve(
        &self,
        platform: &str,
        version: &str,
    ) -> Result<Option<CatalogRecord>, StoreError> {
        if platform.is_empty() {
            return Ok(None);
        }
        if !version.is_empty() {
            return Ok(self.find(platform, version).await?.map(|known| known.record));
        }
        let all = self.of_platform(platform).await?.into_iter();
        Ok(all.map(|known| known.record).find(|record| record.recommended))
    }

    async fn of_platform(&self, platform: &str) -> Result<Vec<Stored<CatalogRecord>>, StoreError> {
        let entries = self
            .store
            .list(Query::prefix(CatalogRecord::key_of(&id(platform, ""))));
        entries.await?.entries.into_iter().map(Stored::decode).collect()
    }

    async fn find(&self, platform: &str, version: &str) -> Result<Option<Stored<CatalogRecord>>, StoreError> {
        store::load::<CatalogRecord>(&*self.store, &id(platform, version)).await
    }

    async fn require(&self, platform: &str, version: &str) -> Result<Stored<CatalogRecord>, CatalogError> {
        let found = self.find(platform, version).await?;
        found.ok_or_else(|| CatalogError::Unknown {
            platform: platform.chars().take(64).collect(),
            version: version.chars().take(64).collect(),
        })
    }

    async fn commit(
        &self,
        actor: &str,
        action: &str,
        record: &CatalogRecord,
        txn: Txn,
    ) -> Result<(), CatalogError> {
        let txn = txn.put_record(&audit::entry(actor, action, &record.id(), ""));
        match self.store.txn(txn).await?.committed() {
            Some(_) => Ok(()),
            None => Err(CatalogError::Contended),
        }
    }
}

fn check(record: &CatalogRecord) -> Result<(), CatalogError> {
    let invalid = |sentence: String| Err(CatalogError::Invalid(sentence));
    for (name, text) in [("platform", &record.platform), ("version", &record.version)] {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_known) && !text.starts_with('.');
        if !fits {
            return invalid(format!("{name} has 1 to 64 letters, digits and any of ._+-"));
        }
    }
    if !["SERVER", "PROXY"].contains(&record.category.as_str()) {
        return invalid("category must be SERVER or PROXY".to_owned());
    }
    if !record.config_format.is_empty() && record.format().is_none() {
        return invalid(
            "configFormat must be PAPER, SPIGOT, VELOCITY, BUNGEECORD or GEYSER, or empty".to_owned(),
        );
    }
    if record.download_url.len() > 2048 {
        return invalid("downloadUrl has at most 2048 bytes".to_owned());
    }
    check_jar(&record.download_url)
        .map_err(|wrong| CatalogError::Invalid(format!("downloadUrl: {wrong}")))?;
    check_sha256(&record.sha256).map_err(|wrong| CatalogError::Invalid(wrong.to_string()))
}
