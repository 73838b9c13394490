//! What the node's machine wants done, as I/O

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use prexorcloud_proto::CrashReport;
use prexorcloud_protocol::hosted::Observed;
use prexorcloud_protocol::node::daemon::{DaemonWork, Handed, Kept};
use prexorcloud_protocol::session::daemon::StatusReport;
use prexorcloud_protocol::{Incarnation, InstanceId, StopMode};

use super::{Orders, traces};
use crate::node::Finished;
use crate::preparation::Prepared;

impl Orders {
    /// Does everything that there is to do, in order
    pub(super) fn work(&mut self) -> ControlFlow<Finished> {
        self.node.handle_timeout(Instant::now());
        while let Some(work) = self.node.poll_work() {
            if let DaemonWork::Finish { reason } = work {
                return ControlFlow::Break(Finished::ShutDownByController { reason });
            }
            self.perform(work);
        }
        self.ask_for_templates();
        if let Some(write) = self.memory.next_write(Instant::now()) {
            self.writes.spawn_blocking(|| write.run());
        }
        ControlFlow::Continue(())
    }

    fn perform(&mut self, work: DaemonWork<Box<Prepared>>) {
        let span = traces::span(self.traces.of(&work));
        let _inside = span.enter();
        match work {
            DaemonWork::Prepare {
                attempt,
                start,
                limits,
            } => self.prepare(attempt, start, limits),
            DaemonWork::CancelPreparation { attempt } => self.cancel(attempt),
            DaemonWork::Launch { attempt, launch } => self.launch(attempt, *launch),
            DaemonWork::Stop {
                instance,
                incarnation,
                mode,
            } => {
                tracing::info!(%instance, ?mode, "stopping the instance");
                if !self.supervisor.stop(instance, mode == StopMode::Force) {
                    self.node
                        .handle_stop_failed(Instant::now(), instance, incarnation);
                }
            }
            DaemonWork::Spool {
                instance,
                incarnation,
                report,
            } => self.spool(instance, incarnation, &report),
            DaemonWork::Report(_) | DaemonWork::AcceptStart { .. } | DaemonWork::AcknowledgeStop { .. } => {
                self.say(work)
            }
            DaemonWork::RejectStart {
                instance,
                ref rejection,
                ..
            } => {
                tracing::warn!(%instance, code = rejection.error_code, "start failed: {}", rejection.message);
                self.say(work);
            }
            DaemonWork::TellCrash { report, kept } => {
                if kept == Kept::InMemory {
                    tracing::error!(
                        instance = report.instance_id,
                        "the crash report is in memory only until a controller has it"
                    );
                }
                self.hand_over(Arc::unwrap_or_clone(report));
            }
            DaemonWork::TellSpooledCrashes => match self.spool.pending() {
                Ok(reports) => reports.into_iter().for_each(|report| self.hand_over(report)),
                Err(error) => tracing::error!(%error, "waiting crash reports cannot be read"),
            },
            DaemonWork::ForgetCrash { report_id } => {
                if let Err(error) = self.spool.confirmed(&report_id) {
                    tracing::warn!(report_id, %error, "a confirmed crash report cannot be deleted");
                }
            }
            DaemonWork::Settle {
                instance,
                incarnation,
            } => {
                if !self.supervisor.settle(instance, incarnation) {
                    self.node.handle_settled(Instant::now(), instance, incarnation);
                }
            }
            DaemonWork::AcknowledgeShutdown { running, .. } => {
                tracing::info!(running, "the controller shuts this node down");
                self.say(work);
            }
            // Ends the handler's work, and is the last of it.
            DaemonWork::Finish { .. } => {}
        }
    }

    fn say(&mut self, work: DaemonWork<Box<Prepared>>) {
        let node = &mut self.node;
        let handed = self.session.with(|session, _| work.hand_to(session, node));
        let Handed::Reported { report, observed } = handed else {
            return;
        };
        let StatusReport { instance, state, .. } = report;
        match observed {
            Observed::Changed { from } => tracing::info!(%instance, "{from} -> {state}"),
            Observed::Unchanged => {}
            Observed::Stale => tracing::debug!(%instance, %state, "news of a start that is not current"),
            Observed::Illegal { state: kept } => {
                tracing::warn!(%instance, "{state} does not follow {kept} and is not reported");
            }
        }
    }

    fn spool(&mut self, instance: InstanceId, incarnation: Incarnation, report: &CrashReport) {
        tracing::warn!(%instance, code = report.exit_code, "the instance crashed");
        let written = self.spool.put(report);
        let now = Instant::now();
        match written {
            Ok(()) => self.node.handle_spooled(now, instance, incarnation),
            Err(error) => {
                tracing::error!(%instance, %error, "the crash report cannot be written down");
                self.node.handle_spool_failed(now, instance, incarnation);
            }
        }
    }
}
