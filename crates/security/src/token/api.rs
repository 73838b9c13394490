//! Bearer tokens of people and programs

use std::fmt;

use zeroize::Zeroizing;

use super::hash::TokenHash;
use crate::files::without_mark;
use crate::random::{self, NoRandomness};

const PREFIX: &str = "prx_";
const SECRET_LEN: usize = 40;
const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// `prx_<40 of a-z, A-Z, 0-9>`, about 238 random bits; wiped when dropped and never printed by `Debug`
#[derive(Clone)]
pub struct ApiToken(Zeroizing<String>);

/// The text is not an API token
///
/// Does not repeat the text: it may be a secret with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API token: expected \"{PREFIX}\" and {SECRET_LEN} letters and digits")]
pub struct ApiTokenParseError;

impl ApiToken {
    /// Makes a fresh token
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        let secret = random::text(ALPHABET, SECRET_LEN)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SECRET_LEN));
        text.push_str(PREFIX);
        text.push_str(&secret);
        Ok(Self(text))
    }

    /// Reads a token; white space around it is ignored
    ///
    /// # Errors
    /// [`ApiTokenParseError`].
    pub fn parse(text: &str) -> Result<Self, ApiTokenParseError> {
        let text = without_mark(text.trim()).trim();
        let secret = text.strip_prefix(PREFIX).ok_or(ApiTokenParseError)?;
        if secret.len() == SECRET_LEN && secret.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(ApiTokenParseError)
        }
    }

    /// Reads the value of an `authorization` header or gRPC metadata entry: `Bearer prx_...`
    ///
    /// The scheme may be in any case, as HTTP says.
    ///
    /// # Errors
    /// [`ApiTokenParseError`] for another scheme or a text that is not a token.
    pub fn from_authorization(value: &str) -> Result<Self, ApiTokenParseError> {
        let (scheme, token) = value.trim().split_once(' ').ok_or(ApiTokenParseError)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            Self::parse(token)
        } else {
            Err(ApiTokenParseError)
        }
    }

    /// The whole text; a secret
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the controller stores
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// Whether this is the token with the stored hash, in constant time
    #[must_use]
    pub fn matches(&self, stored: &TokenHash) -> bool {
        self.hash() == *stored
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken([secret])")
    }
}
