//! Joining the cluster: a one-time token for a certificate
//!
//! Happens once in the life of a node. The server proves itself by the pin in the token before the token is sent; the
//! reply is checked, then written down completely, then the token is removed from where it was.

use std::time::Duration;

use prexorcloud_proto::ExchangeJoinTokenRequest;
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::{Enrolled, EnrolmentError, EnrolmentTls};
use prexorcloud_security::tls::TlsError;
use prexorcloud_security::token::JoinToken;
use prexorcloud_transport::{CallError, DialError, DialOptions, Dialer, Target, exchange_join_token};
use tokio::time::sleep;

use crate::config::DaemonConfig;

/// How long one controller may take to answer
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Longest wait between two sweeps over all controllers
const LONGEST_WAIT: Duration = Duration::from_secs(30);

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
    /// A controller said no
    #[error(
        "{target} does not accept the join token: {error}; a new token is needed (`prexorctl token create`)"
    )]
    Refused {
        /// Which one
        target: Target,
        /// What it said
        error: CallError,
    },
    /// No controller is the one that the token is for
    #[error("{target} cannot be trusted with the join token: {error}")]
    Untrusted {
        /// The last one that was tried
        target: Target,
        /// Why not
        error: CallError,
    },
    /// A controller took the token, and its reply does not fit; the token is spent
    #[error("{target} answered with what this node cannot use: {error}; a new token is needed")]
    UnusableReply {
        /// Which one
        target: Target,
        /// What does not fit
        error: EnrolmentError,
    },
    /// The reply's certificates are not text
    #[error("{target} answered with a CA certificate that is not text; a new token is needed")]
    UnreadableReply {
        /// Which one
        target: Target,
    },
    /// The certificate directory cannot be used
    #[error("the certificate directory: {0}")]
    Directory(#[from] CertificateDirectoryError),
    /// TLS cannot be set up
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// File work was cut short
    #[error("the daemon is ending")]
    Interrupted,
}

/// The node's credentials: those it has, or fresh ones for its token
///
/// Controllers that cannot be reached are tried again, in turn and with growing waits, for as long as it takes; drop the
/// future to give up.
///
/// # Errors
/// [`EnrolmentFailure`], one sentence for the operator.
pub async fn credentials(config: &DaemonConfig, targets: &[Target]) -> Result<Enrolled, EnrolmentFailure> {
    let directory = CertificateDirectory::new(config.certificate_dir());
    if let Some(enrolled) = blocking(&directory, CertificateDirectory::load).await? {
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
    if token.pin().is_none() {
        if !config.enrolment.trust_on_first_use {
            return Err(EnrolmentFailure::NoPin);
        }
        tracing::warn!("the join token has no certificate pin: believing whoever answers, this one time");
    }
    // A token that is spent while the disk is full is gone.
    blocking(&directory, CertificateDirectory::prepare).await?;
    let enrolled = sweep(config, token, targets).await?;
    let stored = enrolled.clone();
    blocking(&directory, move |directory| directory.store(&stored)).await?;
    if let Err(error) = source.remove() {
        tracing::warn!(%error, "the join token was used and could not be removed from its file");
    }
    tracing::info!(directory = %directory.path().display(), "enrolled: this node has its certificate");
    Ok(enrolled)
}

async fn sweep(
    config: &DaemonConfig,
    token: &JoinToken,
    targets: &[Target],
) -> Result<Enrolled, EnrolmentFailure> {
    let mut wait = Duration::from_secs(1);
    loop {
        let mut untrusted = None;
        let mut any_transient = false;
        for target in targets {
            match attempt(config, token, target).await {
                Ok(enrolled) => return Ok(enrolled),
                Err(EnrolmentFailure::Untrusted { target, error }) => {
                    tracing::warn!(%target, %error, "not the controller that the join token is for");
                    untrusted = Some(EnrolmentFailure::Untrusted { target, error });
                }
                Err(EnrolmentFailure::Refused { target, error }) if error.is_transient() => {
                    tracing::warn!(%target, %error, "enrolment failed, trying again");
                    any_transient = true;
                }
                Err(failure) => return Err(failure),
            }
        }
        match untrusted {
            // None of them will become another one.
            Some(failure) if !any_transient => return Err(failure),
            _ => {}
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn attempt(
    config: &DaemonConfig,
    token: &JoinToken,
    target: &Target,
) -> Result<Enrolled, EnrolmentFailure> {
    let tls = match token.pin() {
        Some(pin) => EnrolmentTls::pinned(pin)?,
        None => EnrolmentTls::trust_on_first_use()?,
    };
    let dialer = Dialer::with_config(tls.client_config(), DialOptions::default());
    let request = ExchangeJoinTokenRequest {
        join_token: token.expose().to_owned(),
        node_id: config.node_id.clone(),
    };
    let reply = match exchange_join_token(&dialer, target, request, CALL_DEADLINE).await {
        Ok(reply) => reply,
        Err(error) => {
            let target = target.clone();
            return Err(match &error {
                // A TLS failure without a more precise name is how a pin that does not fit shows.
                CallError::Dial(cause)
                    if cause.needs_operator() || matches!(cause, DialError::Tls { .. }) =>
                {
                    EnrolmentFailure::Untrusted { target, error }
                }
                _ => EnrolmentFailure::Refused { target, error },
            });
        }
    };
    let unreadable = || EnrolmentFailure::UnreadableReply {
        target: target.clone(),
    };
    let server = tls.observed().ok_or_else(unreadable)?;
    let anchors = std::str::from_utf8(&reply.ca_certificate_pem).map_err(|_| unreadable())?;
    server
        .accept(&config.node_id, &reply.pkcs12, &reply.pkcs12_password, anchors)
        .map_err(|error| EnrolmentFailure::UnusableReply {
            target: target.clone(),
            error,
        })
}

async fn blocking<T: Send + 'static>(
    directory: &CertificateDirectory,
    work: impl FnOnce(&CertificateDirectory) -> Result<T, CertificateDirectoryError> + Send + 'static,
) -> Result<T, EnrolmentFailure> {
    let directory = directory.clone();
    match tokio::task::spawn_blocking(move || work(&directory)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(EnrolmentFailure::Interrupted),
    }
}
