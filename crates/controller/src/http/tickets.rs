//! Tickets: what opens a stream where no header can be sent, as a browser's `EventSource` cannot
//!
//! A ticket stands for whoever asked for it, is good for one use within [`LIFETIME`], and for the kind of stream that it was
//! given out for. They are in memory only: after a restart another one is asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prexorcloud_protocol::NodeId;
use serde::Serialize;

use super::{Api, access::Authenticated, error::ApiError, json::Id};
use crate::access::{AccessError, Caller, Permission};

/// How long a ticket is good for
const LIFETIME: Duration = Duration::from_secs(30);

/// Tickets that may be open
const MAX_OPEN: usize = 1024;

/// Tickets of one caller that may be open
const MAX_OPEN_OF_ONE: usize = 64;

/// What a ticket opens
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The stream of events
    Events,
    /// The stream of the controller's own log
    OwnLog,
    /// The stream of the log of this node's daemon
    LogOf(NodeId),
}

struct Open {
    caller: Caller,
    scope: Scope,
    until: Instant,
}

/// The tickets that are open
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Open>>);

/// The answer to whoever asks for one
#[derive(Debug, Serialize)]
pub(super) struct Ticket {
    ticket: String,
}

impl Tickets {
    /// A ticket for this caller
    ///
    /// # Errors
    /// If too many are open.
    pub(super) fn issue(&self, caller: Caller, scope: Scope, now: Instant) -> Result<Json<Ticket>, ApiError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.until > now);
        let of_one = open.values().filter(|ticket| ticket.caller == caller).count();
        if open.len() >= MAX_OPEN || of_one >= MAX_OPEN_OF_ONE {
            return Err(ApiError::too_many(format!(
                "too many tickets are open: use them, or wait {} s",
                LIFETIME.as_secs()
            )));
        }
        let mut random = [0; 24];
        let drawn = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        let bytes = drawn.iter().flat_map(|drawn| drawn.as_bytes());
        for (to, from) in random.iter_mut().zip(bytes) {
            *to = *from;
        }
        let ticket = URL_SAFE_NO_PAD.encode(random);
        let until = now + LIFETIME;
        open.insert(ticket.clone(), Open { caller, scope, until });
        Ok(Json(Ticket { ticket }))
    }

    /// Whom a ticket stands for; it is good for nothing afterwards
    fn redeem(&self, ticket: &str, scope: Scope, now: Instant) -> Option<Caller> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = open.remove(ticket)?;
        (ticket.scope == scope && ticket.until > now).then_some(ticket.caller)
    }
}

/// Why nobody is admitted to a stream
pub(super) enum NotAdmitted {
    /// The ticket is none: told inside of the stream, as clients with tickets expect
    Ticket,
    /// Told like any other error
    Refused(ApiError),
}

/// Who opens a stream: the bearer of a token, or of a ticket
pub(super) async fn admit(
    api: &Api,
    headers: &HeaderMap,
    ticket: Option<&str>,
    scope: Scope,
) -> Result<Caller, NotAdmitted> {
    if let Some(ticket) = ticket {
        let redeemed = api.tickets.redeem(ticket, scope, Instant::now());
        return redeemed.ok_or(NotAdmitted::Ticket);
    }
    let missing = "an Authorization header with a bearer token, or a ticket, is required";
    let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let header = header.ok_or_else(|| NotAdmitted::Refused(ApiError::unauthorized(missing)))?;
    api.access.authenticate(header).await.map_err(|error| {
        NotAdmitted::Refused(match error {
            AccessError::Invalid => ApiError::unauthorized("the bearer token is not valid"),
            AccessError::Store(error) => error.into(),
        })
    })
}

/// `POST /events/ticket`
pub(super) async fn for_events(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Ticket>, ApiError> {
    api.tickets
        .issue(caller.into_caller(), Scope::Events, Instant::now())
}

/// `POST /system/logs/ticket`
pub(super) async fn for_own_log(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Ticket>, ApiError> {
    caller.require(Permission::LogsView)?;
    api.tickets
        .issue(caller.into_caller(), Scope::OwnLog, Instant::now())
}

/// `POST /nodes/{id}/logs/ticket`
pub(super) async fn for_log_of_node(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Ticket>, ApiError> {
    caller.require(Permission::LogsView)?;
    let node = id.parse("node")?;
    if api.nodes.view(node).is_none() {
        return Err(ApiError::not_found("no such node"));
    }
    api.tickets
        .issue(caller.into_caller(), Scope::LogOf(node), Instant::now())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn named(name: &str) -> Caller {
        Caller::Administrator {
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = || tickets.issue(named("a"), Scope::Events, now).unwrap().0.ticket;
        let ticket = issue();
        assert_eq!(ticket.len(), 32);
        assert_eq!(tickets.redeem(&ticket, Scope::Events, now), Some(named("a")));
        assert_eq!(tickets.redeem(&ticket, Scope::Events, now), None);
        assert_eq!(tickets.redeem("", Scope::Events, now), None);
        assert_eq!(tickets.redeem(&issue(), Scope::Events, now + LIFETIME), None);
    }

    #[test]
    fn a_ticket_opens_the_stream_that_it_was_given_out_for_and_no_other() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let of = |name: &str| Scope::LogOf(name.parse().unwrap());
        let all = [Scope::Events, Scope::OwnLog, of("node-1"), of("node-2")];
        for scope in all {
            for wanted in all {
                let ticket = tickets.issue(named("a"), scope, now).unwrap().0.ticket;
                let caller = tickets.redeem(&ticket, wanted, now);
                assert_eq!(caller.is_some(), scope == wanted, "{scope:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn one_caller_cannot_take_the_tickets_of_all() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = |name: &str, now| tickets.issue(named(name), Scope::Events, now).is_ok();
        for _ in 0..MAX_OPEN_OF_ONE {
            assert!(issue("a", now));
        }
        assert!(!issue("a", now));
        assert!(issue("b", now));
        assert!(issue("a", now + LIFETIME), "they are forgotten in time");
        for name in 0..MAX_OPEN {
            issue(&name.to_string(), now + LIFETIME);
        }
        assert!(!issue("c", now + LIFETIME));
    }
}
