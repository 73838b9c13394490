//! `AdminService`: join tokens for operators, with an administrator's certificate or a bearer token

use std::time::{Duration, SystemTime};

use prexorcloud_proto::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, JoinTokenInfo, ListJoinTokensRequest,
    ListJoinTokensResponse, RevokeJoinTokenRequest, RevokeJoinTokenResponse,
    admin_service_server::AdminService,
};
use prexorcloud_security::revocation::SharedRevocations;
use tonic::{Request, Response, Status};

use super::identity;
use crate::{
    access::{AccessTokens, Caller, Permission},
    join_tokens::{self, JoinTokens, MintTokenError, RevokeOutcome, TokenStatus},
    store::StoreError,
    wall_clock::to_millis,
};

/// Implements `AdminService` over [`JoinTokens`]
///
/// | Status | When |
/// |---|---|
/// | `NOT_FOUND` | revoking an unknown id |
/// | `INVALID_ARGUMENT` | a negative or too long lifetime, a blank token id, a node id that is not a safe name |
/// | `PERMISSION_DENIED` | known, but without `tokens.manage`; a node's certificate for instance |
/// | `UNAUTHENTICATED` | neither a certificate nor a bearer token, or a revoked one |
/// | `RESOURCE_EXHAUSTED` | too many tokens exist |
/// | `UNAVAILABLE` | the storage failed: try again |
pub(crate) struct Admin {
    tokens: JoinTokens,
    access: AccessTokens,
    revocations: SharedRevocations,
}

impl Admin {
    /// Over these tokens; callers are judged by `access` and `revocations`
    pub(crate) fn new(tokens: JoinTokens, access: AccessTokens, revocations: SharedRevocations) -> Self {
        Self {
            tokens,
            access,
            revocations,
        }
    }

    async fn authorize<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = identity::caller(request, &self.access, &self.revocations).await?;
        if caller.may(Permission::TokensManage) {
            return Ok(caller);
        }
        tracing::warn!(caller = caller.actor(), "an administrative call was refused");
        Err(Status::permission_denied(format!(
            "the permission {} is required",
            Permission::TokensManage.name()
        )))
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let caller = self.authorize(&request).await?;
        let CreateJoinTokenRequest { node_id, ttl_seconds } = request.into_inner();
        let ttl = match u64::try_from(ttl_seconds) {
            Err(_) => return Err(Status::invalid_argument("ttl_seconds must not be negative")),
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
        };
        let node = Some(node_id.as_str()).filter(|node| !node.is_empty());
        let minted = self
            .tokens
            .mint(&caller.actor(), node, ttl)
            .await
            .map_err(|error| mint_status(&error))?;
        Ok(Response::new(CreateJoinTokenResponse {
            token_id: minted.id,
            join_token: minted.token.expose().to_owned(),
            expires_at_epoch_ms: to_millis(minted.expires_at),
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let caller = self.authorize(&request).await?;
        let RevokeJoinTokenRequest { token_id } = request.into_inner();
        if token_id.trim().is_empty() {
            return Err(Status::invalid_argument("token_id is missing"));
        }
        match self
            .tokens
            .revoke(&caller.actor(), &token_id)
            .await
            .map_err(|error| store_status(&error))?
        {
            RevokeOutcome::Unknown => Err(Status::not_found("no such join token")),
            // Whatever happened before: it cannot be used any more, which is what was asked for.
            RevokeOutcome::Revoked | RevokeOutcome::AlreadyRevoked | RevokeOutcome::AlreadyConsumed => {
                Ok(Response::new(RevokeJoinTokenResponse {}))
            }
        }
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        self.authorize(&request).await?;
        let now = SystemTime::now();
        let entries = self.tokens.list().await.map_err(|error| store_status(&error))?;
        // The message cannot say "consumed" or "revoked", so such tokens are not listed here.
        let tokens = entries.into_iter().filter_map(|entry| {
            let expired = match join_tokens::status(&entry, now) {
                TokenStatus::Active => false,
                TokenStatus::Expired => true,
                TokenStatus::Consumed | TokenStatus::Revoked => return None,
            };
            Some(JoinTokenInfo {
                token_id: entry.token_id,
                node_id: entry.node_id,
                expires_at_epoch_ms: entry.expires_at_ms,
                expired,
            })
        });
        Ok(Response::new(ListJoinTokensResponse {
            tokens: tokens.collect(),
        }))
    }
}

fn mint_status(error: &MintTokenError) -> Status {
    match error {
        MintTokenError::Record(_) | MintTokenError::TooLong { .. } => {
            Status::invalid_argument(error.to_string())
        }
        MintTokenError::TooMany => Status::resource_exhausted(error.to_string()),
        MintTokenError::NoRandomness(_) => Status::internal(error.to_string()),
        MintTokenError::Store(error) => store_status(error),
    }
}

fn store_status(error: &StoreError) -> Status {
    tracing::error!(%error, "an administrative call failed");
    Status::unavailable("the controller's storage failed, try again")
}
