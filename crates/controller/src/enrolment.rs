//! Turning a join token into a node's certificate
//!
//! Everything that can fail happens before the token is consumed: the certificate is made first, then one transaction
//! consumes the token and records certificate and node. A caller that loses the race leaves a certificate that nobody has
//! seen and that is dropped.
//!
//! A token that is bound to no node enrols only ids that are not known yet: whoever holds one may add a node, and take none
//! over. With a token that is bound to it a known node enrols again, which ends the validity of what it had before, in the
//! same transaction.

use std::{net::IpAddr, sync::Arc, time::Duration, time::Instant, time::SystemTime};

use prexorcloud_proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse};
use prexorcloud_security::{
    authority::{IssueError, requested_key},
    certificate::Certificate,
    name::is_safe_name,
    revocation::SharedRevocations,
    token::{JoinToken, RedeemError},
};
use prexorcloud_transport::enrolment::{IssueNodeError, IssuedNode, issue_node, sign_node};
use tokio::sync::Semaphore;

use crate::{
    audit,
    authorities::{SharedAuthorities, anchors_pem},
    certificates,
    config::EnrolmentConfig,
    join_tokens::{JoinTokens, Redeemable, RedemptionError},
    rate_limit::FailureLimit,
    records::{CertificateRecord, NodeRecord, NodeRevocationRecord},
    store::{self, Expect, Record as _, Store, StoreError, Txn},
    wall_clock::{now_millis, to_millis},
};

/// Certificates that are made at the same time: a keystore costs tens of milliseconds of a processor
const WORKERS: usize = 2;

/// Longest wait for a worker
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// Times that a redemption is judged again because something changed meanwhile
const ATTEMPTS: usize = 8;

/// Earlier certificates of a node that are marked one by one; more are revoked all the same, by the node's record
const MARKED: usize = 128;

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
    /// The node's own key cannot be certified
    #[error("certificate_request: {0}")]
    Request(#[source] IssueError),
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

impl ExchangeError {
    /// Whether it is the caller's doing
    fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::InvalidNodeId | Self::Request(_) | Self::Refused(_)
        )
    }
}

/// What a token became
#[derive(Debug)]
pub struct Exchanged {
    /// The answer, a secret
    pub answer: ExchangeJoinTokenResponse,
    /// Serial numbers of certificates of the node that no longer count; those that use them are to be cut off
    pub superseded: Vec<String>,
}

/// The exchange of join tokens
pub struct Enrolment {
    store: Arc<dyn Store>,
    tokens: JoinTokens,
    authorities: SharedAuthorities,
    revocations: SharedRevocations,
    limit: FailureLimit,
    workers: Semaphore,
}

/// What a node gets, and the record of it
struct Minted {
    answer: ExchangeJoinTokenResponse,
    certificate: CertificateRecord,
}

/// What is recorded besides the token
struct Enrolled {
    txn: Txn,
    superseded: Vec<String>,
}

impl Enrolment {
    /// Over this store and these authorities; what is superseded goes into `revocations`
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        tokens: JoinTokens,
        authorities: SharedAuthorities,
        revocations: SharedRevocations,
        config: &EnrolmentConfig,
    ) -> Self {
        Self {
            store,
            tokens,
            authorities,
            revocations,
            limit: FailureLimit::new(config.failure_burst, config.failures_per_minute),
            workers: Semaphore::new(WORKERS),
        }
    }

    /// Exchanges a token for a certificate, once, or once more for the same key
    ///
    /// A good token is good whatever else came from its address: only refusals are counted, and only they are refused
    /// without a reason when there are too many.
    ///
    /// # Errors
    /// [`ExchangeError`] says whose fault it is. The token is consumed only if the answer is `Ok`, or if the storage
    /// did not answer in time.
    pub async fn exchange(
        &self,
        peer: IpAddr,
        request: &ExchangeJoinTokenRequest,
    ) -> Result<Exchanged, ExchangeError> {
        let error = match self.try_exchange(peer, request).await {
            Err(error) if error.is_failure() => error,
            exchanged => return exchanged,
        };
        let known = match &error {
            ExchangeError::Refused(RedeemError::Unknown) => None,
            ExchangeError::Refused(_) => JoinToken::parse(&request.join_token).ok(),
            _ => None,
        };
        let (now, token) = (Instant::now(), known.map(|token| token.hash()));
        self.limit
            .check(now, peer, token.as_ref())
            .map_err(|wait| ExchangeError::RateLimited { wait })?;
        self.limit.record_failure(now, peer, token.as_ref());
        let node_id: String = request.node_id.escape_debug().take(80).collect();
        tracing::warn!(%peer, node_id, %error, "a join token was refused");
        Err(error)
    }

    async fn try_exchange(
        &self,
        peer: IpAddr,
        request: &ExchangeJoinTokenRequest,
    ) -> Result<Exchanged, ExchangeError> {
        let ExchangeJoinTokenRequest {
            join_token,
            node_id,
            certificate_request,
        } = request;
        if join_token.trim().is_empty() {
            return Err(ExchangeError::Missing { field: "join_token" });
        }
        if node_id.is_empty() {
            return Err(ExchangeError::Missing { field: "node_id" });
        }
        if !is_safe_name(node_id) {
            return Err(ExchangeError::InvalidNodeId);
        }
        let key = match certificate_request.is_empty() {
            true => String::new(),
            false => requested_key(certificate_request)
                .map_err(ExchangeError::Request)?
                .to_string(),
        };
        // Refuse before any work, then again once it is this caller's turn: of many with one token, few make a key.
        let mut redeemable = self.tokens.judge(join_token, node_id, &key).await?;
        self.may_take(&redeemable, node_id).await?;
        let turn = tokio::time::timeout(QUEUE_TIMEOUT, self.workers.acquire()).await;
        let _turn = turn
            .map_err(|_| ExchangeError::Busy)?
            .map_err(|_| ExchangeError::Stopping)?;
        redeemable = self.tokens.judge(join_token, node_id, &key).await?;
        let minted = self
            .make_certificate(node_id, certificate_request.clone())
            .await?;
        let serial = &minted.certificate.serial;
        for _ in 0..ATTEMPTS {
            let enrolled = self
                .enrolled(peer, node_id, &redeemable, &minted.certificate)
                .await?;
            if self.tokens.redeem(&redeemable, serial, enrolled.txn).await? {
                tracing::info!(%peer, node_id, serial, "a node enrolled");
                let superseded = enrolled.superseded;
                if !superseded.is_empty() {
                    tracing::warn!(%peer, node_id, serial, superseded = superseded.join(", "), "a node that is known enrolled again: what it had before no longer counts");
                    self.revocations
                        .merge(&certificates::load_revocations(&*self.store).await?);
                }
                let answer = minted.answer;
                return Ok(Exchanged { answer, superseded });
            }
            redeemable = self.tokens.judge(join_token, node_id, &key).await?;
        }
        Err(ExchangeError::Busy)
    }

    /// An unbound token takes no node over
    async fn may_take(&self, redeemable: &Redeemable, node_id: &str) -> Result<(), ExchangeError> {
        if redeemable.is_bound() || redeemable.repeats().is_some() {
            return Ok(());
        }
        match store::load::<NodeRecord>(&*self.store, node_id).await? {
            Some(_) => Err(ExchangeError::Refused(RedeemError::NodeKnown)),
            None => Ok(()),
        }
    }

    async fn make_certificate(&self, node_id: &str, request: bytes::Bytes) -> Result<Minted, ExchangeError> {
        let authorities = self.authorities.current();
        let node_id = node_id.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let record = |leaf: &Certificate| CertificateRecord {
                serial: leaf.serial().to_string(),
                node_id: node_id.clone(),
                issued_at_ms: to_millis(leaf.issued_at()),
                expires_at_ms: to_millis(leaf.not_after()),
                revoked_at_ms: 0,
            };
            if request.is_empty() {
                let IssuedNode {
                    credential,
                    mut answer,
                } = issue_node(&authorities.signer, &node_id, now)?;
                answer.ca_certificate_pem = anchors_pem(&authorities).into();
                let certificate = record(credential.leaf());
                return Ok(Minted { answer, certificate });
            }
            let (leaf, mut answer) = sign_node(&authorities.signer, &node_id, &request, now)?;
            answer.ca_certificate_pem = anchors_pem(&authorities).into();
            let certificate = record(&leaf);
            Ok(Minted { answer, certificate })
        });
        work.await.map_err(|_| ExchangeError::Stopping)?
    }

    /// What the transaction records besides the token
    async fn enrolled(
        &self,
        peer: IpAddr,
        node_id: &str,
        redeemable: &Redeemable,
        certificate: &CertificateRecord,
    ) -> Result<Enrolled, ExchangeError> {
        let txn = Txn::new().create(certificate);
        if let Some(earlier) = redeemable.repeats() {
            return self.asked_again(peer, node_id, earlier, txn).await;
        }
        self.may_take(redeemable, node_id).await?;
        let known = store::load::<NodeRecord>(&*self.store, node_id).await?;
        let key = NodeRecord::key_of(node_id);
        if known.is_none() {
            let now = now_millis();
            let node = NodeRecord {
                node_id: node_id.to_owned(),
                first_seen_ms: now,
                last_seen_ms: now,
                address: peer.to_string(),
                certificate_expires_at_ms: certificate.expires_at_ms,
                ..NodeRecord::default()
            };
            let audit = entry(node_id, "node.enrol", &format!("from {peer}"));
            return Ok(Enrolled {
                txn: txn.create(&node).put_record(&audit),
                superseded: Vec::new(),
            });
        }
        let txn = txn.expect(key, Expect::Present);
        let (txn, superseded) = self.supersede(node_id, certificate, txn).await?;
        let detail = match superseded.is_empty() {
            true => format!("from {peer}"),
            false => format!("from {peer}, in place of {}", superseded.join(", ")),
        };
        Ok(Enrolled {
            txn: txn.put_record(&entry(node_id, "node.enrol-again", &detail)),
            superseded,
        })
    }

    /// The answer to a token that became `earlier` did not arrive; that may still count, and no revocation is undone
    async fn asked_again(
        &self,
        peer: IpAddr,
        node_id: &str,
        earlier: &str,
        txn: Txn,
    ) -> Result<Enrolled, ExchangeError> {
        let spent = ExchangeError::Refused(RedeemError::Consumed);
        let Some(found) = store::load::<CertificateRecord>(&*self.store, earlier).await? else {
            return Err(spent);
        };
        let revocation = store::load::<NodeRevocationRecord>(&*self.store, node_id).await?;
        let revoked_until = revocation.map_or(0, |found| found.record.issued_before_ms);
        if found.record.revoked_at_ms != 0 || found.record.issued_at_ms <= revoked_until {
            return Err(spent);
        }
        let detail = format!("from {peer}, in place of {earlier}, whose key it has");
        Ok(Enrolled {
            txn: txn
                .expect(found.record.key(), Expect::At(found.revision))
                .put_record(&entry(node_id, "node.enrol-retry", &detail)),
            superseded: Vec::new(),
        })
    }

    /// Ends the validity of everything that was issued to the node before `certificate`
    async fn supersede(
        &self,
        node_id: &str,
        certificate: &CertificateRecord,
        mut txn: Txn,
    ) -> Result<(Txn, Vec<String>), ExchangeError> {
        let now = now_millis();
        let mut superseded = Vec::new();
        for stored in store::load_all::<CertificateRecord>(&*self.store).await?.0 {
            let earlier = stored.record;
            if earlier.node_id != node_id || earlier.revoked_at_ms != 0 || earlier.expires_at_ms < now {
                continue;
            }
            superseded.push(earlier.serial.clone());
            if superseded.len() <= MARKED {
                let revoked = CertificateRecord {
                    revoked_at_ms: now,
                    ..earlier
                };
                txn = txn.replace(stored.revision, &revoked);
            }
        }
        let before = store::load::<NodeRevocationRecord>(&*self.store, node_id).await?;
        let revocation = NodeRevocationRecord {
            node_id: node_id.to_owned(),
            issued_before_ms: (certificate.issued_at_ms - 1)
                .max(before.map_or(0, |found| found.record.issued_before_ms)),
        };
        Ok((txn.put_record(&revocation), superseded))
    }
}

fn entry(node_id: &str, action: &str, detail: &str) -> crate::records::AuditRecord {
    audit::entry(&format!("node:{node_id}"), action, node_id, detail)
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
