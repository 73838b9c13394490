//! Secrets that are shown once and stored only as a hash
//!
//! A [`JoinToken`] lets one daemon enrol once. An [`ApiToken`] lets a person or a program call the
//! controller's interfaces. Both are random texts that are given out once; the controller keeps their SHA-256
//! and nothing else.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use prexorcloud_security::token::{JoinToken, JoinTokenRecord, RedeemError};
//!
//! let now = SystemTime::now();
//! let token = JoinToken::generate(None)?;
//! let record = JoinTokenRecord::create(&token, Some("node-1"), now, Duration::from_secs(3600))?;
//! let consumed = record.redeem(now, "node-1")?;
//! assert_eq!(consumed.redeem(now, "node-1"), Err(RedeemError::Consumed));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod api;
mod hash;
mod join;
mod pin;
mod record;

pub use self::api::{ApiToken, ApiTokenParseError};
pub use self::hash::{TokenHash, TokenHashParseError};
pub use self::join::{JoinToken, JoinTokenParseError};
pub use self::pin::{CaPin, CaPinParseError};
pub use self::record::{
    JoinTokenRecord, JoinTokenState, MAX_JOIN_TOKEN_LIFETIME, RecordError, RedeemError, Revocation, TokenId,
    TokenIdParseError, redeem,
};
