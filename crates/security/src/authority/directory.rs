//! The authority's two files: `ca.pem` for everyone, `ca.key` for nobody else

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Authority, AuthorityError, AuthorityPolicy, IssueError};
use crate::files::{self, FileError};

pub(super) const CERTIFICATE_FILE: &str = "ca.pem";
pub(super) const KEY_FILE: &str = "ca.key";
pub(super) const MAX_FILE_LEN: u64 = 64 * 1024;

/// Where an authority came from
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made just now, because the directory had none
    Created,
    /// Read from the directory
    Loaded,
}

/// Why no authority could be loaded or created
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file could not be read or written
    #[error(transparent)]
    File(#[from] FileError),
    /// The files do not make an authority
    #[error("{}: {source}", .directory.display())]
    Authority {
        /// Where the files are
        directory: PathBuf,
        /// What is wrong with them
        source: AuthorityError,
    },
    /// The certificate is not there, although it was
    #[error("{} is missing; restore it from a backup, since a new authority would cut off every node", .certificate.display())]
    CertificateMissing {
        /// The certificate that is not there
        certificate: PathBuf,
    },
    /// The certificate is there, its key is not
    #[error("{} exists but {} does not; restore the key from a backup, since nothing can be signed without it", .certificate.display(), .key.display())]
    KeyMissing {
        /// The certificate that is there
        certificate: PathBuf,
        /// The key that is not
        key: PathBuf,
    },
    /// A new authority could not be made
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl Authority {
    /// Loads the authority of `directory` (`ca.pem`, `ca.key`), or creates one there
    ///
    /// Nothing is overwritten: a directory that holds only the certificate is an error, because replacing the
    /// authority cuts off every node. The key is on disk before the certificate, so a crash in between leaves
    /// a key that the next start replaces.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and what to do.
    pub fn load_or_create(
        directory: &Path,
        policy: &AuthorityPolicy,
        now: SystemTime,
    ) -> Result<(Self, Origin), LoadError> {
        files::ensure_private_dir(directory)?;
        match Self::load(directory, policy) {
            Err(LoadError::CertificateMissing { .. }) => {
                let authority = Self::create(policy, now)?;
                authority.write(directory)?;
                Ok((authority, Origin::Created))
            }
            loaded => Ok((loaded?, Origin::Loaded)),
        }
    }

    /// Writes the key, then the certificate, in place of what is there
    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        files::write_secret(&directory.join(KEY_FILE), self.key_pem().as_bytes())?;
        files::write_public(
            &directory.join(CERTIFICATE_FILE),
            self.certificate.to_pem().as_bytes(),
        )
    }

    /// Loads the authority of `directory`, which has one; nothing is written
    ///
    /// # Errors
    /// [`LoadError`], naming the file and what to do.
    pub fn load(directory: &Path, policy: &AuthorityPolicy) -> Result<Self, LoadError> {
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let key_path = directory.join(KEY_FILE);
        let certificate = match files::read_text(&certificate_path, MAX_FILE_LEN) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => {
                return Err(LoadError::CertificateMissing {
                    certificate: certificate_path,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let key = match files::read_secret_text(&key_path, MAX_FILE_LEN) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => {
                return Err(LoadError::KeyMissing {
                    certificate: certificate_path,
                    key: key_path,
                });
            }
            Err(error) => return Err(error.into()),
        };
        Self::from_pem(&certificate, &key, policy).map_err(|source| LoadError::Authority {
            directory: directory.to_owned(),
            source,
        })
    }
}
