//! `/admin/access-tokens`: the bearer tokens of people and tools

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, time, time_unless_never},
};
use crate::{
    access::{MintError, Permission, id_of, status_of},
    records::AccessTokenRecord,
    wall_clock::now_millis,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    permissions: Vec<String>,
    ttl_seconds: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    token_id: String,
    name: String,
    permissions: Vec<String>,
    status: &'static str,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// Only of one that was made just now
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Listed {
    fn of(record: AccessTokenRecord, token: Option<String>) -> Self {
        Self {
            token_id: id_of(&record),
            status: status_of(&record, now_millis()),
            name: record.name,
            permissions: record.permissions,
            created_at: time(record.created_at_ms),
            expires_at: time_unless_never(record.expires_at_ms),
            revoked_at: time_unless_never(record.revoked_at_ms),
            token,
        }
    }
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Body(request): Body<Create>,
) -> Result<(StatusCode, Json<Listed>), ApiError> {
    let actor = caller.require(Permission::AccessManage)?;
    if let Some(beyond) = request
        .permissions
        .iter()
        .find(|permission| !caller.may_grant(permission))
    {
        let beyond: String = beyond.chars().take(64).collect();
        return Err(ApiError::forbidden(format!(
            "nobody can give away what they may not do themselves: {beyond}"
        )));
    }
    let permissions: Vec<&str> = request.permissions.iter().map(String::as_str).collect();
    let ttl = request.ttl_seconds.filter(|seconds| *seconds > 0);
    let (token, record) = api
        .access
        .mint(&actor, &request.name, &permissions, ttl.map(Duration::from_secs))
        .await
        .map_err(|error| match error {
            MintError::Name | MintError::Permission { .. } | MintError::NoPermission => {
                ApiError::invalid(error.to_string())
            }
            MintError::TooMany => ApiError::conflict(error.to_string()),
            MintError::Store(error) => error.into(),
            MintError::File(_) | MintError::NoRandomness(_) => ApiError::internal(error.to_string()),
        })?;
    let listed = Listed::of(record, Some(token.expose().to_owned()));
    Ok((StatusCode::CREATED, Json(listed)))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Listed>>, ApiError> {
    caller.require(Permission::AccessManage)?;
    let records = api.access.list().await?;
    Ok(Json(
        records
            .into_iter()
            .map(|record| Listed::of(record, None))
            .collect(),
    ))
}

pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::AccessManage)?;
    let records = api.access.list().await?;
    let meant = records.iter().find(|record| id_of(record) == id);
    if meant.is_some_and(|record| record.permissions.iter().any(|name| !caller.may_grant(name))) {
        return Err(ApiError::forbidden(
            "nobody can take away what they may not do themselves; on the controller's host: prexorcloud controller admin-token",
        ));
    }
    match api.access.revoke_id(&actor, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::not_found("no such access token")),
    }
}
