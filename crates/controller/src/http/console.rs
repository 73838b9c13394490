//! `/instances/{id}/console`: history, then live lines, as server-sent events
//!
//! Lines end with LF, each event has one `data:` line of JSON. A reader that falls behind gets a `gap` event with the
//! number of lines it missed; nothing is skipped silently.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{Response, sse::Event},
};
use futures_util::{StreamExt as _, stream};
use prexorcloud_protocol::InstanceId;
use serde::Deserialize;
use serde_json::json;

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params},
    sse,
};
use crate::{
    access::Permission,
    console::{ConsoleItem, ConsoleReader},
};

/// Items that are taken from the ring at once
const BATCH: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Follow {
    from: Option<u64>,
    #[serde(default = "yes")]
    follow: bool,
}

fn yes() -> bool {
    true
}

pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    headers: HeaderMap,
    Params(Follow { from, follow }): Params<Follow>,
) -> Result<Response, ApiError> {
    caller.require(Permission::InstancesView)?;
    let instance: InstanceId = id.parse("instance")?;
    api.fleet.get(instance).await?;
    let last_seen = sse::last_seen(&headers).and_then(|seen| seen.parse::<u64>().ok());
    let from = from.or(last_seen.map(|last| last.saturating_add(1))).unwrap_or(0);

    let (first, next) = api.consoles.bounds(instance.as_str());
    // The numbers are of this life of the controller: another one counts its lines anew.
    let hello = sse::hello(&json!({
        "instanceId": instance.as_str(), "firstSequence": first, "nextSequence": next, "life": api.logs.life,
    }));
    let reader = api.consoles.follow(instance.as_str(), from);
    let stopping = api.stopping.clone();
    let batches = stream::unfold(reader, move |mut reader: ConsoleReader| {
        let stopping = stopping.clone();
        async move {
            let items = if follow {
                tokio::select! {
                    items = reader.next(BATCH) => items,
                    () = stopping.cancelled() => Vec::new(),
                }
            } else {
                reader.take(BATCH)
            };
            if items.is_empty() {
                None
            } else {
                Some((stream::iter(items), reader))
            }
        }
    });
    let events = batches.flatten().map(|item| event(&item));
    Ok(sse::response(stream::once(async { hello }).chain(events)))
}

fn event(item: &ConsoleItem) -> Event {
    match item {
        ConsoleItem::Line(line) => {
            let data = json!({
                "sequence": line.sequence, "incarnation": line.incarnation,
                "timestampMs": line.timestamp_ms, "line": line.line,
            });
            Event::default()
                .event("line")
                .id(line.sequence.to_string())
                .data(data.to_string())
        }
        ConsoleItem::Gap { missed, before } => Event::default()
            .event("gap")
            .data(json!({ "missed": missed, "before": before }).to_string()),
    }
}
