//! Why a controller could not be reached, in a sentence for the operator
//!
//! The cause of a failed connection lies several `source()` steps deep and, with TLS 1.3, often arrives after the
//! connection looked established: the server judges the client's certificate last. [`classify`] walks the chain and
//! tells a refused certificate from a dead host.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};

use super::Target;

/// Why a connection to a controller failed or broke
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The host name does not resolve.
    #[error(
        "{target}: the host name does not resolve ({reason}): check the address and the DNS of this host"
    )]
    Resolve {
        /// Who was dialled.
        target: Target,
        /// What the resolver said.
        reason: String,
    },
    /// Nothing listens there.
    #[error(
        "{target}: connection refused, nothing listens there: is the controller running, and is this its gRPC port?"
    )]
    Refused {
        /// Who was dialled.
        target: Target,
    },
    /// No route, or the network failed.
    #[error(
        "{target}: not reachable ({reason}): check the network and the firewall between this host and the controller"
    )]
    Unreachable {
        /// Who was dialled.
        target: Target,
        /// What the operating system said.
        reason: String,
    },
    /// It took too long.
    #[error(
        "{target}: no answer in time while {stage}: the host is down, overloaded, or a firewall drops the packets"
    )]
    Timeout {
        /// Who was dialled.
        target: Target,
        /// What was being done.
        stage: &'static str,
    },
    /// The server's certificate is not one of our authority.
    #[error(
        "{target}: the server's certificate was not issued by the authority this node trusts: this is another cluster, or the node must enrol again"
    )]
    ServerUntrusted {
        /// Who was dialled.
        target: Target,
    },
    /// The server's certificate is out of date, or this host's clock is wrong.
    #[error(
        "{target}: the server's certificate is expired or not valid yet: check the clocks, then renew the controller's certificate"
    )]
    ServerOutOfDate {
        /// Who was dialled.
        target: Target,
    },
    /// The server's certificate is for other names.
    #[error(
        "{target}: the server's certificate is valid for {presented}, not for this address: dial one of those, or add this one to the controller's server names"
    )]
    NameMismatch {
        /// Who was dialled.
        target: Target,
        /// The names in the certificate.
        presented: String,
    },
    /// The server does not accept our certificate.
    #[error(
        "{target}: the controller refused this node's certificate ({alert}): it is revoked, expired or of another cluster; enrol again with a new join token"
    )]
    CertificateRefused {
        /// Who was dialled.
        target: Target,
        /// The TLS alert.
        alert: String,
    },
    /// Whatever listens there does not speak TLS.
    #[error(
        "{target}: the server does not speak TLS: is this the controller's gRPC port, and is no plain-text proxy in between?"
    )]
    NotTls {
        /// Who was dialled.
        target: Target,
    },
    /// TLS failed in another way.
    #[error("{target}: the TLS handshake failed: {reason}")]
    Tls {
        /// Who was dialled.
        target: Target,
        /// What rustls said.
        reason: String,
    },
    /// The peer stopped answering keepalive pings.
    #[error("{target}: the controller stopped answering")]
    Silent {
        /// Who was dialled.
        target: Target,
    },
    /// The connection broke.
    #[error("{target}: the connection was lost ({reason})")]
    Lost {
        /// Who was dialled.
        target: Target,
        /// The innermost cause.
        reason: String,
    },
    /// Our own certificate or trust anchors could not be loaded.
    #[error("the TLS credentials of this node cannot be used: {source}")]
    Credentials {
        /// Why not.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl DialError {
    /// True where dialling again will not help until somebody changes a certificate, a clock or the configuration.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::ServerUntrusted { .. }
            | Self::ServerOutOfDate { .. }
            | Self::NameMismatch { .. }
            | Self::CertificateRefused { .. }
            | Self::NotTls { .. }
            | Self::Credentials { .. } => true,
            Self::Resolve { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Tls { .. }
            | Self::Silent { .. }
            | Self::Lost { .. } => false,
        }
    }
}

/// The same, where HTTP/2 has reduced the cause to a text but `seen` kept it.
pub(super) fn classify_with(
    target: &Target,
    error: &(dyn Error + 'static),
    seen: Option<&rustls::Error>,
) -> DialError {
    match seen {
        Some(seen) => from_rustls(target.clone(), seen),
        None => classify(target, error),
    }
}

/// Finds the cause in a chain of errors that a connection to `target` ended with.
pub(super) fn classify(target: &Target, error: &(dyn Error + 'static)) -> DialError {
    let target = target.clone();
    let mut innermost = error.to_string();
    for error in chain(error) {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return from_rustls(target, error);
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_timeout()
        {
            return DialError::Silent { target };
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let Some(found) = from_io(&target, error)
        {
            return found;
        }
        innermost = error.to_string();
    }
    DialError::Lost {
        target,
        reason: innermost,
    }
}

/// The errors from `error` inwards. `io::Error` hides the one that it wraps from `source()`, so it is asked for it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
    // Nothing promises that a chain ends.
    .take(32)
}

fn from_io(target: &Target, error: &io::Error) -> Option<DialError> {
    use io::ErrorKind as Kind;
    let target = target.clone();
    match error.kind() {
        Kind::ConnectionRefused => Some(DialError::Refused { target }),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Some(DialError::Unreachable {
                target,
                reason: error.to_string(),
            })
        }
        Kind::TimedOut => Some(DialError::Timeout {
            target,
            stage: "waiting for the network",
        }),
        _ => None,
    }
}

fn from_rustls(target: Target, error: &rustls::Error) -> DialError {
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                DialError::ServerUntrusted { target }
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => DialError::ServerOutOfDate { target },
            CertificateError::NotValidForName => DialError::NameMismatch {
                target,
                presented: "other names".into(),
            },
            CertificateError::NotValidForNameContext { presented, .. } => {
                let presented = match presented.len() {
                    0 => "no name at all".into(),
                    _ => presented
                        .iter()
                        .take(16)
                        .map(|name| readable(name))
                        .collect::<Vec<_>>()
                        .join(", "),
                };
                DialError::NameMismatch { target, presented }
            }
            // What a verifier of our own says, in its words rather than in its debug output.
            CertificateError::Other(verdict) => DialError::Tls {
                target,
                reason: verdict.0.to_string(),
            },
            other => DialError::Tls {
                target,
                reason: other.to_string(),
            },
        },
        rustls::Error::AlertReceived(alert) if judges_the_client(*alert) => DialError::CertificateRefused {
            target,
            alert: format!("{alert:?}"),
        },
        rustls::Error::InvalidMessage(_) => DialError::NotTls { target },
        other => DialError::Tls {
            target,
            reason: other.to_string(),
        },
    }
}

/// rustls prints the names of a certificate as they look in its debug output.
fn readable(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn judges_the_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}
