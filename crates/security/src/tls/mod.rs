//! rustls configurations of the cluster
//!
//! One port serves nodes with a certificate, administrators with one, and newcomers without. So TLS asks for
//! a client certificate but does not insist; one that is presented must hold, or the handshake fails. Which
//! service needs one is decided above TLS.
//!
//! **No resumption.** A resumed session does not look at certificates again: it would outlive a revocation
//! and an expiry. Neither side keeps sessions or tickets, and early data is off. A handshake costs a node one
//! millisecond per connection, and connections live for weeks.
//!
//! The cryptographic provider is always passed explicitly; nothing here depends on, or installs, a
//! process-wide default.

mod client;
mod diagnosis;
mod reload;
mod server;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

pub use self::client::ClientTls;
pub use self::diagnosis::{CertificateFailure, OurCertificate, TheirCertificate, diagnose};
pub use self::reload::{ClientMaterial, Reloadable, ServerMaterial};
pub use self::server::ServerTls;
pub use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use crate::credential::CredentialError;
use crate::name::excerpt;

/// Application protocol HTTP/2
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Application protocol HTTP/1.1
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why no TLS configuration could be built
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate or key cannot be used
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The trust anchors cannot be used
    #[error("the trusted authorities cannot be used: {0}")]
    Anchors(rustls::Error),
    /// rustls refused the combination
    #[error("TLS configuration: {0}")]
    Configuration(rustls::Error),
    /// Not a name that a server certificate could be valid for
    #[error("\"{host}\" is neither a host name nor an IP address")]
    InvalidServerName {
        /// The start of the text
        host: String,
    },
}

/// The cryptographic provider of the whole project: aws-lc-rs, which also reads the private keys that Java
/// writes
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// The name to compare a server's certificate with: a host name or an IP address, in brackets or not
///
/// ```
/// use prexorcloud_security::tls::server_name;
///
/// assert!(server_name("controller.example").is_ok());
/// assert_eq!(server_name("[::1]")?, server_name("::1")?);
/// assert!(server_name("controller.example:9090").is_err());
/// # Ok::<(), prexorcloud_security::tls::TlsError>(())
/// ```
///
/// # Errors
/// [`TlsError::InvalidServerName`].
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ServerName::from(address));
    }
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::InvalidServerName { host: excerpt(host) })
}
