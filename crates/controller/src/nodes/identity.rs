//! Another certificate for a node, over the stream that its present one opened
//!
//! The key is made on the node and stays there. Whom a certificate names is settled by the stream, so the request says nothing
//! about it. The record of a certificate is committed before the certificate leaves.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use prexorcloud_proto::{CertificateIssued, CertificateRequest, controller_message};
use prexorcloud_security::{
    authority::{Authority, IssueError},
    certificate::Certificate,
};

use super::{commits::ATTEMPTS, task::Node};
use crate::{
    audit,
    records::{CertificateRecord, NodeRecord, NodeRevocationRecord},
    store::{self, Expect, Record as _, StoreError, Stored, Txn},
    wall_clock::to_millis,
};

/// Certificates that a node may be given within [`PERIOD`]
const ISSUED_PER_PERIOD: usize = 8;

/// See [`ISSUED_PER_PERIOD`]
const PERIOD: Duration = Duration::from_secs(3600);

/// Certificates of a node's renewals whose records are kept; a revocation of the node counts for the others all the same
const RENEWALS_KEPT: usize = 8;

/// When a node whose request could not be served is to come again
const BUSY: Duration = Duration::from_secs(30);

/// What the node's task keeps of the certificates that its daemon asks for
#[derive(Default)]
pub(super) struct Renewing {
    /// The newest request, if it is not answered yet
    asked: Option<Bytes>,
    /// When the recent ones were issued, the oldest first
    issued: VecDeque<Instant>,
}

/// Why there is no certificate
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the certificate signing request cannot be signed: {0}")]
    Request(#[source] IssueError),
    #[error("the node's certificate is revoked; enrol with a new join token")]
    Revoked,
    #[error("the node has got {ISSUED_PER_PERIOD} certificates within an hour")]
    TooMany { again_in: Duration },
    #[error("the controller's storage is not available")]
    Store(#[from] StoreError),
    #[error("the node's records are being changed by too many at once")]
    Conflict,
    #[error("the controller is stopping")]
    Stopping,
}

impl Refused {
    fn retry_after(&self) -> Duration {
        match self {
            Self::Request(_) | Self::Revoked => Duration::ZERO,
            Self::TooMany { again_in } => *again_in,
            Self::Store(_) | Self::Conflict | Self::Stopping => BUSY,
        }
    }
}

impl Node {
    pub(super) fn handle_certificate_request(&mut self, request: CertificateRequest) {
        self.renewing.asked = Some(request.certificate_request);
    }

    /// The stream that asked is over; what it asked for would reach nobody
    pub(super) fn end_renewal(&mut self) {
        self.renewing.asked = None;
    }

    /// Answers a request for a certificate, if there is one
    pub(super) async fn work_renewal(&mut self) {
        let Some(request) = self.renewing.asked.take() else {
            return;
        };
        let answer = match self.renew(request).await {
            Ok(issued) => issued,
            Err(refused) => {
                tracing::warn!(node = %self.id, %refused, "a node asked for another certificate and got none");
                CertificateIssued {
                    error_message: refused.to_string(),
                    retry_after_seconds: whole_seconds(refused.retry_after()),
                    ..CertificateIssued::default()
                }
            }
        };
        let payload = controller_message::Payload::CertificateIssued(answer);
        if let Err(error) = self.send_now(payload) {
            tracing::info!(node = %self.id, %error, "a certificate was not sent, and its node asks again");
        }
    }

    async fn renew(&mut self, request: Bytes) -> Result<CertificateIssued, Refused> {
        self.may_be_issued(Instant::now())?;
        let authority = Arc::clone(&self.context.authority);
        let id = self.id;
        let signing = tokio::task::spawn_blocking(move || sign(&authority, id.as_str(), &request));
        let (leaf, answer) = self
            .meanwhile(signing)
            .await
            .map_err(|_| Refused::Stopping)?
            .map_err(Refused::Request)?;
        let certificate = CertificateRecord {
            serial: leaf.serial().to_string(),
            node_id: self.id.to_string(),
            issued_at_ms: to_millis(leaf.issued_at()),
            expires_at_ms: to_millis(leaf.not_after()),
            revoked_at_ms: 0,
        };
        self.record_renewal(&certificate).await?;
        self.renewing.issued.push_back(Instant::now());
        tracing::info!(node = %self.id, serial = certificate.serial, "a node got another certificate");
        Ok(answer)
    }

    fn may_be_issued(&mut self, now: Instant) -> Result<(), Refused> {
        let issued = &mut self.renewing.issued;
        issued.retain(|at| now.duration_since(*at) < PERIOD);
        match issued.front() {
            Some(oldest) if issued.len() >= ISSUED_PER_PERIOD => Err(Refused::TooMany {
                again_in: PERIOD.saturating_sub(now.duration_since(*oldest)),
            }),
            _ => Ok(()),
        }
    }

    /// Records a certificate, unless the one of the stream was revoked meanwhile
    async fn record_renewal(&mut self, certificate: &CertificateRecord) -> Result<(), Refused> {
        let store = Arc::clone(&self.context.store);
        for _ in 0..ATTEMPTS {
            let present = self.present_certificate().ok_or(Refused::Stopping)?;
            let Some(Stored { record, revision }) = self.record.clone() else {
                return Err(Refused::Revoked);
            };
            let (id, loading) = (self.id, Arc::clone(&store));
            let revocation = self
                .meanwhile(store::load::<NodeRevocationRecord>(&*loading, id.as_str()))
                .await?;
            let serial = present.serial().to_string();
            let known = self
                .meanwhile(store::load::<CertificateRecord>(&*loading, &serial))
                .await?;
            let revoked_until = revocation.as_ref().map_or(0, |found| found.record.issued_before_ms);
            let is_revoked = known.as_ref().is_some_and(|found| found.record.revoked_at_ms != 0);
            if is_revoked || to_millis(present.issued_at()) <= revoked_until {
                return Err(Refused::Revoked);
            }
            let mut record = NodeRecord {
                certificate_expires_at_ms: certificate.expires_at_ms,
                ..record
            };
            record.renewals.push(certificate.serial.clone());
            let outdated = record.renewals.len().saturating_sub(RENEWALS_KEPT);
            let forgotten: Vec<String> = record.renewals.drain(..outdated).collect();
            let unchanged = |found: Option<u64>| found.map_or(Expect::Absent, Expect::At);
            let actor = format!("node:{id}");
            let mut txn = Txn::new()
                .replace(revision, &record)
                .create(certificate)
                .expect(
                    NodeRevocationRecord::key_of(id.as_str()),
                    unchanged(revocation.map(|found| found.revision)),
                )
                .expect(
                    CertificateRecord::key_of(&serial),
                    unchanged(known.map(|found| found.revision)),
                )
                .put_record(&audit::entry(&actor, "node.renew", id.as_str(), &certificate.serial));
            for serial in forgotten {
                txn = txn.delete(CertificateRecord::key_of(&serial));
            }
            if let Some(revision) = self.meanwhile(loading.txn(txn)).await?.committed() {
                self.record = Some(Stored { record, revision });
                self.publish_record();
                return Ok(());
            }
            let stored = self
                .meanwhile(store::load::<NodeRecord>(&*loading, id.as_str()))
                .await?;
            self.record = stored;
        }
        Err(Refused::Conflict)
    }

    /// What the daemon of the stream that counts has shown
    fn present_certificate(&self) -> Option<Certificate> {
        let stream = self.streams.get(self.machine.current_stream()?)?;
        Certificate::from_der(stream.data.peer.certificate()?).ok()
    }
}

fn sign(authority: &Authority, node: &str, request: &[u8]) -> Result<(Certificate, CertificateIssued), IssueError> {
    let chain = authority.sign_node_request(request, node, SystemTime::now())?;
    let answer = CertificateIssued {
        certificate_chain_pem: chain.iter().map(Certificate::to_pem).collect(),
        ca_certificate_pem: authority.certificate().to_pem().into_bytes().into(),
        ..CertificateIssued::default()
    };
    let leaf = chain.into_iter().next().ok_or(IssueError::BadRequest)?;
    Ok((leaf, answer))
}

/// At least the duration, as the contract writes it
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}
