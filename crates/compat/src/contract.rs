//! The contract that this build was made from, as digests
//!
//! `cargo xtask contract accept` writes the numbers; nothing computes them at run time.

mod generated {
    include!("gen/digests.rs");
}

pub use generated::{FILES, WIRE_DIGEST};

/// What a capability that carries a contract digest begins with
const CAPABILITY_PREFIX: &str = "contract-sha256/";

/// The capability that announces [`WIRE_DIGEST`], for `Handshake.capabilities` and `HandshakeAck.capabilities`
#[must_use]
pub fn capability() -> String {
    format!("{CAPABILITY_PREFIX}{WIRE_DIGEST}")
}

/// The contract digest among the capabilities of a peer, if it announced one
///
/// Returned as received; only its comparison with [`WIRE_DIGEST`] has a meaning.
pub fn digest_in_capabilities<S: AsRef<str>>(capabilities: &[S]) -> Option<&str> {
    capabilities
        .iter()
        .find_map(|capability| capability.as_ref().strip_prefix(CAPABILITY_PREFIX))
}
