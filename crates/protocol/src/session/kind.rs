//! The names of the message kinds, for errors and logs

use prexorcloud_proto::{controller_message, daemon_message};

use crate::payload;

/// The one that is never answered with an error, since two confused peers would not stop.
pub(super) const ERROR_REPORT: &str = "ErrorReport";

/// The proto name of a daemon's message.
#[must_use]
pub const fn of_daemon(payload: &daemon_message::Payload) -> &'static str {
    payload::of_daemon(payload).name
}

/// The proto name of a controller's message.
#[must_use]
pub const fn of_controller(payload: &controller_message::Payload) -> &'static str {
    payload::of_controller(payload).name
}
