//! Modules: jars that extend a controller or a daemon, and what they say of themselves
//!
//! A module brings its manifest inside the jar, as [`MANIFEST`]. [`read_manifest`] takes its text out of a jar that nobody has vouched
//! for yet, and [`Manifest::parse`] reads it as strictly as the Java programs do, with one addition of ours: the
//! [process](ProcessHost) that a daemon may run a module in.

mod jar;
mod manifest;
mod range;
mod section;
mod version;
mod yaml;

pub use jar::{JarError, MAX_ENTRIES, MAX_MANIFEST, read_manifest};
pub use manifest::{
    DaemonBackend, Entrypoint, Frontend, Host, Manifest, ManifestError, ModuleStorage, ProcessHost, Provided,
    Required,
};
pub use range::{BadRange, Range};
pub use version::{BadVersion, Version};

/// Where the manifest stands in a jar
pub const MANIFEST: &str = "META-INF/prexor/module.yaml";

/// The largest jar of a module that is taken, in bytes
///
/// One that fits into a message reaches peers without `artifacts/1`, too.
pub const MAX_JAR_BYTES: u64 = crate::MAX_INLINE_BYTES;
