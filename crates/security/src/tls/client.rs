//! The side of daemons and tools

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::OtherError;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::sign::SingleCertAndKey;

use super::{ALPN_HTTP2, DefaultTimeProvider, TimeProvider, TlsError, provider};
use crate::credential::Credential;
use crate::trust::TrustAnchors;

/// Builds the TLS configuration of a daemon or a tool
///
/// The controller's certificate must chain to an anchor, be in date, be meant for servers, and be valid for
/// the name or address that was dialled.
#[derive(Debug)]
pub struct ClientTls<'a> {
    anchors: &'a TrustAnchors,
    credential: Option<&'a Credential>,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn TimeProvider>,
}

impl<'a> ClientTls<'a> {
    /// Believes servers of `anchors`
    #[must_use]
    pub fn new(anchors: &'a TrustAnchors) -> Self {
        Self {
            anchors,
            credential: None,
            alpn: vec![ALPN_HTTP2.to_vec()],
            clock: Arc::new(DefaultTimeProvider),
        }
    }

    /// Presents this certificate when the server asks
    #[must_use]
    pub fn identity(mut self, credential: &'a Credential) -> Self {
        self.credential = Some(credential);
        self
    }

    /// The application protocols, most wanted first; default `h2`
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
    pub fn build(self) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = self.anchors.to_roots().map_err(TlsError::Anchors)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::Anchors(rustls::Error::Other(OtherError(Arc::new(error)))))?;
        let builder = ClientConfig::builder_with_details(provider(), self.clock)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configuration)?
            .with_webpki_verifier(verifier);
        let mut config = match self.credential {
            Some(credential) => builder
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified_key()?))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn;
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }
}
