//! Joining the cluster: a one-time token for a certificate
//!
//! Happens once in the life of a node, and again when its certificate is no good any more.
//! [`prexorcloud_transport::enrolment`] makes the exchange and writes its result down; then the token is removed from where
//! it was. A token that was not used stays where it is: it may be needed.

use std::path::Path;
use std::time::SystemTime;

use prexorcloud_protocol::NodeId;
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::Enrolled;
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_security::token::JoinToken;
use prexorcloud_transport::{EnrolError, Enrolment, Target};

use crate::config::{DaemonConfig, TokenSource};

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

/// A join token that was not used yet, and where it is
pub(crate) type SpareToken = (JoinToken, TokenSource);

/// The node's credentials: those it has, or fresh ones for its token
///
/// What has expired is as good as nothing. Controllers that cannot be reached are tried again, in turn and with growing
/// waits, for as long as it takes; drop the future to give up.
///
/// # Errors
/// [`EnrolmentFailure`], one sentence for the operator.
pub async fn credentials(
    config: &DaemonConfig,
    node: NodeId,
    targets: &[Target],
) -> Result<Enrolled, EnrolmentFailure> {
    let directory = CertificateDirectory::new(config.certificate_dir());
    let present = load(&directory, node).await?;
    if let Some(enrolled) = present {
        if has_expired(&enrolled) && spare(config).is_some() {
            tracing::warn!(
                "the node's certificate has expired: enrolling again with the configured join token"
            );
        } else {
            return Ok(enrolled);
        }
    }
    let Some((token, source)) = spare(config) else {
        return Err(EnrolmentFailure::NoToken);
    };
    if token.pin().is_none() && config.enrolment.trust_on_first_use {
        tracing::warn!("the join token has no certificate pin: believing whoever answers, this one time");
    }
    let enrolled = enrolment(config, node, &token)?
        .persist_into(&directory, targets, |error| {
            tracing::warn!("{error}; trying again")
        })
        .await?;
    remove(&source);
    tracing::info!(directory = %directory.path().display(), "enrolled: this node has its certificate");
    Ok(enrolled)
}

/// The configured token, unless it became the present certificate: then it is removed
pub(crate) fn spare(config: &DaemonConfig) -> Option<SpareToken> {
    let (token, source) = config.enrolment.token.clone()?;
    if CertificateDirectory::new(config.certificate_dir()).was_used(&token) {
        remove(&source);
        return None;
    }
    Some((token, source))
}

/// How a token is exchanged here
pub(crate) fn enrolment(
    config: &DaemonConfig,
    node: NodeId,
    token: &JoinToken,
) -> Result<Enrolment, EnrolmentFailure> {
    let enrolment = Enrolment::new(token.clone(), node);
    match token.pin() {
        Some(_) => Ok(enrolment),
        None if config.enrolment.trust_on_first_use => Ok(enrolment.trust_on_first_use()),
        None => Err(EnrolmentFailure::NoPin),
    }
}

pub(crate) fn remove(used: &TokenSource) {
    if let Err(error) = used.remove() {
        tracing::warn!(%error, "the join token was used and could not be removed from where it was");
    }
}

fn has_expired(enrolled: &Enrolled) -> bool {
    enrolled.credential.leaf().not_after() < SystemTime::now()
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
