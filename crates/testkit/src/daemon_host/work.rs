//! What the daemon's machines want done, done to simulated processes and a simulated disk

use std::time::Duration;

use prexorcloud_protocol::hosted::Observed;
use prexorcloud_protocol::node::daemon::{DaemonWork, StopReason};
use prexorcloud_protocol::proto::{
    ConsoleOutput, CrashReport, NodeStatus, StartFailureDisposition, StartPreparationStage, daemon_message,
};
use prexorcloud_protocol::session::daemon::{StartRejection, StatusReport};
use prexorcloud_protocol::{DaemonEvent, Epoch, SendError, Session as _};

use super::{DaemonHost, Disk, Process, Running, STALE_MARK};
use crate::world::World;

impl Disk {
    /// Why this attempt to prepare a process fails, if its script says so.
    pub(super) fn preparation_failure(&mut self, process: &Process) -> Option<StartRejection> {
        let attempt = self
            .attempts
            .entry((process.instance, process.incarnation))
            .or_default();
        *attempt += 1;
        let disposition = if process.behaviour.refuse {
            StartFailureDisposition::Permanent
        } else if *attempt <= process.behaviour.transient_failures {
            StartFailureDisposition::Transient
        } else {
            return None;
        };
        Some(StartRejection {
            stage: StartPreparationStage::RuntimeProvision,
            error_code: "RUNTIME_PROVISION_FAILED".to_owned(),
            message: "the script says so".to_owned(),
            disposition,
            retry_after: Duration::from_secs(2),
            plan_hash: String::new(),
        })
    }
}

impl DaemonHost {
    /// Carries out what the machines say; `epoch` is that of the controller at the other end.
    pub(crate) fn handle_events(&mut self, world: &mut World, epoch: Option<Epoch>) -> bool {
        let mut any = false;
        loop {
            let Some(Running { session, node, .. }) = &mut self.running else {
                return any;
            };
            if let Some(work) = node.poll_output() {
                self.perform(world, work);
            } else if let Some(event) = session.poll_event() {
                self.handle_event(world, event, epoch);
            } else {
                return any;
            }
            any = true;
        }
    }

    fn perform(&mut self, world: &mut World, work: DaemonWork<Box<Process>>) {
        let now = self.local(world);
        let Some(Running {
            session,
            node,
            preparing,
            has_finished,
        }) = &mut self.running
        else {
            return;
        };
        match work {
            DaemonWork::Prepare { attempt, start } => {
                if start.group == STALE_MARK {
                    let fault = format!("a start of {}", start.instance_id);
                    self.facts.obeyed_stale.push(fault);
                }
                world.note(|| format!("daemon prepares {}#{}", attempt.instance(), attempt.incarnation()));
                preparing
                    .extend(Process::ordered(world.now, attempt, &start).map(|process| (attempt, process)));
            }
            DaemonWork::CancelPreparation { attempt } => preparing.retain(|(other, _)| *other != attempt),
            DaemonWork::Launch { attempt, mut launch } => {
                launch.launch(world.now, self.plugins.is_none());
                let start = (launch.instance, launch.incarnation);
                world.note(|| format!("{}#{} is launched", start.0, start.1));
                self.facts.launches.push(start);
                self.disk.processes.push(*launch);
                node.handle_launched(now, attempt);
            }
            DaemonWork::Stop {
                instance,
                incarnation,
                mode,
            } => {
                world.note(|| format!("daemon stops {instance}#{incarnation} ({mode:?})"));
                match self.disk.live_mut((instance, incarnation)) {
                    Some(process) => {
                        if process.ask(world.now, mode, StopReason::Requested) {
                            node.handle_stopping(now, instance, incarnation, StopReason::Requested);
                        }
                    }
                    None => node.handle_stop_failed(now, instance, incarnation),
                }
            }
            DaemonWork::Spool {
                instance,
                incarnation,
                report,
            } => {
                self.facts.reported += 1;
                if !self.facts.crashes.contains(&report) {
                    self.facts.crashes.push(CrashReport::clone(&report));
                }
                if self.disk.is_full {
                    node.handle_spool_failed(now, instance, incarnation);
                } else {
                    let (id, report) = (report.report_id.clone(), CrashReport::clone(&report));
                    self.disk.spool.insert(id, report);
                    node.handle_spooled(now, instance, incarnation);
                }
            }
            DaemonWork::Report(report) => self.report(world, &report),
            DaemonWork::AcceptStart {
                instance,
                incarnation,
                plan_hash,
            } => session.start_accepted(instance, incarnation, plan_hash),
            DaemonWork::RejectStart {
                instance,
                incarnation,
                rejection,
            } => {
                world.note(|| format!("{instance}#{incarnation} is rejected: {}", rejection.error_code));
                if self.disk.live_mut((instance, incarnation)).is_some() {
                    let fault = format!(
                        "{instance}#{incarnation} is up and rejected: {}",
                        rejection.error_code
                    );
                    self.facts.rejected_live.push(fault);
                }
                session.start_rejected(instance, incarnation, rejection);
            }
            DaemonWork::AcknowledgeStop {
                instance,
                incarnation,
                result,
            } => session.stop_acknowledged(instance, incarnation, result),
            DaemonWork::TellCrash { report, .. } => self.hand_over(CrashReport::clone(&report)),
            DaemonWork::TellSpooledCrashes => self.tell_spooled(),
            DaemonWork::ForgetCrash { report_id } => {
                world.note(|| format!("daemon forgets {report_id}"));
                self.disk.spool.remove(&report_id);
                self.facts.forgotten.push(report_id);
            }
            DaemonWork::Settle {
                instance,
                incarnation,
            } => {
                world.note(|| format!("{instance}#{incarnation} is settled"));
                self.disk.settle((instance, incarnation));
                node.handle_settled(now, instance, incarnation);
            }
            DaemonWork::AcknowledgeShutdown {
                running,
                estimated_drain,
            } => session.acknowledge_shutdown(running, estimated_drain),
            DaemonWork::Finish { reason } => {
                world.note(|| format!("daemon shuts down: {reason}"));
                session.shut_down();
                *has_finished = true;
                if self.stream.is_none() {
                    self.leave(world);
                }
            }
        }
    }

    fn handle_event(&mut self, world: &mut World, event: DaemonEvent, epoch: Option<Epoch>) {
        let is_order = matches!(
            event,
            DaemonEvent::Start(_)
                | DaemonEvent::Stop { .. }
                | DaemonEvent::Command { .. }
                | DaemonEvent::Request(_)
        );
        if is_order && epoch.is_some_and(|epoch| epoch.is_fenced() && epoch < self.disk.epoch) {
            self.facts.obeyed_stale.push(format!("{event:?}"));
        }
        if let DaemonEvent::Stop {
            instance,
            incarnation,
            ..
        } = event
        {
            self.facts.stops.push((instance, incarnation));
        }
        let now = self.local(world);
        let Some(Running { session, node, .. }) = &mut self.running else {
            return;
        };
        match node.handle_event(now, event) {
            Some(DaemonEvent::Command { instance, line, .. }) => {
                world.note(|| format!("{instance} is told: {line}"));
                if line == STALE_MARK {
                    self.facts.obeyed_stale.push(format!("a command to {instance}"));
                }
                self.facts.commands.push((instance, line));
            }
            Some(DaemonEvent::FenceRaised(epoch)) => {
                world.note(|| format!("daemon obeys epoch {epoch} from now on"));
                self.disk.epoch = epoch;
                session.fence_written(epoch);
            }
            Some(DaemonEvent::NodeStatusDue) => {
                let status = NodeStatus {
                    total_memory_mb: 1024,
                    used_ports: node.ports().map(i32::from).collect(),
                    ..Default::default()
                };
                // A session that closes meanwhile has no use for it.
                let _ = session.send(daemon_message::Payload::NodeStatus(status));
            }
            Some(DaemonEvent::Connected(_)) => {
                world.note(|| "daemon is connected");
                self.failures = 0;
            }
            Some(DaemonEvent::Disconnected(outcome)) => {
                world.note(|| format!("daemon is disconnected: {outcome}"));
                self.facts.disconnects += 1;
                if outcome.reached_established() {
                    self.failures = 0;
                }
                self.facts.last_outcome = Some(outcome);
            }
            Some(DaemonEvent::Ignored(anomaly)) => {
                world.note(|| format!("daemon ignores: {anomaly}"));
                self.facts.ignored += 1;
            }
            Some(other) => world.note(|| format!("daemon hears {other:?}")),
            None => {}
        }
    }

    fn report(&mut self, world: &mut World, report: &StatusReport) {
        let Some(Running { session, node, .. }) = &mut self.running else {
            return;
        };
        let StatusReport {
            instance,
            incarnation,
            state,
            ..
        } = *report;
        let observed = session.report(report);
        world.note(|| format!("daemon reports {instance}#{incarnation} {state}: {observed:?}"));
        if !matches!(observed, Observed::Changed { .. } | Observed::Unchanged) {
            let fault = format!("{instance}#{incarnation} {state}: {observed:?}");
            self.facts.disbelieved.push(fault);
            if state.is_terminal() {
                node.handle_end_heard(instance, incarnation);
            }
        }
    }

    fn hand_over(&mut self, report: CrashReport) {
        if let Some(Running { session, node, .. }) = &mut self.running
            && let Err(SendError::Full(_)) = session.crash(report)
        {
            node.handle_crash_refused();
        }
    }

    pub(super) fn tell_spooled(&mut self) {
        let spooled: Vec<_> = self.disk.spool.values().cloned().collect();
        spooled.into_iter().for_each(|report| self.hand_over(report));
    }

    /// Hands new console lines to the session.
    pub(super) fn forward(&mut self, index: usize) {
        let (Some(process), Some(running)) = (self.disk.processes.get_mut(index), &mut self.running) else {
            return;
        };
        while process.forwarded < process.written {
            process.forwarded += 1;
            running.session.console(ConsoleOutput {
                instance_id: process.instance.into(),
                line: format!("line {}", process.forwarded),
                timestamp_ms: 0,
                incarnation: process.incarnation.get(),
                sequence: process.forwarded,
            });
        }
    }
}
