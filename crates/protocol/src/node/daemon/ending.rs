//! Whether an end is a crash, and the report of it

use std::time::Duration;

use prexorcloud_proto::CrashReport;

use super::{Exit, StopReason};
use crate::limits;

/// Bytes of a crash report's tail; older lines are left out
///
/// A report is read in one message and kept by the controller in one record, so it must not be what line and line
/// length allow together.
pub const CRASH_TAIL_BYTES: usize = 1024 * 1024;

/// Whether an end is a crash: nobody asked for it, and the exit code is not 0
///
/// An instance that was not ready in time crashed, however it ended; one that has reached its greatest age did not.
#[must_use]
pub const fn is_crash(stopped_for: Option<StopReason>, code: i32) -> bool {
    match stopped_for {
        Some(StopReason::Requested | StopReason::LifetimeOver) => false,
        Some(StopReason::StartupTimeout) => true,
        None => code != 0,
    }
}

/// The report of an end that is a crash; one that came too late to be ready says so in its first line
pub(super) fn report(exit: Exit, stopped_for: Option<StopReason>, startup_timeout: Duration) -> CrashReport {
    let first = (stopped_for == Some(StopReason::StartupTimeout)).then(|| {
        format!(
            "[prexorcloud] not ready within {} s",
            startup_timeout.as_secs_f64()
        )
    });
    CrashReport {
        instance_id: exit.instance.into(),
        group: exit.group.into(),
        exit_code: exit.code,
        log_tail: tail(first, exit.log_tail),
        uptime_ms: i64::try_from(exit.uptime.as_millis()).unwrap_or(i64::MAX),
        incarnation: exit.incarnation.get(),
        report_id: exit.report_id,
    }
}

/// The newest lines that fit, behind `first`
fn tail(first: Option<String>, mut lines: Vec<String>) -> Vec<String> {
    let mut bytes = first.as_ref().map_or(0, String::len);
    let mut kept = usize::from(first.is_some());
    let mut from = lines.len();
    for line in lines.iter_mut().rev() {
        limits::shorten(line, limits::CRASH_TAIL_LINE);
        bytes += line.len();
        kept += 1;
        if bytes > CRASH_TAIL_BYTES || kept > limits::CRASH_TAIL_LINES {
            break;
        }
        from -= 1;
    }
    lines.drain(..from);
    if let Some(first) = first {
        lines.insert(0, first);
    }
    lines
}
