//! What those get who have no business here
//!
//! Each attempt is a real one, against the running controller's port, with everything an intruder could have: its address,
//! its CA certificate, the name of a node.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use prexorcloud_proto::daemon_service_client::DaemonServiceClient;
use prexorcloud_proto::{DaemonMessage, ExchangeJoinTokenRequest};
use prexorcloud_security::authority::{Authority, AuthorityPolicy};
use prexorcloud_security::enrolment::EnrolmentTls;
use prexorcloud_security::tls::ClientTls;
use prexorcloud_security::token::JoinToken;
use prexorcloud_security::trust::TrustAnchors;
use prexorcloud_transport::client::{CallError, DialError, DialOptions, Dialer, Target, exchange_join_token};
use tokio::time::timeout;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(15);

/// A second use of a join token: the status code and the words that it gets
pub async fn replay(target: &Target, token: &JoinToken, node: &str) -> anyhow::Result<(Code, String)> {
    let pin = token.pin().context("the join token has no pin")?;
    let dialer = Dialer::with_config(EnrolmentTls::pinned(pin)?.client_config(), DialOptions::default());
    let request = ExchangeJoinTokenRequest {
        join_token: token.expose().to_owned(),
        node_id: node.to_owned(),
        ..Default::default()
    };
    match exchange_join_token(&dialer, target, request, LIMIT).await {
        Err(CallError::Status { code, message }) => Ok((code, message)),
        Err(other) => Err(other).context("the replayed token got no status"),
        Ok(_) => bail!("the replayed token was accepted, and a certificate came back"),
    }
}

/// A certificate for `node` from an authority of our own making: what the TLS handshake says to it
pub async fn stranger(target: &Target, trust: &TrustAnchors, node: &str) -> anyhow::Result<DialError> {
    let now = SystemTime::now();
    let authority = Authority::create(&AuthorityPolicy::default(), now)?;
    let credential = authority.issue_node(node, now)?;
    let tls = ClientTls::new(trust).identity(&credential).build()?;
    let dialer = Dialer::with_config(tls, DialOptions::default());
    let refused = match timeout(LIMIT, dialer.dial(target)).await? {
        Err(refused) => refused,
        // TLS 1.3 lets the client finish first; the refusal comes right after.
        Ok(connection) => timeout(LIMIT, connection.closed())
            .await
            .context("a stranger's certificate was not refused")?
            .context("the connection was closed without a reason")?,
    };
    match refused {
        DialError::CertificateRefused { .. } => Ok(refused),
        other => Err(other).context("a stranger's certificate was not refused as such"),
    }
}

/// No certificate at all: the status code and the words that opening a node's stream gets
pub async fn without_certificate(target: &Target, trust: &TrustAnchors) -> anyhow::Result<(Code, String)> {
    let tls: Arc<rustls::ClientConfig> = ClientTls::new(trust).build()?;
    let connection = Dialer::with_config(tls, DialOptions::default())
        .dial(target)
        .await?;
    let mut client = DaemonServiceClient::new(connection);
    let nothing = tokio_stream::pending::<DaemonMessage>();
    let opened = timeout(LIMIT, client.connect(nothing)).await?;
    let status = match opened {
        Err(status) => status,
        Ok(stream) => match timeout(LIMIT, stream.into_inner().message()).await? {
            Err(status) => status,
            Ok(_) => bail!("a stream was opened without a certificate"),
        },
    };
    Ok((status.code(), status.message().to_owned()))
}
