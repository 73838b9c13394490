//! Where a daemon keeps what it got when it enrolled
//!
//! The same three files as the Java daemon, so either can go on with the other's directory:
//!
//! | File | Mode | Content |
//! |---|---|---|
//! | `.node-password` | 0600 | password of the keystore |
//! | `ca.pem` | 0600 | the authorities to believe, the active one first |
//! | `node.p12` | 0600 | private key and certificate chain |
//!
//! Beside them, while a join token is on its way, `.node-key` (0600): the key that the certificate is asked for, so that an
//! answer that is lost can be asked for again; and `.enrolled-with`, by which a token that was used is told from another.
//!
//! They are written in this order, each one durably, so the keystore is there only when everything is: a crash in between leaves a
//! directory that counts as not enrolled, or one that still works with the previous certificate.

use std::path::{Path, PathBuf};

use crate::authority::{IssueError, NodeKey};
use crate::credential::CredentialError;
use crate::enrolment::Enrolled;
use crate::files::{self, FileError};
use crate::keystore::{self, KeystoreError, KeystorePassword, KeystorePasswordError, MAX_KEYSTORE_LEN};
use crate::random::NoRandomness;
use crate::token::JoinToken;
use crate::trust::{TrustAnchors, TrustError};

const PASSWORD_FILE: &str = ".node-password";
const ANCHORS_FILE: &str = "ca.pem";
const KEYSTORE_FILE: &str = "node.p12";
const PENDING_KEY_FILE: &str = ".node-key";
const USED_TOKEN_FILE: &str = ".enrolled-with";
const MAX_KEY_LEN: u64 = 4096;
const MAX_PASSWORD_LEN: u64 = 1024;
const MAX_ANCHORS_LEN: u64 = 128 * 1024;

/// A daemon's certificate directory
#[derive(Clone, Debug)]
pub struct CertificateDirectory {
    path: PathBuf,
}

/// Why the directory cannot be used
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateDirectoryError {
    /// A file could not be read or written
    #[error(transparent)]
    File(#[from] FileError),
    /// The keystore does not open
    #[error("{}: {source}", .path.display())]
    Keystore {
        /// The keystore's file
        path: PathBuf,
        /// What is wrong with it
        source: KeystoreError,
    },
    /// The password file does not hold a password
    #[error("{}: {source}", .path.display())]
    Password {
        /// The password's file
        path: PathBuf,
        /// What is wrong with it
        source: KeystorePasswordError,
    },
    /// The authorities do not parse
    #[error("{}: {source}", .path.display())]
    Anchors {
        /// The authorities' file
        path: PathBuf,
        /// What is wrong with it
        source: TrustError,
    },
    /// Keystore and authorities do not belong together
    #[error("{}: {source}; remove the directory and enrol again with a new join token", .path.display())]
    Mismatch {
        /// The directory
        path: PathBuf,
        /// What does not fit
        source: CredentialError,
    },
    /// No random bytes for a password
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// No key could be made
    #[error("the node's key: {0}")]
    Key(#[from] IssueError),
}

impl CertificateDirectory {
    /// The directory at `path`; nothing is touched yet
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was stored; `None` when the node has not enrolled
    ///
    /// Opens a keystore, which takes milliseconds of key derivation.
    ///
    /// # Errors
    /// [`CertificateDirectoryError`], naming the file. Files that others can read are refused, except `ca.pem`, which a
    /// Java daemon leaves open and which is no secret.
    pub fn load(&self) -> Result<Option<Enrolled>, CertificateDirectoryError> {
        let [password_path, anchors_path, keystore_path] = self.paths();
        let limit = u64::try_from(MAX_KEYSTORE_LEN).unwrap_or(u64::MAX);
        let pkcs12 = match files::read_secret(&keystore_path, limit) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let password = read_password(&password_path)?;
        let anchors =
            TrustAnchors::from_pem(&files::read_text(&anchors_path, MAX_ANCHORS_LEN)?).map_err(|source| {
                CertificateDirectoryError::Anchors {
                    path: anchors_path,
                    source,
                }
            })?;
        let credential =
            keystore::read(&pkcs12, &password).map_err(|source| CertificateDirectoryError::Keystore {
                path: keystore_path,
                source,
            })?;
        credential
            .check_trusted(&anchors)
            .map_err(|source| CertificateDirectoryError::Mismatch {
                path: self.path.clone(),
                source,
            })?;
        Ok(Some(Enrolled { credential, anchors }))
    }

    /// Stores what the node got, in place of what was there
    ///
    /// The keystore is encrypted with a password of this directory, made on the first call: a renewal that is cut short leaves a
    /// keystore and a password that fit each other.
    ///
    /// # Errors
    /// [`CertificateDirectoryError`]; the previous keystore is then still there.
    pub fn store(&self, enrolled: &Enrolled) -> Result<(), CertificateDirectoryError> {
        let [password_path, anchors_path, keystore_path] = self.paths();
        enrolled
            .credential
            .check_trusted(&enrolled.anchors)
            .map_err(|source| CertificateDirectoryError::Mismatch {
                path: self.path.clone(),
                source,
            })?;
        files::ensure_private_dir(&self.path)?;
        let password = ensure_password(&password_path)?;
        let pkcs12 = keystore::write(&enrolled.credential, &password).map_err(|source| {
            CertificateDirectoryError::Keystore {
                path: keystore_path.clone(),
                source,
            }
        })?;
        files::write_secret(&anchors_path, enrolled.anchors.to_pem().as_bytes())?;
        files::write_secret(&keystore_path, &pkcs12)?;
        // It is in the keystore now, or was not taken.
        Ok(files::remove(&self.path.join(PENDING_KEY_FILE))?)
    }

    /// The key that a certificate is to be asked for: the one of an attempt that was cut short, or a new one
    ///
    /// It is on disk when this returns. [`store`](Self::store) removes it.
    ///
    /// # Errors
    /// [`CertificateDirectoryError::File`], or a key that cannot be made.
    pub fn pending_key(&self) -> Result<NodeKey, CertificateDirectoryError> {
        let path = self.path.join(PENDING_KEY_FILE);
        // One that is damaged was never asked for: it was written whole, or not at all.
        if let Ok(text) = files::read_secret_text(&path, MAX_KEY_LEN)
            && let Ok(key) = NodeKey::from_pem(&text)
        {
            return Ok(key);
        }
        files::ensure_private_dir(&self.path)?;
        let key = NodeKey::generate()?;
        files::write_secret(&path, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// Notes which join token became the present certificate
    ///
    /// # Errors
    /// [`CertificateDirectoryError::File`]
    pub fn note_used(&self, token: &JoinToken) -> Result<(), CertificateDirectoryError> {
        let text = format!("{}\n", token.hash());
        Ok(files::write_secret(
            &self.path.join(USED_TOKEN_FILE),
            text.as_bytes(),
        )?)
    }

    /// Whether this join token became the present certificate, as far as that was noted
    #[must_use]
    pub fn was_used(&self, token: &JoinToken) -> bool {
        files::read_secret_text(&self.path.join(USED_TOKEN_FILE), MAX_KEY_LEN)
            .is_ok_and(|text| text.trim().parse() == Ok(token.hash()))
    }

    /// Creates the directory and proves that it can be written
    ///
    /// Call it before a join token is redeemed: a token that is spent on a full disk is gone.
    ///
    /// # Errors
    /// [`CertificateDirectoryError::File`], naming what cannot be written.
    pub fn prepare(&self) -> Result<(), CertificateDirectoryError> {
        files::ensure_private_dir(&self.path)?;
        let [password_path, ..] = self.paths();
        let password = ensure_password(&password_path)?;
        // Writing what is there already changes nothing, but shows whether the real files will fit.
        Ok(files::write_secret(&password_path, password.expose().as_bytes())?)
    }

    fn paths(&self) -> [PathBuf; 3] {
        [PASSWORD_FILE, ANCHORS_FILE, KEYSTORE_FILE].map(|name| self.path.join(name))
    }
}

/// The directory's password; a fresh one if there is none or it cannot be used, since then no keystore depends on it
fn ensure_password(path: &Path) -> Result<KeystorePassword, CertificateDirectoryError> {
    if let Ok(password) = read_password(path) {
        return Ok(password);
    }
    let password = KeystorePassword::generate()?;
    files::write_secret(path, password.expose().as_bytes())?;
    Ok(password)
}

fn read_password(path: &Path) -> Result<KeystorePassword, CertificateDirectoryError> {
    let text = files::read_secret_text(path, MAX_PASSWORD_LEN)?;
    KeystorePassword::new(text.trim()).map_err(|source| CertificateDirectoryError::Password {
        path: path.to_owned(),
        source,
    })
}
