//! What is said through the session, and what becomes of it

use prexorcloud_proto::CrashReport;

use super::{DaemonNode, DaemonWork};
use crate::hosted::Observed;
use crate::session::SendError;
use crate::session::daemon::{DaemonSession, StatusReport};

impl<L> DaemonNode<L> {
    /// Reports to the session what is true of an instance.
    ///
    /// An end that the session's table does not believe is let go of: no controller will ever be told of it.
    pub fn tell(&mut self, session: &mut DaemonSession, report: &StatusReport) -> Observed {
        let observed = session.report(report);
        let is_believed = matches!(observed, Observed::Changed { .. } | Observed::Unchanged);
        if report.state.is_terminal() && !is_believed {
            self.handle_end_heard(report.instance, report.incarnation);
        }
        observed
    }

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

impl<L> DaemonWork<L> {
    /// Lets the session say what is to be said, and gives back what is for the application to do
    ///
    /// That is everything that a preparer, a supervisor or a spool has to do. A crash report without a name, which no
    /// session takes, comes back too.
    #[must_use = "work that is given back is for the application"]
    pub fn hand_to(self, session: &mut DaemonSession, node: &mut DaemonNode<L>) -> Option<Self> {
        match self {
            Self::Report(report) => {
                node.tell(session, &report);
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
            } => session.stop_acknowledged(instance, incarnation, Ok(())),
            Self::TellCrash { report, kept } => {
                let told = node.tell_crash(session, CrashReport::clone(&report));
                if matches!(told, Err(SendError::Invalid(_))) {
                    return Some(Self::TellCrash { report, kept });
                }
            }
            Self::AcknowledgeShutdown {
                running,
                estimated_drain,
            } => session.acknowledge_shutdown(running, estimated_drain),
            other => return Some(other),
        }
        None
    }
}
