//! `BootstrapService`: a join token for a certificate, without a client certificate

use std::sync::Arc;

use prexorcloud_proto::{
    ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, bootstrap_service_server::BootstrapService,
};
use prexorcloud_transport::enrolment::refusal;
use tonic::{Request, Response, Status};

use super::identity;
use crate::{
    enrolment::{Enrolment, ExchangeError},
    nodes::Nodes,
};

/// Implements `BootstrapService` over [`Enrolment`]
///
/// | Status | When |
/// |---|---|
/// | `INVALID_ARGUMENT` | `join_token` or `node_id` missing, or a node id that is not a safe name |
/// | `NOT_FOUND` | no such token |
/// | `FAILED_PRECONDITION` | expired, revoked or already consumed |
/// | `PERMISSION_DENIED` | bound to another node id |
/// | `RESOURCE_EXHAUSTED` | too many failures from the caller's address |
/// | `UNAVAILABLE` | busy, stopping, or the storage failed: try again |
pub(crate) struct Bootstrap {
    enrolment: Arc<Enrolment>,
    nodes: Arc<Nodes>,
}

impl Bootstrap {
    pub(crate) fn new(enrolment: Arc<Enrolment>, nodes: Arc<Nodes>) -> Self {
        Self { enrolment, nodes }
    }
}

#[tonic::async_trait]
impl BootstrapService for Bootstrap {
    async fn exchange_join_token(
        &self,
        request: Request<ExchangeJoinTokenRequest>,
    ) -> Result<Response<ExchangeJoinTokenResponse>, Status> {
        let peer = identity::address(&request);
        let ExchangeJoinTokenRequest { join_token, node_id } = request.into_inner();
        let exchanged = self.enrolment.exchange(peer, &join_token, &node_id).await;
        let reply = exchanged.map_err(|error| status(&error))?;
        // From now on operators see the node. If that fails, its first connection makes up for it.
        if let Ok(node) = node_id.parse()
            && let Err(error) = self.nodes.add_enrolled(node).await
        {
            tracing::warn!(%node, %error, "a node that enrolled is not visible yet");
        }
        Ok(Response::new(reply))
    }
}

fn status(error: &ExchangeError) -> Status {
    let message = error.to_string();
    match error {
        ExchangeError::RateLimited { .. } => Status::resource_exhausted(message),
        ExchangeError::Missing { .. } | ExchangeError::InvalidNodeId => Status::invalid_argument(message),
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
