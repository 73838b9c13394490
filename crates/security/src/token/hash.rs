//! What the controller stores instead of a token

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::certificate::decode_hex;

/// SHA-256 of a whole token, shown as lower-case hexadecimal, as a Java controller stores it
///
/// Unsalted on purpose: tokens carry at least 160 random bits, so there is no dictionary to try, and a hash
/// can be looked up by equality. Comparing takes the same time wherever two hashes differ.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The digest
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not a secret, but nothing a log needs in full.
        write!(f, "TokenHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The text is not 64 hexadecimal digits
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token hash: expected 64 hexadecimal digits")]
pub struct TokenHashParseError;

impl FromStr for TokenHash {
    type Err = TokenHashParseError;

    fn from_str(text: &str) -> Result<Self, TokenHashParseError> {
        let bytes = (text.len() == 64)
            .then(|| decode_hex(text))
            .flatten()
            .ok_or(TokenHashParseError)?;
        bytes.try_into().map(Self).map_err(|_| TokenHashParseError)
    }
}
