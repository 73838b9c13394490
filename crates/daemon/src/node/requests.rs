//! Requests of a controller that this daemon answers without an instance, or cannot serve yet
//!
//! What is not served is answered, so that nobody waits for a timeout.

use std::time::{SystemTime, UNIX_EPOCH};

use prexorcloud_proto::{CacheStatus, ModuleStateUpdate, controller_message, daemon_message};

/// The answer to a request, if there is one
pub(super) fn answer(
    request: controller_message::Payload,
    cache: impl FnOnce() -> CacheStatus,
) -> Option<daemon_message::Payload> {
    use controller_message::Payload as Request;
    use daemon_message::Payload as Answer;
    Some(match request {
        Request::RequestCacheStatus(_) => Answer::CacheStatus(Box::new(cache())),
        Request::ModuleInstall(install) => Answer::ModuleStateUpdate(module_state(
            install.module_id,
            "FAILED",
            "this daemon does not host modules yet",
        )),
        Request::ModuleUninstall(uninstall) => {
            Answer::ModuleStateUpdate(module_state(uninstall.module_id, "UNLOADED", ""))
        }
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

fn module_state(module_id: String, state: &str, last_error: &str) -> ModuleStateUpdate {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ModuleStateUpdate {
        module_id,
        state: state.to_owned(),
        last_error: last_error.to_owned(),
        updated_at_ms: i64::try_from(now.as_millis()).unwrap_or(0),
        ..ModuleStateUpdate::default()
    }
}
