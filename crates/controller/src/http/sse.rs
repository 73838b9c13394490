//! Server-sent events: what all streams have in common
//!
//! Frames end with LF, and have one line of data each: there are clients that know nothing else.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};

/// Between two comments that keep an idle stream alive
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream of these
pub(super) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// The first that a stream says
pub(super) fn hello(about: &Value) -> Event {
    Event::default().event("connected").data(about.to_string())
}

/// What a client that comes back has seen
pub(super) fn last_seen(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}

/// Why a stream ends: the last that it says
pub(super) fn error(message: &str) -> Event {
    Event::default()
        .event("error")
        .data(json!({ "message": message }).to_string())
}

/// A stream that only says why it is none
pub(super) fn refusal(message: &str) -> Response {
    response(stream::iter([error(message)]))
}
