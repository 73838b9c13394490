//! Who may do what: bearer tokens, permissions, and the identity of a caller

use std::{path::Path, sync::Arc, time::SystemTime};

use prexorcloud_security::{
    NoRandomness,
    files::{self, FileError},
    token::ApiToken,
};

use crate::{
    audit,
    records::AccessTokenRecord,
    store::{self, Store, StoreError, Txn, TxnOutcome},
    wall_clock::{now_millis, to_millis},
};

/// Name of the file in the data folder that holds the first administrator's token
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// Something that a caller needs to be allowed
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Mint, list and revoke join tokens
    TokensManage,
    /// See nodes
    NodesView,
    /// Cordon, drain, shut down, revoke certificates
    NodesManage,
    /// See instances and their consoles
    InstancesView,
    /// Start, stop, delete instances and send them commands
    InstancesManage,
    /// See crash records
    CrashesView,
}

impl Permission {
    /// Its name in a token's record
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TokensManage => "tokens.manage",
            Self::NodesView => "nodes.view",
            Self::NodesManage => "nodes.manage",
            Self::InstancesView => "instances.view",
            Self::InstancesManage => "instances.manage",
            Self::CrashesView => "crashes.view",
        }
    }
}

/// Every permission, in a token's record
pub const ALL_PERMISSIONS: &str = "*";

/// Somebody whose identity was proven
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The holder of an administrator's certificate: may do everything
    Administrator {
        /// The name in the certificate
        name: String,
    },
    /// The holder of a bearer token
    Token {
        /// The token's name
        name: String,
        /// What it allows
        permissions: Vec<String>,
    },
    /// A daemon: may do nothing here
    Node {
        /// Its id
        node_id: String,
    },
}

impl Caller {
    /// Whether this caller may do that
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        match self {
            Self::Administrator { .. } => true,
            Self::Token { permissions, .. } => permissions
                .iter()
                .any(|held| held == ALL_PERMISSIONS || held == permission.name()),
            Self::Node { .. } => false,
        }
    }

    /// How the audit log calls this caller
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Administrator { name } => format!("admin:{name}"),
            Self::Token { name, .. } => format!("token:{name}"),
            Self::Node { node_id } => format!("node:{node_id}"),
        }
    }
}

/// Why a bearer token stands for nobody
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Not a token at all, unknown, revoked or expired: which of these is nobody's business
    #[error("the bearer token is not valid")]
    Invalid,
    /// The store failed, so nothing is known
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the first administrator's token could not be made
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// It could not be written down
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be recorded
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bytes
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The bearer tokens of people and tools
#[derive(Clone)]
pub struct AccessTokens {
    store: Arc<dyn Store>,
}

impl AccessTokens {
    /// Over this store
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Who the value of an `authorization` header stands for
    ///
    /// # Errors
    /// [`AccessError::Invalid`] for anything but a live token, [`AccessError::Store`] when that could not be found out.
    pub async fn authenticate(&self, authorization: &str) -> Result<Caller, AccessError> {
        let token = ApiToken::from_authorization(authorization).map_err(|_| AccessError::Invalid)?;
        let id = token.hash().to_string();
        let found = store::load::<AccessTokenRecord>(&*self.store, &id)
            .await?
            .ok_or(AccessError::Invalid)?;
        let record = found.record;
        let now = to_millis(SystemTime::now());
        let expired = record.expires_at_ms != 0 && now >= record.expires_at_ms;
        if record.revoked_at_ms != 0 || expired {
            return Err(AccessError::Invalid);
        }
        Ok(Caller::Token {
            name: record.name,
            permissions: record.permissions,
        })
    }

    /// Mints a token
    ///
    /// # Errors
    /// [`MintError`] when it could not be recorded; then it is worthless.
    pub async fn mint(&self, actor: &str, name: &str, permissions: &[&str]) -> Result<ApiToken, MintError> {
        let token = ApiToken::generate()?;
        self.record(actor, name, permissions, &token).await?;
        Ok(token)
    }

    /// Makes the first administrator's token, unless there ever was one; says whether it did
    ///
    /// The raw token goes into `admin.token` (0600) in the data folder and nowhere else. The file comes before the
    /// record: a crash in between leaves a file that the next start replaces, never a token that nobody knows.
    ///
    /// # Errors
    /// [`MintError`] when file or record could not be written.
    pub async fn mint_first(&self, data_dir: &Path) -> Result<bool, MintError> {
        if !store::load_all::<AccessTokenRecord>(&*self.store)
            .await?
            .0
            .is_empty()
        {
            return Ok(false);
        }
        let token = ApiToken::generate()?;
        let path = data_dir.join(ADMIN_TOKEN_FILE);
        // Once in the life of a data folder, before anything is served: blocking here delays nobody.
        files::write_secret(&path, format!("{}\n", token.expose()).as_bytes())?;
        self.record("controller", "admin", &[ALL_PERMISSIONS], &token)
            .await?;
        Ok(true)
    }

    async fn record(
        &self,
        actor: &str,
        name: &str,
        permissions: &[&str],
        token: &ApiToken,
    ) -> Result<(), StoreError> {
        let record = AccessTokenRecord {
            hash: token.hash().to_string(),
            name: name.to_owned(),
            permissions: permissions
                .iter()
                .map(|permission| (*permission).to_owned())
                .collect(),
            created_at_ms: now_millis(),
            expires_at_ms: 0,
            revoked_at_ms: 0,
        };
        let audit = audit::entry(actor, "access-token.create", name, &record.permissions.join(","));
        match self
            .store
            .txn(Txn::new().create(&record).put_record(&audit))
            .await?
        {
            TxnOutcome::Committed { .. } => Ok(()),
            // 240 random bits do not repeat; if they did, the other token's record must stay as it is.
            TxnOutcome::Conflict { .. } => Err(StoreError::Io {
                detail: "token collision".to_owned(),
            }),
        }
    }

    /// Revokes every token with this name; says how many
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails; some may be revoked then.
    pub async fn revoke(&self, actor: &str, name: &str) -> Result<usize, StoreError> {
        let mut revoked = 0;
        for found in store::load_all::<AccessTokenRecord>(&*self.store).await?.0 {
            if found.record.name != name || found.record.revoked_at_ms != 0 {
                continue;
            }
            let record = AccessTokenRecord {
                revoked_at_ms: now_millis(),
                ..found.record
            };
            let audit = audit::entry(actor, "access-token.revoke", name, "");
            let txn = Txn::new().replace(found.revision, &record).put_record(&audit);
            revoked += usize::from(self.store.txn(txn).await?.committed().is_some());
        }
        Ok(revoked)
    }
}
