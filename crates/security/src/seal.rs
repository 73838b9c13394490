//! Secrets at rest: sealed with a key that lies beside the authority's
//!
//! AES-256-GCM. What is sealed begins with a byte for the version of the form, then 12 random bytes, then the ciphertext with
//! its tag. It opens only under the context that it was sealed for (an instance and its start, for instance), so that
//! nothing sealed can be moved to another place.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::certificate::decode_hex;
use crate::files::{self, FileError};
use crate::random::{self, NoRandomness};

/// The only form so far
const VERSION: u8 = 1;

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const MAX_FILE_LEN: u64 = 1024;

/// A key that seals and opens
pub struct SealingKey(RandomizedNonceKey);

/// Why there is no key
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealingKeyError {
    /// The file cannot be read or written
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else
    #[error("{} is damaged: expected {} hexadecimal digits; restore it from a backup, or remove it: what was sealed with it cannot be read then", .path.display(), KEY_LEN * 2)]
    Damaged {
        /// The file
        path: Box<Path>,
    },
    /// No random bytes
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// It was sealed with another key, for another context, or was changed since
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is sealed does not open: it is of another key or another place, or damaged")]
pub struct NotOpened;

impl SealingKey {
    /// Reads the key of this file (0600), or makes one
    ///
    /// # Errors
    /// [`SealingKeyError`]; a file that is there is never replaced.
    pub fn load_or_create(path: &Path) -> Result<Self, SealingKeyError> {
        let damaged = || SealingKeyError::Damaged { path: path.into() };
        match files::read_secret_text(path, MAX_FILE_LEN) {
            Ok(text) => {
                let bytes = Zeroizing::new(decode_hex(text.trim()).ok_or_else(damaged)?);
                Self::of(&bytes).ok_or_else(damaged)
            }
            Err(error) if error.is_not_found() => {
                let bytes = Zeroizing::new(random::bytes::<KEY_LEN>()?);
                let mut text = Zeroizing::new(String::with_capacity(KEY_LEN * 2 + 1));
                for byte in bytes.iter() {
                    for digit in [byte >> 4, byte & 0xf] {
                        text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
                    }
                }
                text.push('\n');
                files::write_secret(path, text.as_bytes())?;
                Self::of(&*bytes).ok_or_else(damaged)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a key that is kept nowhere
    ///
    /// # Errors
    /// [`NoRandomness`]
    pub fn generate() -> Result<Self, NoRandomness> {
        let bytes = Zeroizing::new(random::bytes::<KEY_LEN>()?);
        Self::of(&*bytes).ok_or(NoRandomness)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, bytes).ok().map(Self)
    }

    /// Seals `secret` for `context`
    ///
    /// # Errors
    /// [`NoRandomness`] when the provider has none.
    pub fn seal(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let mut sealed = secret.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(context), &mut sealed)
            .map_err(|_| NoRandomness)?;
        let mut whole = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        whole.push(VERSION);
        whole.extend_from_slice(nonce.as_ref());
        whole.extend_from_slice(&sealed);
        Ok(whole)
    }

    /// Opens what was sealed for `context`
    ///
    /// # Errors
    /// [`NotOpened`]
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let (version, rest) = sealed.split_first().ok_or(NotOpened)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(NotOpened)?;
        if *version != VERSION {
            return Err(NotOpened);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NotOpened)?;
        let mut opened = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .0
            .open_in_place(nonce, Aad::from(context), &mut opened)
            .map_err(|_| NotOpened)?
            .len();
        opened.truncate(length);
        Ok(opened)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_in_its_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.key");
        let key = SealingKey::load_or_create(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let sealed = key.seal(b"lobby-1#3", b"DB_PASSWORD=hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_ne!(sealed, key.seal(b"lobby-1#3", b"DB_PASSWORD=hunter2").unwrap());
        let again = SealingKey::load_or_create(&path).unwrap();
        assert_eq!(
            &**again.open(b"lobby-1#3", &sealed).unwrap(),
            b"DB_PASSWORD=hunter2"
        );
        assert_eq!(again.open(b"lobby-1#4", &sealed), Err(NotOpened));
        let other = SealingKey::load_or_create(&folder.path().join("other.key")).unwrap();
        assert_eq!(other.open(b"lobby-1#3", &sealed), Err(NotOpened));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(b"lobby-1#3", &changed), Err(NotOpened));
            assert_eq!(key.open(b"lobby-1#3", &sealed[..at]), Err(NotOpened));
        }
    }

    #[test]
    fn a_key_that_is_damaged_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.key");
        for text in ["", "abc", "zz", &"0".repeat(62)] {
            files::write_secret(&path, text.as_bytes()).unwrap();
            let error = SealingKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, SealingKeyError::Damaged { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
