//! The controller's side: what a token is answered with

use std::fmt;
use std::time::SystemTime;

use prexorcloud_proto::ExchangeJoinTokenResponse;
use prexorcloud_security::NoRandomness;
use prexorcloud_security::authority::{Authority, IssueError};
use prexorcloud_security::certificate::Certificate;
use prexorcloud_security::credential::Credential;
use prexorcloud_security::keystore::{self, KeystoreError, KeystorePassword};
use prexorcloud_security::token::RedeemError;
use tonic::Status;

/// A node's new certificate
pub struct IssuedNode {
    /// Key and certificate. Record the certificate's serial number, and let go of the key: it is the node's.
    pub credential: Credential,
    /// The answer that carries both, with the authorities to believe; a secret.
    pub answer: ExchangeJoinTokenResponse,
}

impl fmt::Debug for IssuedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedNode").finish_non_exhaustive()
    }
}

/// Why no certificate could be made for a node
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueNodeError {
    /// The authority does not issue it.
    #[error("the certificate could not be issued")]
    Issue(#[from] IssueError),
    /// The keystore could not be made.
    #[error("the keystore could not be written")]
    Keystore(#[from] KeystoreError),
    /// There are no random bytes for its password.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Makes a node's key, its certificate, and the answer to its join token
///
/// Takes tens of milliseconds of a processor: do it on a blocking thread where many nodes may come at once. Do it before
/// the token is consumed, for it can fail, and hand the answer out after, for the token works once.
///
/// # Errors
/// [`IssueNodeError`]
pub fn issue_node(
    authority: &Authority,
    node_id: &str,
    now: SystemTime,
) -> Result<IssuedNode, IssueNodeError> {
    let credential = authority.issue_node(node_id, now)?;
    let password = KeystorePassword::generate()?;
    let answer = ExchangeJoinTokenResponse {
        pkcs12: keystore::write(&credential, &password)?.into(),
        pkcs12_password: password.expose().to_owned(),
        ca_certificate_pem: authority.certificate().to_pem().into_bytes().into(),
        // No `cli_token`: a node acts through its certificate; a second credential would only be one more to steal.
        ..ExchangeJoinTokenResponse::default()
    };
    Ok(IssuedNode { credential, answer })
}

/// Makes a certificate for a node's own key, and the answer to its join token; the key stays with the node
///
/// # Errors
/// [`IssueNodeError::Issue`], with [`IssueError::BadRequest`] or [`IssueError::UnsupportedKey`] for a request that is none.
pub fn sign_node(
    authority: &Authority,
    node_id: &str,
    request: &[u8],
    now: SystemTime,
) -> Result<(Certificate, ExchangeJoinTokenResponse), IssueNodeError> {
    let chain = authority.sign_node_request(request, node_id, now)?;
    let answer = ExchangeJoinTokenResponse {
        certificate_chain_pem: chain.iter().map(Certificate::to_pem).collect(),
        ca_certificate_pem: authority.certificate().to_pem().into_bytes().into(),
        ..ExchangeJoinTokenResponse::default()
    };
    let leaf = chain.into_iter().next().ok_or(IssueError::BadRequest)?;
    Ok((leaf, answer))
}

/// The status that a token is refused with
///
/// | Status | When |
/// |---|---|
/// | `INVALID_ARGUMENT` | the node id is not a safe name |
/// | `NOT_FOUND` | there is no such token |
/// | `FAILED_PRECONDITION` | it has expired, was revoked, or was redeemed before |
/// | `PERMISSION_DENIED` | it is bound to another node, or the node is known and it is bound to none |
#[must_use]
pub fn refusal(error: RedeemError) -> Status {
    let message = error.to_string();
    match error {
        RedeemError::InvalidNodeId => Status::invalid_argument(message),
        RedeemError::Unknown => Status::not_found(message),
        RedeemError::BoundElsewhere | RedeemError::NodeKnown => Status::permission_denied(message),
        RedeemError::Expired | RedeemError::Revoked | RedeemError::Consumed => {
            Status::failed_precondition(message)
        }
    }
}
