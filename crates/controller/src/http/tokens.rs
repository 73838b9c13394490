//! `/admin/tokens`: join tokens

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, time, time_unless_never},
};
use crate::{
    access::Permission,
    join_tokens::{MintTokenError, RevokeOutcome, TokenStatus, status},
    wall_clock::to_millis,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Create {
    node_id: Option<String>,
    ttl_seconds: Option<i64>,
    ttl: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    token_id: String,
    token: String,
    join_token: String,
    node_id: Option<String>,
    expires_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    token_id: String,
    node_id: Option<String>,
    created_at: String,
    expires_at: String,
    status: &'static str,
    consumed_by: Option<String>,
    consumed_at: Option<String>,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Body(request): Body<Create>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let actor = caller.require(Permission::TokensManage)?;
    let ttl = lifetime(&request)?;
    let node_id = request.node_id.filter(|node| !node.is_empty());
    let minted = api
        .tokens
        .mint(&actor, node_id.as_deref(), ttl)
        .await
        .map_err(|error| match error {
            MintTokenError::Record(_) | MintTokenError::TooLong { .. } => {
                ApiError::invalid(error.to_string())
            }
            MintTokenError::TooMany => ApiError::conflict(error.to_string()),
            MintTokenError::NoRandomness(_) => ApiError::internal(error.to_string()),
            MintTokenError::Store(error) => error.into(),
        })?;
    let token = minted.token.expose().to_owned();
    let created = Created {
        token_id: minted.id,
        join_token: token.clone(),
        token,
        node_id,
        expires_at: time(to_millis(minted.expires_at)),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Listed>>, ApiError> {
    caller.require(Permission::TokensManage)?;
    let now = SystemTime::now();
    let listed = api.tokens.list().await?.into_iter().map(|entry| Listed {
        status: match status(&entry, now) {
            TokenStatus::Active => "ACTIVE",
            TokenStatus::Expired => "EXPIRED",
            TokenStatus::Consumed => "CONSUMED",
            TokenStatus::Revoked => "REVOKED",
        },
        token_id: entry.token_id,
        node_id: Some(entry.node_id).filter(|node| !node.is_empty()),
        created_at: time(entry.created_at_ms),
        expires_at: time(entry.expires_at_ms),
        consumed_by: Some(entry.consumed_by).filter(|node| !node.is_empty()),
        consumed_at: time_unless_never(entry.consumed_at_ms),
    });
    Ok(Json(listed.collect()))
}

pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::TokensManage)?;
    match api.tokens.revoke(&actor, &id).await? {
        RevokeOutcome::Revoked | RevokeOutcome::AlreadyRevoked => Ok(StatusCode::NO_CONTENT),
        RevokeOutcome::AlreadyConsumed => Err(ApiError::conflict(
            "this token was used already; revoke the certificate of the node that used it instead",
        )),
        RevokeOutcome::Unknown => Err(ApiError::not_found("no such join token")),
    }
}

/// `ttlSeconds`, or `ttl` as a number with one of the units s, m, h, d
fn lifetime(request: &Create) -> Result<Option<Duration>, ApiError> {
    let invalid = || ApiError::invalid("ttl is a number with a unit, for instance 90s, 30m, 12h or 7d");
    let seconds = match (request.ttl_seconds, &request.ttl) {
        (None, None) | (Some(0), None) => return Ok(None),
        (Some(seconds), None) => {
            u64::try_from(seconds).map_err(|_| ApiError::invalid("ttlSeconds must not be negative"))?
        }
        (None, Some(text)) => {
            let unit = text.chars().last().ok_or_else(invalid)?;
            let number = text.strip_suffix(unit).unwrap_or_default();
            let number: u64 = number.parse().map_err(|_| invalid())?;
            let factor = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return Err(invalid()),
            };
            number.checked_mul(factor).ok_or_else(invalid)?
        }
        (Some(_), Some(_)) => return Err(ApiError::invalid("give ttlSeconds or ttl, not both")),
    };
    Ok(Some(Duration::from_secs(seconds)))
}
