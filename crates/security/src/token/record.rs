//! A join token as the controller remembers it
//!
//! ```text
//!            redeem (once)
//!   Open ----------------------> Consumed
//!     |
//!     | revoke        Open and past expires_at: neither, and never again
//!     v
//!   Revoked
//! ```
//!
//! Everything here is a pure function from the old record to the new one. That exactly one of many callers
//! wins is the store's part: it writes the new record only if the old one is still there (compare and swap).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::hash::TokenHash;
use super::join::JoinToken;
use crate::name::{CONTROLLER_NAME, excerpt, is_safe_name};
use crate::random::{self, NoRandomness};

/// Longest time that a join token can be valid: 30 days
pub const MAX_JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Name of a token: `tok_` and a random UUID; not a secret
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

/// The text is not a token id
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a token id: expected \"tok_\" and a UUID in lower case")]
pub struct TokenIdParseError {
    /// The start of the text
    pub text: String,
}

impl TokenId {
    /// Makes a fresh id
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        // RFC 9562: version 4 in the top half of octet 6, the variant in the top bits of octet 8.
        let random = u128::from_be_bytes(random::bytes()?);
        let version_4 = random & !(0xf << 76) | (0x4 << 76);
        let bits = version_4 & !(0x3 << 62) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let mut text = String::from("tok_");
        for (place, digit) in hex.chars().enumerate() {
            if matches!(place, 8 | 12 | 16 | 20) {
                text.push('-');
            }
            text.push(digit);
        }
        Ok(Self(text))
    }

    /// The id as text
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = TokenIdParseError;

    fn from_str(text: &str) -> Result<Self, TokenIdParseError> {
        let uuid_shaped = |uuid: &str| {
            uuid.len() == 36
                && uuid.bytes().enumerate().all(|(place, b)| match place {
                    8 | 13 | 18 | 23 => b == b'-',
                    _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
                })
        };
        if text.strip_prefix("tok_").is_some_and(uuid_shaped) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenIdParseError { text: excerpt(text) })
        }
    }
}

/// Everything that is known about a join token, except the token
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenRecord {
    /// Its name in lists and for revoking
    pub id: TokenId,
    /// Hash of the whole token
    pub hash: TokenHash,
    /// The only node that may redeem it; `None` if any may
    pub node_id: Option<String>,
    /// When it was made
    pub created_at: SystemTime,
    /// Last moment at which it can be redeemed
    pub expires_at: SystemTime,
    /// What became of it
    pub state: JoinTokenState,
}

/// What became of a join token
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinTokenState {
    /// Can be redeemed until it expires
    Open,
    /// Was redeemed
    Consumed {
        /// When
        at: SystemTime,
        /// By which node
        node_id: String,
    },
    /// Was withdrawn
    Revoked {
        /// When
        at: SystemTime,
    },
}

/// Why a token record cannot be made
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The node id is not a safe name, or is the controller's
    #[error("\"{node_id}\" is not a node id")]
    InvalidNodeId {
        /// The start of the id
        node_id: String,
    },
    /// Under a second, or longer than 30 days
    #[error("a join token is valid for 1 second to 30 days")]
    InvalidLifetime,
    /// No random bytes for the id
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why a join token is not redeemed
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    /// The node id is missing, not a safe name, or the controller's
    #[error(
        "the node id is not valid: 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with a letter or digit"
    )]
    InvalidNodeId,
    /// No such token
    #[error("this join token is not known here")]
    Unknown,
    /// It was withdrawn
    #[error("this join token was revoked; ask for a new one")]
    Revoked,
    /// It was redeemed before
    #[error("this join token was already used; ask for a new one")]
    Consumed,
    /// It is too old
    #[error("this join token has expired; ask for a new one")]
    Expired,
    /// It is meant for another node
    #[error("this join token is bound to another node id")]
    BoundElsewhere,
    /// The node is known already, and the token is not bound to it
    #[error(
        "a node of this id is known already, and only a join token that is bound to it enrols it again \
         (`prexorctl token create --node`)"
    )]
    NodeKnown,
}

/// What revoking did
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Store this record in place of the old one
    Revoked(JoinTokenRecord),
    /// It was revoked before
    AlreadyRevoked,
    /// It was redeemed before, so there is nothing left to withdraw; revoke the node's certificate instead
    AlreadyConsumed,
}

impl JoinTokenRecord {
    /// The record of a new token
    ///
    /// # Errors
    /// [`RecordError`] when the node id or the lifetime is not acceptable.
    pub fn create(
        token: &JoinToken,
        node_id: Option<&str>,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, RecordError> {
        if let Some(node_id) = node_id
            && !may_enrol(node_id)
        {
            return Err(RecordError::InvalidNodeId {
                node_id: excerpt(node_id),
            });
        }
        if lifetime < Duration::from_secs(1) || lifetime > MAX_JOIN_TOKEN_LIFETIME {
            return Err(RecordError::InvalidLifetime);
        }
        Ok(Self {
            id: TokenId::generate()?,
            hash: token.hash(),
            node_id: node_id.map(str::to_owned),
            created_at: now,
            expires_at: now.checked_add(lifetime).ok_or(RecordError::InvalidLifetime)?,
            state: JoinTokenState::Open,
        })
    }

    /// Whether its time is over, whatever became of it
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.expires_at
    }

    /// Whether some node could redeem it now
    #[must_use]
    pub fn is_redeemable(&self, now: SystemTime) -> bool {
        self.state == JoinTokenState::Open && !self.is_expired(now)
    }

    /// Redeems the token for a node: the record to store in place of this one
    ///
    /// # Errors
    /// [`RedeemError`]; nothing changes then. A token that is bound elsewhere stays open for the node that it
    /// is bound to.
    pub fn redeem(&self, now: SystemTime, node_id: &str) -> Result<Self, RedeemError> {
        if !may_enrol(node_id) {
            return Err(RedeemError::InvalidNodeId);
        }
        match self.state {
            JoinTokenState::Revoked { .. } => return Err(RedeemError::Revoked),
            JoinTokenState::Consumed { .. } => return Err(RedeemError::Consumed),
            JoinTokenState::Open => {}
        }
        if self.is_expired(now) {
            return Err(RedeemError::Expired);
        }
        if self.node_id.as_deref().is_some_and(|bound| bound != node_id) {
            return Err(RedeemError::BoundElsewhere);
        }
        let state = JoinTokenState::Consumed {
            at: now,
            node_id: node_id.to_owned(),
        };
        Ok(Self {
            state,
            ..self.clone()
        })
    }

    /// Withdraws the token
    #[must_use]
    pub fn revoke(&self, now: SystemTime) -> Revocation {
        match self.state {
            JoinTokenState::Open => Revocation::Revoked(Self {
                state: JoinTokenState::Revoked { at: now },
                ..self.clone()
            }),
            JoinTokenState::Revoked { .. } => Revocation::AlreadyRevoked,
            JoinTokenState::Consumed { .. } => Revocation::AlreadyConsumed,
        }
    }
}

/// Redeems the token with `presented` as its hash, given what the store found for it
///
/// The hash is compared again here, in constant time, so that a lookup by prefix or with a case-folding index
/// cannot redeem a wrong token.
///
/// # Errors
/// [`RedeemError::InvalidNodeId`] before anything else, [`RedeemError::Unknown`] when nothing was found,
/// otherwise as [`JoinTokenRecord::redeem`].
pub fn redeem(
    found: Option<&JoinTokenRecord>,
    presented: &TokenHash,
    now: SystemTime,
    node_id: &str,
) -> Result<JoinTokenRecord, RedeemError> {
    if !may_enrol(node_id) {
        return Err(RedeemError::InvalidNodeId);
    }
    found
        .filter(|record| record.hash == *presented)
        .ok_or(RedeemError::Unknown)?
        .redeem(now, node_id)
}

fn may_enrol(node_id: &str) -> bool {
    is_safe_name(node_id) && node_id != CONTROLLER_NAME
}
