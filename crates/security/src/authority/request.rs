//! A node's own key, and its request for a certificate

use std::fmt;

use rcgen::{CertificateParams, CertificateSigningRequestParams, PublicKeyData as _};
use rustls::pki_types::CertificateSigningRequestDer;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::{IssueError, MAX_REQUEST_LEN, ZeroizingKey, new_key, parse_key};
use crate::certificate::Fingerprint;
use crate::credential::{Credential, CredentialError};
use crate::pem::{self, KeyPemError};

/// An EC P-256 key that a node makes for itself, before it has a certificate
///
/// It never leaves the node, so that an answer that was lost on its way can be asked for again: only whoever has the key
/// has a use for it.
///
/// ```
/// use std::time::SystemTime;
/// use prexorcloud_security::authority::{Authority, AuthorityPolicy, NodeKey};
///
/// let now = SystemTime::now();
/// let authority = Authority::create(&AuthorityPolicy::default(), now)?;
/// let key = NodeKey::generate()?;
/// let chain = authority.sign_node_request(&key.request()?, "node-1", now)?;
/// let chain: String = chain.iter().map(|certificate| certificate.to_pem()).collect();
/// let credential = key.join(&chain)?;
/// assert!(credential.leaf().is_signed_by(authority.certificate()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct NodeKey(Zeroizing<Vec<u8>>);

impl NodeKey {
    /// Makes one
    ///
    /// # Errors
    /// [`IssueError::Provider`] when the provider fails.
    pub fn generate() -> Result<Self, IssueError> {
        let mut key = new_key()?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        key.zeroize();
        Ok(Self(pkcs8))
    }

    /// Reads what [`to_pem`](Self::to_pem) wrote
    ///
    /// # Errors
    /// [`KeyPemError`]
    pub fn from_pem(text: &str) -> Result<Self, KeyPemError> {
        Ok(Self(pem::private_key(text)?))
    }

    /// The key as PKCS#8 in PEM; a secret
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.0)
    }

    /// The request for a certificate, as PKCS#10 in DER: it says nothing but the key
    ///
    /// # Errors
    /// [`IssueError::UnsupportedKey`] for a key of another kind, or a failure of the provider.
    pub fn request(&self) -> Result<Vec<u8>, IssueError> {
        let key = ZeroizingKey(parse_key(&self.0).map_err(|_| IssueError::UnsupportedKey)?);
        Ok(CertificateParams::default()
            .serialize_request(&key)?
            .der()
            .to_vec())
    }

    /// Joins the key and the chain that was signed for it, leaf first, as PEM
    ///
    /// # Errors
    /// [`CredentialError`] when the chain does not hold, or is for another key.
    pub fn join(&self, chain_pem: &str) -> Result<Credential, CredentialError> {
        Credential::from_pem(chain_pem, &self.to_pem())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey([secret])")
    }
}

/// SHA-256 of the public key that a request asks a certificate for; equal for all requests of one [`NodeKey`]
///
/// # Errors
/// [`IssueError::BadRequest`] or [`IssueError::UnsupportedKey`], as when it is signed.
pub fn requested_key(request_der: &[u8]) -> Result<Fingerprint, IssueError> {
    let request = parse_request(request_der)?;
    Ok(Fingerprint::from_bytes(
        Sha256::digest(request.public_key.der_bytes()).into(),
    ))
}

pub(super) fn parse_request(der: &[u8]) -> Result<CertificateSigningRequestParams, IssueError> {
    if der.len() > MAX_REQUEST_LEN {
        return Err(IssueError::BadRequest);
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|_| IssueError::BadRequest)?;
    if *request.public_key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(IssueError::UnsupportedKey);
    }
    Ok(request)
}
