//! What the session hands on: stops, the order to shut down, confirmations

use std::time::{Duration, Instant};

use super::phase::{Entry, Phase, Told};
use super::{DaemonNode, DaemonWork, Shutdown};
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::session::daemon::DaemonEvent;
use crate::verdict::StopMode;

impl<L> DaemonNode<L> {
    /// Takes the news of a session, and gives back what is left for the application to act on itself.
    ///
    /// That the session is up or down concerns both. This calls the handler that fits ([`handle_start`](Self::handle_start),
    /// [`handle_stop`](Self::handle_stop), [`handle_connected`](Self::handle_connected) and so on), so an application that
    /// has a session needs none of those itself. What is left for it are the facts: what was
    /// [prepared](Self::handle_prepared), [launched](Self::handle_launched), [ended](Self::handle_exited).
    #[must_use = "news that are given back are for the application"]
    pub fn handle_event(&mut self, now: Instant, event: DaemonEvent) -> Option<DaemonEvent> {
        match event {
            DaemonEvent::Start(order) => self.handle_start(now, order),
            DaemonEvent::Stop {
                instance,
                incarnation,
                mode,
                ..
            } => self.handle_stop(now, instance, incarnation, mode),
            DaemonEvent::Shutdown { reason } => self.handle_shutdown(now, reason),
            DaemonEvent::CrashReportAcknowledged { report_id } => self.handle_crash_confirmed(now, report_id),
            DaemonEvent::EndHeard {
                instance,
                incarnation,
            } => self.handle_end_heard(instance, incarnation),
            DaemonEvent::Connected(connected) => {
                self.handle_connected(now, connected.peer);
                return Some(DaemonEvent::Connected(connected));
            }
            event @ DaemonEvent::Disconnected(_) => {
                self.handle_disconnected();
                return Some(event);
            }
            event @ (DaemonEvent::Command { .. }
            | DaemonEvent::PluginReady { .. }
            | DaemonEvent::InstallModule { .. }
            | DaemonEvent::UninstallModule { .. }
            | DaemonEvent::Request(_)
            | DaemonEvent::NodeStatusDue
            | DaemonEvent::ConsoleArrived { .. }
            | DaemonEvent::FenceRaised(_)
            | DaemonEvent::Ignored(_)) => return Some(event),
        }
        None
    }

    /// The session accepted an order to stop. It is acknowledged once, when the instance is gone.
    pub fn handle_stop(
        &mut self,
        _now: Instant,
        instance: InstanceId,
        incarnation: Incarnation,
        mode: StopMode,
    ) {
        match self
            .entry(instance, incarnation)
            .filter(|entry| entry.is_occupied())
        {
            Some(entry) => {
                entry.stop_owed = true;
                self.bring_down(instance, mode);
            }
            None => self.acknowledge_stop(instance, incarnation),
        }
    }

    /// The controller shuts the node down: everything is stopped, and nothing is started any more.
    pub fn handle_shutdown(&mut self, _now: Instant, reason: String) {
        let running = u32::try_from(self.running()).unwrap_or(u32::MAX);
        let kill_timeout = self.config.kill_timeout;
        let drain = |entry: &Entry| match &entry.phase {
            Phase::Live(life) => Some(life.grace.saturating_add(kill_timeout)),
            Phase::Launching { life, .. } => Some(life.grace.saturating_add(kill_timeout)),
            _ => None,
        };
        let estimated_drain = self.entries.values().filter_map(drain).max().unwrap_or_default();
        self.outputs.push_back(DaemonWork::AcknowledgeShutdown {
            running,
            estimated_drain,
        });
        if self.shutdown != Shutdown::NotOrdered {
            return;
        }
        self.shutdown = Shutdown::Draining { reason };
        let up: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_up())
            .map(|(instance, _)| *instance)
            .collect();
        for instance in up {
            self.bring_down(instance, StopMode::Graceful);
        }
        self.finish_if_drained();
    }

    /// A controller has a crash report.
    pub fn handle_crash_confirmed(&mut self, _now: Instant, report_id: String) {
        // To a controller that acknowledges nothing, "confirmed" only means that it left.
        let is_evidence = self.peer.is_some_and(|peer| peer.acknowledges_crashes);
        let is_that = |entry: &Entry| match &entry.phase {
            Phase::Ended { told, report_id: id } => {
                id.as_ref() == Some(&report_id) && (is_evidence || *told == Told::Unwritten)
            }
            _ => false,
        };
        let ended = self.entries.iter().find(|(_, entry)| is_that(entry));
        if let Some(instance) = ended.map(|(instance, _)| *instance) {
            self.settle(instance);
        }
        self.outputs.push_back(DaemonWork::ForgetCrash { report_id });
        if std::mem::take(&mut self.crashes_waiting) {
            self.outputs.push_back(DaemonWork::TellSpooledCrashes);
        }
    }

    /// The session holds as many crash reports as it takes; those on disk are told when one is confirmed.
    pub fn handle_crash_refused(&mut self) {
        self.crashes_waiting = true;
    }

    /// Begins the end of what is up.
    fn bring_down(&mut self, instance: InstanceId, mode: StopMode) {
        let Some(entry) = self.entries.get_mut(&instance) else {
            return;
        };
        let incarnation = entry.incarnation;
        match &mut entry.phase {
            Phase::Queued { .. } | Phase::Preparing { .. } => {
                let owed = entry.stop_owed;
                if let Phase::Preparing { attempt, .. } = entry.phase {
                    self.outputs.push_back(DaemonWork::CancelPreparation { attempt });
                }
                self.withdraw(instance);
                self.report(instance, incarnation, State::Stopped, Duration::ZERO);
                if owed {
                    self.acknowledge_stop(instance, incarnation);
                }
            }
            Phase::Launching { life, .. } => life.asked = life.asked.max(Some(mode)),
            Phase::Live(life) if life.asked.is_none_or(|asked| asked < mode) => {
                life.asked = Some(mode);
                self.outputs.push_back(DaemonWork::Stop {
                    instance,
                    incarnation,
                    mode,
                });
            }
            Phase::Live(_) | Phase::Spooling { .. } | Phase::Ended { .. } => {}
        }
    }
}
