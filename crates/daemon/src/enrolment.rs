//! Joining the cluster: a one-time token for a certificate
//!
//! Happens once in the life of a node. [`prexorcloud_transport::enrolment`] makes the exchange and writes its result down;
//! then the token is removed from where it was.

use std::path::Path;

use prexorcloud_protocol::NodeId;
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::Enrolled;
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_transport::{EnrolError, Enrolment, Target};

use crate::config::DaemonConfig;

/// Why a node could not join; none of these goes away by trying again
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolmentFailure {
    /// There is neither a certificate nor a token
    #[error(
        "this node has no certificate and no join token: make one with `prexorctl token create` and set enrolment.join_token"
    )]
    NoToken,
    /// The token cannot prove the controller
    #[error(
        "the join token has no certificate pin, so the controller cannot be verified; take one that has, or set \
         enrolment.trust_on_first_use = true"
    )]
    NoPin,
    /// The token was not exchanged
    #[error("{0}{advice}", advice = advice(.0))]
    Exchange(EnrolError),
    /// The certificate is that of somebody else
    #[error(
        "{directory} has the certificate of {found}, not of node {expected}: put the right files there, set node_id, or \
         remove the directory and enrol again with a new join token",
        directory = directory.display()
    )]
    WrongCertificate {
        /// Where it is
        directory: Box<Path>,
        /// Whose it is
        found: Box<str>,
        /// This node
        expected: NodeId,
    },
    /// The certificate directory cannot be used
    #[error("the certificate directory: {0}")]
    Directory(#[from] CertificateDirectoryError),
    /// File work was cut short
    #[error("the daemon is ending")]
    Interrupted,
}

impl From<EnrolError> for EnrolmentFailure {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::NoPin => Self::NoPin,
            EnrolError::Directory(error) => Self::Directory(error),
            EnrolError::Interrupted => Self::Interrupted,
            error => Self::Exchange(error),
        }
    }
}

/// What the operator does about it, where the error itself does not say
fn advice(error: &EnrolError) -> &'static str {
    match error {
        EnrolError::Refused { .. } => "; a new token is needed (`prexorctl token create`)",
        _ => "",
    }
}

/// The node's credentials: those it has, or fresh ones for its token
///
/// Controllers that cannot be reached are tried again, in turn and with growing waits, for as long as it takes; drop the
/// future to give up.
///
/// # Errors
/// [`EnrolmentFailure`], one sentence for the operator.
pub async fn credentials(
    config: &DaemonConfig,
    node: NodeId,
    targets: &[Target],
) -> Result<Enrolled, EnrolmentFailure> {
    let directory = CertificateDirectory::new(config.certificate_dir());
    if let Some(enrolled) = load(&directory, node).await? {
        if let Some((_, source)) = &config.enrolment.token
            && let Err(error) = source.remove()
        {
            tracing::warn!(%error, "the join token is not needed any more and could not be removed");
        }
        return Ok(enrolled);
    }
    let Some((token, source)) = &config.enrolment.token else {
        return Err(EnrolmentFailure::NoToken);
    };
    let mut enrolment = Enrolment::new(token.clone(), node);
    if token.pin().is_none() {
        if !config.enrolment.trust_on_first_use {
            return Err(EnrolmentFailure::NoPin);
        }
        enrolment = enrolment.trust_on_first_use();
        tracing::warn!("the join token has no certificate pin: believing whoever answers, this one time");
    }
    let enrolled = enrolment
        .persist_into(&directory, targets, |error| {
            tracing::warn!("{error}; trying again")
        })
        .await?;
    if let Err(error) = source.remove() {
        tracing::warn!(%error, "the join token was used and could not be removed from its file");
    }
    tracing::info!(directory = %directory.path().display(), "enrolled: this node has its certificate");
    Ok(enrolled)
}

/// What is in the directory, if it is this node's
pub(crate) async fn load(
    directory: &CertificateDirectory,
    node: NodeId,
) -> Result<Option<Enrolled>, EnrolmentFailure> {
    let reading = directory.clone();
    let Some(enrolled) = tokio::task::spawn_blocking(move || reading.load())
        .await
        .map_err(|_| EnrolmentFailure::Interrupted)??
    else {
        return Ok(None);
    };
    match PeerIdentity::from_certificate(enrolled.credential.leaf()) {
        Ok(peer) if peer.node_id() != Some(node.as_str()) => Err(EnrolmentFailure::WrongCertificate {
            directory: directory.path().into(),
            found: peer.identity.to_string().into(),
            expected: node,
        }),
        // One that says nothing of itself is for the controller to judge.
        Ok(_) | Err(_) => Ok(Some(enrolled)),
    }
}
