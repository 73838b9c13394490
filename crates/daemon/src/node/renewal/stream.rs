//! Over the stream that the present certificate opened
//!
//! When to ask is decided by a [machine](prexorcloud_protocol::renewal). The key is on disk before it is asked for, and what comes is
//! on disk before it is used: whatever is cut short, there is a certificate that counts.

use std::time::{Duration, Instant, SystemTime};

use prexorcloud_proto::{
    AuthorityUpdate, CertificateIssued, CertificateRequest, ErrorReport, TrustedAuthorities, daemon_message,
};
use prexorcloud_protocol::renewal::{Renewal as Machine, Timer};
use prexorcloud_protocol::session::error_code;
use prexorcloud_protocol::time::Deadline;
use prexorcloud_protocol::{DaemonSession, NodeId};
use prexorcloud_security::authority::{IssueError, NodeKey};
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::{Enrolled, EnrolmentError};
use prexorcloud_security::tls::TlsError;
use prexorcloud_security::trust::{TrustAnchors, TrustError};
use prexorcloud_transport::SessionHandle;

use super::super::certificates::Certificates;

/// Why what the controller sent is not used; the certificate of before is
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("nothing was asked for")]
    Unasked,
    #[error("the authorities are not text")]
    NotText,
    #[error(transparent)]
    Authorities(#[from] TrustError),
    #[error(transparent)]
    Certificate(#[from] EnrolmentError),
    #[error("the certificate directory: {0}")]
    Directory(#[from] CertificateDirectoryError),
    #[error(transparent)]
    Key(#[from] IssueError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the daemon is ending")]
    Interrupted,
}

pub(super) struct StreamRenewal {
    node: NodeId,
    certificates: Certificates,
    session: SessionHandle<DaemonSession>,
    machine: Machine,
    /// The key that was asked for last.
    key: Option<NodeKey>,
}

impl StreamRenewal {
    pub(super) fn new(
        node: NodeId,
        certificates: Certificates,
        session: SessionHandle<DaemonSession>,
        share: u16,
    ) -> Self {
        Self {
            node,
            certificates,
            session,
            machine: Machine::new(share),
            key: None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline<Timer>> {
        self.machine.poll_timeout()
    }

    /// Does what is due
    pub(super) async fn work(&mut self) {
        let (begin, end) = (self.certificates.issued_at(), self.certificates.not_after());
        self.machine
            .handle_validity(Instant::now(), SystemTime::now(), begin, end);
        self.machine.handle_timeout(Instant::now());
        while self.machine.poll_output().is_some() {
            if let Err(error) = self.ask().await {
                tracing::error!(%error, "another certificate cannot be asked for, trying again");
                self.machine.handle_refused(Instant::now(), Duration::ZERO);
            }
        }
    }

    /// The stream is another one, or there is none
    pub(super) fn linked(&mut self, is_linked: bool) {
        // One that came in place of another has not heard what that was asked.
        self.machine.handle_disconnected();
        if is_linked {
            self.machine.handle_connected(Instant::now());
            self.tell_trusted();
        }
    }

    pub(super) async fn issued(&mut self, issued: &CertificateIssued) {
        if issued.certificate_chain_pem.is_empty() {
            tracing::warn!(
                said = issued.error_message,
                "the controller gives no other certificate, asking again later"
            );
            let retry_after = Duration::from_secs(u64::try_from(issued.retry_after_seconds).unwrap_or(0));
            return self.machine.handle_refused(Instant::now(), retry_after);
        }
        match self.take(issued).await {
            Ok(()) => {
                self.machine.handle_issued();
                tracing::info!("the node's certificate is renewed: the next connection has the new one");
                self.tell_trusted();
            }
            Err(error) => {
                tracing::error!(%error, "the certificate that the controller sent is not used, asking again later");
                self.machine.handle_refused(Instant::now(), Duration::ZERO);
            }
        }
    }

    pub(super) async fn authorities(&mut self, update: &AuthorityUpdate) {
        if !update.ca_certificate_pem.is_empty() {
            match self.believe(&update.ca_certificate_pem).await {
                Ok(()) => {
                    tracing::info!("the controller has named the authorities to believe from now on");
                    self.tell_trusted();
                }
                Err(error) => {
                    tracing::error!(%error, "the authorities that the controller named are not believed, those of before are");
                    self.send(daemon_message::Payload::ErrorReport(ErrorReport {
                        error_code: error_code::AUTHORITIES_REFUSED.to_owned(),
                        error_message: error.to_string(),
                        ..ErrorReport::default()
                    }));
                }
            }
        }
        if let Ok(within @ 1..) = u64::try_from(update.renew_within_seconds) {
            self.machine
                .handle_order(Instant::now(), Duration::from_secs(within));
        }
    }

    async fn ask(&mut self) -> Result<(), Unusable> {
        let directory = self.certificates.directory().clone();
        let key = on_disk(move || directory.pending_key()).await?;
        let certificate_request = key.request()?.into();
        self.key = Some(key);
        self.send(daemon_message::Payload::CertificateRequest(CertificateRequest {
            certificate_request,
        }));
        Ok(())
    }

    async fn take(&mut self, issued: &CertificateIssued) -> Result<(), Unusable> {
        let key = self.key.as_ref().ok_or(Unusable::Unasked)?;
        let anchors = text(&issued.ca_certificate_pem)?;
        let enrolled = Enrolled::renewed(self.node.as_str(), key, &issued.certificate_chain_pem, anchors)?;
        self.store(enrolled).await?;
        self.key = None;
        Ok(())
    }

    async fn believe(&self, pem: &[u8]) -> Result<(), Unusable> {
        let enrolled = Enrolled {
            credential: self.certificates.enrolled().credential,
            anchors: TrustAnchors::from_pem(text(pem)?)?,
        };
        self.store(enrolled).await
    }

    async fn store(&self, enrolled: Enrolled) -> Result<(), Unusable> {
        let directory: CertificateDirectory = self.certificates.directory().clone();
        let stored = enrolled.clone();
        on_disk(move || directory.store(&stored)).await?;
        Ok(self.certificates.take(enrolled)?)
    }

    fn tell_trusted(&self) {
        let enrolled = self.certificates.enrolled();
        let sha256 = enrolled
            .anchors
            .iter()
            .map(|anchor| anchor.fingerprint().to_string());
        self.send(daemon_message::Payload::TrustedAuthorities(TrustedAuthorities {
            sha256: sha256.collect(),
        }));
    }

    fn send(&self, payload: daemon_message::Payload) {
        if let Err(error) = self.session.with(|session, _| session.send(payload)) {
            // The machine asks again, and a new stream begins with what is believed.
            tracing::debug!(%error, "a message about certificates was not sent");
        }
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CertificateDirectoryError> + Send + 'static,
) -> Result<T, Unusable> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| Unusable::Interrupted)??)
}

fn text(pem: &[u8]) -> Result<&str, Unusable> {
    std::str::from_utf8(pem).map_err(|_| Unusable::NotText)
}
