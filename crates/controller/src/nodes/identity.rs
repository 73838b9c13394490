//! Another certificate for a node, over the stream that its present one opened
//!
//! What a daemon believes and what it shows decide whether it is told more: the authorities of the cluster, if it believes others,
//! and to ask for a certificate, if its present one is not of the authority that signs.
//!
//! The key is made on the node and stays there. Whom a certificate names is settled by the stream, so the request says nothing
//! about it. The record of a certificate is committed before the certificate leaves.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use prexorcloud_proto::{
    AuthorityUpdate, CertificateIssued, CertificateRequest, TrustedAuthorities, controller_message,
};
use prexorcloud_protocol::Capabilities;
use prexorcloud_security::{
    authority::{Authorities, IssueError},
    certificate::Certificate,
};

use super::{OrderError, commits::ATTEMPTS, task::Node};
use crate::{
    audit,
    authorities::anchors_pem,
    records::{CertificateRecord, NodeRecord, NodeRevocationRecord},
    store::{self, Expect, Record as _, Revision, StoreError, Stored, Txn},
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

/// Within which time daemons ask that are told to, all of them: 5,000 make 8 a second
pub(crate) const SPREAD: Duration = Duration::from_secs(600);

/// What the node's task keeps of who its daemon is
#[derive(Default)]
pub(super) struct Identity {
    /// What the daemon believes, if it said something new
    trusted: Option<Vec<String>>,
    /// Within which time the daemon is to ask for a certificate, if somebody wants that
    wanted: Option<Duration>,
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
        self.identity.asked = Some(request.certificate_request);
    }

    pub(super) fn handle_trusted(&mut self, trusted: TrustedAuthorities) {
        self.identity.trusted = Some(trusted.sha256);
    }

    /// The daemon is to ask for another certificate; says whether it can
    pub(super) fn want_certificate(&mut self, within: Duration) -> Result<(), OrderError> {
        if !self.is_connected() {
            return Err(OrderError::NotConnected);
        }
        if !self.renews() {
            return Err(OrderError::Conflict(
                "this daemon cannot renew its certificate over its stream; give it a join token that is bound to it".to_owned(),
            ));
        }
        self.identity.wanted = Some(within);
        Ok(())
    }

    /// The stream is over, and with it what was asked on it
    pub(super) fn end_identity(&mut self) {
        let issued = std::mem::take(&mut self.identity.issued);
        self.identity = Identity {
            issued,
            ..Identity::default()
        };
    }

    /// Records what the daemon believes, tells it what it should, and answers a request for a certificate
    pub(super) async fn work_identity(&mut self) {
        if let Some(trusted) = self.identity.trusted.take() {
            self.note_trusted(trusted).await;
        }
        if let Some(within) = self.identity.wanted.take() {
            self.update_authorities(Vec::new(), within);
        }
        if let Some(request) = self.identity.asked.take() {
            self.answer_request(request).await;
        }
    }

    fn renews(&self) -> bool {
        let both = self
            .current_session()
            .and_then(|session| session.with(|session, _| session.capabilities()));
        both.is_some_and(|both| both.contains(Capabilities::RENEWAL))
    }

    async fn note_trusted(&mut self, mut trusted: Vec<String>) {
        trusted.sort_unstable();
        trusted.dedup();
        let known = self
            .record
            .as_ref()
            .is_some_and(|stored| stored.record.trusts == trusted);
        if !known {
            let noted = self
                .change_record(|record| record.trusts.clone_from(&trusted))
                .await;
            if let Err(error) = noted {
                tracing::error!(node = %self.id, %error, "which authorities a node believes could not be recorded");
            }
        }
        let authorities = self.context.authorities.current();
        let wanted = fingerprints(&authorities);
        let anchors = match trusted == wanted {
            true => Vec::new(),
            false => anchors_pem(&authorities),
        };
        let signer = authorities.signer.certificate();
        let is_of_signer = self
            .present_certificate()
            .is_none_or(|present| present.is_signed_by(signer));
        // One that was renewed already shows it at its next connection.
        let is_renewed = self
            .record
            .as_ref()
            .is_some_and(|stored| stored.record.signed_by == signer.fingerprint().to_string());
        let within = match is_of_signer || is_renewed {
            true => Duration::ZERO,
            false => SPREAD,
        };
        if !anchors.is_empty() || !within.is_zero() {
            self.update_authorities(anchors, within);
        }
    }

    fn update_authorities(&self, anchors: Vec<u8>, within: Duration) {
        let update = AuthorityUpdate {
            ca_certificate_pem: anchors.into(),
            renew_within_seconds: whole_seconds(within),
        };
        match self.send_now(controller_message::Payload::AuthorityUpdate(update)) {
            Ok(()) => {}
            // It says what it believes at the next one.
            Err(error) => tracing::debug!(node = %self.id, %error, "the authorities were not sent"),
        }
    }

    /// The authorities have changed: a daemon that listens is told
    pub(super) fn tell_authorities(&mut self) {
        if let Some(trusts) = self.record.as_ref().map(|stored| stored.record.trusts.clone())
            && self.is_connected()
            && self.renews()
        {
            self.identity.trusted = Some(trusts);
        }
    }

    async fn answer_request(&mut self, request: Bytes) {
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
        let authorities = self.context.authorities.current();
        let signed_by = authorities.signer.fingerprint().to_string();
        let id = self.id;
        let signing = tokio::task::spawn_blocking(move || sign(&authorities, id.as_str(), &request));
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
        self.record_renewal(&certificate, &signed_by).await?;
        self.identity.issued.push_back(Instant::now());
        tracing::info!(node = %self.id, serial = certificate.serial, "a node got another certificate");
        Ok(answer)
    }

    fn may_be_issued(&mut self, now: Instant) -> Result<(), Refused> {
        let issued = &mut self.identity.issued;
        issued.retain(|at| now.duration_since(*at) < PERIOD);
        match issued.front() {
            Some(oldest) if issued.len() >= ISSUED_PER_PERIOD => Err(Refused::TooMany {
                again_in: PERIOD.saturating_sub(now.duration_since(*oldest)),
            }),
            _ => Ok(()),
        }
    }

    /// Records a certificate, unless the one of the stream was revoked meanwhile
    async fn record_renewal(
        &mut self,
        certificate: &CertificateRecord,
        signed_by: &str,
    ) -> Result<(), Refused> {
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
            let revoked_until = revocation
                .as_ref()
                .map_or(0, |found| found.record.issued_before_ms);
            let is_revoked = known
                .as_ref()
                .is_some_and(|found| found.record.revoked_at_ms != 0);
            if is_revoked || to_millis(present.issued_at()) <= revoked_until {
                return Err(Refused::Revoked);
            }
            let mut record = NodeRecord {
                certificate_expires_at_ms: certificate.expires_at_ms,
                signed_by: signed_by.to_owned(),
                ..record
            };
            record.renewals.push(certificate.serial.clone());
            let outdated = record.renewals.len().saturating_sub(RENEWALS_KEPT);
            let forgotten: Vec<String> = record.renewals.drain(..outdated).collect();
            let unchanged = |found: Option<Revision>| found.map_or(Expect::Absent, Expect::At);
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
                .put_record(&audit::entry(
                    &actor,
                    "node.renew",
                    id.as_str(),
                    &certificate.serial,
                ));
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

fn sign(
    authorities: &Authorities,
    node: &str,
    request: &[u8],
) -> Result<(Certificate, CertificateIssued), IssueError> {
    let chain = authorities
        .signer
        .sign_node_request(request, node, SystemTime::now())?;
    let answer = CertificateIssued {
        certificate_chain_pem: chain.iter().map(Certificate::to_pem).collect(),
        ca_certificate_pem: anchors_pem(authorities).into(),
        ..CertificateIssued::default()
    };
    let leaf = chain.into_iter().next().ok_or(IssueError::BadRequest)?;
    Ok((leaf, answer))
}

/// SHA-256 of what is to be believed, sorted
pub(crate) fn fingerprints(authorities: &Authorities) -> Vec<String> {
    let others = authorities.next.iter().chain(&authorities.former);
    let all = [authorities.signer.certificate()].into_iter().chain(others);
    let mut all: Vec<String> = all.map(|anchor| anchor.fingerprint().to_string()).collect();
    all.sort_unstable();
    all
}

/// At least the duration, as the contract writes it
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}
