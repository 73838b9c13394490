//! One-time tokens that enrol nodes, over the store
//!
//! The rules are those of [`prexorcloud_security::token`]; this module adds that they hold for many callers at once. A
//! redemption is one transaction that compares the token's record with what was judged, so of any number of callers
//! exactly one wins, and what comes with it (the node, its certificate, the audit entry) is recorded or the token is
//! still open.
//!
//! The reply to a redemption can be lost on its way. A node that made its key itself asks again with the same token and the
//! same key for as long as the token would be good: nobody else has a use for what it gets. Where the controller made the
//! key, handing it out a second time would serve whoever overheard the first; the operator mints another token, bound to
//! the node.

use std::{sync::Arc, time::Duration, time::SystemTime};

use prexorcloud_protocol::NodeId;
use prexorcloud_security::token::{
    self, JoinToken, JoinTokenRecord, JoinTokenState, RecordError, RedeemError, Revocation, TokenHash,
};

use crate::{
    audit,
    authorities::SharedAuthorities,
    config::TokenConfig,
    records::{JoinTokenEntry, JoinTokenIndex},
    store::{self, Record, Revision, Store, StoreError, Stored, Txn, TxnOutcome},
    wall_clock::{from_millis, to_millis},
};

/// Tokens that can be used; minting more is refused
pub const MAX_TOKENS: usize = 10_000;

/// How long a token that can no longer be used stays in lists
pub const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Attempts to change a record that others change at the same time
const ATTEMPTS: usize = 16;

/// A fresh token; the only moment at which it can be read
#[derive(Debug)]
pub struct MintedToken {
    /// By which it is listed and revoked
    pub id: String,
    /// The secret
    pub token: JoinToken,
    /// When it expires
    pub expires_at: SystemTime,
}

/// Why no token was minted
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintTokenError {
    /// The node id or the lifetime is not acceptable
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The lifetime is longer than this controller allows
    #[error("a join token may be valid for at most {} seconds here", max.as_secs())]
    TooLong {
        /// The configured limit
        max: Duration,
    },
    /// Too many can be used
    #[error("{MAX_TOKENS} join tokens can be used: revoke some, or wait until they expire")]
    TooMany,
    /// No random bytes
    #[error(transparent)]
    NoRandomness(#[from] prexorcloud_security::NoRandomness),
    /// It could not be recorded
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token was not redeemed
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedemptionError {
    /// The token's rules say no
    #[error(transparent)]
    Refused(#[from] RedeemError),
    /// The storage failed; the token is as it was, unless the error says that this is unknown
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What revoking a token did
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RevokeOutcome {
    /// It can no longer be used
    Revoked,
    /// It could not be used any more before
    AlreadyRevoked,
    /// A node used it before
    AlreadyConsumed,
    /// There is no such token
    Unknown,
}

/// What became of a token, for lists
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    /// Can be redeemed
    Active,
    /// Nobody redeemed it in time
    Expired,
    /// A node redeemed it
    Consumed,
    /// An operator withdrew it
    Revoked,
}

/// A token that may be redeemed as far as it was when it was looked at
#[derive(Debug)]
pub struct Redeemable {
    redeemed: JoinTokenEntry,
    revision: Revision,
}

impl Redeemable {
    /// Whether it is for this very node and no other
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !self.redeemed.node_id.is_empty()
    }

    /// The certificate that the token became before, if this asks for its lost answer
    #[must_use]
    pub fn repeats(&self) -> Option<&str> {
        Some(self.redeemed.consumed_serial.as_str()).filter(|serial| !serial.is_empty())
    }
}

/// The join tokens of this controller
#[derive(Clone)]
pub struct JoinTokens {
    store: Arc<dyn Store>,
    authorities: SharedAuthorities,
    config: TokenConfig,
}

impl JoinTokens {
    /// Over this store; tokens carry the pin of the authority that signs, by which a daemon recognises this cluster
    #[must_use]
    pub fn new(store: Arc<dyn Store>, authorities: SharedAuthorities, config: TokenConfig) -> Self {
        Self {
            store,
            authorities,
            config,
        }
    }

    /// Mints a token, for `node` or for any, valid for `ttl` or the configured time
    ///
    /// # Errors
    /// [`MintTokenError`]; nothing is recorded then.
    pub async fn mint(
        &self,
        actor: &str,
        node: Option<&str>,
        ttl: Option<Duration>,
    ) -> Result<MintedToken, MintTokenError> {
        let ttl = ttl.unwrap_or(self.config.default_ttl);
        if ttl > self.config.max_ttl {
            return Err(MintTokenError::TooLong {
                max: self.config.max_ttl,
            });
        }
        let token = JoinToken::generate(Some(self.authorities.pin()))?;
        let record = JoinTokenRecord::create(&token, node, SystemTime::now(), ttl)?;
        let now = SystemTime::now();
        let is_active = |entry: &&JoinTokenEntry| matches!(status(entry, now), TokenStatus::Active);
        // What was used, revoked or has expired is only remembered.
        if self.list().await?.iter().filter(is_active).count() >= MAX_TOKENS {
            return Err(MintTokenError::TooMany);
        }
        let entry = to_entry(&record);
        let index = JoinTokenIndex {
            hash: entry.hash.clone(),
            token_id: entry.token_id.clone(),
        };
        let audit = audit::entry(
            actor,
            "join-token.create",
            &entry.token_id,
            node.unwrap_or("any node"),
        );
        match self
            .store
            .txn(Txn::new().create(&entry).create(&index).put_record(&audit))
            .await?
        {
            TxnOutcome::Committed { .. } => Ok(MintedToken {
                id: entry.token_id,
                token,
                expires_at: record.expires_at,
            }),
            // Random ids and hashes do not repeat; an existing record must not be touched if they did.
            TxnOutcome::Conflict { .. } => Err(StoreError::Io {
                detail: "token collision".to_owned(),
            }
            .into()),
        }
    }

    /// Every token that is remembered, by id
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn list(&self) -> Result<Vec<JoinTokenEntry>, StoreError> {
        let (stored, _) = store::load_all::<JoinTokenEntry>(&*self.store).await?;
        Ok(stored.into_iter().map(|stored| stored.record).collect())
    }

    /// Withdraws a token
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn revoke(&self, actor: &str, token_id: &str) -> Result<RevokeOutcome, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.load(token_id).await? else {
                return Ok(RevokeOutcome::Unknown);
            };
            let revoked = match from_entry(&found.record)?.revoke(SystemTime::now()) {
                Revocation::Revoked(record) => record,
                Revocation::AlreadyRevoked => return Ok(RevokeOutcome::AlreadyRevoked),
                Revocation::AlreadyConsumed => return Ok(RevokeOutcome::AlreadyConsumed),
            };
            let audit = audit::entry(actor, "join-token.revoke", token_id, "");
            let txn = Txn::new()
                .replace(found.revision, &to_entry(&revoked))
                .put_record(&audit);
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(RevokeOutcome::Revoked);
            }
        }
        Err(contended(token_id))
    }

    /// The tokens that this node, and no other, may still enrol with
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn open_of(&self, node: NodeId) -> Result<Vec<String>, StoreError> {
        let now = to_millis(SystemTime::now());
        let is_open = |entry: &JoinTokenEntry| {
            entry.node_id == node.as_str()
                && entry.consumed_at_ms == 0
                && entry.revoked_at_ms == 0
                && entry.expires_at_ms > now
        };
        let open = self.list().await?.into_iter().filter(is_open);
        Ok(open.map(|entry| entry.token_id).collect())
    }

    /// Judges a presented token, without changing anything
    ///
    /// `key` names the key that the node made for itself; empty = it made none.
    ///
    /// # Errors
    /// [`RedemptionError::Refused`] with the reason, or what the store reported.
    pub async fn judge(
        &self,
        presented: &str,
        node_id: &str,
        key: &str,
    ) -> Result<Redeemable, RedemptionError> {
        // A text that is no token at all is as unknown as a token that was never minted.
        let Ok(presented) = JoinToken::parse(presented) else {
            return Err(RedeemError::Unknown.into());
        };
        let hash = presented.hash();
        let found = self.find(&hash).await?;
        let record = found
            .as_ref()
            .map(|found| from_entry(&found.record))
            .transpose()?;
        let now = SystemTime::now();
        let judged = token::redeem(record.as_ref(), &hash, now, node_id);
        let Some(Stored {
            record: entry,
            revision,
        }) = found
        else {
            return Err(judged.err().unwrap_or(RedeemError::Unknown).into());
        };
        let redeemed = match judged {
            Ok(redeemed) => JoinTokenEntry {
                consumed_key: key.to_owned(),
                ..to_entry(&redeemed)
            },
            Err(RedeemError::Consumed) if is_same_use(&entry, node_id, key, now) => entry,
            Err(refused) => return Err(refused.into()),
        };
        Ok(Redeemable { redeemed, revision })
    }

    /// Redeems a judged token for this certificate, together with what `with` adds to the transaction
    ///
    /// `Ok(false)`: something changed since it was judged, so judge it again.
    ///
    /// # Errors
    /// [`StoreError`]; the token is open still, unless it is [`StoreError::Timeout`].
    pub async fn redeem(&self, redeemable: &Redeemable, serial: &str, with: Txn) -> Result<bool, StoreError> {
        let entry = JoinTokenEntry {
            consumed_serial: serial.to_owned(),
            ..redeemable.redeemed.clone()
        };
        let txn = with.replace(redeemable.revision, &entry);
        Ok(self.store.txn(txn).await?.committed().is_some())
    }

    /// Forgets tokens that could no longer be used for [`REMEMBERED_FOR`]; says how many
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails.
    pub async fn prune(&self, now: SystemTime) -> Result<usize, StoreError> {
        let now = to_millis(now);
        let kept_for = i64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(i64::MAX);
        let mut pruned = 0;
        for Stored { record, revision } in store::load_all::<JoinTokenEntry>(&*self.store).await?.0 {
            let ended = [record.consumed_at_ms, record.revoked_at_ms]
                .into_iter()
                .find(|at| *at != 0)
                .unwrap_or(record.expires_at_ms);
            if now.saturating_sub(ended) <= kept_for {
                continue;
            }
            let txn = Txn::new()
                .expect(record.key(), store::Expect::At(revision))
                .delete(record.key())
                .delete(JoinTokenIndex::key_of(&record.hash));
            pruned += usize::from(self.store.txn(txn).await?.committed().is_some());
        }
        Ok(pruned)
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<Stored<JoinTokenEntry>>, StoreError> {
        match store::load::<JoinTokenIndex>(&*self.store, &hash.to_string()).await? {
            Some(index) => self.load(&index.record.token_id).await,
            None => Ok(None),
        }
    }

    async fn load(&self, token_id: &str) -> Result<Option<Stored<JoinTokenEntry>>, StoreError> {
        // What cannot be an id may not even be a key.
        if token_id.parse::<token::TokenId>().is_err() {
            return Ok(None);
        }
        store::load::<JoinTokenEntry>(&*self.store, token_id).await
    }
}

/// What became of a token
#[must_use]
pub fn status(entry: &JoinTokenEntry, now: SystemTime) -> TokenStatus {
    if entry.consumed_at_ms != 0 {
        TokenStatus::Consumed
    } else if entry.revoked_at_ms != 0 {
        TokenStatus::Revoked
    } else if to_millis(now) > entry.expires_at_ms {
        TokenStatus::Expired
    } else {
        TokenStatus::Active
    }
}

/// Whether a token that was used was used like this, and would still be good
fn is_same_use(entry: &JoinTokenEntry, node_id: &str, key: &str, now: SystemTime) -> bool {
    entry.consumed_by == node_id
        && !key.is_empty()
        && entry.consumed_key == key
        && to_millis(now) <= entry.expires_at_ms
}

fn contended(token_id: &str) -> StoreError {
    StoreError::Io {
        detail: format!("{token_id} is changed by too many callers at once"),
    }
}

fn to_entry(record: &JoinTokenRecord) -> JoinTokenEntry {
    let (consumed_at_ms, consumed_by, revoked_at_ms) = match &record.state {
        JoinTokenState::Open => (0, String::new(), 0),
        JoinTokenState::Consumed { at, node_id } => (to_millis(*at), node_id.clone(), 0),
        JoinTokenState::Revoked { at } => (0, String::new(), to_millis(*at)),
    };
    JoinTokenEntry {
        token_id: record.id.to_string(),
        hash: record.hash.to_string(),
        node_id: record.node_id.clone().unwrap_or_default(),
        created_at_ms: to_millis(record.created_at),
        expires_at_ms: to_millis(record.expires_at),
        consumed_at_ms,
        consumed_by,
        revoked_at_ms,
        ..JoinTokenEntry::default()
    }
}

fn from_entry(entry: &JoinTokenEntry) -> Result<JoinTokenRecord, StoreError> {
    let undecodable = |detail: String| StoreError::Undecodable {
        key: entry.key(),
        detail,
    };
    let state = if entry.consumed_at_ms != 0 {
        JoinTokenState::Consumed {
            at: from_millis(entry.consumed_at_ms),
            node_id: entry.consumed_by.clone(),
        }
    } else if entry.revoked_at_ms != 0 {
        JoinTokenState::Revoked {
            at: from_millis(entry.revoked_at_ms),
        }
    } else {
        JoinTokenState::Open
    };
    Ok(JoinTokenRecord {
        id: entry
            .token_id
            .parse()
            .map_err(|error: token::TokenIdParseError| undecodable(error.to_string()))?,
        hash: entry
            .hash
            .parse()
            .map_err(|error: token::TokenHashParseError| undecodable(error.to_string()))?,
        node_id: Some(entry.node_id.clone()).filter(|node_id| !node_id.is_empty()),
        created_at: from_millis(entry.created_at_ms),
        expires_at: from_millis(entry.expires_at_ms),
        state,
    })
}
