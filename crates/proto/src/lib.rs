//! Generated messages and services of the PrexorCloud node-control protocol
//!
//! One module holds every message of the proto package `me.prexorjustin.prexorcloud.protocol`. The code is committed,
//! so depending on this crate needs neither a build script nor protoc. It has no logic: validation, state and policy
//! live in `prexorcloud-protocol`, version checks in `prexorcloud-compat`.
//!
//! | Feature | Adds |
//! |---|---|
//! | (none) | messages and enums |
//! | `client` | tonic client stubs, for instance [`admin_service_client`] |
//! | `server` | tonic server traits, for instance [`admin_service_server`] |
//! | `descriptor` | [`FILE_DESCRIPTOR_SET`] |
//!
//! ```
//! use prexorcloud_proto::{DaemonMessage, Pong, daemon_message::Payload};
//! use prost::Message as _;
//!
//! let message = DaemonMessage { payload: Some(Payload::Pong(Pong { sequence: 7 })) };
//! assert_eq!(DaemonMessage::decode(message.encode_to_vec().as_slice()).unwrap(), message);
//! ```
//!
//! An enum field is an `i32`. Convert it with `try_from`, which reports a value that this build does not know; the
//! accessor methods that prost generates turn such a value into the default, and would make an unknown
//! [`ConfigPatchOp`] a `SET`.
#![warn(missing_docs)]
#![cfg_attr(
    not(all(feature = "client", feature = "server", feature = "descriptor")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the table names items of every feature"
    )
)]

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
mod generated {
    include!("gen/me.prexorjustin.prexorcloud.protocol.rs");
}
mod redacted;

pub use generated::*;

/// The encoded `google.protobuf.FileDescriptorSet` of the contract, with its comments
///
/// Feed it to a gRPC reflection service, or to a schema tool.
#[cfg(feature = "descriptor")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");

// The example of the README is tried like those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
