//! Who a certificate speaks for
//!
//! Every certificate of the cluster speaks for exactly one party. The common name says which; certificates
//! that we issue repeat it in a URI, which a Java authority never writes:
//!
//! | Party | Common name | URI |
//! |---|---|---|
//! | node | `<node id>` | `prexorcloud://node/<node id>?issued=<ms>` |
//! | administrator | `admin:<name>` | `prexorcloud://admin/<name>?issued=<ms>` |
//! | controller | `prexorcloud-controller`, server purpose only | none |
//!
//! Node ids never contain a colon, so no node certificate reads as an administrator's. And because a Java
//! controller signs whatever a token holder asks to be called, `admin:` alone is not enough either: an
//! administrator needs the URI.
//!
//! Reading an identity is no proof of it: pass only certificates that a TLS verifier has accepted.

use std::fmt;
use std::time::SystemTime;

use crate::certificate::{Certificate, CertificateError, Fingerprint, Serial};
use crate::name::{CONTROLLER_NAME, excerpt, is_safe_name};
use crate::validity::Validity;

pub(crate) const URI_SCHEME: &str = "prexorcloud://";

/// The party that a certificate speaks for
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// A daemon, by its node id
    Node(String),
    /// An administrator, by name (without the prefix `admin:`)
    Admin(String),
    /// The controller's server certificate
    Controller,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Admin(name) => write!(f, "administrator {name}"),
            Self::Controller => f.write_str("controller"),
        }
    }
}

/// Why a certificate speaks for nobody
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The bytes are not a certificate
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An authority's certificate signs others and speaks for nobody
    #[error("the certificate of an authority is not an identity")]
    IsAuthority,
    /// The subject has no common name
    #[error("the certificate's subject has no common name")]
    NoCommonName,
    /// The subject has several common names, so it is not clear which one counts
    #[error("the certificate's subject has several common names")]
    SeveralCommonNames,
    /// The common name is not text
    #[error("the certificate's common name is not text")]
    UnreadableCommonName,
    /// The name is not a safe name, or is reserved
    #[error("\"{name}\" is not a name that a certificate may speak for")]
    UnsafeName {
        /// The start of the name
        name: String,
    },
    /// The URI says something else than the common name, or there are several
    #[error("the certificate's URI and its common name \"{name}\" do not say the same")]
    Contradiction {
        /// The start of the common name
        name: String,
    },
}

/// A peer as its certificate describes it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is
    pub identity: Identity,
    /// Serial number of the certificate
    pub serial: Serial,
    /// SHA-256 of the certificate
    pub fingerprint: Fingerprint,
    /// From when until when the certificate counts
    pub validity: Validity,
    /// When the authority signed it; see [`Certificate::issued_at`]
    pub issued_at: SystemTime,
}

impl PeerIdentity {
    /// Reads the identity of a verified peer from its certificate, the first one that it presented
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate speaks for nobody; the peer should be refused.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        Self::from_certificate(&Certificate::from_der(der)?)
    }

    /// Reads the identity of a certificate that is parsed already
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate speaks for nobody.
    pub fn from_certificate(certificate: &Certificate) -> Result<Self, IdentityError> {
        Ok(Self {
            identity: identity_of(certificate)?,
            serial: certificate.serial().clone(),
            fingerprint: certificate.fingerprint(),
            validity: certificate.validity(),
            issued_at: certificate.issued_at(),
        })
    }

    /// The node id, if the peer is a node
    #[must_use]
    pub fn node_id(&self) -> Option<&str> {
        match &self.identity {
            Identity::Node(id) => Some(id),
            _ => None,
        }
    }

    /// The administrator's name, if the peer is one
    #[must_use]
    pub fn admin_name(&self) -> Option<&str> {
        match &self.identity {
            Identity::Admin(name) => Some(name),
            _ => None,
        }
    }
}

fn identity_of(certificate: &Certificate) -> Result<Identity, IdentityError> {
    if certificate.is_authority() {
        return Err(IdentityError::IsAuthority);
    }
    let name = match certificate.common_names() {
        [] => return Err(IdentityError::NoCommonName),
        [Some(name)] => name.as_str(),
        [None] => return Err(IdentityError::UnreadableCommonName),
        _ => return Err(IdentityError::SeveralCommonNames),
    };
    let contradiction = || IdentityError::Contradiction { name: excerpt(name) };
    let unsafe_name = || IdentityError::UnsafeName { name: excerpt(name) };
    let server_only = certificate
        .purposes()
        .is_some_and(|p| p.server_auth && !p.client_auth);

    let mut uris = certificate
        .uris()
        .iter()
        .filter_map(|uri| uri.strip_prefix(URI_SCHEME));
    let path = uris.next();
    if uris.next().is_some() {
        return Err(contradiction());
    }
    let Some(path) = path else {
        return match name {
            CONTROLLER_NAME if server_only => Ok(Identity::Controller),
            _ if server_only || name == CONTROLLER_NAME || !is_safe_name(name) => Err(unsafe_name()),
            node_id => Ok(Identity::Node(node_id.to_owned())),
        };
    };
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match path.split_once('/') {
        Some(("node", id)) if id == name => {
            if server_only || id == CONTROLLER_NAME || !is_safe_name(id) {
                return Err(unsafe_name());
            }
            Ok(Identity::Node(id.to_owned()))
        }
        Some(("admin", admin)) if name.strip_prefix("admin:") == Some(admin) => {
            if server_only || !is_safe_name(admin) {
                return Err(unsafe_name());
            }
            Ok(Identity::Admin(admin.to_owned()))
        }
        _ => Err(contradiction()),
    }
}
