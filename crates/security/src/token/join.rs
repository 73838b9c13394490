//! The text that an operator hands to a new daemon

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::hash::TokenHash;
use super::pin::CaPin;
use crate::files::without_mark;
use crate::random::{self, NoRandomness};

const PREFIX: &str = "pxr_";
const SECRET_LEN: usize = 32;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// `pxr_<32 of a-z, 0-9>`, then `.` and the pin of the authority unless a Java controller made it
///
/// The 32 characters carry 165 random bits. The text is wiped when dropped and never printed by `Debug`.
#[derive(Clone)]
pub struct JoinToken {
    text: Zeroizing<String>,
    pin: Option<CaPin>,
}

/// Why a text is not a join token
///
/// None of these repeats the text: it may be a secret with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTokenParseError {
    /// Nothing there
    #[error("the join token is empty")]
    Empty,
    /// Another kind of text
    #[error("a join token starts with \"{PREFIX}\"")]
    WrongPrefix,
    /// The secret part has another length or other characters
    #[error("a join token has {SECRET_LEN} characters of a-z and 0-9 after \"{PREFIX}\"; was it cut off?")]
    WrongSecret,
    /// The part after the dot is not a pin
    #[error(
        "the part of the join token after the dot is not a certificate pin of 43 characters; was it cut off?"
    )]
    WrongPin,
}

impl JoinToken {
    /// Makes a fresh token; with a pin, the daemon will talk only to a controller of that authority
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(pin: Option<CaPin>) -> Result<Self, NoRandomness> {
        let secret = random::text(ALPHABET, SECRET_LEN)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SECRET_LEN + 44));
        text.push_str(PREFIX);
        text.push_str(&secret);
        if let Some(pin) = pin {
            text.push('.');
            text.push_str(&pin.to_string());
        }
        Ok(Self { text, pin })
    }

    /// Reads a token; white space around it, and the byte order mark of an editor, are ignored
    ///
    /// # Errors
    /// [`JoinTokenParseError`], which says what is wrong without repeating the text.
    pub fn parse(text: &str) -> Result<Self, JoinTokenParseError> {
        let text = without_mark(text.trim()).trim();
        if text.is_empty() {
            return Err(JoinTokenParseError::Empty);
        }
        let body = text
            .strip_prefix(PREFIX)
            .ok_or(JoinTokenParseError::WrongPrefix)?;
        let (secret, pin) = match body.split_once('.') {
            Some((secret, pin)) => (secret, Some(pin)),
            None => (body, None),
        };
        if secret.len() != SECRET_LEN || !secret.bytes().all(|b| ALPHABET.contains(&b)) {
            return Err(JoinTokenParseError::WrongSecret);
        }
        let pin = pin
            .map(|pin| pin.parse().map_err(|_| JoinTokenParseError::WrongPin))
            .transpose()?;
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            pin,
        })
    }

    /// The authority to believe; `None` for a token of a Java controller
    #[must_use]
    pub fn pin(&self) -> Option<CaPin> {
        self.pin
    }

    /// The whole text; a secret until it is redeemed
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What the controller stores: the hash of the whole text
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.text)
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenParseError;

    fn from_str(text: &str) -> Result<Self, JoinTokenParseError> {
        Self::parse(text)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("secret", &"[secret]")
            .field("pin", &self.pin)
            .finish()
    }
}
