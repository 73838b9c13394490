//! The authorities that this process believes
//!
//! Usually one. During the rotation of an authority there are two: certificates of either are accepted until
//! every node has a certificate of the new one.

use std::sync::Arc;

use rustls::RootCertStore;

use crate::certificate::{Certificate, CertificateError, Fingerprint};
use crate::pem;

/// Most authorities that can be trusted at once
pub const MAX_ANCHORS: usize = 8;

/// One to [`MAX_ANCHORS`] certificates of authorities; the first is the active one
///
/// The order matters only to readers that look at the first certificate of a file, as the Java daemon does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustAnchors(Vec<Certificate>);

/// Why certificates cannot serve as trust anchors
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No certificate at all
    #[error("no certificate of an authority was given")]
    Empty,
    /// More than [`MAX_ANCHORS`]
    #[error("more than {MAX_ANCHORS} trust anchors")]
    TooMany,
    /// A certificate that may not sign others
    #[error("the certificate of \"{subject}\" is not a certificate authority")]
    NotAnAuthority {
        /// Its subject
        subject: String,
    },
    /// A certificate does not parse
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl TrustAnchors {
    /// Trusts the given authorities; exact duplicates are dropped
    ///
    /// # Errors
    /// [`TrustError`] when there is none, too many, or one is not an authority.
    pub fn new(certificates: impl IntoIterator<Item = Certificate>) -> Result<Self, TrustError> {
        let mut anchors: Vec<Certificate> = Vec::new();
        for certificate in certificates {
            if !certificate.is_authority() {
                return Err(TrustError::NotAnAuthority {
                    subject: certificate.subject().to_owned(),
                });
            }
            if !anchors.contains(&certificate) {
                if anchors.len() == MAX_ANCHORS {
                    return Err(TrustError::TooMany);
                }
                anchors.push(certificate);
            }
        }
        if anchors.is_empty() {
            Err(TrustError::Empty)
        } else {
            Ok(Self(anchors))
        }
    }

    /// Reads every certificate of a PEM text
    ///
    /// # Errors
    /// As [`TrustAnchors::new`], and when a block does not parse.
    pub fn from_pem(text: &str) -> Result<Self, TrustError> {
        let certificates = pem::certificates(text)
            .take(MAX_ANCHORS + 1)
            .map(|der| Certificate::from_der(&der.map_err(|_| CertificateError::NoPem)?))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(certificates)
    }

    /// All anchors as PEM, the active one first
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.iter().map(Certificate::to_pem).collect()
    }

    /// The anchors, the active one first
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter()
    }

    /// Whether the authority with this fingerprint is trusted
    #[must_use]
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.0.iter().any(|anchor| anchor.fingerprint() == fingerprint)
    }

    /// The anchor that signed `certificate`, if one did; looks at names and the signature only
    #[must_use]
    pub fn issuer_of(&self, certificate: &Certificate) -> Option<&Certificate> {
        self.0.iter().find(|anchor| certificate.is_signed_by(anchor))
    }

    /// The form that rustls takes
    pub(crate) fn to_roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for anchor in &self.0 {
            roots.add(anchor.der().clone())?;
        }
        Ok(Arc::new(roots))
    }
}
