//! Certificates, keystores, join tokens and trust of a PrexorCloud cluster
//!
//! The crate decides who is who: it makes and reads certificates, opens and writes the files that carry them,
//! and builds the rustls configurations that enforce them. It does no networking and keeps no clock: sockets
//! belong to the transport, and every function that depends on the time takes it as an argument (TLS
//! verifiers take a [`tls::TimeProvider`]).
//!
//! How a node joins, and where each part is:
//!
//! 1. The controller creates or loads its [`authority`], writes it down with [`files`], and serves with a
//!    certificate from it ([`tls::ServerTls`]).
//! 2. An operator creates a [`token`]: a one-time secret with the fingerprint of the authority.
//! 3. The new daemon connects by [`enrolment`], which proves the authority before the token is sent.
//! 4. The controller redeems the token, issues a certificate and sends it as a [`keystore`] that Java and
//!    OpenSSL can open as well.
//! 5. The daemon keeps it in its [`certificate_directory`].
//!
//!    `prexorcloud-transport` has one call for all that either side does in the steps 3 to 5: `enrol_once`, `issue_node`.
//! 6. From then on both sides know each other by certificate ([`tls::ClientTls`], [`identity`]), until one
//!    expires, is renewed, or is put on the list of [`revocation`].
//!
//! Who vouches for a jar that is installed is another question, which [`signature`] answers.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use prexorcloud_security::authority::{Authority, AuthorityPolicy};
//! use prexorcloud_security::keystore::{self, KeystorePassword};
//! use prexorcloud_security::token::{CaPin, JoinToken, JoinTokenRecord};
//!
//! let now = SystemTime::now();
//!
//! // Controller: an authority and a token for one new node.
//! let authority = Authority::create(&AuthorityPolicy::default(), now)?;
//! let token = JoinToken::generate(Some(CaPin::of(authority.certificate())))?;
//! let record = JoinTokenRecord::create(&token, Some("node-1"), now, Duration::from_secs(3600))?;
//!
//! // Controller, when the token comes back: store `record` in place of the old one, then answer.
//! let record = record.redeem(now, "node-1")?;
//! let node = authority.issue_node("node-1", now)?;
//! let password = KeystorePassword::generate()?;
//! let reply = keystore::write(&node, &password)?;
//!
//! // Node: what it got is what it was promised.
//! let credential = keystore::read(&reply, &password)?;
//! credential.check_trusted(&authority.trust_anchors()?)?;
//! # let _ = record;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")
)]

pub mod authority;
pub mod certificate;
pub mod certificate_directory;
pub mod credential;
pub mod enrolment;
pub mod files;
pub mod identity;
pub mod keystore;
pub mod name;
mod pem;
mod random;
pub mod revocation;
pub mod seal;
pub mod signature;
pub mod tls;
pub mod token;
pub mod trust;
mod validity;

pub use rustls;

pub use crate::pem::KeyPemError;
pub use crate::random::NoRandomness;
pub use crate::validity::Validity;

// The example of the README is tried like those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
