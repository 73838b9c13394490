//! The part of a join token that says which authority to believe

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::certificate::{Certificate, Fingerprint};
use crate::files::without_mark;

/// SHA-256 of the DER of an authority's certificate, written as 43 characters of base64url without padding
///
/// Not a secret: it lets a daemon recognise its cluster before it says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CaPin(Fingerprint);

impl CaPin {
    /// The pin of an authority
    #[must_use]
    pub fn of(authority: &Certificate) -> Self {
        Self(authority.fingerprint())
    }

    /// Whether `certificate` is the pinned one
    #[must_use]
    pub fn matches(&self, certificate: &Certificate) -> bool {
        certificate.fingerprint() == self.0
    }

    /// The digest
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_base64url())
    }
}

/// The text is not a pin
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate pin: expected 43 characters of base64url")]
pub struct CaPinParseError;

impl FromStr for CaPin {
    type Err = CaPinParseError;

    fn from_str(text: &str) -> Result<Self, CaPinParseError> {
        let text = without_mark(text.trim()).trim();
        if text.len() != 43 {
            return Err(CaPinParseError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CaPinParseError)?;
        bytes
            .try_into()
            .map(|digest| Self(Fingerprint::from_bytes(digest)))
            .map_err(|_| CaPinParseError)
    }
}
