//! The password of a keystore

use std::fmt;

use zeroize::Zeroizing;

use crate::random::{self, NoRandomness};

const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const GENERATED_LEN: usize = 32;
const MAX_LEN: usize = 256;

/// The password of a PKCS#12 file; wiped when dropped and never printed by `Debug`
#[derive(Clone)]
pub struct KeystorePassword(Zeroizing<String>);

/// Why a text cannot be a keystore password
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystorePasswordError {
    /// No characters
    #[error("the keystore password is empty")]
    Empty,
    /// More than 256 characters
    #[error("the keystore password is longer than {MAX_LEN} characters")]
    TooLong,
    /// Java refuses such passwords for the encryption that is used
    #[error("the keystore password must be printable ASCII, or Java cannot open the file")]
    NotAscii,
}

impl KeystorePassword {
    /// A fresh password: 32 of a-z, A-Z, 0-9
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        random::text(ALPHABET, GENERATED_LEN).map(Self)
    }

    /// Takes an existing password as it is
    ///
    /// # Errors
    /// [`KeystorePasswordError`].
    pub fn new(text: &str) -> Result<Self, KeystorePasswordError> {
        if text.is_empty() {
            return Err(KeystorePasswordError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(KeystorePasswordError::TooLong);
        }
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(KeystorePasswordError::NotAscii);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text; a secret
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeystorePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeystorePassword([secret])")
    }
}
