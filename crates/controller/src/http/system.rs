//! `/system`: whether the controller lives, works, and which release it is; no token needed

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_protocol::compat;
use serde_json::{Value, json};

use super::Api;

/// How long before its end a certificate that was not renewed makes the controller unready
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The process answers
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "UP" }))
}

/// The process can do its work: it is not stopping, what it decides can be recorded, and its certificates count
pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    let why = if api.stopping.is_cancelled() {
        json!({ "status": "STOPPING" })
    } else if let Err(error) = api.readiness.check().await {
        json!({ "status": "STORE_FAILED", "reason": error.to_string() })
    } else if let Some(reason) = ends_soon(api.rotation.ends(), SystemTime::now()) {
        json!({ "status": "CERTIFICATE_EXPIRES", "reason": reason })
    } else {
        return (StatusCode::OK, Json(json!({ "status": "READY" })));
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(why))
}

/// Which certificate of the controller's should have been renewed and soon counts no more
fn ends_soon((server, authority): (SystemTime, SystemTime), now: SystemTime) -> Option<&'static str> {
    let ends_within_a_day = |end: SystemTime| end.duration_since(now).unwrap_or_default() < DAY;
    if ends_within_a_day(authority) {
        Some("the authority that signs expires: put another one in its place (`prexorctl cert prepare`)")
    } else if ends_within_a_day(server) {
        Some("the controller's certificate expires and could not be renewed: the log says why")
    } else {
        None
    }
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocolVersion": compat::PROTOCOL_VERSION,
        "minProtocolVersion": compat::MIN_PROTOCOL_VERSION,
        "contract": compat::contract::WIRE_DIGEST,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unready_a_day_before_a_certificate_ends() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let (soon, later) = (now + DAY / 2, now + 2 * DAY);
        assert_eq!(ends_soon((later, later), now), None);
        assert!(ends_soon((soon, later), now).is_some_and(|why| why.contains("renewed")));
        assert!(ends_soon((later, soon), now).is_some_and(|why| why.contains("cert prepare")));
        assert!(ends_soon((now - DAY, later), now).is_some());
    }
}
