//! `/system`: whether the controller lives, works, and which release it is; no token needed

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_protocol::compat;
use serde_json::{Value, json};

use super::Api;
use crate::{records::ControllerRecord, store};

/// The process answers
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "UP" }))
}

/// The process can do its work: it is not stopping, and its storage answers
pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    let status = if api.stopping.is_cancelled() {
        "STOPPING"
    } else if store::load::<ControllerRecord>(&*api.store, ControllerRecord::ONLY)
        .await
        .is_err()
    {
        "STORE_FAILED"
    } else {
        return (StatusCode::OK, Json(json!({ "status": "READY" })));
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status })))
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocolVersion": compat::PROTOCOL_VERSION,
        "minProtocolVersion": compat::MIN_PROTOCOL_VERSION,
        "contract": compat::contract::WIRE_DIGEST,
    }))
}
