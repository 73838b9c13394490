//! A certificate chain with the private key of its first certificate: what proves who we are

use std::fmt;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::certificate::{Certificate, CertificateError};
use crate::pem::{self, KeyPemError};
use crate::tls::provider;
use crate::trust::TrustAnchors;

/// Longest certificate chain that is read
pub const MAX_CHAIN_LEN: usize = 4;

/// A private key and the chain that vouches for it, leaf first
///
/// Whoever holds one has checked that the key belongs to the leaf and that every certificate is signed by the
/// next. The key is wiped from memory when the credential is dropped, and never printed.
#[derive(Clone)]
pub struct Credential {
    leaf: Certificate,
    issuers: Vec<Certificate>,
    key: Zeroizing<Vec<u8>>,
}

/// Why a key and a chain do not make a credential
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// No certificate in the chain
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// More than [`MAX_CHAIN_LEN`] certificates
    #[error("the certificate chain is longer than {MAX_CHAIN_LEN}")]
    ChainTooLong,
    /// A certificate is not signed by the one after it
    #[error("\"{subject}\" is not signed by \"{issuer}\", the next certificate of the chain")]
    BrokenChain {
        /// Subject of the certificate
        subject: String,
        /// Subject of the certificate after it
        issuer: String,
    },
    /// The key is not one that can be used for TLS
    #[error("the private key is damaged or of an unsupported kind")]
    BadKey,
    /// The key does not belong to the leaf
    #[error("the private key does not belong to the certificate of \"{subject}\"")]
    KeyMismatch {
        /// Subject of the leaf
        subject: String,
    },
    /// No trusted authority signed the chain
    #[error("the certificate of \"{subject}\" is not signed by a trusted authority")]
    Untrusted {
        /// Subject of the leaf
        subject: String,
    },
    /// A certificate does not parse
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key file does not parse
    #[error(transparent)]
    KeyFile(#[from] KeyPemError),
}

impl Credential {
    /// Joins a chain (leaf first, then who signed it) and the PKCS#8 key of the leaf
    ///
    /// # Errors
    /// [`CredentialError`] when the key is not the leaf's or a signature of the chain does not hold.
    pub fn new(chain: Vec<Certificate>, key_pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, CredentialError> {
        if chain.len() > MAX_CHAIN_LEN {
            return Err(CredentialError::ChainTooLong);
        }
        for (certificate, issuer) in chain.iter().zip(chain.iter().skip(1)) {
            if !certificate.is_signed_by(issuer) {
                return Err(CredentialError::BrokenChain {
                    subject: certificate.subject().to_owned(),
                    issuer: issuer.subject().to_owned(),
                });
            }
        }
        let mut chain = chain.into_iter();
        let leaf = chain.next().ok_or(CredentialError::EmptyChain)?;
        let credential = Self {
            leaf,
            issuers: chain.collect(),
            key: key_pkcs8,
        };
        credential.certified_key()?;
        Ok(credential)
    }

    /// Reads a chain and a PKCS#8 key from PEM texts
    ///
    /// # Errors
    /// As [`Credential::new`], and when a text does not parse.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CredentialError> {
        let certificates = pem::certificates(chain)
            .take(MAX_CHAIN_LEN + 1)
            .map(|der| Certificate::from_der(&der.map_err(|_| CertificateError::NoPem)?))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(certificates, pem::private_key(key)?)
    }

    /// The certificate that the key belongs to
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The certificates after the leaf, each signed by the next; the last is usually the authority
    #[must_use]
    pub fn issuers(&self) -> &[Certificate] {
        &self.issuers
    }

    /// The authority at the end of the chain, if the chain has one
    #[must_use]
    pub fn authority(&self) -> Option<&Certificate> {
        self.issuers.last().filter(|last| last.is_authority())
    }

    /// The whole chain, leaf first
    pub fn chain(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.issuers)
    }

    /// The chain as PEM, leaf first
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain().map(Certificate::to_pem).collect()
    }

    /// The private key as PKCS#8 in DER; a secret
    #[must_use]
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key
    }

    /// The private key as PKCS#8 in PEM; a secret
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.key)
    }

    /// Checks that one of `anchors` signed the chain
    ///
    /// # Errors
    /// [`CredentialError::Untrusted`] when none did.
    pub fn check_trusted(&self, anchors: &TrustAnchors) -> Result<(), CredentialError> {
        let last = self.issuers.last().unwrap_or(&self.leaf);
        if anchors.contains(last.fingerprint()) || anchors.issuer_of(last).is_some() {
            return Ok(());
        }
        Err(CredentialError::Untrusted {
            subject: self.leaf.subject().to_owned(),
        })
    }

    /// The form that rustls takes
    pub(crate) fn certified_key(&self) -> Result<CertifiedKey, CredentialError> {
        let chain: Vec<CertificateDer<'static>> = self.chain().map(|c| c.der().clone()).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.to_vec()));
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CredentialError::KeyMismatch {
                subject: self.leaf.subject().to_owned(),
            },
            _ => CredentialError::BadKey,
        })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("leaf", &self.leaf)
            .field("issuers", &self.issuers)
            .field("key", &"[secret]")
            .finish()
    }
}
