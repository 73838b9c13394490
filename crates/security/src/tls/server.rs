//! The controller's side

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig, SignatureScheme,
};

use super::{ALPN_HTTP1, ALPN_HTTP2, DefaultTimeProvider, TimeProvider, TlsError, provider};
use crate::credential::Credential;
use crate::identity::PeerIdentity;
use crate::revocation::SharedRevocations;
use crate::trust::TrustAnchors;

/// Builds the controller's TLS configuration
///
/// A client without a certificate is let in. A certificate that is presented must chain to an anchor, be in
/// date, be meant for clients, speak for a node or an administrator, and not be revoked.
///
/// ```
/// use std::time::SystemTime;
/// use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
/// use prexorcloud_security::revocation::SharedRevocations;
/// use prexorcloud_security::tls::{ServerMaterial, ServerTls};
///
/// let now = SystemTime::now();
/// let authority = Authority::create(&AuthorityPolicy::default(), now)?;
/// let server = authority.issue_server(&ServerNames::loopback(), now)?;
/// let revocations = SharedRevocations::default();
/// let config = ServerTls::new(&server, &authority.trust_anchors()?).revocations(&revocations).build()?;
/// let material = ServerMaterial::new(config);
/// // For each connection: TlsAcceptor::from(material.current())
/// # let _ = material.current();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ServerTls<'a> {
    credential: &'a Credential,
    anchors: &'a TrustAnchors,
    revocations: SharedRevocations,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn TimeProvider>,
}

impl<'a> ServerTls<'a> {
    /// Serves with `credential` and believes clients of `anchors`
    #[must_use]
    pub fn new(credential: &'a Credential, anchors: &'a TrustAnchors) -> Self {
        Self {
            credential,
            anchors,
            revocations: SharedRevocations::default(),
            alpn: vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
            clock: Arc::new(DefaultTimeProvider),
        }
    }

    /// Refuses what is on this list; the list can change without a new configuration
    #[must_use]
    pub fn revocations(mut self, revocations: &SharedRevocations) -> Self {
        self.revocations = revocations.clone();
        self
    }

    /// The application protocols, most wanted first; default `h2`, `http/1.1`
    #[must_use]
    pub fn alpn(mut self, protocols: &[&[u8]]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self
    }

    /// Judges dates by another clock than the system's
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn TimeProvider>) -> Self {
        self.clock = clock;
        self
    }

    /// The configuration, for TLS 1.2 and 1.3
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsError> {
        let roots = self.anchors.to_roots().map_err(TlsError::Anchors)?;
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Anchors(rustls::Error::Other(OtherError(Arc::new(error)))))?;
        let verifier = Arc::new(ClientVerifier {
            chain,
            revocations: self.revocations,
        });
        let resolver = Arc::new(SingleCertAndKey::from(self.credential.certified_key()?));
        let mut config = ServerConfig::builder_with_details(provider(), self.clock)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configuration)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = self.alpn;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

/// webpki's judgement of the chain, then ours of who it is
#[derive(Debug)]
struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    revocations: SharedRevocations,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let peer = PeerIdentity::from_der(end_entity)
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        match self.revocations.current().is_revoked(&peer) {
            Some(_) => Err(CertificateError::Revoked.into()),
            None => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
