//! Crash reports: stored first, acknowledged second

use std::sync::Arc;
use std::time::Instant;

use prexorcloud_proto::{CrashReport, CrashReportAck, controller_message};

use super::pending::Pending;
use super::records::snapshot;
use super::streams::Current;
use super::{Change, CommitFailure, ControllerNode, InstanceSnapshot, StreamId};
use crate::id::InstanceId;
use crate::roster::CrashVerdict;
use crate::session::Anomaly;
use crate::session::controller::CrashStanding;

/// How many crash reports may wait for the storage.
pub const CRASHES_WAITING: usize = 64;

/// A report that waits for the storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Crash {
    report: Arc<CrashReport>,
    standing: CrashStanding,
}

impl Crash {
    pub(super) fn is(&self, report_id: &str) -> bool {
        !report_id.is_empty() && self.report.report_id == report_id
    }
}

impl ControllerNode {
    pub(super) fn handle_crash(&mut self, now: Instant, stream: StreamId, report: Box<CrashReport>) {
        let standing = match self.roster.handle_crash(now, &report) {
            CrashVerdict::Current => CrashStanding::Current,
            CrashVerdict::Stale => CrashStanding::Past,
        };
        if self.records.has_crash(&report.report_id) {
            return;
        }
        self.crash_reports.refill(now);
        if self.records.crashes < CRASHES_WAITING && self.crash_reports.take() {
            self.records.crashes += 1;
            self.records.push(Pending::Crash(Crash {
                report: Arc::from(report),
                standing,
            }));
        } else {
            let anomaly = Anomaly::Flood { what: "CrashReport" };
            self.object(stream, anomaly, None, report.report_id);
        }
    }

    /// The changes that store a report, and the end among them: its acknowledgement says that the end is recorded, too.
    pub(super) fn crash_changes(&mut self, crash: &Crash) -> (Vec<Change>, Option<Box<InstanceSnapshot>>) {
        let end = InstanceId::new(&crash.report.instance_id)
            .ok()
            .and_then(|instance| {
                let note = self.records.dirty.remove(&instance)?;
                snapshot(&self.roster, instance, note)
            });
        let mut changes = vec![Change::Crash {
            report: Arc::clone(&crash.report),
            standing: crash.standing,
        }];
        changes.extend(end.clone().map(Change::Instance));
        (changes, end.map(Box::new))
    }

    /// Whichever stream a report came on: a daemon keeps it until it hears that it is stored, on any.
    pub(super) fn handle_crash_stored(&mut self, crash: &Crash) {
        self.records.crashes = self.records.crashes.saturating_sub(1);
        let Some(&Current { stream, peer }) = self.streams.current() else {
            return;
        };
        let report_id = &crash.report.report_id;
        if peer.keeps_crashes && !report_id.is_empty() {
            let ack = CrashReportAck {
                report_id: report_id.clone(),
            };
            self.send(stream, controller_message::Payload::CrashReportAck(ack), None);
        }
    }

    pub(super) fn handle_crash_refused(
        &mut self,
        crash: Crash,
        end: Option<Box<InstanceSnapshot>>,
        failure: &CommitFailure,
        retry_at: Option<Instant>,
    ) {
        if let Some(end) = end {
            self.records.mark_unwritten(end.instance, end.note);
        }
        if matches!(failure, CommitFailure::Conflict(_)) {
            self.records.crashes = self.records.crashes.saturating_sub(1);
        } else {
            self.records.push(Pending::Crash(crash));
            self.records.retry_at = retry_at;
        }
    }
}
