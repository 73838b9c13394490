//! PKCS#12 files, as Java's `KeyStore` and OpenSSL write and read them
//!
//! Written: PBES2 with AES-256-CBC and PBKDF2-HMAC-SHA256, an HMAC-SHA256 over everything, 10 000 iterations
//! each, one key entry named `cert`, chain leaf first, one password for the file and the key. That is what
//! Java 17 writes, so each side opens the other's files.
//!
//! Read: those, and the older RC2/3DES files of both programs. A file must have a MAC, exactly one private
//! key and its certificate; the chain is put together by signatures, not by the order or the names in the
//! file.
//!
//! ```
//! use std::time::SystemTime;
//! use prexorcloud_security::authority::{Authority, AuthorityPolicy};
//! use prexorcloud_security::keystore::{self, KeystorePassword};
//!
//! let now = SystemTime::now();
//! let node = Authority::create(&AuthorityPolicy::default(), now)?.issue_node("node-1", now)?;
//! let password = KeystorePassword::generate()?;
//! let file = keystore::write(&node, &password)?;
//! assert_eq!(keystore::read(&file, &password)?.leaf(), node.leaf());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Deriving keys from passwords is slow on purpose (milliseconds): keep both functions off threads that must
//! not wait.

mod envelope;
mod password;

use p12_keystore::error::Error as Pkcs12Error;
use p12_keystore::{
    EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12Archive, PrivateKey, PrivateKeyChain,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

pub use self::password::{KeystorePassword, KeystorePasswordError};
use crate::certificate::{Certificate, CertificateError};
use crate::credential::{Credential, CredentialError, MAX_CHAIN_LEN};
use crate::tls::provider;

/// Largest file that is read, in bytes; a node's keystore has about 2000
pub const MAX_KEYSTORE_LEN: usize = 32 * 1024;

/// Name of the key entry
pub const ALIAS: &str = "cert";

const ITERATIONS: u32 = 10_000;

/// Why a PKCS#12 file cannot be written or used
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// No bytes
    #[error("the keystore is empty")]
    Empty,
    /// More than [`MAX_KEYSTORE_LEN`]
    #[error("a keystore of {len} bytes is over the limit of {MAX_KEYSTORE_LEN}")]
    TooLarge {
        /// Bytes given
        len: usize,
    },
    /// Not PKCS#12, cut off, or damaged
    #[error("the keystore is not a complete PKCS#12 file")]
    Malformed,
    /// No MAC, so nothing says that the file is what was written
    #[error("the keystore has no MAC and cannot be checked; write it with a password")]
    Unprotected,
    /// Deriving its keys would take too long
    #[error("the keystore asks for {iterations} key derivation rounds, more than {limit}")]
    TooManyIterations {
        /// Rounds asked for
        iterations: u64,
        /// Most rounds that are run
        limit: u64,
    },
    /// The password does not fit, or the file was changed after it was written
    #[error("wrong keystore password, or the file was changed")]
    WrongPassword,
    /// An algorithm that is not supported
    #[error("the keystore uses an encryption or MAC algorithm that is not supported")]
    Unsupported,
    /// No private key in it
    #[error("the keystore holds no private key")]
    NoKey,
    /// More than one private key in it
    #[error("the keystore holds {found} private keys, expected one")]
    SeveralKeys {
        /// How many
        found: usize,
    },
    /// No certificate belongs to the private key
    #[error("no certificate of the keystore belongs to its private key")]
    NoCertificate,
    /// The key, a certificate or the chain is not usable
    #[error("the keystore's contents cannot be used: {0}")]
    Credential(#[from] CredentialError),
    /// A certificate in it does not parse
    #[error("a certificate of the keystore: {0}")]
    Certificate(#[from] CertificateError),
}

/// Writes a credential as PKCS#12
///
/// # Errors
/// [`KeystoreError::Credential`] when the key cannot be encoded, [`KeystoreError::Unsupported`] when the key
/// is of another kind.
pub fn write(credential: &Credential, password: &KeystorePassword) -> Result<Vec<u8>, KeystoreError> {
    let unusable = |_| KeystoreError::Credential(CredentialError::BadKey);
    let key = PrivateKey::from_der(credential.key_pkcs8()).map_err(unusable)?;
    let chain = credential
        .chain()
        .map(|certificate| p12_keystore::Certificate::from_der(certificate.der()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unusable)?;
    // Ties the key to its certificate inside the file; any bytes unique to the pair will do.
    let key_id = credential
        .leaf()
        .fingerprint()
        .as_bytes()
        .get(..20)
        .unwrap_or_default()
        .to_vec();
    let mut store = KeyStore::new();
    store.add_entry(
        ALIAS,
        KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(key_id, key, chain)),
    );
    store
        .writer(password.expose())
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .encryption_iterations(ITERATIONS)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .mac_iterations(ITERATIONS)
        .write()
        .map_err(|_| KeystoreError::Unsupported)
}

/// Reads the one credential of a PKCS#12 file
///
/// The key must belong to a certificate of the file, and every certificate of the chain must be signed by the
/// next. Whether the chain ends in an authority that is *trusted* is for the caller:
/// [`Credential::check_trusted`].
///
/// # Errors
/// [`KeystoreError`], which tells a wrong password from a damaged file from contents that cannot be used.
pub fn read(bytes: &[u8], password: &KeystorePassword) -> Result<Credential, KeystoreError> {
    envelope::check(bytes)?;
    let archive = Pkcs12Archive::from_pkcs12(bytes, password.expose()).map_err(|error| match error {
        Pkcs12Error::MacError(_) => KeystoreError::WrongPassword,
        Pkcs12Error::UnsupportedEncryptionScheme | Pkcs12Error::UnsupportedMacAlgorithm => {
            KeystoreError::Unsupported
        }
        _ => KeystoreError::Malformed,
    })?;
    let key = match archive.keys.as_slice() {
        [key] => Zeroizing::new(key.key.as_der().to_vec()),
        [] => return Err(KeystoreError::NoKey),
        several => return Err(KeystoreError::SeveralKeys { found: several.len() }),
    };
    let mut certificates = archive
        .certs
        .iter()
        .map(|bag| Certificate::from_der(bag.cert.as_der()))
        .collect::<Result<Vec<_>, _>>()?;
    let leaf = take_leaf(&mut certificates, &key)?;
    Ok(Credential::new(link(leaf, &certificates)?, key)?)
}

/// The certificate with the public half of `key_pkcs8`
fn take_leaf(certificates: &mut Vec<Certificate>, key_pkcs8: &[u8]) -> Result<Certificate, KeystoreError> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pkcs8.to_vec()));
    let key = provider()
        .key_provider
        .load_private_key(der)
        .map_err(|_| CredentialError::BadKey)?;
    let public_key = key.public_key().ok_or(CredentialError::BadKey)?;
    let place = certificates
        .iter()
        .position(|certificate| certificate.public_key() == public_key.as_ref())
        .ok_or(KeystoreError::NoCertificate)?;
    Ok(certificates.swap_remove(place))
}

/// The chain from `leaf` upwards, as far as `others` reach
fn link(leaf: Certificate, others: &[Certificate]) -> Result<Vec<Certificate>, CredentialError> {
    let mut chain = vec![leaf.clone()];
    let mut last = leaf;
    while !last.is_self_issued() {
        let Some(issuer) = others.iter().find(|other| last.is_signed_by(other)) else {
            // An authority of the right name with another key is not the end of a chain, it is the wrong one.
            if let Some(impostor) = others.iter().find(|other| last.names_as_issuer(other)) {
                return Err(CredentialError::BrokenChain {
                    subject: last.subject().to_owned(),
                    issuer: impostor.subject().to_owned(),
                });
            }
            break;
        };
        if chain.contains(issuer) || chain.len() == MAX_CHAIN_LEN {
            return Err(CredentialError::ChainTooLong);
        }
        chain.push(issuer.clone());
        last = issuer.clone();
    }
    Ok(chain)
}
