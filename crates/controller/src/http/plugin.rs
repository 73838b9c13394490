//! `/api/plugin` and `/api/proxy`: what the plugin inside a server says
//!
//! The caller is the server that was given the token with its start. Paths, headers and answers are those of the Java
//! controller, so its plugins call here as they are.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
};
use serde_json::{Value, json};

use super::{Api, error::ApiError};
use crate::workloads::{NotAdmitted, Purpose, Workload, Workloads, digest};

const SEQUENCE: &str = "x-prexor-sequence";

/// The server is ready for players; said again every few seconds
pub(super) async fn ready(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let Workload {
        node,
        instance,
        incarnation,
    } = caller(&api, &headers, Purpose::Call)?;
    api.nodes.ready(node, instance, incarnation).await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// A plugin exchanges its token for another one, before it expires or soon after; the old one is dead
pub(super) async fn refresh(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let workload = caller(&api, &headers, Purpose::Exchange)?;
    let token = Workloads::mint().map_err(|error| ApiError::internal(error.to_string()))?;
    if !api.nodes.replace_plugin(workload, digest(&token)).await? {
        return Err(unknown());
    }
    Ok(Json(json!({ "token": token })))
}

fn unknown() -> ApiError {
    ApiError::unauthorized("Invalid plugin token")
}

fn caller(api: &Api, headers: &HeaderMap, purpose: Purpose) -> Result<Workload, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header
        .and_then(|value| value.trim().split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| ApiError::unauthorized("Missing plugin token"))?;
    if !api.workloads.is_known(token) {
        return Err(unknown());
    }
    let sequence = headers
        .get(SEQUENCE)
        .ok_or_else(|| ApiError::bad_request("Missing X-Prexor-Sequence header"))?;
    let sequence = sequence
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .filter(|sequence| *sequence > 0)
        .ok_or_else(|| ApiError::bad_request("Invalid X-Prexor-Sequence header"))?;
    api.workloads
        .authenticate(token, sequence, purpose, Instant::now())
        .map_err(|refusal| match refusal {
            NotAdmitted::Unknown => unknown(),
            NotAdmitted::Replayed => ApiError::unauthorized("Invalid, expired, or replayed plugin token"),
            NotAdmitted::TooOften => ApiError::too_many("the plugin calls too often; wait a second"),
        })
}
