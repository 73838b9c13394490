//! Who called: the certificate of the connection, or the bearer token of the call

use std::net::{IpAddr, Ipv4Addr};

use prexorcloud_protocol::{Close, Code, NodeId};
use prexorcloud_security::{
    identity::{Identity, PeerIdentity},
    revocation::SharedRevocations,
};
use prexorcloud_transport::Peer;
use tonic::{Request, Status};

use crate::access::{AccessError, AccessTokens, Caller};

/// Where a call came from, for limits and the log
pub(super) fn address<T>(request: &Request<T>) -> IpAddr {
    // Every connection of our server has a peer; without one, all callers share one address and one limit.
    let peer = request.extensions().get::<Peer>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address().ip())
}

/// Who called: a bearer token decides if there is one, else the certificate
pub(super) async fn caller<T>(
    request: &Request<T>,
    access: &AccessTokens,
    revocations: &SharedRevocations,
) -> Result<Caller, Status> {
    if let Some(authorization) = request.metadata().get("authorization") {
        let invalid = || Status::unauthenticated("the bearer token is not valid");
        let authorization = authorization.to_str().map_err(|_| invalid())?;
        return access
            .authenticate(authorization)
            .await
            .map_err(|error| match error {
                AccessError::Invalid => invalid(),
                AccessError::Store(error) => {
                    tracing::error!(%error, "a bearer token could not be checked");
                    Status::unavailable("the controller's storage failed, try again")
                }
            });
    }
    let certificate = request.extensions().get::<Peer>().and_then(Peer::certificate);
    let Some(certificate) = certificate else {
        return Err(Status::unauthenticated(
            "an administrator's certificate or a bearer token is required",
        ));
    };
    let identity = PeerIdentity::from_der(certificate)
        .map_err(|_| Status::unauthenticated("the client certificate names nobody"))?;
    // The TLS handshake checked this as well, but the connection may be older than the revocation.
    if revocations.current().is_revoked(&identity).is_some() {
        return Err(Status::unauthenticated("the client certificate is revoked"));
    }
    match identity.identity {
        Identity::Admin(name) => Ok(Caller::Administrator { name }),
        Identity::Node(node_id) => Ok(Caller::Node { node_id }),
        _ => Err(Status::permission_denied(
            "this certificate does not name an administrator",
        )),
    }
}

/// The node that a connection's certificate names, for a node session
pub(crate) fn node_of(peer: &Peer, revocations: &SharedRevocations) -> Result<NodeId, Close> {
    let node = peer.node_id()?;
    let is_revoked = peer
        .certificate()
        .and_then(|certificate| PeerIdentity::from_der(certificate).ok())
        .is_none_or(|identity| revocations.current().is_revoked(&identity).is_some());
    if is_revoked {
        let message = "the client certificate is revoked; enrol with a new join token";
        return Err(Close::new(Code::PermissionDenied, message));
    }
    Ok(node)
}
