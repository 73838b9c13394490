//! What two sides of the PrexorCloud protocol must settle before they talk: versions, contract, schema changes
//!
//! - [`negotiate`] judges the version window that a peer announces in its `Handshake`, [`judge_ack`] the answer that a
//!   controller gives in its `HandshakeAck`. Both say in one sentence who has to upgrade when it cannot work.
//! - [`contract`] holds the digests of the `.proto` files that this build was made from.
//! - The module `schema` (feature `schema`) tells whether one schema may replace another:
//!   identical, additive or breaking.
//!
//! The crate decides and nothing else: it reads no files, knows no clock, no async runtime and no gRPC.
//!
//! ```
//! use prexorcloud_compat::{Announcement, Negotiation, negotiate};
//!
//! // A Java daemon announces version 1 and no lower bound.
//! match negotiate(Announcement::new(1, 0)) {
//!     Negotiation::Compatible(agreement) => assert_eq!(agreement.version, 1),
//!     Negotiation::UpgradeRequired(reason) => panic!("{reason}"),
//! }
//!
//! let Negotiation::UpgradeRequired(reason) = negotiate(Announcement::new(7, 7)) else { panic!() };
//! assert_eq!(
//!     reason.sentence("this controller", "daemon node-1"),
//!     "upgrade required: daemon node-1 speaks protocol version 7, this controller speaks version 1; \
//!      upgrade this controller",
//! );
//! ```
#![warn(missing_docs)]

mod negotiation;

pub mod contract;
#[cfg(feature = "schema")]
pub mod schema;

pub use negotiation::{
    Agreement, Announcement, ContractMatch, Incompatible, MIN_PROTOCOL_VERSION, Negotiation,
    PROTOCOL_VERSION, Party, Window, judge_ack, negotiate,
};

// The example of the README is tried like those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
