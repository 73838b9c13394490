//! Who may sign modules, as the configuration says

use std::path::{Path, PathBuf};

use prexorcloud_security::signature::{Log, Policy, PublicKey, TrustRoot, TrustRootError, Unsigned};

/// Bytes of the largest file with keys
const MAX_FILE: u64 = 256 * 1024;

/// Who may sign modules
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningConfig {
    /// Whether modules without a signature are taken
    pub is_optional: bool,
    /// PEM with public keys and certificates of authorities
    pub trust_root: Option<PathBuf>,
    /// PEM with the public keys of transparency logs; with it an entry of one of them is required
    pub log_keys: Option<PathBuf>,
}

/// Why the configured keys cannot be used
#[derive(Debug, thiserror::Error)]
#[error("{} names {}, which cannot be used: {detail}", key, file.display())]
pub struct PolicyError {
    /// The key of the configuration
    pub key: &'static str,
    /// The file
    pub file: PathBuf,
    /// Why
    pub detail: String,
}

impl SigningConfig {
    /// Reads the files
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn load(&self) -> Result<Policy, PolicyError> {
        let trust = self
            .trust_root
            .as_deref()
            .map(|file| read("modules.signing.trust_root", file, TrustRoot::from_pem));
        let keys = self
            .log_keys
            .as_deref()
            .map(|file| read("modules.signing.log_keys", file, PublicKey::all_from_pem));
        Ok(Policy {
            unsigned: if self.is_optional {
                Unsigned::Taken
            } else {
                Unsigned::Refused
            },
            trust: trust.transpose()?,
            log: keys.transpose()?.map_or(Log::Disabled, Log::Required),
        })
    }
}

fn read<T>(
    key: &'static str,
    file: &Path,
    parse: impl FnOnce(&str) -> Result<T, TrustRootError>,
) -> Result<T, PolicyError> {
    let wrong = |detail: String| PolicyError {
        key,
        file: file.to_owned(),
        detail,
    };
    let size = std::fs::metadata(file)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > MAX_FILE {
        return Err(wrong(format!("it has more than {MAX_FILE} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    parse(&text).map_err(|error| wrong(error.to_string()))
}
