//! The names of the message kinds, for errors and logs

use prexorcloud_proto::{controller_message, daemon_message};

use crate::payload;

pub(super) const ERROR_REPORT: &str = "ErrorReport";

/// The code that a refused message of this name is answered with.
///
/// An error is never answered with an error: two confused peers would not stop.
pub(super) fn answer(code: &'static str, name: &str) -> Option<&'static str> {
    (name != ERROR_REPORT).then_some(code)
}

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
