//! `/api/plugin` and `/api/proxy`: what the plugin inside a server says
//!
//! The caller is the server that was given the token with its start. Paths, headers and answers are those of the Java
//! controller, so its plugins call here as they are.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
};
use serde_json::{Value, json};

use super::{Api, error::ApiError};
use crate::workloads::{NotAdmitted, Workload};

const SEQUENCE: &str = "x-prexor-sequence";

/// The server is ready for players; said again every few seconds
pub(super) async fn ready(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let Workload {
        node,
        instance,
        incarnation,
    } = caller(&api, &headers)?.1;
    api.nodes.ready(node, instance, incarnation).await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// A plugin renews its token before it expires; here it is good for as long as the server lives
pub(super) async fn refresh(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let (token, _) = caller(&api, &headers)?;
    Ok(Json(json!({ "token": token })))
}

fn caller<'a>(api: &Api, headers: &'a HeaderMap) -> Result<(&'a str, Workload), ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header
        .and_then(|value| value.trim().split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| ApiError::unauthorized("Missing plugin token"))?;
    let unknown = || ApiError::unauthorized("Invalid plugin token");
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
    match api.workloads.authenticate(token, sequence) {
        Ok(workload) => Ok((token, workload)),
        Err(NotAdmitted::Unknown) => Err(unknown()),
        Err(NotAdmitted::Replayed) => Err(ApiError::unauthorized(
            "Invalid, expired, or replayed plugin token",
        )),
    }
}
