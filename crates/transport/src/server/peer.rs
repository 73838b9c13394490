//! Who is at the other end of a connection

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use prexorcloud_protocol::{Close, Code, NodeId};
use prexorcloud_security::identity::PeerIdentity;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore};

/// The other end of an accepted connection
///
/// Every request carries one in its extensions. Clones are the same connection.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    connection_id: u64,
    address: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    closed: Arc<Notify>,
    broken: OnceLock<String>,
    /// For one large message at a time.
    turn: Arc<Semaphore>,
}

impl Peer {
    pub(super) fn new(
        connection_id: u64,
        address: SocketAddr,
        certificates: Vec<CertificateDer<'static>>,
        closed: Arc<Notify>,
    ) -> Self {
        Self(Arc::new(Inner {
            connection_id,
            address,
            certificates,
            closed,
            broken: OnceLock::new(),
            turn: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Numbers the connections of one server from 1.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.0.connection_id
    }

    /// The address that the connection came from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The certificate that the client proved to have, as DER; `None` if it presented none
    ///
    /// It was verified as the server's TLS configuration says, at the time of the handshake.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.0.certificates.first().map(AsRef::as_ref)
    }

    /// The whole chain as the client sent it, its own certificate first.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// What a large message of this peer needs to be let in; `None` without a certificate.
    pub(crate) fn turn(&self) -> Option<Arc<Semaphore>> {
        self.certificate().map(|_| Arc::clone(&self.0.turn))
    }

    /// The node that the certificate speaks for
    ///
    /// Whether the certificate has been revoked since the handshake is not asked here.
    ///
    /// # Errors
    /// The close that a stream of anybody else deserves; return it from [`NodeAcceptor::open`](crate::NodeAcceptor::open).
    pub fn node_id(&self) -> Result<NodeId, Close> {
        let denied = |message: &str| Close::new(Code::PermissionDenied, message);
        let certificate = self
            .certificate()
            .ok_or_else(|| denied("a node's certificate is required"))?;
        let identity =
            PeerIdentity::from_der(certificate).map_err(|_| denied("the client certificate names nobody"))?;
        let node = identity
            .node_id()
            .ok_or_else(|| denied("this certificate does not name a node"))?;
        node.parse()
            .map_err(|_| denied("the certificate's name is not a node id"))
    }

    /// Notes why the connection is over, where it was not ended in order.
    pub(super) fn note_broken(&self, reason: impl fmt::Display) {
        let _ = self.0.broken.set(reason.to_string());
    }

    /// A stream cannot always tell a broken connection from an orderly end; the connection can.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.0.broken.get().map(String::as_str)
    }

    /// Cuts the connection at once; every stream on it ends.
    pub fn close(&self) {
        self.0.closed.notify_one();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("connection_id", &self.0.connection_id)
            .field("address", &self.0.address)
            .field("certificates", &self.0.certificates.len())
            .finish()
    }
}
