//! `/system`: whether the controller lives, works, and which release it is; no token needed

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_protocol::compat;
use serde_json::{Value, json};

use super::Api;

/// The process answers
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "UP" }))
}

/// The process can do its work: it is not stopping, and what it decides can be recorded
pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    let why = if api.stopping.is_cancelled() {
        json!({ "status": "STOPPING" })
    } else if let Err(error) = api.readiness.check().await {
        json!({ "status": "STORE_FAILED", "reason": error.to_string() })
    } else {
        return (StatusCode::OK, Json(json!({ "status": "READY" })));
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(why))
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocolVersion": compat::PROTOCOL_VERSION,
        "minProtocolVersion": compat::MIN_PROTOCOL_VERSION,
        "contract": compat::contract::WIRE_DIGEST,
    }))
}
