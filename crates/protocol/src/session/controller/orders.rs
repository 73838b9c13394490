//! What the application orders, on its way to the daemon

use std::time::Instant;

use prexorcloud_proto::{ControllerMessage, ErrorReport, controller_message};
use prost::Message as _;

use super::{ControllerSession, Link, Objection};
use crate::limits;
use crate::outbox::Class;
use crate::session::{Anomaly, SendError, kind};
use crate::trace::TraceParent;
use crate::validate;

impl ControllerSession {
    /// Whether starts and stops have room: they leave the other half of the outbox to what cannot wait.
    #[must_use]
    pub fn has_room_for_orders(&self) -> bool {
        let bound = self.config.bounds.control;
        self.is_established()
            && self.outbox.len(Class::Control) < bound.messages.div_ceil(2)
            && self.outbox.has_room(Class::Control, bound.bytes / 2)
    }

    /// Takes starts and stops, each with its trace, from `next` while they have room, and says [`HasRoom`](super::ControllerEvent::HasRoom) when
    /// it had to leave some and there is room again.
    pub fn take_orders(
        &mut self,
        mut next: impl FnMut() -> Option<(controller_message::Payload, Option<TraceParent>)>,
    ) {
        while self.has_room_for_orders() {
            let Some((payload, trace)) = next() else {
                self.wants_room = false;
                return;
            };
            self.push_traced(payload, trace);
        }
        self.wants_room = self.is_established();
    }

    /// Tells the daemon of a mistake in what it said of its instances, and the application with
    /// [`Ignored`](super::ControllerEvent::Ignored); after too many, they are only [counted](Self::anomalies).
    pub fn object(&mut self, now: Instant, objection: Objection) {
        if self.is_established() {
            self.budget.refill(now);
            let Objection {
                anomaly,
                code,
                context,
            } = objection;
            self.note(anomaly, code, &context);
        }
    }

    /// Refuses what the daemon asks for
    ///
    /// Like everything that changes nothing it is answered [only so often](crate::session#what-a-peer-can-cost).
    pub fn refuse(&mut self, now: Instant, request: &'static str, mut refusal: ErrorReport) {
        if !self.is_established() {
            return;
        }
        self.budget.refill(now);
        if self.budget.answer() {
            limits::fit_error_report(&mut refusal);
            self.push(controller_message::Payload::ErrorReport(Box::new(refusal)));
        } else {
            self.note(Anomaly::Flood { what: request }, None, request);
        }
    }

    /// Queues a message; the epoch is stamped on it.
    ///
    /// What is said about instances is decided by a [`ControllerNode`](crate::node::ControllerNode).
    ///
    /// # Errors
    /// [`SendError`] says why it was not taken; nothing has been queued then.
    pub fn send(&mut self, payload: controller_message::Payload) -> Result<(), SendError> {
        self.send_traced(payload, None)
    }

    /// As [`send`](Self::send), as part of a trace.
    ///
    /// # Errors
    /// [`SendError`] says why it was not taken; nothing has been queued then.
    pub fn send_traced(
        &mut self,
        mut payload: controller_message::Payload,
        trace: Option<TraceParent>,
    ) -> Result<(), SendError> {
        use controller_message::Payload;
        if matches!(payload, Payload::HandshakeAck(_) | Payload::Ping(_)) {
            return Err(SendError::Reserved(kind::of_controller(&payload)));
        }
        let epoch = match &self.link {
            Link::Established(live) => live.epoch,
            Link::Closing(_) | Link::Ended => return Err(SendError::Closing),
            Link::Idle | Link::Handshaking(_) => return Err(SendError::NotConnected),
        };
        limits::fit_controller(&mut payload);
        validate::controller(&payload)?;
        let class = Class::of_controller(&payload);
        let message = ControllerMessage {
            payload: Some(payload),
            epoch: epoch.get(),
            traceparent: trace.map(|trace| trace.as_str().to_owned()).unwrap_or_default(),
        };
        let bytes = message.encoded_len();
        if bytes > limits::MAX_MESSAGE_BYTES {
            return Err(SendError::TooLarge {
                bytes,
                limit: limits::MAX_MESSAGE_BYTES,
            });
        }
        self.outbox.push(message).map_err(|overflow| {
            if class == Class::Control {
                self.fail_slow(overflow);
            }
            SendError::Full(overflow)
        })
    }
}
