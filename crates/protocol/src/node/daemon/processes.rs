//! What is seen of processes, and what becomes of their ends

use std::sync::Arc;
use std::time::{Duration, Instant};

use prexorcloud_proto::CrashReport;

use super::phase::{Entry, Phase, Told};
use super::{DaemonNode, DaemonWork, Exit, Kept, StopReason, ending};
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;

impl<L> DaemonNode<L> {
    /// An instance became ready.
    pub fn handle_ready(&mut self, now: Instant, instance: InstanceId, incarnation: Incarnation) {
        let Some(entry) = self.entry(instance, incarnation) else {
            return;
        };
        match &mut entry.phase {
            Phase::Launching { early, .. } => early.is_ready = true,
            Phase::Live(life) if !life.is_ready && !life.is_stopping => {
                life.is_ready = true;
                let uptime = now.saturating_duration_since(life.started);
                self.report(instance, incarnation, State::Running, uptime);
            }
            Phase::Queued { .. }
            | Phase::Preparing { .. }
            | Phase::Live(_)
            | Phase::Spooling { .. }
            | Phase::Ended { .. } => {}
        }
    }

    /// An instance is being stopped.
    pub fn handle_stopping(
        &mut self,
        now: Instant,
        instance: InstanceId,
        incarnation: Incarnation,
        reason: StopReason,
    ) {
        let Some(entry) = self.entry(instance, incarnation) else {
            return;
        };
        match &mut entry.phase {
            Phase::Launching { early, .. } => {
                early.stopping.get_or_insert(reason);
            }
            Phase::Live(life) if !life.is_stopping => {
                life.is_stopping = true;
                life.stopped_for = Some(reason);
                let uptime = now.saturating_duration_since(life.started);
                self.report(instance, incarnation, State::Stopping, uptime);
            }
            Phase::Queued { .. }
            | Phase::Preparing { .. }
            | Phase::Live(_)
            | Phase::Spooling { .. }
            | Phase::Ended { .. } => {}
        }
    }

    /// The supervisor cannot take a stop. The order is refused, so that it is one again when it is repeated: a process that
    /// has ended meanwhile tells so itself, and one that has not is still to be stopped.
    pub fn handle_stop_failed(&mut self, _now: Instant, instance: InstanceId, incarnation: Incarnation) {
        let Some(entry) = self.entry(instance, incarnation) else {
            return;
        };
        if let Phase::Live(life) = &mut entry.phase {
            // Nobody stopped it, so its end is judged by itself.
            life.asked = None;
            if std::mem::take(&mut entry.stop_owed) {
                self.outputs.push_back(DaemonWork::AcknowledgeStop {
                    instance,
                    incarnation,
                    result: Err("the supervisor has no process that it could stop".to_owned()),
                });
            }
        }
    }

    /// An instance has ended.
    pub fn handle_exited(&mut self, _now: Instant, exit: Exit) {
        let (instance, incarnation, uptime) = (exit.instance, exit.incarnation, exit.uptime);
        let Some(entry) = self.entry(instance, incarnation) else {
            return;
        };
        let life = match &mut entry.phase {
            Phase::Launching { early, .. } => {
                early.exit.get_or_insert_with(|| Box::new(exit));
                return;
            }
            Phase::Live(life) => *life,
            Phase::Queued { .. } | Phase::Preparing { .. } | Phase::Spooling { .. } | Phase::Ended { .. } => {
                return;
            }
        };
        // A process that ends while an order to stop it is on its way was stopped all the same.
        let asked = life.asked.map(|_| StopReason::Requested);
        let stopped_for = exit.stopped_for.or(life.stopped_for).or(asked);
        if ending::is_crash(stopped_for, exit.code) {
            let report = Arc::new(ending::report(exit, stopped_for, life.startup_timeout));
            entry.phase = Phase::Spooling {
                report: Arc::clone(&report),
                uptime,
            };
            self.outputs.push_back(DaemonWork::Spool {
                instance,
                incarnation,
                report,
            });
        } else {
            self.report(instance, incarnation, State::Stopped, uptime);
            self.ended(instance, None, Kept::OnDisk);
        }
    }

    /// The crash report of this end is on disk.
    pub fn handle_spooled(&mut self, _now: Instant, instance: InstanceId, incarnation: Incarnation) {
        if let Some((report, uptime)) = self.spooling(instance, incarnation) {
            self.crashed((instance, incarnation), report, uptime, Kept::OnDisk);
        }
    }

    /// The crash report of this end cannot be written: it is told all the same, and said to be in memory only.
    pub fn handle_spool_failed(&mut self, _now: Instant, instance: InstanceId, incarnation: Incarnation) {
        if let Some((report, uptime)) = self.spooling(instance, incarnation) {
            self.crashed((instance, incarnation), report, uptime, Kept::InMemory);
        }
    }

    fn spooling(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Option<(Arc<CrashReport>, Duration)> {
        match &self.entry(instance, incarnation)?.phase {
            Phase::Spooling { report, uptime } => Some((Arc::clone(report), *uptime)),
            _ => None,
        }
    }

    fn crashed(
        &mut self,
        (instance, incarnation): (InstanceId, Incarnation),
        report: Arc<CrashReport>,
        uptime: Duration,
        kept: Kept,
    ) {
        let report_id = Some(report.report_id.clone());
        self.report(instance, incarnation, State::Crashed, uptime);
        self.outputs.push_back(DaemonWork::TellCrash { report, kept });
        self.ended(instance, report_id, kept);
    }

    /// The end was reported to the session.
    fn ended(&mut self, instance: InstanceId, report_id: Option<String>, kept: Kept) {
        let told = match kept {
            Kept::InMemory => Told::Unwritten,
            Kept::OnDisk => Told::Reported,
        };
        if let Some(entry) = self.entries.get_mut(&instance) {
            entry.phase = Phase::Ended { told, report_id };
            let Entry { incarnation, .. } = *entry;
            if std::mem::take(&mut entry.stop_owed) {
                self.acknowledge_stop(instance, incarnation);
            }
        }
        self.finish_if_drained();
    }
}
