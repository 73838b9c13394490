//! Turning a join token into a node's certificate
//!
//! Everything that can fail happens before the token is consumed: the key and the keystore are made first, then one
//! transaction consumes the token and records certificate and node. A caller that loses the race leaves a key that
//! nobody has seen and that is dropped.

use std::{net::IpAddr, sync::Arc, time::Duration, time::Instant, time::SystemTime};

use prexorcloud_proto::ExchangeJoinTokenResponse;
use prexorcloud_security::{authority::Authority, name::is_safe_name, token::RedeemError};
use prexorcloud_transport::enrolment::{IssueNodeError, IssuedNode, issue_node};
use tokio::sync::Semaphore;

use crate::{
    audit,
    config::EnrolmentConfig,
    join_tokens::{JoinTokens, RedemptionError},
    rate_limit::FailureLimit,
    records::{CertificateRecord, NodeRecord},
    store::{self, Expect, Record as _, Store, StoreError, Txn},
    wall_clock::{now_millis, to_millis},
};

/// Keystores that are made at the same time: each costs tens of milliseconds of a processor
const WORKERS: usize = 2;

/// Longest wait for a worker
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// Times that a redemption is judged again because something changed meanwhile
const ATTEMPTS: usize = 8;

/// Why a token was not exchanged
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Too many failures from this address
    #[error("too many failed token exchanges from this address, try again in {} s", wait.as_secs().max(1))]
    RateLimited {
        /// Until the next attempt is allowed
        wait: Duration,
    },
    /// A field is missing
    #[error("{field} is missing")]
    Missing {
        /// Its name
        field: &'static str,
    },
    /// The node id is not a safe name
    #[error(
        "node_id must be 1 to 64 letters, digits, dots, hyphens or underscores, beginning with a letter or digit"
    )]
    InvalidNodeId,
    /// The token's rules say no
    #[error(transparent)]
    Refused(RedeemError),
    /// The controller is too busy
    #[error("the controller is busy, try again")]
    Busy,
    /// No certificate could be made
    #[error(transparent)]
    Issue(#[from] IssueNodeError),
    /// The storage failed
    #[error("the controller's storage failed")]
    Store(#[source] StoreError),
    /// The work was cut short because the controller stops
    #[error("the controller is shutting down")]
    Stopping,
}

/// The exchange of join tokens
pub struct Enrolment {
    store: Arc<dyn Store>,
    tokens: JoinTokens,
    authority: Arc<Authority>,
    limit: FailureLimit,
    workers: Semaphore,
}

/// What a node gets, and the record of it
struct Minted {
    answer: ExchangeJoinTokenResponse,
    certificate: CertificateRecord,
}

impl Enrolment {
    /// Over this store and authority
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        tokens: JoinTokens,
        authority: Arc<Authority>,
        config: &EnrolmentConfig,
    ) -> Self {
        Self {
            store,
            tokens,
            authority,
            limit: FailureLimit::new(config.failure_burst, config.failures_per_minute),
            workers: Semaphore::new(WORKERS),
        }
    }

    /// Exchanges a token for a keystore, once
    ///
    /// # Errors
    /// [`ExchangeError`] says whose fault it is. The token is consumed only if the answer is `Ok`, or if the storage
    /// did not answer in time.
    pub async fn exchange(
        &self,
        peer: IpAddr,
        join_token: &str,
        node_id: &str,
    ) -> Result<ExchangeJoinTokenResponse, ExchangeError> {
        self.limit
            .check(Instant::now(), peer)
            .map_err(|wait| ExchangeError::RateLimited { wait })?;
        let exchanged = self.try_exchange(peer, join_token, node_id).await;
        if let Err(
            error
            @ (ExchangeError::Missing { .. } | ExchangeError::InvalidNodeId | ExchangeError::Refused(_)),
        ) = &exchanged
        {
            self.limit.record_failure(Instant::now(), peer);
            tracing::warn!(%peer, node_id = %node_id.escape_debug().take(80).collect::<String>(), %error, "a join token was refused");
        }
        exchanged
    }

    async fn try_exchange(
        &self,
        peer: IpAddr,
        join_token: &str,
        node_id: &str,
    ) -> Result<ExchangeJoinTokenResponse, ExchangeError> {
        if join_token.trim().is_empty() {
            return Err(ExchangeError::Missing { field: "join_token" });
        }
        if node_id.is_empty() {
            return Err(ExchangeError::Missing { field: "node_id" });
        }
        if !is_safe_name(node_id) {
            return Err(ExchangeError::InvalidNodeId);
        }
        // Refuse before any work, then again once it is this caller's turn: of many with one token, few make a key.
        self.tokens.judge(join_token, node_id).await?;
        let turn = tokio::time::timeout(QUEUE_TIMEOUT, self.workers.acquire()).await;
        let _turn = turn
            .map_err(|_| ExchangeError::Busy)?
            .map_err(|_| ExchangeError::Stopping)?;
        let mut redeemable = self.tokens.judge(join_token, node_id).await?;
        let minted = self.make_keystore(node_id).await?;
        for _ in 0..ATTEMPTS {
            let txn = self.enrolled(peer, node_id, &minted.certificate).await?;
            if self.tokens.redeem(&redeemable, txn).await? {
                tracing::info!(%peer, node_id, serial = minted.certificate.serial, "a node enrolled");
                return Ok(minted.answer);
            }
            redeemable = self.tokens.judge(join_token, node_id).await?;
        }
        Err(ExchangeError::Busy)
    }

    async fn make_keystore(&self, node_id: &str) -> Result<Minted, ExchangeError> {
        let authority = Arc::clone(&self.authority);
        let node_id = node_id.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let IssuedNode { credential, answer } = issue_node(&authority, &node_id, SystemTime::now())?;
            let leaf = credential.leaf();
            let certificate = CertificateRecord {
                serial: leaf.serial().to_string(),
                node_id,
                issued_at_ms: to_millis(leaf.issued_at()),
                expires_at_ms: to_millis(leaf.not_after()),
                revoked_at_ms: 0,
            };
            Ok(Minted { answer, certificate })
        });
        work.await.map_err(|_| ExchangeError::Stopping)?
    }

    /// What the transaction records besides the token
    async fn enrolled(
        &self,
        peer: IpAddr,
        node_id: &str,
        certificate: &CertificateRecord,
    ) -> Result<Txn, ExchangeError> {
        let audit = audit::entry(
            &format!("node:{node_id}"),
            "node.enrol",
            node_id,
            &format!("from {peer}"),
        );
        let txn = Txn::new().create(certificate).put_record(&audit);
        let known = store::load::<NodeRecord>(&*self.store, node_id)
            .await
            .map_err(ExchangeError::Store)?;
        let key = NodeRecord::key_of(node_id);
        if known.is_some() {
            return Ok(txn.expect(key, Expect::Present));
        }
        let now = now_millis();
        let node = NodeRecord {
            node_id: node_id.to_owned(),
            first_seen_ms: now,
            last_seen_ms: now,
            address: peer.to_string(),
            ..NodeRecord::default()
        };
        Ok(txn.create(&node))
    }
}

impl From<RedemptionError> for ExchangeError {
    fn from(error: RedemptionError) -> Self {
        match error {
            RedemptionError::Refused(RedeemError::InvalidNodeId) => Self::InvalidNodeId,
            RedemptionError::Refused(refused) => Self::Refused(refused),
            RedemptionError::Store(error) => Self::Store(error),
        }
    }
}

impl From<StoreError> for ExchangeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
