//! Whether an end is a crash, and the report of it

use std::time::Duration;

use prexorcloud_proto::CrashReport;

use super::{Exit, StopReason};
use crate::limits;

/// The exit code of an end that nobody saw: the code of no process
pub const UNOBSERVED: i32 = -1;

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

/// The report of an end that is a crash, cut to what a report may be
///
/// One that came too late to be ready says so in its last line: what is cut of a tail is its beginning.
pub(super) fn report(exit: Exit, stopped_for: Option<StopReason>, startup_timeout: Duration) -> CrashReport {
    let mut log_tail = exit.log_tail;
    if stopped_for == Some(StopReason::StartupTimeout) {
        let limit = startup_timeout.as_secs_f64();
        log_tail.push(format!("[prexorcloud] not ready within {limit} s"));
    }
    if exit.code == UNOBSERVED {
        log_tail.push(
            "[prexorcloud] nobody saw how the process ended: what watched over it had ended before"
                .to_owned(),
        );
    }
    let mut report = CrashReport {
        instance_id: exit.instance.into(),
        group: exit.group.into(),
        exit_code: exit.code,
        log_tail,
        uptime_ms: i64::try_from(exit.uptime.as_millis()).unwrap_or(i64::MAX),
        incarnation: exit.incarnation.get(),
        report_id: exit.report_id,
    };
    limits::fit_crash_report(&mut report);
    report
}
