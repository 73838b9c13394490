//! Joining the cluster: a one-time token for a certificate
//!
//! Happens once in the life of a node. The server proves itself by the pin in the token before the token is sent, and its
//! reply is checked against what it showed in the handshake. [`enrol_once`] keeps the result in a
//! [`CertificateDirectory`]; [`enrol`] leaves that to the application.
//!
//! On the controller's side, [`issue_node`] and [`refusal`] make the two answers that a token can have, and
//! [`InMemoryEnrolment`] is a whole service for tests and tools.

mod answer;
mod memory;

use std::time::Duration;

use prexorcloud_proto::ExchangeJoinTokenRequest;
use prexorcloud_protocol::NodeId;
use prexorcloud_security::authority::{IssueError, NodeKey};
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::{Enrolled, EnrolmentError, EnrolmentTls};
use prexorcloud_security::tls::TlsError;
use prexorcloud_security::token::JoinToken;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

pub use self::answer::{IssueNodeError, IssuedNode, issue_node, refusal, sign_node};
pub use self::memory::InMemoryEnrolment;
use crate::client::{CallError, DialError, DialOptions, Dialer, Target, exchange_join_token};

/// How long one controller may take to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// The first wait between two rounds over all controllers; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait between two rounds.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why a token did not become a certificate
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// There is neither a certificate nor a token.
    #[error("this node has no certificate yet, and no join token to get one")]
    NoToken,
    /// The certificate directory cannot be used. If it could be at first, the token is spent.
    #[error("the certificate directory: {0}")]
    Directory(#[from] CertificateDirectoryError),
    /// The runtime ends.
    #[error("the program is ending")]
    Interrupted,
    /// The token cannot prove the controller. Nothing was sent.
    #[error("the join token has no certificate pin, so the controller cannot be verified")]
    NoPin,
    /// The controller said no, or could not be asked; see [`is_transient`](Self::is_transient).
    #[error("{target} did not take the join token: {error}")]
    Refused {
        /// Which one.
        target: Target,
        /// What it said.
        error: CallError,
    },
    /// The controller is not the one that the token is for. The token was not sent.
    #[error("{target} cannot be trusted with the join token: {error}")]
    Untrusted {
        /// Which one.
        target: Target,
        /// Why not.
        error: CallError,
    },
    /// The controller took the token, and its reply does not fit; the token is spent.
    #[error("{target} answered with what this node cannot use: {error}; a new token is needed")]
    UnusableReply {
        /// Which one.
        target: Target,
        /// What does not fit.
        error: EnrolmentError,
    },
    /// The reply's certificates are not text; the token is spent.
    #[error("{target} answered with a CA certificate that is not text; a new token is needed")]
    UnreadableReply {
        /// Which one.
        target: Target,
    },
    /// There is no controller to ask.
    #[error("no controller is configured: name at least one, as host:port")]
    NoTargets,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The request for a certificate cannot be made.
    #[error("the node's key: {0}")]
    Key(#[from] IssueError),
}

impl EnrolError {
    /// True where the same token may succeed later, or at another controller.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.is_transient())
    }
}

/// Exchanges a join token for the node's certificate: one controller, one attempt, at most 30 s
///
/// The token must have a pin, which tokens of this controller have. For tokens without, for other deadlines, or for
/// several controllers that may not be up yet, there is [`Enrolment`].
///
/// The result is gone with the process unless it is kept; [`enrol_once`] does that.
///
/// ```no_run
/// use prexorcloud_transport::{Dialer, enrol};
///
/// # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let target = "controller.example:9090".parse()?;
/// let enrolled = enrol(&target, &token.parse()?, "node-1".parse()?).await?;
/// let dialer = Dialer::of(&enrolled)?;
/// # let _ = dialer;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`EnrolError`] prints a sentence for the operator.
pub async fn enrol(target: &Target, token: &JoinToken, node: NodeId) -> Result<Enrolled, EnrolError> {
    Enrolment::new(token.clone(), node).attempt(target).await
}

/// The node's certificate: the one that `directory` holds, or a new one for the token, which is kept there
///
/// The token is needed once in the life of a node, and not looked at where there is a certificate.
///
/// ```no_run
/// use prexorcloud_transport::security::certificate_directory::CertificateDirectory;
/// use prexorcloud_transport::{Dialer, enrol_once};
///
/// # async fn example(token: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
/// let directory = CertificateDirectory::new("state/security");
/// let target = "controller.example:9090".parse()?;
/// let token = token.map(str::parse).transpose()?;
/// let enrolled = enrol_once(&directory, &target, token.as_ref(), "node-1".parse()?).await?;
/// let dialer = Dialer::of(&enrolled)?;
/// # let _ = dialer;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`enrol`], and [`EnrolError::NoToken`] or [`EnrolError::Directory`].
pub async fn enrol_once(
    directory: &CertificateDirectory,
    target: &Target,
    token: Option<&JoinToken>,
    node: NodeId,
) -> Result<Enrolled, EnrolError> {
    if let Some(enrolled) = on_disk(directory, CertificateDirectory::load).await? {
        return Ok(enrolled);
    }
    let enrolment = Enrolment::new(token.ok_or(EnrolError::NoToken)?.clone(), node);
    enrolment.attempt_into(directory, target).await
}

async fn on_disk<T: Send + 'static>(
    directory: &CertificateDirectory,
    work: impl FnOnce(&CertificateDirectory) -> Result<T, CertificateDirectoryError> + Send + 'static,
) -> Result<T, EnrolError> {
    let directory = directory.clone();
    match spawn_blocking(move || work(&directory)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(EnrolError::Interrupted),
    }
}

/// An exchange that is not the plain one of [`enrol`]
#[derive(Clone, Debug)]
pub struct Enrolment {
    token: JoinToken,
    node: NodeId,
    trust_on_first_use: bool,
    deadline: Duration,
    /// Without one, the controller makes the key.
    key: Option<NodeKey>,
}

impl Enrolment {
    /// Enrols `node` with `token`.
    #[must_use]
    pub fn new(token: JoinToken, node: NodeId) -> Self {
        Self {
            token,
            node,
            trust_on_first_use: false,
            deadline: CALL_DEADLINE,
            key: None,
        }
    }

    /// Asks for a certificate for this key, so that an answer that is lost can be asked for again with the same token
    ///
    /// A Java controller makes a key all the same, and then that one counts.
    #[must_use]
    pub fn key(mut self, key: NodeKey) -> Self {
        self.key = Some(key);
        self
    }

    /// With a token that has no pin, as a Java controller makes it, believes whoever answers
    ///
    /// Somebody on the path can take such a token. Say so to the operator.
    #[must_use]
    pub fn trust_on_first_use(mut self) -> Self {
        self.trust_on_first_use = true;
        self
    }

    /// How long one controller may take, from dialling to its answer. 30 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks one controller, once.
    ///
    /// # Errors
    /// [`EnrolError`]
    pub async fn attempt(&self, target: &Target) -> Result<Enrolled, EnrolError> {
        let tls = match self.token.pin() {
            Some(pin) => EnrolmentTls::pinned(pin)?,
            None if self.trust_on_first_use => EnrolmentTls::trust_on_first_use()?,
            None => return Err(EnrolError::NoPin),
        };
        let dialer = Dialer::with_config(tls.client_config(), DialOptions::default());
        let request = ExchangeJoinTokenRequest {
            join_token: self.token.expose().to_owned(),
            node_id: self.node.as_str().to_owned(),
            certificate_request: self.key.as_ref().map_or(Ok(Vec::new()), NodeKey::request)?.into(),
        };
        let reply = match exchange_join_token(&dialer, target, request, self.deadline).await {
            Ok(reply) => reply,
            Err(error) => {
                let target = target.clone();
                return Err(match &error {
                    // A TLS failure without a more precise name is how a pin that does not fit shows.
                    CallError::Dial(cause)
                        if cause.needs_operator() || matches!(cause, DialError::Tls { .. }) =>
                    {
                        EnrolError::Untrusted { target, error }
                    }
                    _ => EnrolError::Refused { target, error },
                });
            }
        };
        let unreadable = || EnrolError::UnreadableReply {
            target: target.clone(),
        };
        let server = tls.observed().ok_or_else(unreadable)?;
        let anchors = std::str::from_utf8(&reply.ca_certificate_pem).map_err(|_| unreadable())?;
        let node = self.node.as_str();
        let accepted = match &self.key {
            Some(key) if !reply.certificate_chain_pem.is_empty() => {
                server.accept_chain(node, key, &reply.certificate_chain_pem, anchors)
            }
            _ => server.accept(node, &reply.pkcs12, &reply.pkcs12_password, anchors),
        };
        accepted.map_err(|error| EnrolError::UnusableReply {
            target: target.clone(),
            error,
        })
    }

    /// Asks all controllers in turn and with growing waits, until one answers or it is clear that none ever will
    ///
    /// `retrying` is told of each failure that does not end this. Drop the future to give up.
    ///
    /// # Errors
    /// [`EnrolError`], which does not go away by trying again.
    pub async fn persist(
        &self,
        targets: &[Target],
        mut retrying: impl FnMut(&EnrolError),
    ) -> Result<Enrolled, EnrolError> {
        let mut wait = FIRST_WAIT;
        loop {
            let mut untrusted = None;
            let mut any_transient = false;
            for target in targets {
                match self.attempt(target).await {
                    Ok(enrolled) => return Ok(enrolled),
                    Err(error @ EnrolError::Untrusted { .. }) => {
                        retrying(&error);
                        untrusted = Some(error);
                    }
                    Err(error) if error.is_transient() => {
                        retrying(&error);
                        any_transient = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            // None of them will become another one.
            if !any_transient {
                return Err(untrusted.unwrap_or(EnrolError::NoTargets));
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// As [`attempt`](Self::attempt), for a key of `directory`, where the result is kept
    ///
    /// The directory is tried before the token is sent. What is in it stays until there is something better.
    ///
    /// # Errors
    /// [`EnrolError`]; [`EnrolError::Directory`] if it cannot be kept.
    pub async fn attempt_into(
        &self,
        directory: &CertificateDirectory,
        target: &Target,
    ) -> Result<Enrolled, EnrolError> {
        let enrolled = self.with_key_of(directory).await?.attempt(target).await?;
        self.keep(directory, enrolled).await
    }

    /// As [`persist`](Self::persist), for a key of `directory`, where the result is kept
    ///
    /// # Errors
    /// [`EnrolError`]; [`EnrolError::Directory`] if it cannot be kept.
    pub async fn persist_into(
        &self,
        directory: &CertificateDirectory,
        targets: &[Target],
        retrying: impl FnMut(&EnrolError),
    ) -> Result<Enrolled, EnrolError> {
        let enrolled = self
            .with_key_of(directory)
            .await?
            .persist(targets, retrying)
            .await?;
        self.keep(directory, enrolled).await
    }

    /// A token that is spent while the disk is full is gone, so the directory is proven first.
    async fn with_key_of(&self, directory: &CertificateDirectory) -> Result<Self, EnrolError> {
        on_disk(directory, CertificateDirectory::prepare).await?;
        let key = on_disk(directory, CertificateDirectory::pending_key).await?;
        Ok(self.clone().key(key))
    }

    async fn keep(
        &self,
        directory: &CertificateDirectory,
        enrolled: Enrolled,
    ) -> Result<Enrolled, EnrolError> {
        let (stored, token) = (enrolled.clone(), self.token.clone());
        on_disk(directory, move |directory| {
            directory.store(&stored)?;
            directory.note_used(&token)
        })
        .await?;
        Ok(enrolled)
    }
}
