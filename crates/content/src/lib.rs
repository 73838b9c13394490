//! Folders as manifests, blobs and archives
//!
//! A template is a folder on an operator's disk, a set of blobs in the controller, an archive on the wire and a folder again on
//! a node. This crate has the one description that all four share, the [`Manifest`], and the ways between them; it knows neither
//! sockets nor stores, and every function works on what it is given and returns.
//!
//! - [`Folder::scan`] reads a folder into a manifest and refuses what could not be brought anywhere safely.
//! - [`pack`] makes the archive of a manifest: the same bytes for the same manifest.
//! - [`unpack`] brings an archive into an empty folder and trusts nothing in it.
//! - [`java_content_hash`] is the hash by which Java peers know the same files.
//! - [`module`] is what a jar says of the module that it is.
//!
//! # What stands in a manifest
//! The rules are [`EntryPath`] for a name, [`LinkTarget`] for a link, [`Refusal`] for what entries may not do to each other, and
//! [`Limits`] for how much there may be. They are the same wherever entries come from, so what an operator may push is exactly what a
//! node can unpack.
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod difference;
mod digest;
mod folder;
mod java;
mod limits;
mod link;
mod manifest;
pub mod module;
mod pack;
mod path;
mod tree;
mod unpack;

pub use difference::{Difference, Differing};
pub use digest::{Digest, Hasher, NotADigest};
pub use folder::{Folder, ScanError};
pub use java::java_content_hash;
pub use limits::{Limits, MAX_INLINE_BYTES};
pub use link::{BadLink, LinkTarget};
pub use manifest::{Blob, Entry, Kind, Manifest, ManifestError};
pub use pack::{PackError, Packed, pack};
pub use path::{BadPath, EntryPath};
pub use tree::Refusal;
pub use unpack::{UnpackError, Unpacked, unpack};
