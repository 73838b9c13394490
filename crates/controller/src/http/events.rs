//! `/events`: what has happened, page by page or live
//!
//! A stream is read from the log whenever its client takes more, so a slow client costs nothing. One that was away, or is
//! behind, for longer than the log reaches gets a `RESYNC_REQUIRED` with what it needs to know, and goes on from there. Each
//! caller sees the events about what it may see.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response, sse::Event},
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::Params,
    page, sse,
    tickets::{self, NotAdmitted, Scope},
};
use crate::{
    access::Caller,
    events::{Batch, Class, Feed, Follower, LoggedEvent, instant},
    store::StoreError,
    wall_clock::now_millis,
};

/// Streams that may be open
pub(crate) const MAX_STREAMS: usize = 100;

/// Events of a page that says nothing else
const PAGE: usize = 100;

/// Events that are looked at for a page, whatever is wanted of them
const LOOKED_AT: usize = 10_000;

/// Types that may be named
const MAX_TYPES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watched {
    ticket: Option<String>,
    #[serde(rename = "lastSequence")]
    last_sequence: Option<u64>,
    /// The `check` of the event that had that number
    #[serde(rename = "lastCheck")]
    last_check: Option<String>,
    #[serde(rename = "type")]
    kinds: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paged {
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
    #[serde(rename = "type")]
    kinds: Option<String>,
}

/// What a caller wants to see, and may
struct Wanted {
    caller: Caller,
    /// Empty for all
    kinds: Vec<&'static str>,
}

impl Wanted {
    fn of(caller: Caller, kinds: Option<&str>) -> Result<Self, ApiError> {
        let named = kinds.map_or_else(Vec::new, |kinds| kinds.split(',').collect());
        if named.len() > MAX_TYPES {
            return Err(ApiError::invalid(format!(
                "at most {MAX_TYPES} types can be named"
            )));
        }
        let known = |kind: &str| {
            let class = Class::of_kind(kind.trim());
            let unknown = || {
                ApiError::invalid("type names an event that there is not, for instance NODE_CONNECTED is one")
            };
            class.map(|class| class.kind).ok_or_else(unknown)
        };
        let kinds = named.into_iter().map(known).collect::<Result<_, _>>()?;
        Ok(Self { caller, kinds })
    }

    fn has(&self, event: &LoggedEvent) -> bool {
        event.class.is_some_and(|class| {
            self.caller.may(class.permission) && (self.kinds.is_empty() || self.kinds.contains(&class.kind))
        })
    }
}

/// `GET /events/stream`
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Params(asked): Params<Watched>,
) -> Response {
    let admitted = tickets::admit(&api, &headers, asked.ticket.as_deref(), Scope::Events).await;
    let caller = match admitted {
        Ok(caller) => caller,
        Err(NotAdmitted::Ticket) => return sse::refusal("Unauthorized"),
        Err(NotAdmitted::Refused(error)) => return error.into_response(),
    };
    let wanted = match Wanted::of(caller, asked.kinds.as_deref()) {
        Ok(wanted) => wanted,
        Err(error) => return error.into_response(),
    };
    let Ok(place) = Arc::clone(&api.event_streams).try_acquire_owned() else {
        return sse::refusal("Too many connections");
    };
    let seen = sse::last_seen(&headers).and_then(|seen| seen.parse().ok());
    let seen = seen.or(asked.last_sequence);
    let check = match asked.last_check.as_deref().map(check).transpose() {
        Ok(check) => check,
        Err(error) => return error.into_response(),
    };
    let latest = api.events.latest();
    let hello = sse::hello(&json!({ "message": "connected", "latestSequence": latest }));
    let is_of_this_log = match seen {
        Some(seen) => is_of_this_log(&api.events, seen, check, latest).await,
        None => Ok(true),
    };
    let Ok(is_of_this_log) = is_of_this_log else {
        return sse::refusal("the controller's storage failed, try again");
    };
    let position = seen.filter(|_| is_of_this_log).unwrap_or(latest);
    let mut first = vec![hello];
    if let (false, Some(seen)) = (is_of_this_log, seen) {
        first.push(resync(&api.events, seen, latest).await);
    }
    let watching = Watching {
        follower: api.events.follower(position),
        wanted,
        place,
        api: Arc::clone(&api),
        ended: false,
    };
    let batches = stream::unfold(watching, |mut watching| async move {
        let events = watching.next().await?;
        Some((stream::iter(events), watching))
    });
    sse::response(stream::iter(first).chain(batches.flatten()))
}

struct Watching {
    follower: Follower,
    wanted: Wanted,
    /// Held as long as the stream is open
    #[allow(dead_code, reason = "dropped with the stream")]
    place: OwnedSemaphorePermit,
    api: Arc<Api>,
    ended: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.ended {
            return None;
        }
        let before = self.follower.position();
        let batch = tokio::select! {
            batch = self.follower.next() => batch,
            () = self.api.stopping.cancelled() => {
                self.ended = true;
                return Some(vec![sse::error("the controller is shutting down")]);
            }
        };
        let Ok(Batch { events, missed }) = batch else {
            self.ended = true;
            return Some(vec![sse::error("the controller's storage failed, try again")]);
        };
        let mut frames = Vec::with_capacity(events.len());
        if missed > 0 {
            frames.push(resync(&self.api.events, before, before + missed).await);
        }
        for event in &events {
            if event.lost().is_some() {
                frames.push(resync(&self.api.events, event.sequence - 1, event.sequence).await);
            } else if self.wanted.has(event) {
                frames.push(frame(event));
            }
        }
        Some(frames)
    }
}

/// Whether what somebody has seen is of this log
///
/// What it has not come to was seen in another one, before a backup was restored that had been made earlier; and so was what
/// had another check.
async fn is_of_this_log(feed: &Feed, seen: u64, check: Option<u64>, latest: u64) -> Result<bool, StoreError> {
    if seen > latest {
        return Ok(false);
    }
    let (Some(check), 1..) = (check, seen) else {
        return Ok(true);
    };
    // What is gone cannot be compared, and whoever has seen nothing later learns that it is.
    Ok(feed.check_at(seen).await?.is_none_or(|found| found == check))
}

/// Reads what an event was shown with
fn check(text: &str) -> Result<u64, ApiError> {
    let malformed = || ApiError::invalid("lastCheck is the check of an event, 16 hexadecimal digits");
    u64::from_str_radix(text, 16).map_err(|_| malformed())
}

fn frame(event: &LoggedEvent) -> Event {
    Event::default()
        .event("message")
        .id(event.sequence.to_string())
        .data(event.to_json())
}

/// What a client has to know that has missed some; `id` is where it goes on
async fn resync(feed: &Feed, last: u64, id: u64) -> Event {
    Event::default()
        .event("message")
        .id(id.to_string())
        .data(resync_json(feed, last).await)
}

async fn resync_json(feed: &Feed, last: u64) -> String {
    let latest = feed.latest();
    json!({
        "type": "RESYNC_REQUIRED",
        "lastSequence": last,
        // Unknown while the storage fails; whoever resumes is told again.
        "earliestSequence": feed.earliest().await.unwrap_or(latest),
        "latestSequence": latest,
        "timestamp": instant(now_millis()),
    })
    .to_string()
}

/// `GET /events`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(Paged { since, limit, kinds }): Params<Paged>,
) -> Result<Response, ApiError> {
    let limit = page::limit(limit)?.unwrap_or(PAGE);
    let wanted = Wanted::of(caller.into_caller(), kinds.as_deref())?;
    let mut found = Vec::new();
    let latest = api.events.latest();
    if since > latest {
        found.push(resync_json(&api.events, since).await);
        return Ok(written(&found, None));
    }
    let (mut position, mut looked_at) = (since, 0);
    while position < latest && found.len() < limit && looked_at < LOOKED_AT {
        let Batch { events, missed } = api.events.after(position, page::MAX_LIMIT).await?;
        if missed > 0 {
            found.push(resync_json(&api.events, position).await);
        }
        if events.is_empty() {
            position = latest;
        }
        for event in events {
            if found.len() >= limit {
                break;
            }
            position = event.sequence;
            looked_at += 1;
            if event.lost().is_some() {
                found.push(resync_json(&api.events, event.sequence - 1).await);
            } else if wanted.has(&event) {
                found.push(event.to_json());
            }
        }
    }
    Ok(written(&found, (position < latest).then(|| position.to_string())))
}

fn written(events: &[String], next: Option<String>) -> Response {
    page::written(format!("[{}]", events.join(",")).into(), next)
}
