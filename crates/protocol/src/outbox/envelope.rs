//! The class of each envelope, and the record that stands for what was shed

use prexorcloud_proto::{ControllerMessage, DaemonMessage, controller_message, daemon_message};
use prost::Message as _;

use super::{Class, Outgoing};
use crate::payload;

impl Class {
    /// The class of a daemon's message.
    #[must_use]
    pub const fn of_daemon(payload: &daemon_message::Payload) -> Self {
        payload::of_daemon(payload).class
    }

    /// The class of a controller's message.
    #[must_use]
    pub const fn of_controller(payload: &controller_message::Payload) -> Self {
        payload::of_controller(payload).class
    }
}

impl Outgoing for DaemonMessage {
    fn class(&self) -> Class {
        self.payload.as_ref().map_or(Class::Control, Class::of_daemon)
    }

    fn wire_len(&self) -> usize {
        self.encoded_len()
    }

    fn same_stream(&self, other: &Self) -> bool {
        use daemon_message::Payload;
        match (&self.payload, &other.payload) {
            (Some(Payload::ConsoleOutput(a)), Some(Payload::ConsoleOutput(b))) => {
                a.instance_id == b.instance_id && a.incarnation == b.incarnation
            }
            (Some(Payload::DaemonLogRecord(_)), Some(Payload::DaemonLogRecord(_))) => true,
            _ => false,
        }
    }

    fn into_marker(mut self) -> Self {
        use daemon_message::Payload;
        match &mut self.payload {
            Some(Payload::ConsoleOutput(output)) => output.line = String::new(),
            Some(Payload::DaemonLogRecord(record)) => {
                **record = prexorcloud_proto::DaemonLogRecord {
                    timestamp_ms: record.timestamp_ms,
                    ..Default::default()
                };
            }
            _ => {}
        }
        self
    }

    fn into_gap_record(mut self, shed: u64) -> Self {
        use daemon_message::Payload;
        match &mut self.payload {
            // The record keeps the sequence of the last shed line, so the numbering goes on without a hole after it.
            Some(Payload::ConsoleOutput(output)) => {
                output.line = format!("[prexorcloud] {shed} console line(s) were not delivered");
            }
            Some(Payload::DaemonLogRecord(record)) => {
                // It is nothing that was logged, so it has no number: that of the next record says what is missing.
                record.level = "WARN".to_owned();
                record.logger = "prexorcloud.outbox".to_owned();
                record.message = format!("{shed} log record(s) were not delivered");
            }
            _ => {}
        }
        self
    }
}

impl Outgoing for ControllerMessage {
    fn class(&self) -> Class {
        self.payload.as_ref().map_or(Class::Control, Class::of_controller)
    }

    fn wire_len(&self) -> usize {
        self.encoded_len()
    }

    fn same_stream(&self, other: &Self) -> bool {
        use controller_message::Payload::ModuleEvent;
        matches!(
            (&self.payload, &other.payload),
            (Some(ModuleEvent(_)), Some(ModuleEvent(_)))
        )
    }

    fn into_marker(mut self) -> Self {
        self.payload = Some(controller_message::Payload::ModuleEvent(
            prexorcloud_proto::ModuleEvent::default(),
        ));
        self
    }

    fn into_gap_record(mut self, shed: u64) -> Self {
        // A Java daemon logs a warning for an ErrorReport; it could not interpret an event that is no event.
        self.payload = Some(controller_message::Payload::ErrorReport(Box::new(
            prexorcloud_proto::ErrorReport {
                error_code: crate::session::error_code::EVENTS_LOST.to_owned(),
                error_message: format!(
                    "{shed} event(s) were not delivered because the daemon reads too slowly"
                ),
                ..Default::default()
            },
        )));
        self
    }
}
