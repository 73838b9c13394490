//! Events on their way to a daemon: from the log, as far as its stream has room

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use prexorcloud_proto::{ErrorReport, EventSubscribe, EventUnsubscribe, controller_message::Payload};
use prexorcloud_protocol::{
    Capabilities, ControllerSession,
    events::{Cursor, Forwarding},
    session::{Class as OutboxClass, error_code},
};
use tokio::time::Instant;

use super::task::Node;
use crate::events::{Class, Feed, Follower, LoggedEvent, Named};

/// The pause before a stream without room, or a storage that fails, is tried again
const TRIED_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Bytes of a message beside its name and its fields
const ENVELOPE: usize = 64;

/// Names that are refused one by one on a stream; a message may have a thousand, and answers to all of them would be the end of
/// the stream for a daemon that does not read as fast
const REFUSED_ONE_BY_ONE: u32 = 256;

/// What a stream has subscribed to
pub(super) struct Forwarder {
    machine: Forwarding,
    feed: Arc<Feed>,
    log: Follower,
    /// Read and not yet sent
    waiting: VecDeque<Arc<LoggedEvent>>,
    try_at: Option<Instant>,
}

impl Forwarder {
    /// Waits until there may be something to send. Nothing is lost when this is given up.
    async fn next(&mut self) {
        // What waits is sent before more is read.
        if let Some(at) = self.try_at {
            tokio::time::sleep_until(at).await;
            self.try_at = None;
            return;
        }
        let read = match self.machine.unconfirmed() {
            Some(sequence) => self.feed.check_at(sequence).await.map(|found| {
                self.machine.confirm(found, self.feed.end());
                self.log = self.feed.follower(self.machine.position());
            }),
            None => self
                .log
                .next()
                .await
                .map(|batch| self.waiting.extend(batch.events)),
        };
        if let Err(error) = read {
            tracing::debug!(%error, "the log of events cannot be read for now");
            self.try_at = Some(Instant::now() + TRIED_AGAIN_AFTER);
        }
    }
}

impl Forwarder {
    fn send_to(&mut self, session: &mut ControllerSession) {
        if self.machine.unconfirmed().is_some() {
            return;
        }
        while let Some(event) = self.waiting.front() {
            let name = event.class.map_or_else(String::new, Class::java_name);
            let payload = event.record.payload_json.as_bytes();
            let len = name.len() + payload.len() + ENVELOPE;
            if self.machine.wants(event.sequence, &name) && !has_room(session, len) {
                // It stays in the log; to hold more of them here would help nobody.
                self.try_at = Some(Instant::now() + TRIED_AGAIN_AFTER);
                return;
            }
            let message = self
                .machine
                .look_at(event.cursor(), &name, || Bytes::copy_from_slice(payload));
            if let Some(lost) = event.lost() {
                self.machine.lose(lost);
            }
            self.waiting.pop_front();
            if let Some(missed) = self.machine.poll_missed() {
                send(session, Payload::ErrorReport(Box::new(lost(missed))));
            }
            if let Some(message) = message {
                send(session, Payload::ModuleEvent(message));
            }
        }
        // A daemon that resumed after 0 would get what happens from then on: in an empty log its first event is waited for.
        if self.machine.position() > 0
            && has_room(session, ENVELOPE)
            && let Some(mark) = self.machine.poll_mark()
        {
            send(session, Payload::ModuleEvent(mark));
        }
    }
}

fn has_room(session: &ControllerSession, len: usize) -> bool {
    session.queued(OutboxClass::BestEffort) == 0 || session.has_room(OutboxClass::BestEffort, len)
}

/// What is not taken is not sent because the stream ends, and whoever resumes gets it then
fn send(session: &mut ControllerSession, payload: Payload) {
    if let Err(error) = session.send(payload) {
        tracing::debug!(%error, "an event is not sent");
    }
}

fn lost(missed: u64) -> ErrorReport {
    ErrorReport {
        error_code: error_code::EVENTS_LOST.to_owned(),
        error_message: format!(
            "{missed} event(s) are gone from the log that were to be looked at for this daemon"
        ),
        ..ErrorReport::default()
    }
}

/// Waits for events that somebody has subscribed to
pub(super) async fn to_forward(forwarder: &mut Option<Box<Forwarder>>) {
    match forwarder {
        Some(forwarder) => forwarder.next().await,
        None => std::future::pending().await,
    }
}

impl Node {
    pub(super) fn subscribe(&mut self, subscribe: &EventSubscribe) {
        for name in &subscribe.event_types {
            let named = Named::of(name);
            if let Some((code, message)) = named.refusal(name) {
                self.refuse_subscription(code, &message);
            } else if let Named::Class(_) = named {
                let after = Cursor {
                    sequence: subscribe.after_sequence,
                    check: subscribe.after_check,
                };
                self.add_subscription(name, after);
            }
        }
        self.show_subscriptions();
        self.forward();
    }

    fn refuse_subscription(&mut self, code: &str, message: &str) {
        self.refused_types = self.refused_types.saturating_add(1);
        if self.refused_types <= REFUSED_ONE_BY_ONE {
            return self.answer_error("EventSubscribe", code, message, String::new());
        }
        if self.refused_types == REFUSED_ONE_BY_ONE + 1 {
            tracing::warn!(node = %self.id, code, last = message, "the daemon subscribes to more and more that there is not; on this stream it is not told of each any more");
        }
    }

    /// Forgets what a stream that has ended wanted to hear of
    pub(super) fn end_subscriptions(&mut self) {
        self.refused_types = 0;
        self.forwarder = None;
        self.show_subscriptions();
    }

    fn show_subscriptions(&self) {
        let types = self
            .forwarder
            .iter()
            .flat_map(|forwarder| forwarder.machine.types());
        let types = types.map(str::to_owned).collect();
        self.with_view(|view| view.event_types = types);
    }

    fn add_subscription(&mut self, name: &str, after: Cursor) {
        let Some(session) = self.current_session() else {
            return;
        };
        let both = session.with(|session, _| session.capabilities());
        let is_numbered = both.is_some_and(|both| both.contains(Capabilities::EVENTS));
        let events = Arc::clone(&self.context.events);
        let forwarder = self.forwarder.get_or_insert_with(|| {
            let machine = Forwarding::begin(is_numbered, after, events.end());
            Box::new(Forwarder {
                log: events.follower(machine.position()),
                machine,
                feed: events,
                waiting: VecDeque::new(),
                try_at: None,
            })
        });
        if let Err(error) = forwarder.machine.subscribe(name) {
            let code = "EVENT_SUBSCRIPTIONS_FULL";
            self.refuse_subscription(code, &error.to_string());
        }
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &EventUnsubscribe) {
        if let Some(forwarder) = &mut self.forwarder {
            for name in &unsubscribe.event_types {
                forwarder.machine.unsubscribe(name);
            }
        }
        self.show_subscriptions();
    }

    /// Sends what there is room for
    pub(super) fn forward(&mut self) {
        let Some(mut forwarder) = self.forwarder.take() else {
            return;
        };
        if let Some(session) = self.current_session() {
            session.with(|session, _| forwarder.send_to(session));
        }
        self.forwarder = Some(forwarder);
    }
}
