//! `/system/logs` and `/nodes/{id}/logs`: the last records, and a stream of them as server-sent events
//!
//! A position is `<life>-<seq>`. One of another life of the controller is behind everything that this one has: whoever comes back
//! after a restart gets all that is kept, and reads in `connected` that the life is another.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response, sse::Event},
};
use futures_util::{StreamExt as _, stream};
use prexorcloud_protocol::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::Level;

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params},
    sse,
    tickets::{self, NotAdmitted, Scope},
};
use crate::{
    access::Permission,
    logs::{CAPACITY, Filter, From, LogItem, LogReader, Ring},
};

/// Items that are taken from a ring at once
const BATCH: usize = 128;

/// Records of one answer, unless it is asked for another number
const DEFAULT_LIMIT: usize = 200;

/// Records of one answer at most
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    level: String,
    #[serde(default)]
    logger: String,
    /// Milliseconds since 1970
    #[serde(default)]
    since: i64,
    limit: Option<usize>,
    /// What a stream begins with
    tail: Option<usize>,
    /// The last position that the reader of a stream has seen
    after: Option<String>,
    /// What opens a stream instead of a token
    ticket: Option<String>,
}

impl Asked {
    fn filter(&self) -> Result<Filter, ApiError> {
        let level = match self.level.as_str() {
            "" => Level::INFO,
            name => name
                .parse()
                .map_err(|_| ApiError::invalid("level is TRACE, DEBUG, INFO, WARN or ERROR"))?,
        };
        Ok(Filter {
            level,
            logger: self.logger.clone(),
            since_ms: self.since,
        })
    }
}

pub(super) async fn own(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(asked): Params<Asked>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::LogsView)?;
    Ok(Json(page(&api, &api.logs.own(), &asked)?))
}

/// A node that nobody knows has no records, as the Java controller answers
pub(super) async fn of_node(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(asked): Params<Asked>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::LogsView)?;
    let node: NodeId = id.parse("node")?;
    let mut page = page(&api, &ring_of(&api, node), &asked)?;
    page["nodeId"] = json!(node.as_str());
    Ok(Json(page))
}

pub(super) async fn stream_own(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Response {
    let actor = match reader(&api, &headers, &asked, Scope::OwnLog).await {
        Ok(actor) => actor,
        Err(refusal) => return refusal,
    };
    let hello = json!({ "username": actor });
    follow(&api, api.logs.own(), &asked, &headers, hello).into_response()
}

pub(super) async fn stream_of_node(
    State(api): State<Arc<Api>>,
    id: Id,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Response {
    let node: NodeId = match id.parse("node") {
        Ok(node) => node,
        Err(error) => return error.into_response(),
    };
    let actor = match reader(&api, &headers, &asked, Scope::LogOf(node)).await {
        Ok(actor) => actor,
        Err(refusal) => return refusal,
    };
    if api.nodes.view(node).is_none() {
        return ApiError::not_found("no such node").into_response();
    }
    let hello = json!({ "username": actor, "nodeId": node.as_str() });
    follow(&api, api.logs.of_node(node), &asked, &headers, hello).into_response()
}

/// The name of whoever opens a stream of a log, by a token or a ticket, if it may; or the answer that it gets
async fn reader(api: &Api, headers: &HeaderMap, asked: &Asked, scope: Scope) -> Result<String, Response> {
    let ticket = asked.ticket.as_deref();
    let caller = match tickets::admit(api, headers, ticket, scope).await {
        Ok(caller) => Authenticated::from(caller),
        Err(NotAdmitted::Ticket) => return Err(sse::refusal("Unauthorized")),
        Err(NotAdmitted::Refused(error)) => return Err(error.into_response()),
    };
    caller
        .require(Permission::LogsView)
        .map_err(|error| match ticket {
            Some(_) => sse::refusal("Forbidden"),
            None => error.into_response(),
        })
}

/// Asking makes no ring for a node that is not there
fn ring_of(api: &Api, node: NodeId) -> Arc<Ring> {
    match api.nodes.view(node) {
        Some(_) => api.logs.of_node(node),
        None => Arc::default(),
    }
}

fn page(api: &Api, ring: &Ring, asked: &Asked) -> Result<Value, ApiError> {
    let filter = asked.filter()?;
    let most = asked.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MOST);
    let received = ring.received();
    let records: Vec<_> = ring.newest(&filter, most);
    let records: Vec<_> = records.iter().map(|record| json!(**record)).collect();
    Ok(json!({
        "records": records, "size": ring.size(), "capacity": CAPACITY,
        "level": filter.level.to_string(), "logger": filter.logger,
        "life": api.logs.life, "received": received.records, "lost": received.lost,
    }))
}

fn follow(
    api: &Api,
    ring: Arc<Ring>,
    asked: &Asked,
    headers: &HeaderMap,
    mut hello: Value,
) -> Result<Response, ApiError> {
    let filter = asked.filter()?;
    let life = api.logs.life.clone();
    let seen = asked.after.as_deref().or_else(|| sse::last_seen(headers));
    let from = match seen.and_then(|seen| seen.rsplit_once('-')) {
        Some((of, seq)) if of == life => {
            let seq = seq
                .parse()
                .map_err(|_| ApiError::invalid("after is no position"))?;
            From::After(seq)
        }
        Some(_) => From::Newest(CAPACITY),
        None => From::Newest(asked.tail.unwrap_or(DEFAULT_LIMIT).min(MOST)),
    };
    hello["life"] = json!(life);
    hello["received"] = json!(ring.received().records);
    let hello = sse::hello(&hello);
    let stopping = api.stopping.clone();
    let reader = LogReader::new(ring, filter, from);
    let batches = stream::unfold(reader, move |mut reader| {
        let stopping = stopping.clone();
        async move {
            let items = tokio::select! {
                items = reader.next(BATCH) => items,
                () = stopping.cancelled() => Vec::new(),
            };
            (!items.is_empty()).then(|| (stream::iter(items), reader))
        }
    });
    let events = batches.flatten().map(move |item| event(&life, &item));
    Ok(sse::response(stream::once(async { hello }).chain(events)))
}

fn event(life: &str, item: &LogItem) -> Event {
    match item {
        LogItem::Record(record) => Event::default()
            .event("log")
            .id(format!("{life}-{}", record.seq))
            .data(json!(**record).to_string()),
        LogItem::Gap { missed, before } => Event::default()
            .event("gap")
            .data(json!({ "missed": missed, "before": before }).to_string()),
    }
}
