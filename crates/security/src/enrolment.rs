//! The first connection of a daemon, before it has a certificate or knows whom to trust
//!
//! Two ways, never mixed:
//!
//! - [`EnrolmentTls::pinned`]: the join token names the authority. The server must send that authority in its
//!   chain and hold a certificate signed by it, for the dialled name and for now. This is settled inside the
//!   handshake, so nothing (above all not the token) reaches anyone else.
//! - [`EnrolmentTls::trust_on_first_use`]: for tokens of a Java controller, which carry no pin. Whoever
//!   answers is believed; someone on the path can take the token. Name, dates and purpose are still checked,
//!   because a certificate that fails them would fail every later connection, after the token is spent.
//!
//! [`ObservedServer::accept`] then compares what the server *said* in its reply with what it *showed* in the
//! handshake.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};

use crate::authority::NodeKey;
use crate::certificate::{Certificate, Fingerprint};
use crate::credential::{Credential, CredentialError, MAX_CHAIN_LEN};
use crate::identity::{Identity, IdentityError, PeerIdentity};
use crate::keystore::{self, KeystoreError, KeystorePassword, KeystorePasswordError};
use crate::tls::{ALPN_HTTP2, DefaultTimeProvider, TimeProvider, TlsError, provider};
use crate::token::CaPin;
use crate::trust::{TrustAnchors, TrustError};

/// TLS for one attempt to enrol: no client certificate, and a record of who answered
#[derive(Clone, Debug)]
pub struct EnrolmentTls {
    config: Arc<ClientConfig>,
    observed: Arc<ArcSwapOption<ObservedServer>>,
}

/// Who answered
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedServer {
    /// The server's own certificate
    pub leaf: Certificate,
    /// The authority that the server sent, whose signature on the leaf holds
    pub authority: Option<Certificate>,
    /// The pin that was asked for; `None` on first use
    pub pin: Option<CaPin>,
}

/// What a node has after enrolling
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The node's key and certificate chain
    pub credential: Credential,
    /// The authorities to believe from now on
    pub anchors: TrustAnchors,
}

/// Why a server or its reply is not accepted
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolmentError {
    /// The server belongs to another cluster, or someone is in between
    #[error(
        "this is not the cluster of the join token: the server's authority is {seen}, the token says {pinned}; nothing was sent to it"
    )]
    PinMismatch {
        /// Fingerprint of the authority that the server sent
        seen: Fingerprint,
        /// Fingerprint in the token
        pinned: Fingerprint,
    },
    /// The server did not send its authority, so the pin cannot be checked
    #[error(
        "the server did not send the certificate of its authority, so the join token's pin cannot be checked; nothing was sent to it"
    )]
    AuthorityNotSent,
    /// The authority that the server sent did not sign its certificate
    #[error("the server's certificate is not signed by the authority that it sent")]
    NotSignedByAuthority,
    /// The reply names an authority that the server's own certificate does not come from
    #[error(
        "the server's reply names another certificate authority than the server itself has; nothing was stored"
    )]
    ForeignAuthority,
    /// The reply's authority does not parse
    #[error("the reply's certificate authority: {0}")]
    Authority(#[from] TrustError),
    /// The reply's keystore cannot be opened
    #[error("the reply's keystore: {0}")]
    Keystore(#[from] KeystoreError),
    /// The reply's keystore password is not acceptable
    #[error("the reply's keystore password: {0}")]
    Password(#[from] KeystorePasswordError),
    /// The reply's certificate does not come from the reply's authority
    #[error("the reply's certificate: {0}")]
    Credential(#[from] CredentialError),
    /// The reply's certificate speaks for nobody
    #[error("the reply's certificate: {0}")]
    Identity(#[from] IdentityError),
    /// The reply's certificate is someone else's
    #[error("the reply's certificate is for {found}, expected node {expected}")]
    WrongIdentity {
        /// Whom it is for
        found: Identity,
        /// Our node id
        expected: String,
    },
}

impl EnrolmentTls {
    /// Believes only a server of the pinned authority
    ///
    /// # Errors
    /// [`TlsError::Configuration`], never in practice.
    pub fn pinned(pin: CaPin) -> Result<Self, TlsError> {
        Self::with_clock(Some(pin), Arc::new(DefaultTimeProvider))
    }

    /// Believes whoever answers; say so to the operator before using it
    ///
    /// # Errors
    /// [`TlsError::Configuration`], never in practice.
    pub fn trust_on_first_use() -> Result<Self, TlsError> {
        Self::with_clock(None, Arc::new(DefaultTimeProvider))
    }

    /// As [`EnrolmentTls::pinned`], or without a pin as [`EnrolmentTls::trust_on_first_use`], by another
    /// clock than the system's
    ///
    /// # Errors
    /// [`TlsError::Configuration`], never in practice.
    pub fn with_clock(pin: Option<CaPin>, clock: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let observed = Arc::new(ArcSwapOption::empty());
        let verifier = Arc::new(FirstContact {
            pin,
            observed: Arc::clone(&observed),
        });
        let mut config = ClientConfig::builder_with_details(provider(), clock)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configuration)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(Self {
            config: Arc::new(config),
            observed,
        })
    }

    /// The configuration for the connection; use it for one server only, or [`EnrolmentTls::observed`] cannot
    /// tell them apart
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Who answered in the latest handshake; `None` before one was accepted
    #[must_use]
    pub fn observed(&self) -> Option<ObservedServer> {
        self.observed
            .load_full()
            .map(|observed| ObservedServer::clone(&observed))
    }
}

impl ObservedServer {
    /// Opens the server's reply and checks that it fits: to write down only what every later connection will
    /// accept
    ///
    /// The reply's authorities must include the pinned one (or, on first use, the one that signed the
    /// server's certificate), the keystore must open, its key must belong to its certificate, that
    /// certificate must come from the reply's authorities and must be for `node_id`. Dates are not judged: a
    /// wrong clock can be put right later, a spent token cannot.
    ///
    /// # Errors
    /// [`EnrolmentError`], saying which part does not fit.
    pub fn accept(
        &self,
        node_id: &str,
        pkcs12: &[u8],
        pkcs12_password: &str,
        ca_certificate_pem: &str,
    ) -> Result<Enrolled, EnrolmentError> {
        let anchors = TrustAnchors::from_pem(ca_certificate_pem)?;
        self.check_authority(&anchors)?;
        let password = KeystorePassword::new(pkcs12_password)?;
        check(keystore::read(pkcs12, &password)?, anchors, node_id)
    }

    /// The same for a reply to the request of the node's own key: a chain, leaf first, as PEM
    ///
    /// # Errors
    /// [`EnrolmentError`], saying which part does not fit.
    pub fn accept_chain(
        &self,
        node_id: &str,
        key: &NodeKey,
        chain_pem: &str,
        ca_certificate_pem: &str,
    ) -> Result<Enrolled, EnrolmentError> {
        let anchors = TrustAnchors::from_pem(ca_certificate_pem)?;
        self.check_authority(&anchors)?;
        check(key.join(chain_pem)?, anchors, node_id)
    }

    /// Checks the authorities of the server's reply against what the server showed
    ///
    /// # Errors
    /// [`EnrolmentError::ForeignAuthority`].
    pub fn check_authority(&self, anchors: &TrustAnchors) -> Result<(), EnrolmentError> {
        let fits = match self.pin {
            Some(pin) => anchors.contains(pin.fingerprint()),
            None => anchors.issuer_of(&self.leaf).is_some(),
        };
        if fits {
            Ok(())
        } else {
            Err(EnrolmentError::ForeignAuthority)
        }
    }
}

impl Enrolled {
    /// What a node gets in place of what it had, over a connection that is trusted already: a chain for its new key, leaf first,
    /// and the authorities to believe, both as PEM
    ///
    /// # Errors
    /// [`EnrolmentError`], saying which part does not fit.
    pub fn renewed(
        node_id: &str,
        key: &NodeKey,
        chain_pem: &str,
        ca_certificate_pem: &str,
    ) -> Result<Self, EnrolmentError> {
        let anchors = TrustAnchors::from_pem(ca_certificate_pem)?;
        check(key.join(chain_pem)?, anchors, node_id)
    }
}

/// Whether this is what the node was promised
fn check(credential: Credential, anchors: TrustAnchors, node_id: &str) -> Result<Enrolled, EnrolmentError> {
    credential.check_trusted(&anchors)?;
    match PeerIdentity::from_certificate(credential.leaf())?.identity {
        Identity::Node(found) if found == node_id => Ok(Enrolled { credential, anchors }),
        found => Err(EnrolmentError::WrongIdentity {
            found,
            expected: node_id.to_owned(),
        }),
    }
}

/// Judges the server of a first contact
struct FirstContact {
    pin: Option<CaPin>,
    observed: Arc<ArcSwapOption<ObservedServer>>,
}

impl fmt::Debug for FirstContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstContact")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

fn refuse(error: EnrolmentError) -> rustls::Error {
    rustls::CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl FirstContact {
    /// The whole judgement of webpki with the pinned authority as the only anchor
    fn verify_pinned(
        &self,
        pin: CaPin,
        sent: &[Certificate],
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Certificate, rustls::Error> {
        let Some(authority) = sent.iter().find(|certificate| pin.matches(certificate)) else {
            return Err(refuse(
                match sent.iter().rfind(|certificate| certificate.is_authority()) {
                    Some(other) => EnrolmentError::PinMismatch {
                        seen: other.fingerprint(),
                        pinned: pin.fingerprint(),
                    },
                    None => EnrolmentError::AuthorityNotSent,
                },
            ));
        };
        // webpki takes anchors as they are, without looking at their dates or whether they are authorities.
        check_dates(authority, now)?;
        let anchors = TrustAnchors::new([authority.clone()]).map_err(|error| refuse(error.into()))?;
        let roots = anchors.to_roots()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))?;
        verifier.verify_server_cert(end_entity, intermediates, name, &[], now)?;
        Ok(authority.clone())
    }

    /// Everything but trust
    fn verify_plausible(
        leaf: &Certificate,
        sent: &[Certificate],
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Option<Certificate>, rustls::Error> {
        check_dates(leaf, now)?;
        if leaf.purposes().is_some_and(|purposes| !purposes.server_auth) {
            return Err(rustls::CertificateError::InvalidPurpose.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        let authority = sent
            .iter()
            .find(|certificate| leaf.is_signed_by(certificate))
            .cloned();
        if authority.is_none() && sent.iter().any(Certificate::is_authority) {
            return Err(refuse(EnrolmentError::NotSignedByAuthority));
        }
        Ok(authority)
    }
}

fn check_dates(certificate: &Certificate, now: UnixTime) -> Result<(), rustls::Error> {
    let now: SystemTime = UNIX_EPOCH
        .checked_add(Duration::from_secs(now.as_secs()))
        .ok_or(rustls::Error::FailedToGetCurrentTime)?;
    if now < certificate.not_before() {
        Err(rustls::CertificateError::NotValidYet.into())
    } else if now > certificate.not_after() {
        Err(rustls::CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

impl ServerCertVerifier for FirstContact {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if intermediates.len() >= MAX_CHAIN_LEN {
            return Err(rustls::CertificateError::BadEncoding.into());
        }
        let parse = |der: &CertificateDer<'_>| {
            Certificate::from_der(der).map_err(|_| rustls::Error::from(rustls::CertificateError::BadEncoding))
        };
        let leaf = parse(end_entity)?;
        let sent = intermediates.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let authority = match self.pin {
            Some(pin) => Some(self.verify_pinned(pin, &sent, end_entity, intermediates, server_name, now)?),
            None => Self::verify_plausible(&leaf, &sent, end_entity, server_name, now)?,
        };
        self.observed.store(Some(Arc::new(ObservedServer {
            leaf,
            authority,
            pin: self.pin,
        })));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
