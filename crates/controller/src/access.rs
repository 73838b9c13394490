//! Who may do what: bearer tokens, permissions, and the identity of a caller

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prexorcloud_security::{
    NoRandomness,
    files::{self, FileError},
    name::is_safe_name,
    token::{ApiToken, TokenHash},
};

use crate::{
    audit,
    records::AccessTokenRecord,
    store::{self, Expect, Record as _, Store, StoreError, Txn, TxnOutcome},
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
    /// Mint, list and revoke access tokens, with at most the permissions of one's own
    AccessManage,
    /// See who did what
    AuditView,
    /// See templates and pull them
    TemplatesView,
    /// Create, push, roll back and delete templates, and set their variables
    TemplatesManage,
    /// See groups, but for their environment
    GroupsView,
    /// Create, change and delete groups, and see their environment
    GroupsManage,
    /// See modules and their states
    ModulesView,
    /// Install and uninstall modules
    ModulesManage,
    /// See what the controller and the daemons log
    LogsView,
}

impl Permission {
    /// All of them
    pub const ALL: [Self; 15] = [
        Self::TokensManage,
        Self::NodesView,
        Self::NodesManage,
        Self::InstancesView,
        Self::InstancesManage,
        Self::CrashesView,
        Self::AccessManage,
        Self::AuditView,
        Self::TemplatesView,
        Self::TemplatesManage,
        Self::GroupsView,
        Self::GroupsManage,
        Self::ModulesView,
        Self::ModulesManage,
        Self::LogsView,
    ];

    /// The one with this name
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

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
            Self::AccessManage => "access.manage",
            Self::AuditView => "audit.view",
            Self::TemplatesView => "templates.view",
            Self::TemplatesManage => "templates.manage",
            Self::GroupsView => "groups.view",
            Self::GroupsManage => "groups.manage",
            Self::ModulesView => "modules.view",
            Self::ModulesManage => "modules.manage",
            Self::LogsView => "logs.view",
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
    /// Whoever can read the controller's data folder: may do everything
    Host,
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
            Self::Administrator { .. } | Self::Host => true,
            Self::Token { permissions, .. } => permissions
                .iter()
                .any(|held| held == ALL_PERMISSIONS || held == permission.name()),
            Self::Node { .. } => false,
        }
    }

    /// Whether this caller may do what somebody with this permission may, who may be allowed everything
    #[must_use]
    pub fn may_grant(&self, name: &str) -> bool {
        match Permission::named(name) {
            Some(permission) => self.may(permission),
            None => Permission::ALL.into_iter().all(|permission| self.may(permission)),
        }
    }

    /// How the audit log calls this caller
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Administrator { name } => format!("admin:{name}"),
            Self::Token { name, .. } => format!("token:{name}"),
            Self::Host => "operator:host".to_owned(),
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
    /// The name is not one
    #[error("the name of an access token is 1 to 64 letters, digits, dots, hyphens or underscores")]
    Name,
    /// There is no such permission
    #[error("\"{name}\" is not a permission: {}", permission_names())]
    Permission {
        /// The start of what was asked for
        name: String,
    },
    /// None was asked for
    #[error("an access token needs at least one permission: {}", permission_names())]
    NoPermission,
    /// Too many are remembered
    #[error("{MAX_TOKENS} access tokens exist: revoke some, they are forgotten 30 days later")]
    TooMany,
}

/// Access tokens that are remembered; minting more is refused
pub const MAX_TOKENS: usize = 1000;

/// How long a token that can no longer be used stays in lists
const REMEMBERED_FOR_MS: i64 = 30 * 24 * 3600 * 1000;

fn permission_names() -> String {
    let names = Permission::ALL.map(Permission::name).join(", ");
    format!("{names}, or {ALL_PERMISSIONS} for all")
}

/// By which an access token is listed and revoked: the beginning of its hash, which is no secret
#[must_use]
pub fn id_of(record: &AccessTokenRecord) -> String {
    format!("atk_{}", record.hash.get(..16).unwrap_or(&record.hash))
}

/// What became of an access token, for lists
#[must_use]
pub fn status_of(record: &AccessTokenRecord, now_ms: i64) -> &'static str {
    if record.revoked_at_ms != 0 {
        "REVOKED"
    } else if record.expires_at_ms != 0 && now_ms >= record.expires_at_ms {
        "EXPIRED"
    } else {
        "ACTIVE"
    }
}

/// The bearer tokens of people and tools
#[derive(Clone)]
pub struct AccessTokens {
    store: Arc<dyn Store>,
    /// Stands for whoever can read the data folder; lives as long as the process
    host: Option<TokenHash>,
}

impl AccessTokens {
    /// Over this store
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, host: None }
    }

    /// Lets the holder of this token do everything, as the data folder's owner may
    #[must_use]
    pub(crate) fn with_host(mut self, token: TokenHash) -> Self {
        self.host = Some(token);
        self
    }

    /// Who the value of an `authorization` header stands for
    ///
    /// # Errors
    /// [`AccessError::Invalid`] for anything but a live token, [`AccessError::Store`] when that could not be found out.
    pub async fn authenticate(&self, authorization: &str) -> Result<Caller, AccessError> {
        let token = ApiToken::from_authorization(authorization).map_err(|_| AccessError::Invalid)?;
        if self.host.is_some_and(|host| token.matches(&host)) {
            return Ok(Caller::Host);
        }
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

    /// Mints a token, for ever unless `ttl` says how long
    ///
    /// # Errors
    /// [`MintError`] when the name or a permission is not acceptable, or when it could not be recorded; then it is worthless.
    pub async fn mint(
        &self,
        actor: &str,
        name: &str,
        permissions: &[&str],
        ttl: Option<Duration>,
    ) -> Result<(ApiToken, AccessTokenRecord), MintError> {
        if !is_safe_name(name) {
            return Err(MintError::Name);
        }
        if permissions.is_empty() {
            return Err(MintError::NoPermission);
        }
        if let Some(unknown) = permissions
            .iter()
            .find(|name| **name != ALL_PERMISSIONS && Permission::named(name).is_none())
        {
            return Err(MintError::Permission {
                name: unknown.chars().take(64).collect(),
            });
        }
        if self.list().await?.len() >= MAX_TOKENS {
            return Err(MintError::TooMany);
        }
        let token = ApiToken::generate()?;
        let record = self.record(actor, name, permissions, ttl, &token).await?;
        Ok((token, record))
    }

    /// Every token that is remembered, oldest first
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn list(&self) -> Result<Vec<AccessTokenRecord>, StoreError> {
        let (stored, _) = store::load_all::<AccessTokenRecord>(&*self.store).await?;
        let mut records: Vec<_> = stored.into_iter().map(|stored| stored.record).collect();
        records.sort_by_key(|record| record.created_at_ms);
        Ok(records)
    }

    /// Revokes the token with this id; `false` if there is none
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn revoke_id(&self, actor: &str, id: &str) -> Result<bool, StoreError> {
        for found in store::load_all::<AccessTokenRecord>(&*self.store).await?.0 {
            if id_of(&found.record) != id {
                continue;
            }
            if found.record.revoked_at_ms != 0 {
                return Ok(true);
            }
            let name = found.record.name.clone();
            let record = AccessTokenRecord {
                revoked_at_ms: now_millis(),
                ..found.record
            };
            let audit = audit::entry(actor, "access-token.revoke", &name, id);
            let txn = Txn::new().replace(found.revision, &record).put_record(&audit);
            // A record is only ever changed by a revocation.
            let _ = self.store.txn(txn).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Forgets tokens that could no longer be used for 30 days; says how many
    ///
    /// The last one stays: without any, the next start would take itself for the first.
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn prune(&self, now_ms: i64) -> Result<usize, StoreError> {
        let all = store::load_all::<AccessTokenRecord>(&*self.store).await?.0;
        let mut left = all.len();
        let mut pruned = 0;
        for found in all {
            let record = &found.record;
            let ended = [record.revoked_at_ms, record.expires_at_ms]
                .into_iter()
                .filter(|at| *at != 0)
                .min();
            if left <= 1 || ended.is_none_or(|ended| now_ms.saturating_sub(ended) <= REMEMBERED_FOR_MS) {
                continue;
            }
            let txn = Txn::new()
                .expect(record.key(), Expect::At(found.revision))
                .delete(record.key());
            let gone = usize::from(self.store.txn(txn).await?.committed().is_some());
            (pruned, left) = (pruned + gone, left - gone);
        }
        Ok(pruned)
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
        self.record("controller", "admin", &[ALL_PERMISSIONS], None, &token)
            .await?;
        Ok(true)
    }

    async fn record(
        &self,
        actor: &str,
        name: &str,
        permissions: &[&str],
        ttl: Option<Duration>,
        token: &ApiToken,
    ) -> Result<AccessTokenRecord, StoreError> {
        let record = AccessTokenRecord {
            hash: token.hash().to_string(),
            name: name.to_owned(),
            permissions: permissions
                .iter()
                .map(|permission| (*permission).to_owned())
                .collect(),
            created_at_ms: now_millis(),
            expires_at_ms: ttl
                .and_then(|ttl| SystemTime::now().checked_add(ttl))
                .map_or(0, to_millis),
            revoked_at_ms: 0,
        };
        let audit = audit::entry(actor, "access-token.create", name, &record.permissions.join(","));
        match self
            .store
            .txn(Txn::new().create(&record).put_record(&audit))
            .await?
        {
            TxnOutcome::Committed { .. } => Ok(record),
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
