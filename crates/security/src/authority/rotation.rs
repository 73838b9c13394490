//! A cluster's authorities on disk while one takes the place of another
//!
//! | File | Content |
//! |---|---|
//! | `ca.pem`, `ca.key` | the authority that signs |
//! | `next/ca.pem`, `next/ca.key` | the one that is to sign, and is believed already |
//! | `former.pem` | the one that signed before, and is believed still |
//!
//! Which authority signs is decided by a record elsewhere, in one transaction: that is the one moment of an activation. The files
//! follow it. [`AuthorityFolder::load`] is told what the record names, and ends what a crash has cut short, so every step can be
//! done again.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::directory::{CERTIFICATE_FILE, KEY_FILE, MAX_FILE_LEN};
use super::{Authority, AuthorityPolicy, LoadError};
use crate::certificate::Certificate;
use crate::files::{self, FileError};
use crate::trust::{TrustAnchors, TrustError};

const NEXT_FOLDER: &str = "next";
const FORMER_FILE: &str = "former.pem";

/// The folder of a cluster's authorities
#[derive(Clone, Debug)]
pub struct AuthorityFolder {
    path: PathBuf,
    policy: AuthorityPolicy,
}

/// The authorities of a cluster
#[derive(Debug)]
pub struct Authorities {
    /// The one that signs
    pub signer: Authority,
    /// The one that is to sign
    pub next: Option<Certificate>,
    /// The one that signed before
    pub former: Option<Certificate>,
}

impl Authorities {
    /// What is to be believed, the one that signs first
    ///
    /// # Errors
    /// Never in practice: an authority's certificate is an authority's.
    pub fn anchors(&self) -> Result<TrustAnchors, TrustError> {
        let others = self.next.iter().chain(&self.former).cloned();
        TrustAnchors::new([self.signer.certificate().clone()].into_iter().chain(others))
    }
}

impl AuthorityFolder {
    /// The folder at `path`; nothing is touched yet
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, policy: AuthorityPolicy) -> Self {
        Self {
            path: path.into(),
            policy,
        }
    }

    /// Where it is
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the authorities, after ending an activation that the records know of and the files do not
    ///
    /// `named` is the [fingerprint](Certificate::fingerprint) of the authority that signs according to the records; empty if they do
    /// not say.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and what to do.
    pub fn load(&self, named: &str) -> Result<Authorities, LoadError> {
        let next = self.next()?;
        if let Some(next) = &next
            && named == next.fingerprint().to_string()
        {
            self.promote(next)?;
        }
        let signer = Authority::load(&self.path, &self.policy)?;
        let next = next.map(|next| next.certificate().clone());
        let next = next.filter(|next| next.fingerprint() != signer.fingerprint());
        let former = self.former()?;
        let former = former.filter(|former| former.fingerprint() != signer.fingerprint());
        Ok(Authorities { signer, next, former })
    }

    /// Makes the authority that is to sign next, unless there is one
    ///
    /// # Errors
    /// [`LoadError`]; nothing has changed then, or a key without a certificate is left, which the next call replaces.
    pub fn prepare(&self, now: SystemTime) -> Result<Certificate, LoadError> {
        let (next, _) = Authority::load_or_create(&self.next_folder(), &self.policy, now)?;
        Ok(next.certificate().clone())
    }

    /// Gives up the authority that was to sign next
    ///
    /// # Errors
    /// [`LoadError::File`]
    pub fn discard_next(&self) -> Result<(), LoadError> {
        // Without a certificate there is no authority, whatever else is left.
        files::remove(&self.next_folder().join(CERTIFICATE_FILE))?;
        Ok(files::remove(&self.next_folder().join(KEY_FILE))?)
    }

    /// Remembers that the authority that signs now is to be believed after it has stopped to; before the records name another
    ///
    /// # Errors
    /// [`LoadError`]; nothing has changed then.
    pub fn keep_signer(&self) -> Result<(), LoadError> {
        let signer = Authority::load(&self.path, &self.policy)?;
        Ok(self.write_former(signer.certificate())?)
    }

    /// The former authority is believed no more
    ///
    /// # Errors
    /// [`LoadError::File`]
    pub fn forget_former(&self) -> Result<(), LoadError> {
        Ok(files::remove(&self.path.join(FORMER_FILE))?)
    }

    /// The key goes before the certificate; until both are there, `next` stays, and a crash is mended from it
    fn promote(&self, next: &Authority) -> Result<(), LoadError> {
        next.write(&self.path)?;
        self.discard_next()
    }

    fn next(&self) -> Result<Option<Authority>, LoadError> {
        match Authority::load(&self.next_folder(), &self.policy) {
            Ok(next) => Ok(Some(next)),
            Err(LoadError::CertificateMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn former(&self) -> Result<Option<Certificate>, LoadError> {
        let text = match files::read_text(&self.path.join(FORMER_FILE), MAX_FILE_LEN) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let parsed = Certificate::from_pem(&text).map_err(super::AuthorityError::from);
        let former = parsed.map_err(|source| LoadError::Authority {
            directory: self.path.join(FORMER_FILE),
            source,
        })?;
        Ok(Some(former))
    }

    fn write_former(&self, certificate: &Certificate) -> Result<(), FileError> {
        files::write_public(&self.path.join(FORMER_FILE), certificate.to_pem().as_bytes())
    }

    fn next_folder(&self) -> PathBuf {
        self.path.join(NEXT_FOLDER)
    }
}
