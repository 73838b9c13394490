//! Requests of a controller that this daemon answers without an instance, or cannot serve yet
//!
//! What is not served is answered, so that nobody waits for a timeout.

use prexorcloud_proto::{CacheStatus, controller_message, daemon_message};

/// The answer to a request, if there is one
pub(super) fn answer(
    request: controller_message::Payload,
    cache: impl FnOnce() -> CacheStatus,
) -> Option<daemon_message::Payload> {
    use controller_message::Payload as Request;
    use daemon_message::Payload as Answer;
    Some(match request {
        Request::RequestCacheStatus(_) => Answer::CacheStatus(Box::new(cache())),
        Request::ErrorReport(report) => {
            tracing::warn!(
                code = report.error_code,
                context = report.context,
                said = report.error_message,
                "the controller reports an error"
            );
            return None;
        }
        // Nothing was asked for that these could answer.
        _ => return None,
    })
}
