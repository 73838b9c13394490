//! Public keys, and who is believed

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::pem::SectionKind;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Artifact, SignatureError};
use crate::certificate::Certificate;
use crate::pem;

/// The most keys and authorities of a trust root
pub const MAX_TRUSTED: usize = 64;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

/// A key that signatures are verified with: RSA (2048 bits and more), ECDSA on P-256 or P-384, or Ed25519
#[derive(Clone)]
pub struct PublicKey(Arc<Parsed>);

struct Parsed {
    key: ParsedPublicKey,
    scheme: Scheme,
    /// SHA-256 of its encoding, by which logs and people know it
    id: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Rsa,
    Ecdsa,
    Ed25519,
}

/// Why a text holds nobody who could be believed
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustRootError {
    /// Neither a key nor a certificate
    #[error("there is neither a \"BEGIN PUBLIC KEY\" nor a \"BEGIN CERTIFICATE\" block")]
    Empty,
    /// Not PEM, or far too large
    #[error("it is not PEM, or far too large")]
    NotPem,
    /// A private key, which has no business there
    #[error("there is a private key; a trust root has public ones")]
    PrivateKey,
    /// More than [`MAX_TRUSTED`]
    #[error("it holds more than {MAX_TRUSTED} keys and certificates")]
    TooMany,
    /// A key of another kind
    #[error("a key is neither RSA of 2048 bits or more, nor ECDSA on P-256 or P-384, nor Ed25519")]
    UnknownKey,
    /// A certificate that does not parse
    #[error("a certificate cannot be read: {detail}")]
    BadCertificate {
        /// Why
        detail: String,
    },
}

impl PublicKey {
    /// The key of a `SubjectPublicKeyInfo` in DER
    ///
    /// # Errors
    /// [`TrustRootError::UnknownKey`].
    pub fn from_spki(der: &[u8]) -> Result<Self, TrustRootError> {
        let unknown = |_| TrustRootError::UnknownKey;
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| TrustRootError::UnknownKey)?;
        let algorithm = info.algorithm.algorithm.to_id_string();
        let curve = info
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        let (scheme, algorithm): (_, &'static dyn VerificationAlgorithm) =
            match (algorithm.as_str(), curve.as_deref()) {
                (RSA, _) => (Scheme::Rsa, &signature::RSA_PKCS1_2048_8192_SHA256),
                (EC, Some(P256)) => (Scheme::Ecdsa, &signature::ECDSA_P256_SHA256_ASN1),
                (EC, Some(P384)) => (Scheme::Ecdsa, &signature::ECDSA_P384_SHA256_ASN1),
                (ED25519, _) => (Scheme::Ed25519, &signature::ED25519),
                _ => return Err(TrustRootError::UnknownKey),
            };
        if !rest.is_empty() {
            return Err(TrustRootError::UnknownKey);
        }
        let key = ParsedPublicKey::new(algorithm, der).map_err(unknown)?;
        let id = digest::digest(&digest::SHA256, der);
        let id = id.as_ref().try_into().map_err(|_| TrustRootError::UnknownKey)?;
        Ok(Self(Arc::new(Parsed { key, scheme, id })))
    }

    /// Every public key of a PEM text
    ///
    /// # Errors
    /// [`TrustRootError`]; one without any is [`TrustRootError::Empty`].
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, TrustRootError> {
        let root = TrustRoot::from_pem(text)?;
        if root.keys.is_empty() {
            return Err(TrustRootError::Empty);
        }
        Ok(root.keys)
    }

    /// SHA-256 of its encoding
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        self.0.id
    }

    pub(super) fn has_signed(
        &self,
        artifact: &Artifact<'_>,
        signature: &[u8],
    ) -> Result<bool, SignatureError> {
        match self.0.scheme {
            Scheme::Ed25519 if signature.len() != 64 => Ok(false),
            Scheme::Ed25519 => Ok(self.0.key.verify_sig(&artifact.whole()?, signature).is_ok()),
            Scheme::Rsa | Scheme::Ecdsa => {
                let digest = Digest::import_less_safe(&artifact.sha256, &digest::SHA256);
                Ok(digest.is_ok_and(|digest| self.0.key.verify_digest_sig(&digest, signature).is_ok()))
            }
        }
    }

    /// Whether it has signed these bytes, which are few
    pub(super) fn has_signed_text(&self, text: &[u8], signature: &[u8]) -> bool {
        self.0.key.verify_sig(text, signature).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for PublicKey {}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", hex(&self.0.id))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, {})", self.0.scheme, hex(&self.0.id))
    }
}

/// Who is believed: public keys, and authorities of certificates
#[derive(Clone, Debug)]
pub struct TrustRoot {
    keys: Vec<PublicKey>,
    authorities: Vec<Certificate>,
}

impl TrustRoot {
    /// Every public key and certificate of a PEM text
    ///
    /// # Errors
    /// [`TrustRootError`].
    pub fn from_pem(text: &str) -> Result<Self, TrustRootError> {
        let (mut keys, mut authorities) = (Vec::new(), Vec::new());
        for block in pem::sections(text) {
            let (kind, der) = block.map_err(|_| TrustRootError::NotPem)?;
            match kind {
                SectionKind::PublicKey => keys.push(PublicKey::from_spki(&der)?),
                SectionKind::Certificate => {
                    let read = Certificate::from_der(&der);
                    authorities.push(read.map_err(|error| TrustRootError::BadCertificate {
                        detail: error.to_string(),
                    })?);
                }
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    return Err(TrustRootError::PrivateKey);
                }
                _ => {}
            }
            if keys.len() + authorities.len() > MAX_TRUSTED {
                return Err(TrustRootError::TooMany);
            }
        }
        if keys.is_empty() && authorities.is_empty() {
            return Err(TrustRootError::Empty);
        }
        Ok(Self { keys, authorities })
    }

    /// The keys
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// The authorities
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
