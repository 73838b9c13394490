//! What of a daemon's work a session does itself

use prexorcloud_proto::CrashReport;

use super::{DaemonNode, DaemonWork};
use crate::hosted::Observed;
use crate::session::SendError;
use crate::session::daemon::{DaemonSession, StatusReport};

/// What became of work that was offered to a session
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Handed<L> {
    /// The session has done it.
    Done,
    /// The session has judged a report: it is told if it was believed.
    Reported {
        /// The report.
        report: StatusReport,
        /// The judgement.
        observed: Observed,
    },
    /// It is for the application.
    Left(DaemonWork<L>),
}

impl<L> DaemonWork<L> {
    /// Lets the session do what is for it, tells the node what came of that, and gives back what is not
    ///
    /// [`TellSpooledCrashes`](Self::TellSpooledCrashes) needs the disk, and [`Finish`](Self::Finish) ends more than the
    /// session, so both are given back.
    pub fn hand_to(self, session: &mut DaemonSession, node: &mut DaemonNode<L>) -> Handed<L> {
        match self {
            Self::Report(report) => {
                let observed = session.report(&report);
                let is_unheard = matches!(observed, Observed::Stale | Observed::Illegal { .. });
                if report.state.is_terminal() && is_unheard {
                    // No controller will ever be told of it.
                    node.handle_end_heard(report.instance, report.incarnation);
                }
                return Handed::Reported { report, observed };
            }
            Self::AcceptStart {
                instance,
                incarnation,
                plan_hash,
            } => session.start_accepted(instance, incarnation, plan_hash),
            Self::RejectStart {
                instance,
                incarnation,
                rejection,
            } => session.start_rejected(instance, incarnation, rejection),
            Self::AcknowledgeStop {
                instance,
                incarnation,
                result,
            } => session.stop_acknowledged(instance, incarnation, result),
            Self::TellCrash { report, .. } => {
                // Without a name it would not have been spooled.
                let _ = node.tell_crash(session, (*report).clone());
            }
            Self::AcknowledgeShutdown {
                running,
                estimated_drain,
            } => session.acknowledge_shutdown(running, estimated_drain),
            other => return Handed::Left(other),
        }
        Handed::Done
    }
}

impl<L> DaemonNode<L> {
    /// Hands a crash report to the session; one that it has already is skipped.
    ///
    /// # Errors
    /// As [`DaemonSession::crash`]. If it holds too many, [`TellSpooledCrashes`](DaemonWork::TellSpooledCrashes) comes when
    /// there is room.
    pub fn tell_crash(&mut self, session: &mut DaemonSession, report: CrashReport) -> Result<(), SendError> {
        let told = session.crash(report);
        if matches!(told, Err(SendError::Full(_))) {
            self.handle_crash_refused();
        }
        told
    }
}
