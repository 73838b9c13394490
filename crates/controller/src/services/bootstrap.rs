//! `BootstrapService`: a join token for a certificate, without a client certificate

use std::sync::Arc;

use prexorcloud_proto::{
    ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, bootstrap_service_server::BootstrapService,
};
use prexorcloud_protocol::NodeId;
use prexorcloud_transport::enrolment::refusal;
use tonic::{Request, Response, Status};

use super::identity;
use crate::{
    certificates::Certificates,
    enrolment::{Enrolment, ExchangeError, Exchanged},
    nodes::Nodes,
};

/// Implements `BootstrapService` over [`Enrolment`]
///
/// | Status | When |
/// |---|---|
/// | `INVALID_ARGUMENT` | `join_token` or `node_id` missing, a node id that is not a safe name, a request for a certificate that is none |
/// | `NOT_FOUND` | no such token |
/// | `FAILED_PRECONDITION` | expired, revoked or already consumed |
/// | `PERMISSION_DENIED` | bound to another node id, or to none while the node is known |
/// | `RESOURCE_EXHAUSTED` | refused, and too many were from the caller's address |
/// | `UNAVAILABLE` | busy, stopping, or the storage failed: try again |
pub(crate) struct Bootstrap {
    enrolment: Arc<Enrolment>,
    nodes: Arc<Nodes>,
    certificates: Arc<Certificates>,
}

impl Bootstrap {
    pub(crate) fn new(enrolment: Arc<Enrolment>, nodes: Arc<Nodes>, certificates: Arc<Certificates>) -> Self {
        Self {
            enrolment,
            nodes,
            certificates,
        }
    }
}

#[tonic::async_trait]
impl BootstrapService for Bootstrap {
    async fn exchange_join_token(
        &self,
        request: Request<ExchangeJoinTokenRequest>,
    ) -> Result<Response<ExchangeJoinTokenResponse>, Status> {
        let peer = identity::address(&request);
        let request = request.into_inner();
        let exchanged = self.enrolment.exchange(peer, &request).await;
        let Exchanged { answer, superseded } = exchanged.map_err(|error| status(&error))?;
        let node: Option<NodeId> = request.node_id.parse().ok();
        if let Some(node) = node
            && !superseded.is_empty()
        {
            // Before the answer: the session to end is not yet one of the new certificate.
            self.certificates.cut_superseded(node).await;
        }
        // From now on operators see the node. If that fails, its first connection makes up for it.
        if let Some(node) = node
            && let Err(error) = self.nodes.add_enrolled(node).await
        {
            tracing::warn!(%node, %error, "a node that enrolled is not visible yet");
        }
        Ok(Response::new(answer))
    }
}

fn status(error: &ExchangeError) -> Status {
    let message = error.to_string();
    match error {
        ExchangeError::RateLimited { .. } => Status::resource_exhausted(message),
        ExchangeError::Missing { .. } | ExchangeError::InvalidNodeId | ExchangeError::Request(_) => {
            Status::invalid_argument(message)
        }
        ExchangeError::Refused(refused) => refusal(*refused),
        ExchangeError::Busy | ExchangeError::Stopping => Status::unavailable(message),
        ExchangeError::Store(cause) => {
            tracing::error!(error = %cause, "a token could not be exchanged");
            Status::unavailable("the controller's storage failed, try again")
        }
        ExchangeError::Issue(_) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, "a certificate could not be made");
            Status::internal("the certificate could not be made")
        }
    }
}
