//! What is remembered of a daemon for the invariants

use std::collections::BTreeSet;

use prexorcloud_protocol::hosted::Observed;
use prexorcloud_protocol::node::daemon::DaemonWork;
use prexorcloud_protocol::proto::CrashReport;
use prexorcloud_protocol::session::daemon::StatusReport;
use prexorcloud_protocol::{DaemonEvent, DaemonOutcome, Epoch, Incarnation, InstanceId};

use super::STALE_MARK;

/// What the host remembers for the invariants
#[derive(Clone, Debug, Default)]
pub struct DaemonFacts {
    /// Every process that was launched, in order.
    pub launches: Vec<(InstanceId, Incarnation)>,
    /// Every crash report that was made.
    pub crashes: Vec<CrashReport>,
    /// The reports that could not be written, and died with the daemon that had them in memory, by their id.
    pub died: BTreeSet<String>,
    unwritten: BTreeSet<String>,
    /// How often a crash report was made; the end of a process is told again after a restart, until it was heard.
    pub reported: usize,
    /// The reports that the daemon was told to forget.
    pub forgotten: Vec<String>,
    /// How often a stream was opened.
    pub connects: u64,
    /// How often the end of a stream was told.
    pub disconnects: u64,
    /// How the last stream ended.
    pub last_outcome: Option<DaemonOutcome>,
    /// The commands that the daemon was told to write.
    pub commands: Vec<(InstanceId, String)>,
    /// Those that were written to a process that lived.
    pub typed: BTreeSet<(InstanceId, String)>,
    /// Orders that were carried out although a newer controller had been obeyed before.
    pub obeyed_stale: Vec<String>,
    /// The stops that were ordered.
    pub stops: Vec<(InstanceId, Incarnation)>,
    /// How many mistakes of the controller were ignored.
    pub ignored: u64,
    /// Reports of the node that the session did not believe.
    pub disbelieved: Vec<String>,
    /// Machines that wanted to be woken at a moment that had passed, right after they were woken.
    pub busy_timers: Vec<String>,
}

impl DaemonFacts {
    /// The machine wants something done.
    pub(crate) fn note_work<L>(&mut self, work: &DaemonWork<L>) {
        match work {
            DaemonWork::Prepare { start, .. } if start.group == STALE_MARK => {
                self.obeyed_stale
                    .push(format!("a start of {}", start.instance_id));
            }
            DaemonWork::Launch { attempt, .. } => {
                self.launches.push((attempt.instance(), attempt.incarnation()));
            }
            DaemonWork::Spool { report, .. } => {
                self.reported += 1;
                if !self.crashes.contains(report) {
                    self.crashes.push(CrashReport::clone(report));
                }
            }
            DaemonWork::ForgetCrash { report_id } => self.forgotten.push(report_id.clone()),
            _ => {}
        }
    }

    /// A report could not be written.
    pub(crate) fn note_unwritten(&mut self, report: &CrashReport) {
        self.unwritten.insert(report.report_id.clone());
    }

    /// The daemon is killed, with everything that is in its memory only.
    pub(crate) fn note_killed(&mut self) {
        self.died.append(&mut self.unwritten);
        // Nobody is left to tell.
        self.disconnects = self.connects;
    }

    /// The session judged a report of the machine.
    pub(crate) fn note_judgement(&mut self, report: &StatusReport, observed: Observed) {
        if !matches!(observed, Observed::Changed { .. } | Observed::Unchanged) {
            let StatusReport {
                instance,
                incarnation,
                state,
                ..
            } = report;
            self.disbelieved
                .push(format!("{instance}#{incarnation} {state}: {observed:?}"));
        }
    }

    /// The session has news; `epoch` was on the last message, and `obeyed` is the highest that was written down.
    pub(crate) fn note_event(&mut self, event: &DaemonEvent, epoch: Epoch, obeyed: Epoch) {
        let is_order = matches!(
            event,
            DaemonEvent::Start(_)
                | DaemonEvent::Stop { .. }
                | DaemonEvent::Command { .. }
                | DaemonEvent::InstallModule { .. }
                | DaemonEvent::UninstallModule { .. }
                | DaemonEvent::Request(_)
        );
        if is_order && epoch.is_fenced() && epoch < obeyed {
            self.obeyed_stale.push(format!("{event:?}"));
        }
        match event {
            DaemonEvent::Stop {
                instance,
                incarnation,
                ..
            } => self.stops.push((*instance, *incarnation)),
            DaemonEvent::Command { instance, line, .. } => {
                if line == STALE_MARK {
                    self.obeyed_stale.push(format!("a command to {instance}"));
                }
                self.commands.push((*instance, line.clone()));
            }
            DaemonEvent::Disconnected(outcome) => {
                self.disconnects += 1;
                self.last_outcome = Some(outcome.clone());
            }
            DaemonEvent::Ignored(_) => self.ignored += 1,
            _ => {}
        }
    }
}
